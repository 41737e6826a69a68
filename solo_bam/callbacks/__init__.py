"""Lightning callbacks of a pretraining run."""

from solo_bam.callbacks.guards import EpochSeed, NonFiniteLoss

__all__ = ["EpochSeed", "NonFiniteLoss"]
