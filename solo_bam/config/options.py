"""The ``key=value`` settings of the commands that evaluate a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from hydra.errors import HydraException
from pydantic import BeforeValidator, Field, ValidationError

from solo_bam.config.overrides import parse_overrides
from solo_bam.config.recipe import user_error
from solo_bam.config.schema import Branch, Count, Data, ImageData, Index, Network, Positive, Recipe
from solo_bam.config.section import Section, listed
from solo_bam.core.errors import UserError

S = TypeVar("S", bound=Section)


class KNNOptions(Section):
    """``solo-bam knn``: every k, temperature and distance is combined with every other.

    ``data``: changes to the recipe's; the bank is all of its training images unless ``data.fraction`` is given.
    ``precision``: of the frozen network; distances and votes are float32.
    ``output``: folder of the records and the cached features; null: ``evaluation/`` of the run.
    """

    k: Annotated[list[Count], Field(min_length=1), BeforeValidator(listed)] = [1, 5, 10, 20, 50, 100, 200]
    temperature: Annotated[list[Positive], Field(min_length=1), BeforeValidator(listed)] = [0.07]
    distance: Annotated[
        list[Literal["cosine", "euclidean"]], Field(min_length=1), BeforeValidator(listed)
    ] = ["cosine", "euclidean"]  # fmt: skip
    branch: Network = "student"
    data: dict[str, Any] = {}
    precision: Literal[32, "bf16-mixed"] = 32
    batch_size: Count = 256
    num_workers: Index = 4
    accelerator: str = "auto"
    output: Path | None = None


class ExportOptions(Section):
    """``output``: a folder; by default ``export/<branch>-<format>`` of the run, or beside a file of no run."""

    format: Literal["timm", "detectron2"] = "timm"
    branch: Branch = "student"
    half: bool = False
    output: Path | None = None


class BoardOptions(Section):
    """``port``: 0: one that is free."""

    port: Annotated[int, Field(ge=0, le=65535)] = 0


class DavisData(Section):
    """``path``: the folder that holds ``ImageSets``, ``JPEGImages`` and ``Annotations``."""

    path: Path
    split: str = "val"


class DavisOptions(Section):
    """The defaults are DINO's and the published BAM's.

    ``layer``: a submodule whose output is taken in place of the last one, e.g. ``layer3`` of a ResNet.
    ``output``: folder of the masks; by default a folder of the protocol in ``evaluation/`` of the run.
    """

    data: DavisData
    branch: Branch = "student"
    layer: str | None = None
    short_side: Count = 480
    n_last_frames: Index = 7
    size_mask_neighborhood: Index = 12
    topk: Count = 5
    temperature: Positive = 0.1
    accelerator: str = "auto"
    output: Path | None = None


PublishedName = Literal["vit_small_patch16_224", "vit_base_patch16_224", "caformer_m36"]


class NamedBackbone(Section):
    """One of the published architectures."""

    name: PublishedName


class ImportOptions(Section):
    """``head``: a linear head's file. ``branch``: null for all that the file holds. ``output``: a new run's folder."""

    backbone: NamedBackbone
    head: Path | None = None
    branch: Branch | None = None
    output: Path | None = None


def parse_options(model: type[S], lines: Sequence[str]) -> S:
    """Settings from ``key=value`` lines in Hydra's grammar; dotted keys are sections.

    Raises:
        UserError: a line, key or value that is not allowed.
    """
    raw: dict[str, Any] = {}
    try:
        for change in parse_overrides(lines):
            section = raw
            *sections, name = change.key_or_group.split(".")
            for part in sections:
                section = section.setdefault(part, {})
            section[name] = change.value()
    except (AttributeError, TypeError, HydraException):
        raise UserError(change.key_or_group, "is given both whole and in part", "give it once") from None
    return _validated(model, raw)


def lacks_val(data: ImageData) -> bool:
    """Whether these are one's own images, without others to validate."""
    return data.dataset == "custom" and data.val_path is None


def evaluation_data(recipe: Recipe, changes: dict[str, Any]) -> Data:
    """The section ``data`` to evaluate on: the recipe's, all its images, with some keys changed.

    One's own images without others to validate are measured on those that the training held out.

    Where another dataset is asked for, nothing of the recipe's section but ``num_workers`` is kept.

    Raises:
        UserError: a key or value that is not allowed.
    """
    own = recipe.data.model_dump(exclude={"fraction", "contrastive_crop"})
    if not lacks_val(recipe.data) or changes.get("val_path") is not None:
        own.pop("tune_fraction")  # there are images to validate
    if own["format"] in ("dali", "tensor"):
        own["format"] = "image_folder"  # the same files, read in the plain view
    if changes.get("dataset", own["dataset"]) != own["dataset"]:
        own = {"num_workers": own["num_workers"]}
    if changes.get("train_path", own.get("train_path")) != own.get("train_path"):
        own.pop("name", None)  # it is of other images
    return _validated(Data, own | changes, "data.")


def transferred_from(own: Data, data: ImageData) -> str | None:
    """The dataset that weights were trained on (``own``), where it is another than that of the evaluation.

    One's own images are the same where they have the same name, or none and the same place.
    """
    same = own.name == data.name if own.name or data.name else own.train_path == data.train_path
    if own.dataset == data.dataset and (same or data.dataset != "custom"):
        return None
    return own.called if own.name or own.dataset != "custom" else str(own.train_path or "other images")


def _validated(model: type[S], raw: dict[str, Any], prefix: str = "") -> S:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise user_error(error, model, prefix) from None
