"""BAM (Balanced Self-Attention Matching, ECCV 2024) for solo-learn.

After ``import solo_bam``, solo-learn imports on today's torch and Lightning, its known faults are mended,
and ``solo.methods.METHODS`` holds ``bam`` and ``bam_momentum``. The import itself is light: torch and
solo-learn are loaded when they are first used.
"""

from solo_bam import toolkit

__version__ = "0.1.0"


def _methods() -> dict[str, type]:
    from solo_bam.methods import BAM, BAMMomentum

    return {"bam": BAM, "bam_momentum": BAMMomentum}


toolkit.install(_methods)
