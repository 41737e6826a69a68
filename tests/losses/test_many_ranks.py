"""Many processes without a cluster: each rank is a thread with torch's local process group, held against one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed import multi_threaded_pg as threaded

from solo_bam.core import collectives
from solo_bam.losses import BAMLoss
from solo_bam.losses._rows import measure_rows, short_columns

D = 12
CASES: dict[str, dict[str, Any]] = {
    "two crops": {},
    "multi-crop, top-k": {"num_crops": 3, "top_k_sink": 5},
    "teacher": {"teacher": True},
    "logarithms": {"reg": 0.001},  # exponentials do not fit
    "own column hidden, positives": {"positive_masking": "self", "positive_weight": 0.3},
}


def on_ranks(world_size: int, function: Callable[[int], Any]) -> list[Any]:
    """What ``function(rank)`` returned in each thread; the first that fails ends all."""
    store, results, failures = dist.HashStore(), [None] * world_size, []

    def work(rank: int) -> None:
        try:
            dist.init_process_group("threaded", rank=rank, world_size=world_size, store=store)
            results[rank] = function(rank)
            dist.barrier()
            dist.destroy_process_group()
        except BaseException as error:
            failures.append(error)
            threaded.ProcessLocalGroup.exception_handle(error)

    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    threaded._install_threaded_pg()
    size = threading.stack_size(2**20)
    try:
        threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=1800)
            assert not thread.is_alive(), "a rank hangs"
    finally:
        threading.stack_size(size)
        threaded._uninstall_threaded_pg()
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
        threaded.ProcessLocalGroup.reset()
    told = [error for error in failures if not isinstance(error, SystemExit)]
    if told:
        raise told[0]
    return results


def largest_error(world_size: int, images: int, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> float:
    """Of the loss, its gradient and its statistics that are means over images, beside one process with all images."""
    monkeypatch.setattr(collectives, "_hosts", lambda world: None)  # of the same threads
    teacher = settings.pop("teacher", False)
    crops = settings.pop("num_crops", 2)
    loss_fn = BAMLoss(crops, 2, **settings)
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(2, crops, world_size, images, D, dtype=torch.float64, generator=generator)

    def rank_of(rows: torch.Tensor) -> tuple[float, torch.Tensor, float]:
        z = rows[0].flatten(0, -2).clone().requires_grad_()
        loss, statistics = loss_fn.with_statistics(z, rows[1].flatten(0, -2) if teacher else None)
        loss.backward()
        assert z.grad is not None
        return loss.item(), z.grad, statistics["target_entropy"].item()

    value, gradient, entropy = rank_of(whole)
    found = on_ranks(world_size, lambda rank: rank_of(whole[:, :, rank]))
    gradients = torch.stack([each[1].view(crops, images, D) for each in found], 1) / world_size  # as DDP averages
    return max(
        abs(sum(each[0] for each in found) / world_size - value) / abs(value),
        abs(sum(each[2] for each in found) / world_size - entropy) / max(entropy, 1),
        float((gradients.flatten(0, 2) - gradient).abs().max() / gradient.abs().max()),
    )


@pytest.mark.parametrize("case", CASES)
def test_64_ranks_are_one_process(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert largest_error(64, 2, monkeypatch, **CASES[case]) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_travels_as_it_is(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In half of the bytes, with the bits of columns that are scaled before."""
    monkeypatch.setattr(collectives, "_hosts", lambda world: None)
    sizes, ordinary = set(), collectives.gather
    monkeypatch.setattr(collectives, "gather", lambda x: sizes.add((x.shape[-1], x.dtype)) or ordinary(x))
    whole = torch.randn(2, 4, 3, D, generator=torch.Generator().manual_seed(0)).to(dtype)

    def columns(rank: int, z: torch.Tensor, W: int) -> torch.Tensor:
        p = BAMLoss(2, 2)._problem(images=z.shape[1])
        assert (p.W, p.rank) == (W, rank)
        return short_columns(measure_rows(z.flatten(0, 1), p), p)

    found = on_ranks(4, lambda rank: columns(rank, whole[:, rank], 4))
    assert (D, dtype) in sizes
    expected = columns(0, whole.flatten(1, 2), 1)
    for each in found:
        assert torch.equal(each, expected)


@pytest.mark.nightly
@pytest.mark.parametrize("case", ["two crops", "teacher"])
def test_1024_ranks_are_one_process(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every collective copies 1,024 x 1,024 pieces: a minute or more."""
    assert largest_error(1024, 1, monkeypatch, **CASES[case]) < 1e-10
