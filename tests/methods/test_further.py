"""SCE, LeJEPA, EMP-SSL and MoCo v3: their losses against plain loops, what leaves them alone, that they train and resume."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solo_bam.config.options import KNNOptions
from solo_bam.core import collectives
from solo_bam.evaluate.offline_knn import evaluate_knn
from solo_bam.methods.emp_ssl import EMPSSL, coding_rate
from solo_bam.methods.lejepa import LeJEPA, epps_pulley
from solo_bam.methods.mocov3 import MoCoV3, contrast
from solo_bam.methods.sce import SCE, SCEOptions, sce_loss
from solo_bam.train.run import pretrain
from tests import house, processes
from tests.recipes import small_head, tiny

NAMES = ("sce", "lejepa", "emp_ssl", "mocov3")
BRANCHES: tuple[Any, ...] = ("untrained", "student")
CLASSES: tuple[Any, ...] = (SCE, LeJEPA, EMPSSL, MoCoV3)


def unit(*shape: int, seed: int = 0) -> Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.normalize(rows, dim=-1)


def bare(cls: Any, **options: Any) -> Any:
    """A method without networks: options, and a queue of its own."""
    method = cls.__new__(cls)
    nn.Module.__init__(method)
    method.options = cls.Options(**options)
    method.num_crops = method.num_large_crops = 2
    if cls is SCE:
        method.register_buffer("queue", unit(8, 6, seed=9).float())
    return method


# ------------------------------------------------------------------------------------------ plain loops


def plain_sce(z: Tensor, keys: Tensor, columns: Tensor, first: int, coefficient: float, t: float, tm: float) -> Tensor:
    total = z.new_zeros(())
    for i in range(len(z)):
        p = [torch.exp(z[i] @ column / t) for column in columns]
        s = [torch.exp(keys[i] @ column / tm) * (j != first + i) for j, column in enumerate(columns)]
        for j in range(len(columns)):
            w = coefficient * (j == first + i) + (1 - coefficient) * s[j] / sum(s)
            total = total - w * torch.log(p[j] / sum(p))
    return total / len(z)


def exact_epps_pulley(x: Tensor) -> Tensor:
    """The integral over all t in closed form, by the Gaussian's characteristic function."""
    n = len(x)
    pairs = sum(torch.exp(-((a - b) ** 2) / 2) for a in x for b in x)
    singles = sum(torch.exp(-(a**2) / 4) for a in x)
    return math.sqrt(2 * math.pi) * pairs / n - 2 * math.sqrt(math.pi) * singles + n * math.sqrt(2 * math.pi / 3)


def plain_coding_rate(z: Tensor, epsilon: float) -> Tensor:
    """By the eigenvalues of the rows' products, which has the same determinant (Sylvester)."""
    n, d = z.shape
    return torch.log(torch.linalg.eigvalsh(torch.eye(n, dtype=z.dtype) + d / (n * epsilon) * z @ z.T)).sum() / 2


def plain_contrast(q: Tensor, k: Tensor, t: float) -> Tensor:
    total = q.new_zeros(())
    for i in range(len(q)):
        total = total - torch.log(torch.exp(q[i] @ k[i] / t) / sum(torch.exp(q[i] @ key / t) for key in k))
    return 2 * t * total / len(q)


KEYS, COLUMNS = unit(5, 6, seed=1), unit(12, 6, seed=2)
COLUMNS[3:8] = KEYS
LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sce": (
        lambda z: sce_loss(z, KEYS, COLUMNS, 3, SCEOptions(coefficient=0.4))[0],
        lambda z: plain_sce(z, KEYS, COLUMNS, 3, 0.4, 0.1, 0.05),
    ),
    "lejepa": (
        lambda z: epps_pulley(2 * z, knots=401, t_max=12.0).sum(),
        lambda z: torch.stack([exact_epps_pulley(2 * z[:, m]) for m in range(z.shape[1])]).sum(),
    ),
    "emp_ssl": (lambda z: coding_rate(z[None], 0.2)[0], lambda z: plain_coding_rate(z, 0.2)),
    "mocov3": (lambda z: contrast(z, KEYS, 0.2), lambda z: plain_contrast(z, KEYS, 0.2)),
}


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_those_of_a_plain_loop(name: str) -> None:
    results = []
    for loss in LOSSES[name]:
        z = unit(5, 6).requires_grad_()
        value = loss(z)
        results.append((value.detach(), *torch.autograd.grad(value, z)))
    for ours, plain in zip(*results):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


def test_sce_lies_between_infonce_and_relations() -> None:
    z = unit(5, 6)
    losses = [float(sce_loss(z, KEYS, COLUMNS, 3, SCEOptions(coefficient=c))[0]) for c in (0.0, 0.25, 1.0)]
    own = torch.arange(3, 8)
    assert losses[2] == pytest.approx(float(nn.functional.cross_entropy(z @ COLUMNS.T / 0.1, own)))
    assert losses[1] == pytest.approx(0.75 * losses[0] + 0.25 * losses[2])
    alone = sce_loss(z[:1], KEYS[:1], KEYS[:2], 0, SCEOptions(coefficient=0.0))[
        0
    ]  # one other column: all the relations there are
    assert float(alone) == pytest.approx(-float((z[:1] @ KEYS[:2].T / 0.1).log_softmax(1)[0, 1]))


def test_the_whole_of_lejepa() -> None:
    """Prediction of the large views' mean, and SIGReg of each view, in the shares that the option says."""
    method = bare(LeJEPA, lamb=0.3, num_slices=4)
    method.num_crops, method.num_large_crops = 3, 2
    z = unit(12, 6).float()
    torch.manual_seed(1)
    loss, parts = method.compare(z, None)
    views = z.view(3, 4, 6)
    distances = [(views[v, i] - (views[0, i] + views[1, i]) / 2).square().sum() for v in range(3) for i in range(4)]
    assert float(parts["prediction"]) == pytest.approx(float(sum(distances)) / 12, rel=1e-5)
    torch.manual_seed(1)
    slices = nn.functional.normalize(torch.randn(6, 4), dim=0)
    sigreg = [epps_pulley(view @ slices, 17, 5.0).mean() for view in views]
    assert float(parts["sigreg"]) == pytest.approx(float(sum(sigreg)) / 3, rel=1e-5)
    assert float(loss) == pytest.approx(0.7 * float(parts["prediction"]) + 0.3 * float(parts["sigreg"]), rel=1e-5)


def test_sigreg_is_least_for_a_standard_normal() -> None:
    normal = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
    values = [float(epps_pulley(x, 17, 5.0)) for x in (normal, 1.5 * normal, normal + 0.5, normal.sign(), 0 * normal)]
    assert values[0] < 4
    assert min(values[1:]) > 50


# ------------------------------------------------------------------------------------------ invariances


def losses_of(method: Any, z: Tensor, target: Tensor) -> float:
    torch.manual_seed(3)  # LeJEPA's directions
    return float(method.compare(z.float(), target.float())[0])


@pytest.mark.parametrize("cls", CLASSES)
def test_neither_the_order_of_images_nor_of_views_matters(cls: Any) -> None:
    z, target, order = unit(10, 6), unit(10, 6, seed=4), torch.randperm(5)
    images, views = torch.cat([order, order + 5]), torch.arange(10).roll(5)
    whole = losses_of(bare(cls), z, target)
    for rows in (images, views):
        assert losses_of(bare(cls), z[rows], target[rows]) == pytest.approx(whole, rel=1e-5)
    partners = torch.cat([torch.arange(5), torch.arange(5).roll(1) + 5])  # the second views, of other images
    assert losses_of(bare(cls), z[partners], target) != pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("cls", [SCE, EMPSSL, MoCoV3])
def test_the_scale_of_projections_does_not_matter_where_rows_are_normalized(cls: Any) -> None:
    z, target = unit(10, 6), unit(10, 6, seed=4)
    assert losses_of(bare(cls), 7 * z, 3 * target) == pytest.approx(losses_of(bare(cls), z, target), rel=1e-5)


def test_the_queue_takes_the_latest_keys() -> None:
    method = bare(SCE)
    before, target = method.queue.clone(), unit(10, 6, seed=4).float()
    method.compare(unit(10, 6).float(), target)
    torch.testing.assert_close(method.queue, torch.cat([target[5:], before[:3]]))


def test_the_lines_of_each_method_are_told() -> None:
    told = re.findall(r"\| \[(\w+\.py)\]\(\S+\) \| (\d+) \|", (house.ROOT / "docs" / "adding-a-method.md").read_text())
    files = {path.name for path in (house.PACKAGE / "methods").glob("*.py")} - {
        "__init__.py",
        "solo_learn.py",
        "views.py",
    }
    lines = {name: len((house.PACKAGE / "methods" / name).read_text().splitlines()) for name in files}
    assert {name: int(count) for name, count in told} == lines


# ---------------------------------------------------------------------------------------- world sizes


def steps_of_a_share() -> dict[str, Any]:
    """Loss and gradient of a linear head on this process's share of four images, as DDP averages them."""
    world, rank = collectives.world_size(), collectives.rank()
    x, target = unit(2, 4, 5).float(), unit(2, 4, 6, seed=4).float()
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    directions, weights = unit(6, 8, seed=5).float(), unit(6, 5, seed=6).float()
    methods = [bare(cls, **({"num_slices": 8} if cls is LeJEPA else {})) for cls in CLASSES]
    results = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *shape, **_: directions)
        for method in methods:
            head = weights.clone().requires_grad_()
            loss, _ = method.compare((x[:, share] @ head.T).flatten(0, 1), target[:, share].flatten(0, 1))
            loss.backward()
            mean = [collectives.all_sum(t.detach().clone()) / world for t in (loss, head.grad)]  # type: ignore[union-attr]
            results[type(method).__name__] = [value.numpy() for value in (*mean, *method.buffers())]
    return results


def test_two_processes_give_what_one_gives() -> None:
    alone = steps_of_a_share()
    for results in processes.run(2, steps_of_a_share):
        for name, values in results.items():
            # EMP-SSL's invariance is 200 times its share: the loss is large, float32
            for ours, theirs in zip(alone[name], values):
                torch.testing.assert_close(torch.as_tensor(theirs), torch.as_tensor(ours), rtol=2e-5, atol=2e-4)


# ------------------------------------------------------------------------------------------- trainings


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_a_short_training_beats_the_untrained_network(name: str, tmp_path: Path) -> None:
    settings = ["data.fraction=0.5", "optimizer.batch_size=64", "max_epochs=4", "knn_eval.enabled=False"]
    run = pretrain(tiny(tmp_path, f"digits/{name}", *settings, "pictures=False", *small_head(name))).folder.path
    options = [KNNOptions(k=[20], distance=["cosine"], branch=branch, num_workers=0) for branch in BRANCHES]
    before, after = (evaluate_knn(run, each).settings[0].hits[0] for each in options)
    assert after > before + 18  # of 360
