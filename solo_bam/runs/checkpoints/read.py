"""Checkpoints and the backbones in them. Tensors and plain values are read; pickled code is never run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from solo_bam.backbones import create_backbone
from solo_bam.config import Recipe
from solo_bam.config.resolve import cifar_stem_stride
from solo_bam.config.section import Network
from solo_bam.config.start import KEY, check_start
from solo_bam.core.errors import UserError
from solo_bam.core.files import short_name
from solo_bam.runs.checkpoints.find import find_checkpoint as find_checkpoint
from solo_bam.runs.checkpoints.solo_learn import about_solo_learn, filled
from solo_bam.runs.checkpoints.start import fitted, start_state

# The names of our checkpoints and solo-learn's head edition, then those of solo-learn's release edition.
_PREFIXES = {"student": ("backbone.", "encoder."), "teacher": ("momentum_backbone.", "momentum_encoder.")}
_UNTRAINED = ("untrained", "start")  # networks that no checkpoint holds
_SHOWN = 5  # keys in a message
_ABOUT: dict[str, Any] = {"method": "", "recipe": {}}  # the form of what a checkpoint says of itself


@dataclass(frozen=True)
class Pretrained:
    """A backbone with the weights of a checkpoint.

    Attributes:
        backbone: on the CPU, in evaluation mode, with ``num_features``.
        recipe: that it was trained by.
        branch: ``student``, ``teacher``, ``untrained`` or ``start``.
        epoch: epochs trained.
        path: of the checkpoint.
        weights: of the backbone, :func:`hash_weights`.
        own_recipe: whether ``recipe`` is the run's own; else (solo-learn's) method, backbone, dataset and crops alone
            are known, and the rest of it says nothing.
    """

    backbone: nn.Module
    recipe: Recipe
    branch: Network
    epoch: int
    path: Path
    weights: str
    own_recipe: bool = True

    @property
    def about(self) -> dict[str, str | int]:
        """The fields of a :class:`solo_bam.runs.records.Record` that say which weights were measured."""
        return {
            "method": self.recipe.method,
            "branch": self.branch,
            "epoch": self.epoch,
            "weights": self.weights,
            "checkpoint": str(self.path),
        }

    def evaluation_name(self, kind: str, data: str) -> str:
        """Name of the records of one data set, checkpoint and branch: ``knn-digits-student``.

        Args:
            kind: of the evaluation.
            data: what the records call the images; a run's newest checkpoint goes without a name.
        """
        checkpoint = [] if self.path.stem == "last" else [self.path.stem]
        return "-".join(map(short_name, [kind, data, *checkpoint, self.branch]))


def read_checkpoint(path: Path, key: str) -> dict[str, Any]:
    """The content of a file that ``torch.save`` wrote, or of an exported one in the same form, on the CPU.

    Raises:
        UserError: missing, unreadable, holding code, or without what every checkpoint has, naming ``key``.
    """
    path = find_checkpoint(path, key)
    if path.suffix == ".safetensors":
        return _read_exported(path, key)
    content = load_safely(path, key, "give a checkpoint of solo-bam")
    state = content.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise UserError(key, f"{path} has no state_dict", "give a checkpoint of solo-bam or solo-learn")
    if not isinstance(content.get("epoch", -1), int) or not _is_about(content.get("solo_bam", _ABOUT)):
        raise UserError(key, f"{path} says nothing readable of its training", "give a checkpoint of solo-bam")
    return content


def load_safely(path: Path, key: str, remedy: str) -> dict[str, Any]:
    """The dictionary that ``torch.save`` wrote, on the CPU; pickled code in it is not run.

    Raises:
        UserError: unreadable, holding code or no dictionary, naming ``key`` and the ``remedy``.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails with whatever exception comes first
        reason = str(error).strip().split("\n")[0]
        raise UserError(key, f"{path} cannot be read safely ({reason})", remedy) from None
    if not isinstance(content, dict):
        raise UserError(key, f"{path} holds no checkpoint", remedy)
    return content


def _read_exported(path: Path, key: str) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(key, f"{path} cannot be read ({error})", "give a file of solo-bam export") from None
    if "solo_bam" not in metadata:
        raise UserError(key, f"{path} was not exported by solo-bam", "give a file of solo-bam export")
    try:
        about = json.loads(metadata["solo_bam"])
        prefix, epoch, recipe = _PREFIXES[about["branch"]][0], int(about["epoch"]), dict(about["recipe"])
        own = bool(about.get("own_recipe", True))
        told = {"method": recipe["method"], "recipe": recipe, "own_recipe": own}
    except (ValueError, KeyError, TypeError, AttributeError):
        problem = f"{path} has no branch, epoch and recipe in its metadata solo_bam"
        raise UserError(key, problem, "give a file of solo-bam export") from None
    named = {prefix + name: value for name, value in state.items()}
    return {"state_dict": named, "epoch": epoch - 1, "solo_bam": told}


def _is_about(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(key), type(part)) for key, part in _ABOUT.items())


def recipe_in(content: Mapping[str, Any], path: Path, key: str) -> Recipe | None:
    """The recipe that a checkpoint was trained by: its own, or what solo-learn's ``args.json`` beside it says; or None.

    Raises:
        UserError: the checkpoint of a classifier, or a recipe that this version cannot read, naming ``key``.
    """
    about = _about(content, path, key)
    return None if about is None else _recipe_of(about, path, key)


def _about(content: Mapping[str, Any], path: Path, key: str) -> dict[str, Any] | None:
    return content.get("solo_bam") or about_solo_learn(find_checkpoint(path, key), key)


def _recipe_of(about: dict[str, Any], path: Path, key: str) -> Recipe:
    if about["method"] == "linear":
        raise UserError(key, f"{path} is a classifier's", "give the checkpoint of a pretraining")
    try:
        return Recipe.model_validate(about["recipe"]) if about.get("own_recipe", True) else filled(about["recipe"])
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"]))
        problem = f"{path} has a recipe that this version does not read ({place}: {found['msg']})"
        raise UserError(key, problem, "use the version of solo-bam that its run.json names") from None


def load_pretrained(path: Path, branch: Network = "student", key: str = "checkpoint") -> Pretrained:
    """The backbone of a run of ``solo-bam pretrain``, of solo-learn's own script, or of a file of ``solo-bam export``.

    Args:
        path: a checkpoint, a run's folder, or an exported ``.safetensors``.
        branch: the trained network, its momentum teacher, random weights of the run's seed, or those it began with.
        key: for messages.

    Raises:
        UserError: not a checkpoint of either, or its weights are not those of its recipe's backbone.
    """
    if branch not in get_args(Network):
        raise UserError("branch", f"got {branch!r}, allowed: {', '.join(get_args(Network))}", "correct it")
    content = read_checkpoint(path, key)
    about = _about(content, path, key)
    if about is None:
        problem = f"{path} was not saved by solo-bam, and has no args.json of solo-learn's beside it"
        raise UserError(key, problem, "give a checkpoint of solo-bam or solo-learn")
    recipe = _recipe_of(about, path, key)
    backbone = network_in(content, recipe, branch, key)
    epoch = 0 if branch in _UNTRAINED else int(content.get("epoch", -1)) + 1
    weights, own = hash_weights(backbone), about.get("own_recipe", True)
    return Pretrained(backbone, recipe, branch, epoch, find_checkpoint(path, key), weights, own)


def network_in(content: Mapping[str, Any], recipe: Recipe, branch: Network, key: str) -> nn.Module:
    """A recipe's backbone with the weights of a checkpoint, or as the checkpoint's run started it.

    Args:
        content: of the checkpoint.
        recipe: of the run.
        branch: which network.
        key: for messages.

    Raises:
        UserError: the checkpoint has no such network, or its weights are not this backbone's.
    """
    # Checkpoints of solo-bam say so; solo-learn's, whose recipe is filled in, have nothing of the kind.
    about = content.get("solo_bam")
    if branch in _UNTRAINED and about and about.get("own_recipe", True):
        return untrained_backbone(recipe) if branch == "untrained" else start_backbone(recipe)
    backbone = backbone_of(recipe)
    load_weights(backbone, backbone_state(content["state_dict"], branch, key), key)
    return backbone


def backbone_of(recipe: Recipe, any_size: bool = False) -> nn.Module:
    """A recipe's backbone with random weights, in evaluation mode.

    Args:
        recipe: a checked recipe.
        any_size: for images of other sizes than the recipe's crops, too.
    """
    section = recipe.backbone
    return create_backbone(
        section.name,
        section.kwargs,
        cifar_stem_stride(recipe),
        recipe.crop_sizes,
        section.fixed_positions,
        section.frozen_patches,
        any_size,
        method=recipe.method,
    ).eval()


def untrained_backbone(recipe: Recipe) -> nn.Module:
    """A recipe's backbone with the random weights of its seed, in evaluation mode.

    No random number outside is touched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        return backbone_of(recipe)


def start_backbone(recipe: Recipe) -> nn.Module:
    """A recipe's backbone as its run started it, in evaluation mode: untrained, or with its pretrained weights.

    Raises:
        UserError: these are not there any more, or not the ones.
    """
    check_start(recipe.backbone)
    return started(lambda: untrained_backbone(recipe), recipe.backbone.pretrained)()


def started(create: Callable[[], nn.Module], source: str | None) -> Callable[[], nn.Module]:
    """What builds networks that begin with pretrained weights, read once for all of them.

    Raises:
        UserError: they cannot be read; and when a network is built, they are not those of its architecture.
    """
    if source is None:
        return create
    state = start_state(source)
    if any(name.startswith((*_PREFIXES["student"], *_PREFIXES["teacher"])) for name in state):
        state = backbone_state(state, "student", KEY)

    def create_started() -> nn.Module:
        backbone = create()
        load_weights(backbone, fitted(state, backbone), KEY)
        return backbone

    return create_started


def backbone_state(state: Mapping[str, Tensor], branch: Network, key: str) -> dict[str, Tensor]:
    """The backbone's share of a method's ``state_dict``, under the backbone's own names.

    Args:
        state: of solo-bam's or of either edition of solo-learn's checkpoints.
        branch: the trained network or its momentum teacher.
        key: for messages.

    Raises:
        UserError: the checkpoint has no such branch; no state holds an untrained network.
    """
    if branch in _UNTRAINED:
        raise UserError("branch", f"got {branch!r}, the run's seed is not known", "set branch=student")
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES[branch]:
        found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if found:
            return found
    if branch == "teacher":
        raise UserError("branch", "got 'teacher', the checkpoint's method has none", "set branch=student")
    if any(name.startswith(_PREFIXES["teacher"]) for name in state):
        raise UserError("branch", "got 'student', the checkpoint holds the teacher alone", "set branch=teacher")
    roots = ", ".join(sorted({name.split(".")[0] for name in state})[:_SHOWN])
    raise UserError(key, f"the checkpoint has no backbone (it has {roots})", "give a checkpoint of a pretrained method")


def load_weights(backbone: nn.Module, state: Mapping[str, Tensor], key: str) -> None:
    """Fill a backbone; every key must be there with its shape and finite values, and none may be left over.

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
    if lost := [name for name, value in state.items() if not value.isfinite().all()]:
        problem = f"weights are NaN or infinite ({_listed(lost)}), no number can be made of them"
        raise UserError(key, problem, "give a checkpoint from before the training diverged")
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
