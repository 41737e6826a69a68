"""Make a run out of a published BAM checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from solo_bam.config import Recipe, load_recipe
from solo_bam.config.options import ImportOptions
from solo_bam.config.section import Branch
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded, sha256, writable
from solo_bam.runs.checkpoints.published import RECIPES, Published, PublishedHead, read_head, read_published
from solo_bam.runs.checkpoints.read import backbone_of, load_weights
from solo_bam.runs.folder import RunFolder


def import_official(path: Path, options: ImportOptions) -> RunFolder:
    """Write a published checkpoint as a run; nothing is written unless every weight has its place.

    Args:
        path: the published file.
        options: of the command.

    Raises:
        UserError: a file that cannot be read, keys that are missing or left over, or an output that exists.
    """
    recipe = load_recipe(RECIPES[options.backbone.name])  # as far as solo-bam's recipes can say
    path, folder = expanded(path), _folder(recipe, options.output)
    published = _chosen(read_published(path), options.branch)
    backbone = backbone_of(recipe)
    for state in published.branches.values():
        load_weights(backbone, state, "FILE")
    head = None
    if options.head is not None:
        width: int = backbone.num_features  # type: ignore[assignment]
        head = read_head(expanded(options.head), options.backbone.name, width)
    folder.adopt(recipe, _source(path, published, options.head, head))
    folder.checkpoints.mkdir()
    torch.save(_checkpoint(recipe, published, head), folder.last_checkpoint)
    _report(folder, published, head)
    return folder


def _chosen(published: Published, branch: Branch | None) -> Published:
    if branch is None:
        return published
    if branch not in published.branches:
        raise UserError("branch", f"got {branch!r}, the file holds {', '.join(published.branches)}", "correct it")
    return Published({branch: published.branches[branch]}, published.left_out, published.epochs)


def _folder(recipe: Recipe, output: Path | None) -> RunFolder:
    path = expanded(output or recipe.checkpoint.dir / recipe.method / f"{recipe.name}-published")
    if os.path.lexists(path):
        raise UserError("output", f"{path} exists", "remove it or give another folder")
    return RunFolder(writable(path.absolute(), "output"))


def _checkpoint(recipe: Recipe, published: Published, head: PublishedHead | None) -> dict[str, Any]:
    prefixes: dict[Branch, str] = {"student": "backbone.", "teacher": "momentum_backbone."}
    state = {prefixes[b] + name: value for b, found in published.branches.items() for name, value in found.items()}
    about = {"method": recipe.method, "recipe": recipe.model_dump(mode="json")}
    return {
        "state_dict": state | (head.state if head else {}),
        "epoch": (published.epochs or 0) - 1,  # the last one's index
        "solo_bam": about,
    }


def _source(path: Path, published: Published, head_path: Path | None, head: PublishedHead | None) -> dict[str, object]:
    source: dict[str, object] = {"file": path.name, "sha256": sha256(path), "epochs": published.epochs}
    source["left_out"] = published.left_out
    if head_path is not None and head is not None:
        stated = {"features": head.features, "epochs": head.epochs, "accuracy_stated": head.accuracy}
        source["head"] = {"file": head_path.name, "sha256": sha256(expanded(head_path)), **stated}
    return source


def _report(folder: RunFolder, published: Published, head: PublishedHead | None) -> None:
    epochs = f"{published.epochs} epochs" if published.epochs else "the file does not say after how many epochs"
    print(f"Imported: {' and '.join(published.branches)} ({epochs})")
    if published.left_out:
        print(f"Left out, the projector's: {', '.join(published.left_out)}")
    if head is not None:
        stated = f"; the file states {head.accuracy:.1f} %, not measured here" if head.accuracy is not None else ""
        print(f"Linear head on {head.features}{stated}")
    if "teacher" in published.branches:
        print("The authors evaluate the teacher: branch=teacher.")
    print(f"Run: {folder.path}")
