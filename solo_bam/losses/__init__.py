"""BAM's loss and the Sinkhorn balancing that it rests on. Depends on torch alone."""

from solo_bam.losses.bam import BAMLoss, bam_loss
from solo_bam.losses.sinkhorn import marginal_error, sinkhorn

__all__ = ["BAMLoss", "bam_loss", "marginal_error", "sinkhorn"]
