"""What only a GPU can show; collected everywhere, skipped without one. ``python -m benchmarks.gpu`` runs these first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from solo_bam.core.neighbors import find_neighbours, in_tiles
from solo_bam.losses import bam_loss
from tests.recipes import tiny_overrides

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
SETTINGS: list[dict[str, Any]] = [
    {"num_crops": 2, "num_large_crops": 2},
    {"num_crops": 8, "num_large_crops": 2, "top_k_sink": 16},
    {"num_crops": 2, "num_large_crops": 2, "positive_weight": 0.5, "reg": 0.1},
    {"num_crops": 4, "num_large_crops": 2, "positive_masking": "self", "reg": 0.01},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_the_loss_is_that_of_float64(
    settings: dict[str, Any], teacher: bool, dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (settings["num_crops"], 256, 64)
    images = torch.randn(1, *shape[1:], generator=generator)
    z, other = ((images + torch.randn(shape, generator=generator)).flatten(0, 1).to(dtype) for _ in range(2))
    exact = z.double().requires_grad_()
    expected = bam_loss(exact, other.double() if teacher else None, **settings)[0]
    expected.backward()
    assert exact.grad is not None
    on_gpu = z.cuda().requires_grad_()
    loss = bam_loss(on_gpu, other.cuda() if teacher else None, **settings)[0]
    (loss * 2**16).backward()
    assert on_gpu.grad is not None
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    error = (on_gpu.grad.double().cpu() / 2**16 - exact.grad).norm() / exact.grad.norm()
    assert error < tolerance


def test_the_neighbors_are_those_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 64, generator=generator) for n in (5000, 300))
    on_cpu = find_neighbours(in_tiles(bank), queries, 20).positions
    on_gpu = find_neighbours(in_tiles(bank.cuda()), queries.cuda(), 20).positions.cpu()
    assert (on_cpu == on_gpu).float().mean() > 0.999


@pytest.mark.parametrize("loader", ["image_folder", "tensor"])
@pytest.mark.parametrize("method", ["bam", "bam_momentum", "simclr", "byol", "dino"])
def test_an_epoch(method: str, loader: str, tmp_path: Path) -> None:
    from solo_bam.config import load_recipe
    from solo_bam.train.run import pretrain

    own = ["accelerator=gpu", "devices=1", "precision=bf16-mixed", f"data.format={loader}"]
    overrides = [line for line in tiny_overrides(tmp_path) if not line.startswith("accelerator=")]
    trained = pretrain(load_recipe(f"digits/{method}", [*overrides, *own]))
    assert trained.metrics["val_knn_acc1"] > 10
    assert trained.folder.record()["status"] == "finished"


def test_a_run_has_the_same_bits_again(tmp_path: Path) -> None:
    from solo_bam.cli import main
    from solo_bam.runs.checkpoints.read import read_checkpoint

    def run(folder: Path) -> dict[str, Any]:
        own = ["accelerator=gpu", "devices=1", "deterministic=True"]
        overrides = [line for line in tiny_overrides(folder) if not line.startswith("accelerator=")]
        assert main(["pretrain", "--config-name", "digits/bam", *overrides, *own]) == 0
        (path,) = folder.rglob("last.ckpt")
        return read_checkpoint(path, "checkpoint")["state_dict"]

    first, second = run(tmp_path / "first"), run(tmp_path / "second")
    assert all(torch.equal(value, second[name]) for name, value in first.items())
