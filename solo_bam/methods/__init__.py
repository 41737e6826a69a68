"""BAM as solo-learn methods."""

from solo_bam import toolkit

METHODS = toolkit.METHODS  # first: solo-learn asks for the classes below as soon as it is imported

from solo_bam.methods.bam import BAM, BAMMomentum  # noqa: E402

__all__ = ["BAM", "METHODS", "BAMMomentum"]
