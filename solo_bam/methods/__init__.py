"""BAM as solo-learn methods."""

from solo_bam import solo_learn

METHODS = solo_learn.METHODS  # first: solo-learn asks for the classes below as soon as it is imported

from solo_bam.methods.bam import BAM, BAMMomentum  # noqa: E402

__all__ = ["BAM", "METHODS", "BAMMomentum"]
