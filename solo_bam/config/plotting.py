"""The ``key=value`` settings of ``solo-bam plot``, ``solo-bam explore`` and ``solo-bam health``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from solo_bam.config.schema import Branch, Count, Index, Positive
from solo_bam.config.section import Section, listed


class NetworkOptions(Section):
    """What is shown to which network.

    ``data``: changes to the recipe's section. ``num_images``: of the validation images, else of the training images,
    drawn at random, the same ones every time. ``num_workers``: null: the recipe's.
    """

    branch: Branch = "student"
    data: dict[str, Any] = {}
    num_images: Count | None = None
    batch_size: Count = 64
    num_workers: Index | None = None
    accelerator: str = "auto"


class PlotOptions(NetworkOptions):
    """``output``: the picture's file, its ending chooses the format; null: ``plots/`` of the run."""

    output: Path | None = None
    format: Literal["png", "pdf", "svg"] = "png"
    images: list[Path] = []
    reduction: Literal["pca", "umap"] = "pca"


class ExploreOptions(NetworkOptions):
    """``k``, ``temperature``, ``precision``: of ``solo-bam knn``. ``output``: the page; null: ``plots/`` of the run."""

    k: Count = 20
    temperature: Positive = 0.07
    precision: Literal[32, "bf16-mixed"] = 32
    num_images: Annotated[int, Field(ge=2)] | None = None
    batch_size: Count = 256
    reduction: Annotated[list[Literal["pca", "umap"]], Field(min_length=1), BeforeValidator(listed)] = ["pca", "umap"]
    output: Path | None = None
