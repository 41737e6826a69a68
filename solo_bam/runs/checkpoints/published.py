"""Checkpoints of the published BAM code: what lies where in them.

Pretraining saves ``{"model": …, "epoch": …, "args": …, …}``, the network under the wrappers of distribution,
compilation and teacher; the linear evaluation saves ``{"state_dict": …, "epoch": …, "best_acc": …, …}``. Their ViT
and MetaFormer name their weights as timm's do.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from solo_bam.config.options import PublishedName
from solo_bam.config.section import Branch
from solo_bam.core.errors import UserError
from solo_bam.runs.checkpoints.read import load_safely

RECIPES: dict[PublishedName, str] = {
    "vit_small_patch16_224": "imagenet/bam_vit_small",
    "vit_base_patch16_224": "imagenet/bam_vit_base",
    "caformer_m36": "imagenet/bam_caformer_m36",
}
_WRAPPERS = ("module.", "_orig_mod.", "backbone.", "base_encoder.")
_BRANCHES: dict[str, Branch] = {"student.": "student", "teacher.": "teacher"}
_PROJECTORS = ("proj_head.", "pred_head.")
_HEAD = {"linear.weight": "heads.layers.0.weight", "linear.bias": "heads.layers.0.bias"}
_NORM = {f"bn.{name}": f"heads.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
_REMEDY = "give a checkpoint of the published BAM code"


@dataclass(frozen=True)
class Published:
    """A pretraining checkpoint.

    Attributes:
        branches: the backbone's weights under its own names, for each branch that is there.
        left_out: the projector's weights, under their names in the file.
        epochs: trained; None where the file does not say.
    """

    branches: dict[Branch, dict[str, Tensor]]
    left_out: list[str]
    epochs: int | None


def read_published(path: Path, key: str = "FILE") -> Published:
    """Read a pretraining checkpoint, or a bare ``state_dict``.

    Raises:
        UserError: unreadable, holding code, without weights, or a linear head's.
    """
    content, state = _read(path, key)
    if set(_HEAD) <= {_unwrapped(name)[1] for name in state}:
        raise UserError(key, f"{path} is a linear head's", "give the backbone's file, and this one as head=…")
    branches: dict[Branch, dict[str, Tensor]] = {}
    left_out = []
    for name, value in state.items():
        branch, own = _unwrapped(name)
        if own.startswith(_PROJECTORS):
            left_out.append(name)
        else:
            branches.setdefault(branch, {})[own] = value
    if not branches:
        raise UserError(key, f"{path} has no backbone (it has {', '.join(left_out[:5])})", _REMEDY)
    epochs = content.get("epoch")
    return Published(branches, left_out, epochs if isinstance(epochs, int) else None)


def _read(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A file's whole content, and the weights in it."""
    if not path.is_file():
        raise UserError(key, f"there is no file {path}", _REMEDY)
    # What the published code keeps its flags in: attributes without behaviour.
    torch.serialization.add_safe_globals([argparse.Namespace])
    content = load_safely(path, key, _REMEDY)
    state = next((content[k] for k in ("model", "state_dict") if isinstance(content.get(k), Mapping)), content)
    weights = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if len(weights) < len(state) or not weights:
        raise UserError(key, f"{path} has no weights (it has {', '.join(map(str, list(content)[:5]))})", _REMEDY)
    return content, weights


def _unwrapped(name: str) -> tuple[Branch, str]:
    """Branch and own name of a weight; without a teacher the network is the student."""
    branch: Branch = "student"
    while prefix := next((p for p in (*_WRAPPERS, *_BRANCHES) if name.startswith(p)), None):
        branch = _BRANCHES.get(prefix, branch)
        name = name.removeprefix(prefix)
    return branch, name


@dataclass(frozen=True)
class PublishedHead:
    """A linear classifier.

    Attributes:
        state: its weights, under the names that ``solo-bam linear`` gives them.
        features: what it sees: the features, or the [CLS] tokens of the last blocks, then the mean of the patch tokens.
        epochs: trained; None where the file does not say.
        accuracy: the best one, in percent, as the file states it; not measured here.
    """

    state: dict[str, Tensor]
    features: str
    epochs: int | None
    accuracy: float | None


def read_head(path: Path, name: PublishedName, width: int, key: str = "head") -> PublishedHead:
    """Read a checkpoint of the published linear evaluation.

    Args:
        path: the file.
        name: of the backbone, which settles what the head sees.
        width: of the backbone's features.
        key: for messages.

    Raises:
        UserError: unreadable, or no head of that backbone; its keys or widths are listed.
    """
    content, state = _read(path, key)
    state = {_unwrapped(k)[1]: value for k, value in state.items()}
    missing, unexpected = [k for k in _HEAD if k not in state], [k for k in state if k not in _HEAD | _NORM]
    faults = {"missing": missing, "unexpected": unexpected}
    if told := [f"{what}: {', '.join(names[:5])}" for what, names in faults.items() if names]:
        problem = f"{path} is no linear head ({'; '.join(told)})"
        raise UserError(key, problem, "give a checkpoint of the published linear evaluation")
    features = _features(name, width, state["linear.weight"].shape[1], path, key)
    if features.endswith("patch tokens"):
        state = {k: _uninterleaved(value) if value.ndim and k != "linear.bias" else value for k, value in state.items()}
    epochs, best = content.get("epoch"), content.get("best_acc")
    return PublishedHead(
        {(_HEAD | _NORM)[k]: value for k, value in state.items()},
        features,
        epochs if isinstance(epochs, int) else None,
        None if best is None else float(best),
    )


def _features(name: PublishedName, width: int, seen: int, path: Path, key: str) -> str:
    """What a head of ``seen`` columns sees, by the published scripts."""
    allowed = {width: "features"}
    if name == "vit_base_patch16_224":
        allowed[2 * width] = "[CLS] and mean of the patch tokens"
    if name == "vit_small_patch16_224":
        allowed[4 * width] = "[CLS] of the last 4 blocks"
    if seen not in allowed:
        problem = f"{path} takes features of width {seen}, {name}'s heads take {' or '.join(map(str, allowed))}"
        raise UserError(key, problem, "give the head of this backbone")
    return allowed[seen]


def _uninterleaved(value: Tensor) -> Tensor:
    """Columns [CLS]₁ mean₁ [CLS]₂ mean₂ …, as they lie in the published head, as all of [CLS], then all of the mean."""
    return torch.cat([value[..., ::2], value[..., 1::2]], dim=-1)
