"""What a GPU would trip over, without one: training steps and k-NN on CUDA tensors that have shapes and no data.

A tensor on the wrong device, a number that the host reads and a shape that depends on values fail by themselves; copies
between host and device are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import step as benchmark
from solo_bam.core import hardware, neighbors
from solo_bam.evaluate import offline_knn
from solo_bam.evaluate.cache import Features
from solo_bam.losses import BAMLoss, _kernel
from solo_bam.solo_learn.knn_metric import WeightedKNNClassifier
from solo_bam.train.doctor import work
from solo_bam.train.doctor.backward import Parts
from tests.recipes import METHODS
from tests.zygote import ROOT

SETTING = benchmark.Setting(8, "cpu", "32", compiled=False)
FAKE = SETTING._replace(device="cuda")


class Copies(TorchDispatchMode):
    """Operations that move data between devices, and tensors that are made of the host's numbers for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        devices = {x.device.type for x in (*args, kwargs.get("device")) if isinstance(x, torch.Tensor)}
        if isinstance(kwargs.get("device"), torch.device):
            devices.add(kwargs["device"].type)
        if func.overloadpacket.__name__ in ("_to_copy", "copy_", "copy") and len(devices) > 1:
            self.found.append(f"{func}: {', '.join(sorted(devices))}")
        return func(*args, **kwargs)


def _own_nodes(node: Any, seen: set[Any]) -> Iterator[Any]:
    if node is None or node in seen:
        return
    seen.add(node)
    if hasattr(node, "_forward_cls"):
        yield node
    for following, _ in node.next_functions:
        yield from _own_nodes(following, seen)


class Loader:
    """What a method asks of its loader: batches, and images."""

    dataset = range(16)

    def __len__(self) -> int:
        return 2


def step(method: str, small_crops: int = 0, extra: dict[str, Any] | None = None, precision: str = "32") -> list[str]:
    """The copies of two training steps, backward, optimizer and teacher included."""
    recipe = benchmark.recipe_of(benchmark.TINY["tiny"], method, small_crops, SETTING)
    recipe.precision = precision
    recipe.method_kwargs |= extra or {}
    model: Any = benchmark.model_of(recipe, SETTING)
    mode, copies = FakeTensorMode(), Copies()
    work.without_data(model, mode, "cuda")
    model._device = torch.device("cuda", 0)  # as .to("cuda") would
    of_a_run = {"global_step": 0, "estimated_stepping_batches": 8, "current_epoch": 0}
    model._trainer = SimpleNamespace(world_size=1, global_rank=0, train_dataloader=Loader(), **of_a_run)
    parts = Parts(SimpleNamespace(part=""))
    with mode:
        model.on_train_start()
        autocast = work._autocast(recipe, "cuda")
        call = work.step_of(model, benchmark.batch_of(recipe, FAKE), autocast, parts)
        call()  # the first step makes the optimiser's state
        with copies:
            call()
    return copies.found


@pytest.mark.parametrize(
    ("method", "small_crops", "extra"),
    [
        ("bam", 0, {}),
        ("bam", 2, {"top_k_sink": 4}),
        ("bam_momentum", 0, {}),
        ("bam_momentum", 2, {"positive_weight": 0.5}),
        ("simclr", 0, {}),
        ("simclr", 2, {}),
        ("byol", 0, {}),
        ("byol", 2, {}),
        ("dino", 0, {}),
        ("barlow_twins", 0, {}),
        ("mocov2plus", 0, {"queue_size": 64}),
        ("nnbyol", 0, {"queue_size": 64}),
        ("nnclr", 0, {"queue_size": 64}),
        ("nnsiam", 0, {"queue_size": 64}),
        ("ressl", 0, {"queue_size": 64}),
        ("simsiam", 0, {}),
        ("swav", 0, {}),
        ("vicreg", 0, {}),
        ("deepclusterv2", 0, {}),
        ("sce", 0, {"queue_size": 64}),
        ("lejepa", 2, {}),
        ("emp_ssl", 2, {}),
        ("mocov3", 0, {}),
        ("lightly_momentum", 0, {}),
    ],
)
def test_a_step_stays_on_the_device(method: str, small_crops: int, extra: dict[str, Any]) -> None:
    assert step(method, small_crops, extra) == []


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("method", ["bam", "bam_momentum", "simclr", "byol", "dino"])
def test_so_it_does_in_half_precision(method: str, precision: str) -> None:
    assert step(method, precision=precision) == []


# What still copies or waits in solo-learn's and lightly's own code, for docs/gpu.md; a mended one turns this red: move it up.
WAITS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    # An identity is made on the host and sent by its type's name, which asks for a GPU; a permutation is the host's.
    "wmse": ({"whitening_size": 8}, RuntimeError, "NVIDIA|CUDA"),
    # lightly's NTXentLoss takes entries by a mask, of which the host must know how many there are.
    "lightly": ({}, DynamicOutputShapeException, "nonzero"),
}


@pytest.mark.parametrize("method", WAITS)
def test_what_waits_is_known(method: str) -> None:
    extra, raised, told = WAITS[method]
    with pytest.raises(raised, match=told):
        step(method, extra=extra)
    assert f"`{method}`" in (ROOT / "docs" / "gpu.md").read_text()


def test_each_method_is_asked() -> None:
    (cases,) = (mark.args[1] for mark in test_a_step_stays_on_the_device.pytestmark)
    assert {method for method, *_ in cases} | set(WAITS) == set(METHODS)


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (lambda loss: 2 * loss, None),
        (lambda loss: loss * float(loss.item()), DataDependentOutputException),
        (lambda loss: loss + loss.reshape(1)[loss.reshape(1) > 0].sum(), DynamicOutputShapeException),
        (lambda loss: loss + torch.ones(1), RuntimeError),
        (lambda loss: loss.cpu().to(loss.device), None),
    ],
    ids=["nothing", "a reading", "a shape by values", "another device", "a copy"],
)
def test_faults_are_found(fault: Any, raised: Any, monkeypatch: pytest.MonkeyPatch, request: Any) -> None:
    ordinary = BAMLoss.with_statistics

    def faulty(self: Any, *args: Any) -> Any:
        loss, statistics = ordinary(self, *args)
        return fault(loss).reshape(()), statistics

    monkeypatch.setattr(BAMLoss, "with_statistics", faulty)
    if raised is not None:
        with pytest.raises(raised):
            step("bam")
    else:
        assert bool(step("bam")) == ("copy" in request.node.callspec.id)


# ------------------------------------------------------------------------------------------------ the loss


class Products(Copies):
    """Beside copies: every operation with its shapes, and whether each matrix product may be TF32."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.fast: set[bool] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [tuple(x.shape) for x in args if isinstance(x, torch.Tensor)]
        if func.namespace == "aten":
            self.operations.append(f"{func} {shapes}")
        if func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm"):
            self.fast.add(hardware.has_tf32_products())
        return super().__torch_dispatch__(func, types, args, kwargs)


def _loss_and_gradient(loss: BAMLoss, dtype: torch.dtype, teacher: bool) -> Products:
    """What a call does, forward and backward, which a second one does again."""
    calls = [Products(), Products()]
    with FakeTensorMode():
        z = torch.empty(4 * 32, 16, dtype=dtype, device="cuda", requires_grad=True)
        z_teacher = torch.empty_like(z, requires_grad=False) if teacher else None
        for done in calls:
            with done:
                value, _ = loss.with_statistics(z, z_teacher)
                (node,) = _own_nodes(value.grad_fn, set())
                node.apply(*(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in node._input_metadata))
    assert calls[0].operations == calls[1].operations
    return calls[1]


@pytest.mark.parametrize(
    ("dtype", "teacher"), [(torch.float32, False), (torch.float16, True), (torch.bfloat16, False)], ids=str
)
@pytest.mark.parametrize(
    "options",
    [{}, {"top_k_sink": 4}, {"positive_masking": "self", "reg": 0.002}, {"positive_weight": 0.5}, {"num_sink_iter": 0}],
    ids=str,
)
def test_the_loss_could_be_a_cuda_graph(
    options: dict[str, Any], dtype: torch.dtype, teacher: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reading, no copy, no shape by values, in tiles or whole; the host does the same at every call.

    Products are TF32 where the features are in bfloat16, all of them, and nowhere else.
    """
    loss = BAMLoss(4, 2, **options)
    whole = _loss_and_gradient(loss, dtype, teacher)
    monkeypatch.setattr(_kernel, "_TILE_ROWS", 1)
    monkeypatch.setattr(_kernel, "_GPU_TILE_ENTRIES", 12 * 4 * 2 * 32)
    monkeypatch.setattr(_kernel, "_GPU_KEPT_ENTRIES", 0)
    tiled = _loss_and_gradient(loss, dtype, teacher)
    assert len(tiled.operations) > 1.5 * len(whole.operations)
    for done in (whole, tiled):
        assert done.found == []
        assert done.fast == {dtype == torch.bfloat16}
    assert not hardware.has_tf32_products()


def test_similarities_of_a_gpu_are_kept_up_to_2_28() -> None:
    """A product for each tile; beyond, each of the four passes computes them again."""
    products = []
    for images in (2**13, 2**13 + 512):
        with FakeTensorMode(), Products() as done:
            BAMLoss(2, 2).with_statistics(torch.empty(2 * images, 16, device="cuda"))
        products.append(sum(each.startswith("aten.addmm.out") for each in done.operations))
    assert products == [16, 4 * 19]


# ------------------------------------------------------------------------------------------------ k-NN


def test_the_vote_searches_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[tuple[str, int]] = []

    def search(tile: torch.Tensor, queries: torch.Tensor, *_: Any) -> torch.Tensor:
        searched.append((f"{tile.device.type} {queries.device.type}", len(queries)))
        return torch.empty(len(queries), 8, dtype=torch.int64, device=queries.device)

    monkeypatch.setattr(neighbors, "_nearer_in_tile", search)
    monkeypatch.setattr(offline_knn, "count_hits", lambda *_: {1: (1, 1)})
    with FakeTensorMode():
        bank, queries = (Features(torch.empty(n, 16), torch.zeros(n, dtype=torch.long)) for n in (9000, 5000))
        list(offline_knn.vote(bank, queries, offline_knn.KNNOptions(k=[1]), "cuda"))
    sizes = [4096, 5000 - 4096]
    assert searched == [("cuda cuda", size) for _ in range(3) for size in sizes] * 2


def test_a_tile_is_searched_on_the_device_with_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host reads how many groups hold a nearer image, once for a tile and its queries; nothing is copied."""
    readings: list[str] = []
    monkeypatch.setattr(torch.Tensor, "__int__", lambda self: readings.append(self.device.type) or 4)
    copies = Copies()
    with FakeTensorMode(), copies:
        tile, queries = (torch.empty(n, 16, device="cuda") for n in (4096, 512))
        worst = torch.empty(512, 1, dtype=torch.int64, device="cuda")
        found = neighbors._nearer_in_tile(tile, queries, "euclidean", 4096, worst, 20)
    assert found.device.type == "cuda"
    assert readings == ["cuda"]
    assert copies.found == []


def test_the_online_bank_neither_waits_nor_keeps_a_view() -> None:
    """A network that runs as a CUDA graph writes its outputs into the same memory at each step."""
    metric, copies = WeightedKNNClassifier(), Copies()
    with FakeTensorMode(), copies:
        metric(train_features=torch.empty(8, 4, device="cuda"), train_targets=torch.empty(8, device="cuda"))
    assert copies.found == []
    metric.reset()
    features, targets = torch.ones(2, 4), torch.zeros(2, dtype=torch.long)
    for waits in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hardware, "reading_waits", lambda device, waits=waits: waits)
            metric(train_features=features, train_targets=targets)
    features.zero_()
    assert all(kept.eq(1).all() for kept in metric.train_features)
