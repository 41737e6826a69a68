"""Lightning callbacks of a pretraining run."""

from solo_bam.callbacks.collapse import CollapseMonitor, CollapseWarning
from solo_bam.callbacks.contrastive_crop import ContrastiveCropBoxes
from solo_bam.callbacks.cost import CostMeter
from solo_bam.callbacks.guards import EpochSeed, NonFiniteLoss
from solo_bam.callbacks.knn import OnlineKNN
from solo_bam.callbacks.progress import ProgressBar
from solo_bam.callbacks.saving import Saving, WholeFiles
from solo_bam.callbacks.schedules import CosineWeightDecay
from solo_bam.callbacks.unreadable import UnreadableImages

__all__ = [
    "CollapseMonitor",
    "CollapseWarning",
    "ContrastiveCropBoxes",
    "CosineWeightDecay",
    "CostMeter",
    "EpochSeed",
    "NonFiniteLoss",
    "OnlineKNN",
    "ProgressBar",
    "Saving",
    "UnreadableImages",
    "WholeFiles",
]
