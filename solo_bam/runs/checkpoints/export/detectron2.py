"""A ResNet's weights for detectron2's ``DetectionCheckpointer``, as solo-learn and MoCo hand them over.

Its ``.pkl`` files are dictionaries of numpy arrays under Caffe2-like names, which it matches to its own by their ends.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from torch import nn

from solo_bam.core.errors import UserError

_NORM = {"bn1": "conv1.norm", "bn2": "conv2.norm", "bn3": "conv3.norm"}
_SHORTCUT = {"0": "shortcut", "1": "shortcut.norm"}
# Batch norm's counter: detectron2 keeps none.
_LEFT_OUT = "num_batches_tracked"


def detectron2_weights(backbone: nn.Module, name: str) -> dict[str, np.ndarray]:
    """A ResNet's parameters and statistics under detectron2's names, in float32.

    Args:
        backbone: torchvision's ResNet or timm's with the usual stem.
        name: of the backbone, for messages.

    Raises:
        UserError: another network, or a stem that detectron2's ResNet lacks.
    """
    stem = getattr(backbone, "conv1", None)
    if not isinstance(stem, nn.Conv2d) or not hasattr(backbone, "layer4"):
        raise UserError("format", f"got 'detectron2', {name} is no plain ResNet", "use format=timm")
    if stem.kernel_size != (7, 7):
        problem = f"got 'detectron2', whose ResNet has a 7x7 stem, this one's is {stem.kernel_size[0]}x"
        raise UserError("format", f"{problem}{stem.kernel_size[1]} (backbone.cifar_stem)", "use format=timm")
    state = backbone.state_dict()
    return {renamed(key): value.float().numpy() for key, value in state.items() if not key.endswith(_LEFT_OUT)}


def renamed(key: str) -> str:
    """detectron2's name of a ResNet's weight: ``layer1.0.downsample.1.bias`` is ``res2.0.shortcut.norm.bias``.

    Raises:
        UserError: a layer that detectron2's ResNet lacks.
    """
    *layers, weight = key.split(".")
    match layers:
        case ["conv1"] | ["bn1"]:
            return f"stem.{_NORM.get(layers[0], 'conv1')}.{weight}"
        case [stage, block, ("conv1" | "conv2" | "conv3" | "bn1" | "bn2" | "bn3") as layer] if stage[:5] == "layer":
            return f"res{int(stage[5:]) + 1}.{block}.{_NORM.get(layer, layer)}.{weight}"
        case [stage, block, "downsample", ("0" | "1") as layer] if stage[:5] == "layer":
            return f"res{int(stage[5:]) + 1}.{block}.{_SHORTCUT[layer]}.{weight}"
    raise UserError("format", f"got 'detectron2', whose ResNet has no layer {key}", "use format=timm")


class _PlainPickler(pickle.Pickler):
    """Arrays as ``numpy.ndarray(shape, dtype, bytes)``: numpy's own form names a module that numpy < 1.26 lacks."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))
        return NotImplemented


def detectron2_file(backbone: nn.Module, name: str) -> bytes:
    """The file that detectron2's ``MODEL.WEIGHTS`` names, which must end in ``.pkl``.

    Args:
        backbone: of :func:`detectron2_weights`.
        name: likewise.
    """
    weights = detectron2_weights(backbone, name)
    out = io.BytesIO()
    _PlainPickler(out, protocol=4).dump({"model": weights, "__author__": "solo-bam", "matching_heuristics": True})
    return out.getvalue()
