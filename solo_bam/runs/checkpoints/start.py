"""The weights that a pretraining begins with, as timm or a file has them."""

from __future__ import annotations

import sys
from contextlib import suppress

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from solo_bam.config.start import KEY
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded
from solo_bam.runs.checkpoints.find import find_checkpoint

_CLASSIFIERS = ("fc.", "head.", "head_dist.", "classifier.")  # of timm's and torchvision's files


def start_state(source: str) -> dict[str, Tensor]:
    """The weights of a file, a run's newest checkpoint, or timm's model of that name, under their names there.

    Raises:
        UserError: a file that cannot be read without running code, or weights that cannot be downloaded.
    """
    try:
        if expanded(source).exists():
            state = load_state_dict(str(find_checkpoint(expanded(source), KEY)))
        else:
            with torch.random.fork_rng(devices=[]):
                state = timm.create_model(source, pretrained=True).state_dict()
    except Exception as error:  # the hub, pickle and safetensors fail with whatever comes first
        reason = str(error).strip().partition("\n")[0]
        remedy = "where there is no network, download the weights elsewhere and give their file, or fill $HF_HOME"
        raise UserError(KEY, f"the weights of {source} cannot be had ({reason})", remedy) from None
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def fitted(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Without a classifier, positions and patches resized to the backbone's where timm knows how."""
    fit = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    with suppress(Exception):  # of another network, whose names and shapes will be told
        state = dict(state) if fit is None else fit(dict(state), backbone)
    own = backbone.state_dict()
    return {name: value for name, value in state.items() if name in own or not name.startswith(_CLASSIFIERS)}
