"""Lightning callbacks of a pretraining run."""

from solo_bam.train.callbacks.collapse import CollapseMonitor, CollapseWarning
from solo_bam.train.callbacks.contrastive_crop import ContrastiveCropBoxes
from solo_bam.train.callbacks.cost import CostMeter
from solo_bam.train.callbacks.guards import EpochSeed, NonFiniteLoss
from solo_bam.train.callbacks.knn import OnlineKNN
from solo_bam.train.callbacks.means import EpochMeans
from solo_bam.train.callbacks.progress import ProgressBar
from solo_bam.train.callbacks.saving import AtomicCheckpointIO, CheckpointWriter
from solo_bam.train.callbacks.schedules import CosineWeightDecay
from solo_bam.train.callbacks.unreadable import UnreadableImages

__all__ = [
    "AtomicCheckpointIO",
    "CheckpointWriter",
    "CollapseMonitor",
    "CollapseWarning",
    "ContrastiveCropBoxes",
    "CosineWeightDecay",
    "CostMeter",
    "EpochMeans",
    "EpochSeed",
    "NonFiniteLoss",
    "OnlineKNN",
    "ProgressBar",
    "UnreadableImages",
]
