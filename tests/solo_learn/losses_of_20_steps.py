"""Print the losses of 20 steps of some methods as JSON: ``python -m tests.solo_learn.losses_of_20_steps bam byol …``.

Run once per edition of solo-learn by ``test_editions_agree.py``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from solo_bam.solo_learn import edition
from solo_bam.train.run import pretrain
from tests.recipes import tiny

LOSSES = ("bam_loss_step", "train_neg_cos_sim_step", "train_nce_loss_step", "train_class_loss_step", "lr", "tau")
# LARS, warm-up, accumulation and teacher: wherever the editions count or scale in their own way.
OVERRIDES = [
    "data.num_workers=0", "data.fraction=0.12", "max_epochs=2", "scheduler.warmup_epochs=1", "optimizer.name=lars",
    "optimizer.lr=4", "optimizer.weight_decay=1e-4", "optimizer.kwargs={eta: 0.02, exclude_bias_n_norm: True}",
    "momentum.base_tau=0.9",
]  # fmt: skip


def losses(method: str, folder: Path) -> dict[str, list[float]]:
    """By metric, a number a step."""
    rows = pretrain(tiny(folder, f"digits/{method}", *OVERRIDES)).folder.metrics()
    found: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            if key in LOSSES or key.startswith("lr-"):
                found.setdefault(key, []).append(value)
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        results = {method: losses(method, Path(folder)) for method in sys.argv[1:]}
    print(json.dumps({"edition": edition(), "losses": results}))
