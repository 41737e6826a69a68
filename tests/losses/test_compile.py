"""The loss as one graph of torch's compiler: no break, the value and the gradient of the ordinary call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from solo_bam.losses import BAMLoss, _kernel
from solo_bam.losses.bam import dense_loss

IMAGES = 6


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(function, backend="aot_eager", fullgraph=True)
    return compiled


def _assert_equal(found: Callable[..., Tensor], ordinary: Callable[..., Tensor], teacher: bool, D: int = 5) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4 * IMAGES, D, generator=generator, dtype=torch.float64).requires_grad_()
    z_teacher = torch.randn(z.shape, generator=generator, dtype=torch.float64) if teacher else None
    losses = found(z, z_teacher), ordinary(z, z_teacher)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in losses]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("images_of_a_tile", [IMAGES, 4])
@pytest.mark.parametrize(
    ("options", "teacher", "D"),
    [
        ({}, False, 5),
        ({"top_k_sink": 3}, True, 5),
        ({"positive_masking": "self", "reg": 0.002}, False, 50),
        ({"positive_weight": 0.5, "num_sink_iter": 0}, True, 50),
    ],
    ids=str,
)
def test_the_loss_is_one_graph(
    options: dict[str, Any], teacher: bool, D: int, images_of_a_tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = BAMLoss(4, 2, **options)
    monkeypatch.setattr(_kernel, "_TILE_ROWS", 1)
    monkeypatch.setattr(_kernel, "_CPU_TILE_ENTRIES", images_of_a_tile * 4 * 2 * IMAGES)
    monkeypatch.setattr(_kernel, "_CPU_KEPT_ENTRIES", 0)
    _assert_equal(_compiled(loss), loss, teacher, D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_loss_of_a_gpu_is_one_graph(dtype: torch.dtype) -> None:
    """On CUDA tensors without data, whose products may be TF32: forward, and the backward that it keeps for autograd."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    loss = torch.compile(BAMLoss(4, 2), backend=keep, fullgraph=True)
    with FakeTensorMode():
        z = torch.empty(4 * IMAGES, 5, dtype=dtype, device="cuda", requires_grad=True)
        value = loss(z)
    assert value.device.type == "cuda"
    assert value.grad_fn is not None
    assert len(graphs) == 1


@pytest.mark.parametrize("teacher", [False, True])
def test_the_definition_is_one_graph(teacher: bool) -> None:
    p = BAMLoss(4, 2)._problem(IMAGES)
    _assert_equal(_compiled(lambda z, taught: dense_loss(z, taught, p)), BAMLoss(4, 2), teacher)


def test_the_graph_follows_reg() -> None:
    """Which the schedule sets between steps."""
    loss = BAMLoss(4, 2, reg=0.05)
    compiled = _compiled(loss)
    z = torch.randn(4 * IMAGES, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = []
    for reg in (0.05, 0.5):
        loss.reg = reg
        values.append(compiled(z).item())
        assert values[-1] == pytest.approx(loss(z).item(), rel=1e-12)
    assert values[0] != values[1]
