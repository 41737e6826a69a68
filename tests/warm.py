"""Imports what trainings import, the late imports too: processes forked from one that has this start in milliseconds."""

import os

import torch
import torch.utils.tensorboard
import torchmetrics  # noqa: F401

import tests.solo_learn  # noqa: F401  the first, since it may leave a mend out
from solo_bam import solo_learn
from solo_bam.backbones import create_backbone

torch.set_num_threads(1)
# In a fork torch makes its pool of threads anew when it is first asked for, which two threads of a backward pass may do
# at once; one of them then ends the process with "Invalid thread pool!". Ask for it while there is one thread.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
_ = solo_learn.METHODS
create_backbone("vit_tiny", {"img_size": 16, "patch_size": 8})
