"""Checkpoints and the backbones in them. Tensors and plain values are read; pickled code is never run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from solo_bam.backbones import create_backbone
from solo_bam.config import Recipe
from solo_bam.config.resolve import uses_cifar_stem
from solo_bam.errors import UserError
from solo_bam.foreign import about_solo_learn

Branch = Literal["student", "teacher"]
# The names of our checkpoints and solo-learn's head edition, then those of solo-learn's release edition.
_PREFIXES = {"student": ("backbone.", "encoder."), "teacher": ("momentum_backbone.", "momentum_encoder.")}
_SHOWN = 5  # keys in a message


@dataclass(frozen=True)
class Pretrained:
    """A backbone with the weights of a checkpoint.

    Attributes:
        backbone: on the CPU, in evaluation mode, with ``num_features``.
        recipe: that it was trained by.
        branch: ``student`` or ``teacher``.
        epoch: epochs trained.
        path: of the checkpoint.
        weights: of the backbone, :func:`hash_weights`.
    """

    backbone: nn.Module
    recipe: Recipe
    branch: Branch
    epoch: int
    path: Path
    weights: str


def find_checkpoint(path: Path, key: str) -> Path:
    """A checkpoint's file; a run's folder means its newest.

    Raises:
        UserError: there is none, naming ``key``.
    """
    path = path.expanduser()
    newest = path / "checkpoints" / "last.ckpt"
    if path.is_dir() and not newest.exists():
        raise UserError(key, f"there is no checkpoint in {path}", "give a run's folder or a checkpoint")
    if not path.exists():
        raise UserError(key, f"there is no file {path}", "give a run's folder or a checkpoint")
    return newest if path.is_dir() else path


def read_checkpoint(path: Path, key: str) -> dict[str, Any]:
    """The content of a file that ``torch.save`` wrote, on the CPU.

    Raises:
        UserError: missing, unreadable or holding code, naming ``key``.
    """
    path = find_checkpoint(path, key)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails with whatever exception comes first
        reason = str(error).strip().split("\n")[0]
        raise UserError(key, f"{path} cannot be read safely ({reason})", "give a checkpoint of solo-bam") from None
    if not isinstance(content, dict):
        raise UserError(key, f"{path} holds no checkpoint", "give a checkpoint of solo-bam")
    return content


def load_pretrained(path: Path, branch: Branch = "student", key: str = "checkpoint") -> Pretrained:
    """The backbone of a run of ``solo-bam pretrain`` or of solo-learn's own script.

    Args:
        path: a checkpoint, or a run's folder.
        branch: the trained network or its momentum teacher.
        key: for messages.

    Raises:
        UserError: not a checkpoint of either, or its weights are not those of its recipe's backbone.
    """
    content = read_checkpoint(path, key)
    about = content.get("solo_bam") or about_solo_learn(find_checkpoint(path, key), key)
    if not about:
        problem = f"{path} was not saved by solo-bam, and has no args.json of solo-learn's beside it"
        raise UserError(key, problem, "give a checkpoint of solo-bam or solo-learn")
    recipe = Recipe.model_validate(about["recipe"])
    backbone = backbone_of(recipe)
    load_weights(backbone, backbone_state(content["state_dict"], branch, key), key)
    epoch = int(content.get("epoch", -1)) + 1
    return Pretrained(backbone, recipe, branch, epoch, find_checkpoint(path, key), hash_weights(backbone))


def backbone_of(recipe: Recipe) -> nn.Module:
    """A recipe's backbone with random weights, in evaluation mode."""
    section = recipe.backbone
    return create_backbone(
        section.name,
        section.kwargs,
        uses_cifar_stem(recipe),
        recipe.crop_sizes,
        section.fixed_positions,
        section.frozen_patches,
        method=recipe.method,
    ).eval()


def backbone_state(state: Mapping[str, Tensor], branch: Branch, key: str) -> dict[str, Tensor]:
    """The backbone's share of a method's ``state_dict``, under the backbone's own names.

    Args:
        state: of solo-bam's or of either edition of solo-learn's checkpoints.
        branch: the trained network or its momentum teacher.
        key: for messages.

    Raises:
        UserError: the checkpoint has no such branch.
    """
    for prefix in _PREFIXES[branch]:
        found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if found:
            return found
    if branch == "teacher":
        raise UserError("branch", "got 'teacher', the checkpoint's method has none", "set branch=student")
    roots = ", ".join(sorted({name.split(".")[0] for name in state})[:_SHOWN])
    raise UserError(key, f"the checkpoint has no backbone (it has {roots})", "give a checkpoint of a pretrained method")


def load_weights(backbone: nn.Module, state: Mapping[str, Tensor], key: str) -> None:
    """Fill a backbone; every key must be there with its shape, and none may be left over.

    Raises:
        UserError: listing the keys at fault, naming ``key``.
    """
    own = backbone.state_dict()
    faults = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    told = [f"{what}: {_listed(names)}" for what, names in faults.items() if names]
    if told:
        problem = f"the weights are not this backbone's ({'; '.join(told)})"
        raise UserError(key, problem, "give the backbone that they were trained with")
    backbone.load_state_dict(dict(state))


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def hash_weights(network: nn.Module) -> str:
    """Sixteen hexadecimal digits of the names and values of a network's parameters and buffers (SHA-256)."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
