"""The loss over its whole range of settings, precisions and degenerate batches: finite, or a clear ValueError."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from solo_bam.losses import BAMLoss, bam_loss
from tests import processes

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _batch(kind: str, B: int, dtype: torch.dtype, crops: int = 2, D: int = 8, seed: int = 0) -> Tensor:
    """Features of one degenerate kind, (crops * B, D)."""
    z = torch.randn(crops * B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    number = torch.finfo(dtype)
    match kind:
        case "identical":
            z = z[:1].expand(crops * B, -1)
        case "zero":
            z = 0 * z
        case "one zero row":
            z[0] = 0
        case "opposite":
            z[B:] = -z[: (crops - 1) * B]
        case "largest numbers":
            z = z.sign() * number.max
        case "smallest numbers":
            z = z.sign() * number.tiny
        case "one huge row":
            z[0] = number.max
    return z.to(dtype).clone().requires_grad_()


KINDS = (
    "random", "identical", "zero", "one zero row", "opposite", "largest numbers", "smallest numbers", "one huge row",
)  # fmt: skip


def _assert_finite(z: Tensor, teacher: Tensor | None, **settings: Any) -> None:
    loss, statistics = bam_loss(z, teacher, **settings)
    loss.backward()
    assert loss.isfinite(), settings
    assert z.grad is not None
    assert z.grad.isfinite().all(), settings
    assert all(value.isfinite() for value in statistics.values()), (settings, statistics)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [False, True])
def test_finite_over_the_whole_range(kind: str, dtype: torch.dtype, autocast: bool) -> None:
    """reg, temperature, batch of 2 and more, top-k at its limits, with and without a teacher."""
    for reg in (0.005, 0.05, 1.0):
        for temperature in (0.01, 0.1, 1.0):
            for B, top_k in ((2, 0), (2, 1), (2, 2), (5, 0), (5, 8)):
                for taught in (False, True):
                    z = _batch(kind, B, dtype)
                    teacher = _batch(kind, B, dtype, seed=1) if taught else None
                    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                        _assert_finite(
                            z, teacher, num_crops=2, num_large_crops=2, reg=reg, temperature=temperature,
                            top_k_sink=top_k,
                        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_zero_row_gets_no_gradient(dtype: torch.dtype) -> None:
    """And does not blow up the others': theirs is what it is beside a row that resembles nothing."""
    z = _batch("one zero row", 5, dtype)
    BAMLoss(2, 2)(z).backward()
    assert z.grad is not None
    assert (z.grad[0] == 0).all()
    assert 0 < z.grad.abs().max() < 10


@pytest.mark.parametrize("D", [8, 64])
def test_the_largest_numbers_have_a_direction(D: int) -> None:
    """No square overflows, nor a product with a unit row: the loss is that of the same features scaled down."""
    z = _batch("random", 5, torch.float32, D=D).detach()
    huge = z / z.abs().amax() * torch.finfo(torch.float32).max
    torch.testing.assert_close(BAMLoss(2, 2)(huge), BAMLoss(2, 2)(z), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["reg", "temperature"])
def test_settings_beyond_float32_are_refused(name: str) -> None:
    BAMLoss(2, 2, **{name: 1e-6})
    for value in (1e-7, math.inf):
        with pytest.raises(ValueError, match=f"{name} must be finite and at least 1e-06, got {value}"):
            BAMLoss(2, 2, **{name: value})
        with pytest.raises(ValueError, match=f"{name} must be finite and at least 1e-06, got {value}"):
            bam_loss(torch.randn(8, 4), num_crops=2, num_large_crops=2, **{name: value})


@pytest.mark.parametrize(
    ("z", "teacher", "message"),
    [
        (torch.randn(8, 0), None, r"got shape \(8, 0\)"),
        (torch.randn(0, 4), None, r"got shape \(0, 4\)"),
        (torch.randn(2, 4, 4), None, r"got shape \(2, 4, 4\)"),
        (torch.randn(8, 4, dtype=torch.complex64), None, "floating point, got torch.complex64"),
        (torch.randn(8, 4), torch.ones(8, 4, dtype=torch.int32), "z_teacher must be floating point, got torch.int32"),
    ],
)
def test_refused_inputs(z: Tensor, teacher: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAMLoss(2, 2)(z, teacher)


def test_a_teacher_of_another_precision() -> None:
    z, teacher = _batch("random", 5, torch.float32), _batch("random", 5, torch.float64, seed=1)
    torch.testing.assert_close(BAMLoss(2, 2)(z, teacher), BAMLoss(2, 2)(z, teacher.float()))


def _two_images_in_all() -> tuple[float, np.ndarray]:
    """One image on each of two processes."""
    rank = dist.get_rank()
    z = _batch("random", 2, torch.float32).detach().view(2, 2, 8)[:, rank].clone().requires_grad_()
    loss = BAMLoss(2, 2)(z)
    loss.backward()
    assert z.grad is not None
    return loss.item(), z.grad.numpy()


def test_one_image_on_each_process() -> None:
    results = processes.run(2, _two_images_in_all)
    z = _batch("random", 2, torch.float32)
    loss = BAMLoss(2, 2)(z)
    assert np.mean([value for value, _ in results]) == pytest.approx(loss.item(), rel=1e-5)
    assert all(np.isfinite(grad).all() for _, grad in results)


def _unequal() -> str:
    """In the second of three steps."""
    BAMLoss(2, 2)(_batch("random", 2, torch.float32))
    with pytest.raises(ValueError, match="every process must have the same number of images") as caught:
        BAMLoss(2, 2)(_batch("random", 2 + dist.get_rank(), torch.float32))
    BAMLoss(2, 2)(_batch("random", 3, torch.float32))
    return str(caught.value)


def test_batches_that_differ_between_processes_are_refused_at_any_step() -> None:
    results = processes.run(2, _unequal)
    assert set(results) == {"every process must have the same number of images, got [2, 3]"}


def _unequal_around_top_k() -> str:
    """By its own images, one process has columns enough for top-k, and the other has not."""
    with pytest.raises(ValueError) as caught:
        BAMLoss(2, 2, top_k_sink=8)(_batch("random", 2 + dist.get_rank(), torch.float32))
    return str(caught.value)


def test_unequal_batches_are_told_as_such_whatever_else_is_wrong() -> None:
    results = processes.run(2, _unequal_around_top_k, timeout=30)
    assert set(results) == {"every process must have the same number of images, got [2, 3]"}


# ------------------------------------------------------------------------------------------------ any input

SHAPES = st.tuples(st.integers(0, 9), st.integers(0, 4)) | st.lists(st.integers(0, 3), max_size=3).map(tuple)
NUMBERS = st.floats(-1.0, 1.0, width=32)


@st.composite
def features(draw: Any) -> Tensor:
    """Finite features of any shape, precision and magnitude."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(SHAPES)
    values = draw(st.lists(NUMBERS, min_size=math.prod(shape), max_size=math.prod(shape)))
    exponent = draw(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]))
    largest = torch.finfo(dtype).max ** exponent if exponent >= 0 else torch.finfo(dtype).tiny ** -exponent
    return (torch.tensor(values, dtype=torch.float64).reshape(shape) * largest).to(dtype)


MASKING = st.sampled_from([True, False, "self"])
WEIGHT = st.just(0.0) | st.floats(0, 1)

SETTINGS = st.fixed_dictionaries(
    {
        "num_crops": st.integers(-1, 4),
        "num_large_crops": st.integers(0, 4),
        "target_crops_number": st.none() | st.integers(0, 4),
        "reg": st.floats(allow_nan=True) | st.floats(1e-6, 10),
        "temperature": st.floats(allow_nan=True) | st.floats(0.01, 10),
        "num_sink_iter": st.integers(-1, 5),
        "top_k_sink": st.integers(-1, 6),
        "positive_masking": MASKING | st.sampled_from(["own", None]),
        "positive_weight": WEIGHT | st.floats(allow_nan=True),
    }
)
SOUND = st.fixed_dictionaries(
    {
        "num_crops": st.just(3),
        "num_large_crops": st.integers(1, 3),
        "target_crops_number": st.none() | st.integers(1, 3),
        "reg": st.floats(1e-6, 10),
        "temperature": st.floats(0.01, 10),
        "num_sink_iter": st.integers(0, 5),
        "top_k_sink": st.integers(0, 2),
        "positive_masking": MASKING,
        "positive_weight": WEIGHT,
    }
)


@given(features(), features() | st.none(), st.booleans(), SETTINGS | SOUND)
def test_any_input_is_finite_or_refused(
    z: Tensor, teacher: Tensor | None, like_z: bool, settings: dict[str, Any]
) -> None:
    """Finite features never give NaN, and nothing but a ValueError is raised."""
    if teacher is not None and like_z:
        teacher = z.flip(0) if z.ndim else z
    z = z.requires_grad_()
    try:
        loss, statistics = BAMLoss(**settings).with_statistics(z, teacher)
    except ValueError:
        return
    loss.backward()
    assert z.grad is not None
    assert not torch.stack([loss.detach(), *statistics.values(), z.grad.isnan().any()]).isnan().any()
    assert z.grad.isfinite().all() or z.dtype == torch.float16  # there, a small temperature overflows truly


@given(features().filter(lambda z: z.ndim == 2 and z.numel() > 0 and len(z) % 3 == 0 and len(z) > 3), SOUND)
def test_any_sound_batch_is_finite(z: Tensor, settings: dict[str, Any]) -> None:
    columns = (settings["target_crops_number"] or settings["num_large_crops"]) * (len(z) // 3 - 1)
    _assert_finite(z.requires_grad_(), None, **{**settings, "top_k_sink": min(settings["top_k_sink"], columns)})
