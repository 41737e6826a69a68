"""Imports what trainings import, the late imports too: processes forked from one that has this start in milliseconds."""

import torch
import torch.utils.tensorboard
import torchmetrics  # noqa: F401

import tests.solo_learn  # noqa: F401  the first, since it may leave a mend out
from solo_bam import solo_learn
from solo_bam.backbones import create_backbone

torch.set_num_threads(1)
_ = solo_learn.METHODS
create_backbone("vit_tiny", {"img_size": 16, "patch_size": 8})
