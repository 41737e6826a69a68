"""BAM as solo-learn methods."""

from solo_bam.methods.bam import BAM, BAMMomentum

__all__ = ["BAM", "BAMMomentum"]
