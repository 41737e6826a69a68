"""A run as an object: train one, or load one from disk; look at it and measure it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solo_bam.config import load_recipe
from solo_bam.config.options import KNNOptions, parse_options
from solo_bam.config.overrides import override_lines
from solo_bam.config.plotting import ExploreOptions, PlotOptions
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded
from solo_bam.runs.checkpoints.find import find_checkpoint
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.status import SHOWN

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

    from solo_bam.config.section import Branch


class Run:
    """A run on disk, as :func:`pretrain` and :func:`load` give it.

    Args:
        place: a run's folder, a checkpoint in it, or a file of ``solo-bam export``.
        branch: which network is meant, ``student`` or ``teacher``.
    """

    def __init__(self, place: Path, branch: Branch = "student"):
        self.place, self.branch = place, branch
        self._classifier: Path | None = None  # of the newest linear run

    @property
    def folder(self) -> Path:
        """Of the run; of the file, where it lies in no run."""
        if self.place.is_dir():
            return self.place
        run = self.place.parent.parent
        return run if (run / "run.json").exists() else self.place.parent

    @property
    def checkpoint(self) -> Path:
        """The file of the weights: the run's newest, or the one that was loaded.

        Raises:
            UserError: there is none.
        """
        return find_checkpoint(self.place, "checkpoint")

    @property
    def metrics(self) -> pd.DataFrame:
        """A row per epoch, a column per logged metric: of the epoch where it was logged once, else its last step's.

        Raises:
            UserError: pandas is not installed.
        """
        rows = [row for row in RunFolder(self.folder).metrics() if "epoch" in row]
        table = pandas().DataFrame(rows, columns=sorted({key for row in rows for key in row} | {"epoch"}))
        table = table.astype({"epoch": int}).groupby("epoch").last().drop(columns="step", errors="ignore")
        whole = {name.removesuffix("_epoch") for name in table if name.endswith("_epoch")}
        twice = [name for name in table if name.endswith("_step") and name.removesuffix("_step") in whole]
        return table.drop(columns=twice).rename(columns=lambda name: name.removesuffix("_epoch").removesuffix("_step"))

    @cached_property
    def network(self) -> nn.Module:
        """The backbone, on the CPU and in evaluation mode: images ``(N, 3, h, w)`` to ``(N, num_features)``.

        Raises:
            UserError: the checkpoint cannot be read, or its weights are not those of its recipe's backbone.
        """
        from solo_bam.runs.checkpoints.read import load_pretrained

        return load_pretrained(self.checkpoint, self.branch).backbone

    def knn(self, *changes: str, **keys: Any) -> pd.DataFrame:
        """k-NN accuracy (%) of the frozen features; a row per setting, with its 95 % interval over the test images.

        Args:
            changes: settings of ``solo-bam knn``, ``"k=20"``.
            keys: the same as keywords, ``k=[1, 20], distance="cosine"``.

        Raises:
            UserError: a setting, data or a checkpoint that do not fit, or pandas is not installed.
        """
        pd = pandas()
        options = parse_options(KNNOptions, self._lines(changes, keys))

        from solo_bam.evaluate.offline_knn import evaluate_knn
        from solo_bam.runs.records import wilson_interval

        found = evaluate_knn(self.checkpoint, options)
        columns = ["distance", "temperature", "k", "accuracy", "accuracy@5", "low", "high"]
        rows = [
            (one.distance, one.temperature, one.k, *(100 * hits / found.images for hits in one.hits),
             *wilson_interval(one.hits[0] / found.images, found.images))
            for one in found.settings
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=columns)

    def linear(self, *changes: str, recipe: str | Path | None = None, **keys: Any) -> pd.DataFrame:
        """Train a linear classifier on the frozen features, or fine-tune; a row per metric, with its 95 % interval.

        Args:
            changes: to the recipe, ``"max_epochs=10"``.
            recipe: of ``solo-bam linear``, a shipped one's name or a YAML file; None: the one of the run's data set.
            keys: changes as keywords.

        Raises:
            UserError: a key, data or a checkpoint that do not fit, or pandas is not installed.
        """
        pd = pandas()
        path, name = (None, None) if recipe is None else recipe_place(recipe)

        from solo_bam.train.linear import find_recipe, linear

        done = linear(*find_recipe(name, path, self.checkpoint, self._lines(changes, keys)))
        self._classifier = done.folder.path
        rows = [(one.metric, one.value, *(one.interval or (None, None)), one.images, one.data) for one in done.records]
        return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "images", "data"]).set_index("metric")

    def plot(self, kind: str = "curves", *changes: str, **keys: Any) -> Figure:
        """Draw a picture, and write it to a file in the run's folder.

        Args:
            kind: ``curves``, ``entropy``, ``similarity``, ``features``, ``attention``, or after :meth:`linear`
                ``confusion``.
            changes: settings of ``solo-bam plot``, ``"reduction=umap"``.
            keys: the same as keywords.

        Raises:
            UserError: a kind, setting or data that do not fit, or matplotlib is not installed.
        """
        from solo_bam.api.plot import draw

        options = parse_options(PlotOptions, self._lines(changes, keys))
        if kind == "confusion" and self._classifier is None:
            raise UserError("kind", "got 'confusion', no linear classifier has been trained", "call linear() first")
        places = {"curves": self.folder, "entropy": self.folder, "confusion": self._classifier}
        return draw(kind, [places.get(kind) or self.checkpoint], options).figure

    def explore(self, *changes: str, **keys: Any) -> Path:
        """Write a page to look at the features with, before and after training; what ``solo-bam explore`` does.

        Args:
            changes: settings of ``solo-bam explore``, ``"num_images=500"``.
            keys: the same as keywords.

        Raises:
            UserError: a setting, data or a checkpoint that do not fit, or Bokeh is not installed.
        """
        from solo_bam.evaluate.explore import explore

        return explore(self.checkpoint, parse_options(ExploreOptions, self._lines(changes, keys)))[1]

    def _lines(self, changes: tuple[str, ...], keys: Mapping[str, Any]) -> list[str]:
        return [*([f"branch={self.branch}"] if self.branch != "student" else []), *override_all(changes, keys)]

    def _told(self) -> dict[str, str]:
        """What it is, in short."""
        folder = RunFolder(self.folder)
        record, recipe = folder.record(), folder.recipe() or {}
        data = recipe.get("data") or {}
        told = {
            "method": record.get("method", "unknown") + ("" if self.branch == "student" else f", {self.branch}"),
            "data": data.get("name") or data.get("dataset") or "unknown",
            "epochs": str(recipe.get("max_epochs", "unknown")),
            "status": folder.status,
        }
        if (epoch := record.get("collapsed_in")) is not None:
            told["status"] += f", COLLAPSED since epoch {epoch}"
        results = record.get("results") or {}
        return told | {name: f"{results[name]:.4g}" for name in SHOWN if name in results}

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self._told().items())
        return f"Run({str(self.place)!r}: {told})"

    def _repr_html_(self) -> str:
        told = {**self._told(), "folder": str(self.folder)}
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in told.items())
        return f"<table>{rows}</table>"


def pretrain(recipe: str | Path, *changes: str, resume: bool = False, **keys: Any) -> Run:
    """Train a self-supervised method; what ``solo-bam pretrain`` does.

    ``solo_bam.pretrain("digits/bam", "method_kwargs.reg=0.03", max_epochs=5, optimizer={"lr": 0.1})``

    Args:
        recipe: a shipped one's name, or a YAML file.
        changes: to the recipe, as on the command line.
        resume: continue the newest unfinished run of this recipe; there must be one.
        keys: changes as keywords; dictionaries are sections.

    Raises:
        UserError: a recipe, data or devices that do not fit, a loss that is not finite, or an interruption, after
            which ``resume=True`` goes on.
    """
    path, name = recipe_place(recipe)
    checked = load_recipe(name, override_all(changes, keys), path)

    from solo_bam.train import run

    return Run(run.pretrain(checked, resume=resume).folder.path)


def load(run: str | Path, branch: Branch = "student") -> Run:
    """A run that lies on disk.

    Args:
        run: its folder, a checkpoint, or a file of ``solo-bam export``.
        branch: ``student`` or ``teacher``, where the checkpoint holds both.

    Raises:
        UserError: there is no checkpoint, or no such branch.
    """
    if branch not in ("student", "teacher"):
        raise UserError("branch", f"got {branch!r}, allowed: student, teacher", "correct it")
    place = expanded(run).absolute()
    find_checkpoint(place, "run")
    return Run(place, branch)


def recipe_place(recipe: str | Path) -> tuple[str | None, str]:
    """``--config-path`` and ``--config-name`` of a shipped recipe's name, or of a YAML file."""
    path = expanded(recipe)
    return (str(path.absolute().parent), path.stem) if path.suffix == ".yaml" else (None, str(recipe))


def override_all(changes: tuple[str, ...], keys: Mapping[str, Any]) -> list[str]:
    """Texts and keywords as one list of ``key=value``.

    Raises:
        UserError: something else than texts.
    """
    for change in changes:
        if not isinstance(change, str):
            problem = f'got {change!r}, changes are texts ("max_epochs=5") or keywords (max_epochs=5)'
            raise UserError("changes", problem, "write it so")
    return [*changes, *override_lines(keys)]


def pandas() -> Any:
    """The module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pandas as found
    except ImportError:
        raise UserError("pandas", "is not installed", "pip install 'solo-bam[notebook]'") from None
    return found
