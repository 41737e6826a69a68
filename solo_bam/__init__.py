"""BAM (Balanced Self-Attention Matching, ECCV 2024) for solo-learn.

After ``import solo_bam``, solo-learn imports on today's torch and Lightning, its known faults are mended,
and ``solo.methods.METHODS`` holds ``bam`` and ``bam_momentum``. The import itself is light: torch and
solo-learn are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from solo_bam import solo_learn

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.2.0"


def _methods() -> dict[str, type]:
    from solo_bam.methods.bam import BAM, BAMMomentum

    return {"bam": BAM, "bam_momentum": BAMMomentum}


def _facts(name: str, edition: str) -> Any:
    from solo_bam.methods.solo_learn import own_method

    return own_method(name, edition)


def load_backbone(path: str, branch: str = "student") -> nn.Module:
    """A pretrained backbone, on the CPU and in evaluation mode: images ``(N, 3, h, w)`` to ``(N, num_features)``.

    Args:
        path: a run's folder, a checkpoint, or a file of ``solo-bam export``.
        branch: ``student`` or ``teacher``, where the checkpoint holds both.

    Raises:
        solo_bam.core.errors.UserError: it cannot be read, or its weights are not those of its recipe's backbone.
    """
    from pathlib import Path

    from solo_bam.runs.checkpoints.read import load_pretrained

    return load_pretrained(Path(path), branch).backbone  # type: ignore[arg-type]


solo_learn.install(_methods, _facts)
