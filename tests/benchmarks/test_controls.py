"""The controls' targets hold the same weight as BAM's, and no relation."""

from __future__ import annotations

from pathlib import Path

import torch

import benchmarks.controls as controls
from solo_bam.losses import BAMLoss
from solo_bam.solo_learn import METHODS
from solo_bam.train.run import pretrain
from tests.recipes import tiny

SETTINGS = {"num_crops": 2, "num_large_crops": 2, "reg": 0.1, "positive_weight": 0.5}


def _features() -> torch.Tensor:
    return torch.randn(24, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_uniform_targets_are_label_smoothing() -> None:
    z = _features()
    loss = controls._Controlled(**SETTINGS)(z)
    rows = torch.nn.functional.normalize(z)
    own, image = torch.eye(24, dtype=torch.bool), torch.arange(24) % 12
    log_A = torch.log_softmax((rows @ rows.T / 0.1).masked_fill(own, -torch.inf), 1)
    positive = (image[:, None] == image) & ~own
    others = image[:, None] != image
    expected = -0.5 * log_A[positive].mean() - 0.5 * (log_A.masked_fill(~others, 0).sum(1) / 22).mean()
    torch.testing.assert_close(loss, expected, check_dtype=False, rtol=1e-5, atol=1e-5)


def test_permuted_targets_are_the_same_values_elsewhere() -> None:
    P = torch.rand(2, 6, 9).softmax(-1)
    P[..., 3] = 0
    P[0, 2, 3], P[0, 2, 5] = P[0, 2, 5].item(), 0
    torch.manual_seed(0)
    changed = controls.permuted(P)
    assert torch.equal(changed == 0, P == 0)
    torch.testing.assert_close(changed.sort(-1).values, P.sort(-1).values)
    assert not torch.equal(changed, P)


def test_without_a_change_the_loss_is_bams() -> None:
    class Same(controls._Controlled):
        change = staticmethod(lambda P: P)

    torch.testing.assert_close(
        Same(**SETTINGS)(_features()), BAMLoss(**SETTINGS)(_features()), check_dtype=False, rtol=1e-5, atol=1e-5
    )


def test_they_train(tmp_path: Path) -> None:
    assert {"bam_uniform_targets", "bam_permuted_targets"} <= set(METHODS)
    recipe = tiny(tmp_path, "digits/bam", "method=bam_permuted_targets", "method_kwargs.positive_weight=0.5")
    assert pretrain(recipe).metrics["bam_loss"] > 0
