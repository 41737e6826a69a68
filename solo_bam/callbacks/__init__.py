"""Lightning callbacks of a pretraining run."""

from solo_bam.callbacks.contrastive_crop import ContrastiveCropBoxes
from solo_bam.callbacks.guards import EpochSeed, NonFiniteLoss
from solo_bam.callbacks.progress import ProgressBar

__all__ = ["ContrastiveCropBoxes", "EpochSeed", "NonFiniteLoss", "ProgressBar"]
