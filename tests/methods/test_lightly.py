"""lightly's losses and heads by name: chosen by signature, checked, symmetric, resumed."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solo_bam.comparison.fairness import notes
from solo_bam.config.resolve import resolve
from solo_bam.core.errors import UserError
from solo_bam.methods.lightly import Lightly, LightlyOptions, build, known_parts
from solo_bam.solo_learn import build_method
from solo_bam.train.run import pretrain
from tests.recipes import small_head, tiny

lightly_loss = pytest.importorskip("lightly.loss")
LOSSES = list(known_parts("loss"))


def views(width: int = 8) -> tuple[Tensor, Tensor]:
    z = torch.randn(12, width, generator=torch.Generator().manual_seed(0))
    return z, z.flip(1)


def comparing(loss: str, **kwargs: Any) -> Any:
    method = Lightly.__new__(Lightly)
    nn.Module.__init__(method)
    method.loss_fn = build("loss", LightlyOptions(loss=loss, loss_kwargs=kwargs))
    return method


def test_losses_of_two_views_are_found_by_their_signature() -> None:
    assert {"NTXentLoss", "DCLLoss", "DCLWLoss", "VICRegLoss", "BarlowTwinsLoss", "NegativeCosineSimilarity"} < {
        *LOSSES
    }
    others = {"DINOLoss", "SwaVLoss", "MSNLoss", "KoLeoLoss", "LeJEPALoss", "CAPILoss", "MMCRLoss", "Whitening2d"}
    assert not others & {*LOSSES}
    assert all(hasattr(lightly_loss, other) for other in others)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_is_the_mean_over_both_orders(loss: str) -> None:
    z, target = views()
    (z1, z2), (t1, t2) = z.chunk(2), target.chunk(2)
    ours, theirs = comparing(loss), getattr(lightly_loss, loss)()
    first, second = ([theirs([a, b]) for a, b in ((z1, t2), (z2, t1))] if loss in ("EMPSSLLoss", "FroSSLLoss")
                     else [theirs(a, b) for a, b in ((z1, t2), (z2, t1))])  # fmt: skip
    torch.testing.assert_close(ours.compare(z, target)[0], (first + second) / 2)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "method_kwargs.loss=NTXent",
            r"^method_kwargs.loss: got 'NTXent' \(did you mean NTXentLoss\?\), allowed: .*DCLLoss",
        ),
        ("method_kwargs.loss=DINOLoss", r"^method_kwargs.loss: got 'DINOLoss'.*, allowed: "),
        (
            "method_kwargs.loss_kwargs.temprature=1",
            r"temprature: unknown argument of NTXentLoss .*mean temperature\?\), allowed: temperature, memory_bank_size, ",
        ),
        ("method_kwargs.loss_kwargs.memory_bank_size=64", r"^method_kwargs.loss_kwargs: got .*NTXentLoss says: .*dim"),
        (
            "method_kwargs.projector=BYOLPredictionHead",
            r"^method_kwargs.projector: got 'BYOLPredictionHead'.*, allowed: ",
        ),
        ("method_kwargs.projector_kwargs.input_dim=4", r"^method_kwargs.projector_kwargs.input_dim: unknown argument"),
        ("method_kwargs.predictor=Linear", r"^method_kwargs.predictor: got 'Linear', allowed: .*SimSiamPredictionHead"),
    ],
)
def test_mistakes_are_one_line(override: str, told: str, tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run", "digits/lightly", override)
    with pytest.raises(UserError, match=told):
        pretrain(recipe)
    assert not (tmp_path / "run").exists()


def test_without_lightly_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightly.loss", None)
    with pytest.raises(UserError, match=r"^method: lightly is not installed; pip install 'solo-bam\[lightly\]'$"):
        pretrain(tiny(tmp_path, "digits/lightly"))


@pytest.mark.parametrize("teacher", [True, False])
def test_with_a_predictor_the_other_side_has_no_gradient(teacher: bool, tmp_path: Path) -> None:
    name = "lightly_momentum" if teacher else "lightly"
    predictor = ["method_kwargs.loss=NegativeCosineSimilarity", "method_kwargs.predictor=BYOLPredictionHead"]
    keys = [*predictor, "~method_kwargs.loss_kwargs"] if not teacher else []
    recipe = tiny(tmp_path, f"digits/{name}", *small_head(name), *keys, "backbone.name=resnet18")
    method = build_method(resolve(recipe, num_classes=10, has_val=True, world_size=1))
    z = torch.randn(8, 16, requires_grad=True)
    p = method.predictor(z)
    loss = method.compare(p, z.detach())[0]
    expected = [
        -nn.functional.cosine_similarity(p[a], z[b].detach()).mean()
        for a, b in ((slice(4), slice(4, 8)), (slice(4, 8), slice(4)))
    ]
    torch.testing.assert_close(loss, sum(expected) / 2)
    assert {group["name"] for group in method.learnable_params} >= {"projector", "predictor"}
    assert len(method.momentum_pairs) == 2 if teacher else not hasattr(method, "momentum_projector")


def test_a_memory_bank_is_told(tmp_path: Path) -> None:
    recipes = {
        "plain": tiny(tmp_path, "digits/lightly"),
        "moco": tiny(tmp_path, "digits/lightly", "method_kwargs.loss_kwargs.memory_bank_size=[64,256]"),
    }
    assert list(notes(recipes)) == ["moco also compares with 64 images of earlier batches"]


@pytest.mark.parametrize("loss", ["NTXentLoss", "TiCoLoss"])
def test_what_a_loss_remembers_is_in_the_checkpoint(loss: str) -> None:
    """Neither the memory bank nor TiCo's covariance is in the state that lightly gives."""
    kwargs = {"memory_bank_size": [16, 8]} if loss == "NTXentLoss" else {}
    (first, second), checkpoint = (comparing(loss, **kwargs) for _ in range(2)), {}
    z, target = views()
    first.compare(z.requires_grad_(), target)
    first.on_save_checkpoint(checkpoint)
    second.on_load_checkpoint(copy.deepcopy(checkpoint))
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        assert first.compare(z, target)[0].equal(second.compare(z, target)[0])
    assert not comparing(loss, **kwargs).compare(z, target)[0].equal(second.compare(z, target)[0])
