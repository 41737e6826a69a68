"""Schedules beside the learning rate's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from solo_bam.train.run import pretrain
from tests.recipes import tiny


def test_weight_decay_follows_a_cosine_and_spares_biases_norms_and_classifier(tmp_path: Path) -> None:
    recipe = tiny(
        tmp_path, "digits/bam_momentum", "optimizer.weight_decay=0.04", "optimizer.weight_decay_end=0.4",
        "optimizer.exclude_bias_n_norm_wd=True", "momentum.base_tau=0.9", "max_epochs=2",
    )  # fmt: skip
    trained = pretrain(recipe)
    logged = [row["weight_decay"] for row in trained.folder.metrics() if "weight_decay" in row]
    expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * np.arange(8) / 8))
    assert logged == pytest.approx(expected)
    groups = {group["name"]: group["weight_decay"] for group in trained.model.optimizers().param_groups}  # type: ignore[union-attr]
    decayed = pytest.approx(expected[-1])
    assert groups == {
        "backbone": decayed, "projector": decayed, "backbone_no_decay": 0, "projector_no_decay": 0,
        "classifier": 0, "classifier_no_decay": 0,
    }  # fmt: skip


def test_tau_follows_a_cosine(tmp_path: Path) -> None:
    trained = pretrain(tiny(tmp_path, "digits/bam_momentum", "momentum.base_tau=0.9", "max_epochs=2"))
    logged = [row["tau"] for row in trained.folder.metrics() if "tau" in row]
    assert logged == pytest.approx(1 - 0.05 * (1 + np.cos(np.pi * np.arange(8) / 8)))
