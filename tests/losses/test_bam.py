"""BAM's loss: against the published code's values, an independent reference, and its own properties."""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import pytest
import torch

from solo_bam.losses import BAMLoss, _kernel, _rows, _tiled, bam_loss
from solo_bam.losses._problem import Problem
from solo_bam.losses.bam import dense_loss
from tests import processes
from tests.conftest import GOLDEN
from tests.losses.reference import reference_loss

CASES = sorted(path.stem for path in GOLDEN.glob("*.npz"))


def test_golden_cases_are_there() -> None:
    assert len(CASES) == 11


def golden(name: str) -> tuple[Any, dict[str, Any]]:
    data = np.load(GOLDEN / f"{name}.npz")
    return data, json.loads(str(data["cfg"]))


def _loss(cfg: dict[str, Any]) -> BAMLoss:
    return BAMLoss(
        cfg["n_crops"], cfg["n_large"], cfg["n_target"], cfg["reg"], cfg["temperature"],
        cfg["num_sink_iter"], cfg["top_k"], cfg["positive_masking"],
    )  # fmt: skip


def _golden_in_this_process(name: str) -> tuple[float, np.ndarray]:
    """Loss and gradient of this process's part of a golden case."""
    data, cfg = golden(name)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    z = torch.from_numpy(data["z"][rank]).requires_grad_()
    teacher = torch.from_numpy(data["z_teacher"][rank]) if cfg["teacher"] else None
    loss = _loss(cfg)(z, teacher)
    loss.backward()
    assert z.grad is not None
    return loss.item(), z.grad.numpy()


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_published_code(name: str) -> None:
    data, cfg = golden(name)
    tolerance = 1e-9 if cfg["dtype"] == "float64" else 2e-5
    if cfg["world_size"] == 1:
        results = [_golden_in_this_process(name)]
    else:
        results = processes.run(cfg["world_size"], _golden_in_this_process, name)
    for rank, (loss, grad) in enumerate(results):
        np.testing.assert_allclose(loss, data["loss"][rank], rtol=tolerance)
        np.testing.assert_allclose(grad, data["grad"][rank], rtol=tolerance, atol=tolerance * np.abs(grad).max())


SETTINGS: list[dict[str, Any]] = [
    {"num_crops": 2, "num_large_crops": 2},
    {"num_crops": 5, "num_large_crops": 2},
    {"num_crops": 4, "num_large_crops": 3, "target_crops_number": 2},
    {"num_crops": 3, "num_large_crops": 2, "target_crops_number": 3},
    {"num_crops": 2, "num_large_crops": 1},
    {"num_crops": 3, "num_large_crops": 1},
    {"num_crops": 1, "num_large_crops": 1},
    {"num_crops": 2, "num_large_crops": 2, "num_sink_iter": 0},
    {"num_crops": 2, "num_large_crops": 2, "num_sink_iter": 20, "reg": 0.2},
    {"num_crops": 4, "num_large_crops": 2, "top_k_sink": 3},
    {"num_crops": 2, "num_large_crops": 2, "positive_masking": False, "top_k_sink": 5},
    # Below largest_exponent: potentials by log-sum-exps.
    {"num_crops": 4, "num_large_crops": 2, "reg": 0.002, "temperature": 0.0025},
    {"num_crops": 2, "num_large_crops": 2, "reg": 0.002, "num_sink_iter": 1},
    # The options of this package.
    {"num_crops": 2, "num_large_crops": 2, "positive_weight": 0.5, "reg": 0.1},
    {"num_crops": 2, "num_large_crops": 2, "positive_weight": 1.0},
    {"num_crops": 5, "num_large_crops": 2, "positive_weight": 0.3},
    {"num_crops": 4, "num_large_crops": 3, "target_crops_number": 2, "positive_weight": 0.7},
    {"num_crops": 3, "num_large_crops": 2, "target_crops_number": 1, "positive_weight": 0.4},
    {"num_crops": 3, "num_large_crops": 2, "target_crops_number": 3, "positive_weight": 0.4, "positive_masking": False},
    {"num_crops": 3, "num_large_crops": 2, "positive_weight": 0.4, "positive_masking": "self", "top_k_sink": 3},
    {"num_crops": 4, "num_large_crops": 2, "positive_weight": 0.5, "top_k_sink": 3},
    {"num_crops": 2, "num_large_crops": 2, "positive_masking": "self", "reg": 0.15},
    {"num_crops": 2, "num_large_crops": 2, "positive_masking": "self", "num_sink_iter": 0, "reg": 0.15},
    {"num_crops": 4, "num_large_crops": 3, "target_crops_number": 2, "positive_masking": "self"},
    {"num_crops": 3, "num_large_crops": 1, "positive_masking": "self"},
    {"num_crops": 2, "num_large_crops": 2, "positive_masking": "self", "reg": 0.002, "positive_weight": 0.2},
]


def problem(settings: dict[str, Any], B: int = 6) -> Problem:
    return BAMLoss(**settings)._problem(B)


def _features(settings: dict[str, Any], B: int = 6, D: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(settings["num_crops"] * B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("kept", "tile", "D"), [(True, 6, 5), (True, 6, 20), (True, 4, 5), (False, 4, 20), (False, 1, 5)]
)
def test_agrees_with_the_reference(
    settings: dict[str, Any], teacher: bool, kept: bool, tile: int, D: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of the six images make a tile, whether tiles are kept, and features wider than the columns or not."""
    entries = settings["num_crops"] * 6 * (settings.get("target_crops_number") or settings["num_large_crops"])
    monkeypatch.setattr(_kernel, "_CPU_TILE_ENTRIES", tile * entries)
    monkeypatch.setattr(_kernel, "_TILE_ROWS", 1)
    if not kept:
        monkeypatch.setattr(_kernel, "_CPU_KEPT_ENTRIES", 0)
    z = _features(settings, D=D).requires_grad_()
    z_teacher = _features(settings, D=D, seed=1) if teacher else None
    loss, _ = bam_loss(z, z_teacher, **settings)
    expected = reference_loss(z, z_teacher, **settings)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    grad, expected_grad = torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected, z)[0]
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_definition_agrees_with_the_reference(settings: dict[str, Any], teacher: bool) -> None:
    z = _features(settings).requires_grad_()
    z_teacher = _features(settings, seed=1) if teacher else None
    loss, expected = dense_loss(z, z_teacher, problem(settings)), reference_loss(z, z_teacher, **settings)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    grad, expected_grad = torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected, z)[0]
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-12)


def test_the_whole_weight_on_the_positives_is_simclr() -> None:
    """For two views solo-learn's own loss, value and gradient."""
    from solo.losses.simclr import simclr_loss_func

    z = _features({"num_crops": 2}, B=7).float().requires_grad_()
    loss = BAMLoss(2, 2, temperature=0.2, positive_weight=1.0)(z)
    unit = torch.nn.functional.normalize(z)
    head = "indexes" in inspect.signature(simclr_loss_func).parameters
    views = (unit, torch.arange(7).repeat(2)) if head else unit.chunk(2)
    expected = simclr_loss_func(*views, temperature=0.2)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    grad, expected_grad = torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected, z)[0]
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("masking", [True, False, "self"])
@pytest.mark.parametrize(("V", "T", "weight"), [(3, 2, 0.0), (3, 2, 0.5), (1, 1, 0.0)])
def test_the_mass_on_positives(masking: Any, V: int, T: int, weight: float) -> None:
    """The softmax's share; where the positives are hidden, the share that they would have; of one view, none."""
    B, temperature = 6, 0.3
    z = _features({"num_crops": V}, B=B)
    settings = {"temperature": temperature, "positive_masking": masking, "positive_weight": weight}
    _, statistics = bam_loss(z, num_crops=V, num_large_crops=T, **settings)
    z = torch.nn.functional.normalize(z)
    shares = []
    for row in range(V * B):
        own = {row} if row < T * B and (masking is not False or weight > 0) else set()
        seen = [c for c in range(T * B) if c not in own]
        A = torch.softmax(z[seen] @ z[row] / temperature, 0)
        positives = [a for a, c in zip(A, seen) if c % B == row % B and c != row]
        shares.append(sum(positives, torch.zeros((), dtype=z.dtype)))
    torch.testing.assert_close(statistics["positive_mass"], torch.stack(shares).mean(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("settings", [{"positive_weight": 0.5}, {"positive_masking": "self"}], ids=str)
def test_gradcheck_of_the_options(settings: dict[str, Any]) -> None:
    """Sharp targets that do not depend on z."""
    sizes: dict[str, Any] = {"num_crops": 3, "num_large_crops": 2, **settings}
    z, z_teacher = _features(sizes, B=4).requires_grad_(), _features(sizes, B=4, seed=1)
    assert torch.autograd.gradcheck(lambda x: bam_loss(x, z_teacher, **sizes)[0], z)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positive_weight": -0.1}, "positive_weight must be 0 to 1, got -0.1"),
        ({"positive_weight": float("nan")}, "positive_weight must be 0 to 1, got nan"),
        ({"positive_masking": "own"}, "positive_masking must be True, False or 'self', got 'own'"),
        ({"positive_weight": 0.5, "num_crops": 1}, "positive_weight must be 0 with 1 crop"),
    ],
)
def test_options_out_of_range(settings: dict[str, Any], message: str) -> None:
    sizes = {"num_crops": 2, **settings}
    with pytest.raises(ValueError, match=message):
        BAMLoss(num_large_crops=sizes["num_crops"], **sizes)


@pytest.mark.parametrize("teacher", [False, True])
def test_gradcheck_with_fixed_targets(teacher: bool) -> None:
    """The targets carry no gradient, so numerical differences need them fixed: reg so large that they are flat."""
    settings: dict[str, Any] = {"num_crops": 3, "num_large_crops": 2, "reg": 1e9}
    z = _features(settings, B=4).requires_grad_()
    z_teacher = _features(settings, B=4, seed=1) if teacher else None
    assert torch.autograd.gradcheck(lambda x: bam_loss(x, z_teacher, **settings)[0], z)


def test_gradcheck_with_the_teachers_targets() -> None:
    """Sharp targets that do not depend on z."""
    settings: dict[str, Any] = {"num_crops": 3, "num_large_crops": 2, "top_k_sink": 3}
    z, z_teacher = _features(settings, B=4).requires_grad_(), _features(settings, B=4, seed=1)
    assert torch.autograd.gradcheck(lambda x: bam_loss(x, z_teacher, **settings)[0], z)


def test_teacher_receives_no_gradient() -> None:
    settings: dict[str, Any] = {"num_crops": 2, "num_large_crops": 2}
    z, z_teacher = _features(settings).requires_grad_(), _features(settings, seed=1).requires_grad_()
    BAMLoss(**settings)(z, z_teacher).backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    assert z_teacher.grad is None


@pytest.mark.parametrize("options", [{}, {"positive_weight": 0.5}, {"positive_masking": "self"}], ids=str)
def test_order_of_the_images_does_not_matter(options: dict[str, Any]) -> None:
    z = _features({"num_crops": 3}).view(3, 6, 5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss_fn = BAMLoss(num_crops=3, num_large_crops=2, **options)
    torch.testing.assert_close(loss_fn(z.flatten(0, 1)), loss_fn(z[:, order].flatten(0, 1)), rtol=1e-12, atol=0)


def test_scale_of_the_features_does_not_matter() -> None:
    settings: dict[str, Any] = {"num_crops": 2, "num_large_crops": 2}
    z = _features(settings)
    loss_fn = BAMLoss(**settings)
    torch.testing.assert_close(loss_fn(z), loss_fn(17 * z), rtol=1e-12, atol=0)


@pytest.mark.parametrize("exponentiated", [True, False])
def test_own_views_are_masked(exponentiated: bool) -> None:
    """With masking an image's attention is to the others alone: exact zeros in targets and in gradients."""
    B, V, D = 4, 2, 3
    p = problem({"num_crops": V, "num_large_crops": 2}, B)
    z = torch.nn.functional.normalize(torch.randn(V * B, D, dtype=torch.float64), dim=-1)
    own = torch.arange(V * B) % B == torch.arange(B)[:, None]
    rows = _rows.measure_rows(z, p)
    columns = rows.short(V).flatten(0, 1)
    kernel = _kernel.Kernel(p, rows, columns, "image", exponentiated, several_passes=True)
    ((_, K),) = kernel.tiles()
    S = kernel.logits(K, 0)
    P, _, _ = _tiled._target_attention(kernel, K, S, None, torch.empty_like(K))
    assert (P[:, own] == 0).all()
    assert (P[:, ~own] > 0).all()
    G = _tiled._match(p, S, P, kernel.positives[0], 0, torch.empty_like(K))[0]
    assert (G[:, own] == 0).all()
    assert (G[:, ~own] != 0).all()


@pytest.mark.parametrize("reg", [0.005, 0.05, 1.0])
@pytest.mark.parametrize("temperature", [0.01, 1.0])
@pytest.mark.parametrize("kind", ["random", "identical", "zero", "opposite"])
def test_finite_in_float32(reg: float, temperature: float, kind: str) -> None:
    z = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    z = {
        "random": z,
        "identical": z[:1].expand(32, -1).clone(),
        "zero": 0 * z,
        "opposite": torch.cat([z[:16], -z[:16]]),
    }[kind]
    z.requires_grad_()
    loss, statistics = bam_loss(z, num_crops=2, num_large_crops=2, reg=reg, temperature=temperature, top_k_sink=2)
    loss.backward()
    assert z.grad is not None
    assert loss.isfinite()
    assert z.grad.isfinite().all()
    assert all(value.isfinite() for value in statistics.values())


def test_small_reg_is_right_and_not_only_finite() -> None:
    """reg = 0.005 spans e^400 before balancing; float32 agrees with the float64 reference."""
    settings: dict[str, Any] = {"num_crops": 2, "num_large_crops": 2, "reg": 0.005}
    z = _features(settings, B=8, D=4)
    expected = bam_loss(z, **settings)[0]
    torch.testing.assert_close(bam_loss(z.float(), **settings)[0].double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("reg", [0.02, 0.03, 0.9, 1.1, 10.0, 1e6])
@pytest.mark.parametrize("teacher", [False, True])
def test_float32_is_as_right_for_every_reg(reg: float, teacher: bool) -> None:
    """On both sides of what decides whether the kernel is exponentiated."""
    settings: dict[str, Any] = {"num_crops": 2, "num_large_crops": 2, "reg": reg}
    z = _features(settings, B=64, D=16).requires_grad_()
    z_teacher = _features(settings, B=64, D=16, seed=1) if teacher else None
    loss = bam_loss(z, z_teacher, **settings)[0]
    single = z.detach().float().requires_grad_()
    found = bam_loss(single, None if z_teacher is None else z_teacher.float(), **settings)[0]
    torch.testing.assert_close(found.double(), loss, rtol=2e-6, atol=0)
    (expected,), (grad,) = torch.autograd.grad(loss, z), torch.autograd.grad(found, single)
    assert (grad.double() - expected).norm() < 2e-5 * expected.norm()


def test_float32_is_right_for_many_equal_entries() -> None:
    """Millions of them, whose roundings all go the same way."""
    loss, statistics = bam_loss(torch.ones(2 * 1024, 4), num_crops=2, num_large_crops=2)
    assert loss.item() == pytest.approx(np.log(2046), abs=5e-5)
    assert statistics["target_entropy"].item() == pytest.approx(np.log(2046), abs=5e-5)


def test_a_sloppy_dot_product_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """BLAS's dot of some processors loses half of float32's digits over a million entries."""
    dot = torch.dot
    monkeypatch.setattr(torch, "dot", lambda a, b: dot(a, b) * (1 + 1e-9 * a.numel()))
    test_float32_is_right_for_many_equal_entries()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features(dtype: torch.dtype) -> None:
    z = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"num_crops": 2, "num_large_crops": 2}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = z.to(dtype).requires_grad_()
        loss = BAMLoss(**settings)(half)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, BAMLoss(**settings)(z), rtol=2e-2, atol=0)
    loss.backward()
    assert half.grad is not None
    assert half.grad.dtype == dtype


def test_collapse_is_not_a_minimum() -> None:
    """Identical features cannot tell images apart: the loss is the entropy of the uniform attention."""
    z = torch.ones(16, 4, dtype=torch.float64)
    loss, statistics = bam_loss(z, num_crops=2, num_large_crops=2)
    assert loss.item() == pytest.approx(np.log(14))
    assert statistics["target_entropy"].item() == pytest.approx(np.log(14))
    assert statistics["z_std"].item() == pytest.approx(0, abs=1e-12)


def test_statistics() -> None:
    settings: dict[str, Any] = {"num_crops": 3, "num_large_crops": 2}
    z = _features(settings)
    _, statistics = bam_loss(z, **settings)
    from tests.losses.reference import reference_targets

    u = z / z.norm(dim=1, keepdim=True)
    S = u @ u[:12].T
    P = reference_targets(S, 6, 0.05, 3, True)[:12]
    own = torch.arange(18)[:, None] % 6 == torch.arange(12) % 6
    A = (S / 0.1).masked_fill(own, -torch.inf).softmax(-1)
    assert statistics["target_entropy"].item() == pytest.approx(torch.special.entr(P).sum(1).mean().item())
    assert statistics["source_entropy"].item() == pytest.approx(torch.special.entr(A).sum(1).mean().item())
    assert statistics["target_max"].item() == pytest.approx(P.amax(1).mean().item())
    different = own & (torch.arange(18)[:, None] != torch.arange(12))
    assert statistics["positive_similarity"].item() == pytest.approx(S[different].mean().item())
    assert statistics["z_std"].item() == pytest.approx(u[:12].view(2, 6, -1).std(1, correction=0).mean().item())


def test_the_same_value_without_a_gradient() -> None:
    z = torch.randn(8, 4, requires_grad=True)
    with torch.no_grad():
        loss = BAMLoss(2, 2)(z)
    assert not loss.requires_grad
    assert loss == BAMLoss(2, 2)(z)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_crops": 0}, "num_crops must be at least 1, got 0"),
        ({"num_large_crops": 3}, r"num_large_crops must be 1 to num_crops \(2\), got 3"),
        ({"target_crops_number": 5}, r"target_crops_number must be 1 to num_crops \(2\), got 5"),
        ({"reg": 0.0}, "reg must be above 0, got 0"),
        ({"reg": float("nan")}, "reg must be above 0, got nan"),
        ({"temperature": -1.0}, "temperature must be above 0, got -1"),
        ({"num_sink_iter": -1}, "num_sink_iter must be at least 0, got -1"),
        ({"top_k_sink": -2}, "top_k_sink must be at least 0, got -2"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAMLoss(**{"num_crops": 2, "num_large_crops": 2, **settings})


@pytest.mark.parametrize(
    ("z", "teacher", "settings", "message"),
    [
        (torch.randn(7, 4), None, {}, r"num_crops 2, got shape \(7, 4\)"),
        (torch.randn(8), None, {}, r"got shape \(8,\)"),
        (torch.ones(8, 4, dtype=torch.long), None, {}, "floating point, got torch.int64"),
        (torch.randn(8, 4), torch.randn(8, 5), {}, r"z_teacher must have z's shape \(8, 4\), got \(8, 5\)"),
        (torch.randn(2, 4), None, {}, "at least 2 images"),
        (torch.randn(8, 4), None, {"top_k_sink": 7}, "top_k_sink must be at most the 6 unmasked columns, got 7"),
    ],
)
def test_bad_inputs(z: torch.Tensor, teacher: torch.Tensor | None, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAMLoss(2, 2, **settings)(z, teacher)
