"""Comparisons: which recipes are held against one another, on which seeds, and how they are measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from solo_bam.config.options import KNNOptions
from solo_bam.config.recipe import compose_recipe, user_error
from solo_bam.config.schema import Count, Index, Name, Seed
from solo_bam.config.section import Section, listed
from solo_bam.core.errors import UserError, nearest

UNTRAINED = "untrained"  # the row of the network before training


def _different(values: list[Any]) -> list[Any]:
    if len({repr(value) for value in values}) < len(values):
        raise ValueError("must be different from one another")
    return values


def _named(value: object) -> object:
    """``bam`` stands for ``{name: bam}``."""
    return (
        [{"name": entry} if isinstance(entry, str) else entry for entry in value] if isinstance(value, list) else value
    )


class Entry(Section):
    """A row: ``recipe`` (default: its name), of the comparison's folder or a file, and ``keys`` of its own.

    ``space``: what is searched for it, of ``scripts/spaces`` or a file; null: its method's. Its own ``keys`` are not.
    """

    name: Annotated[Name, Field(min_length=1)]
    recipe: str | None = None
    keys: dict[str, Any] = {}
    space: str | None = None


class Tune(Section):
    """The same search for every row: ``trials`` trainings each, the first by its recipe as it is; 0: no search.

    The best by k-NN on ``fraction`` of the training images, which no trial is trained on; the validation images are not
    looked at. Where a best lies at an end of its range, the range is widened for all rows, once, and each has ``extra``
    trials more; 0: it is only told. ``batch``: trials of a row that are asked for at a time. ``epochs``: of a trial;
    null: as many as a run.
    """

    trials: Index = 0
    extra: Index = 0
    batch: Count = 2
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: Seed = 100
    epochs: Count | None = None


class Comparison(Section):
    """A comparison of pretraining methods.

    ``recipes``: the folder of their recipes, one of the shipped (``digits``) or of one's own (``./mine``).
    ``shared``: keys that every recipe is given. ``baseline``: the row that differences are taken to; null: the first.
    ``knn``: one setting of ``solo-bam knn``; ``linear``: a recipe of ``solo-bam linear``; null leaves them out.
    ``untrained``: whether the network that all rows start from is measured, too.
    ``jobs``: runs at once; null: one per GPU, or one on the CPU. ``output``: null: ``comparisons/<name>``.
    """

    name: Name | None = None
    recipes: str
    methods: Annotated[list[Entry], Field(min_length=1), BeforeValidator(_named)]
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_different), BeforeValidator(listed)] = [0, 1, 2]
    epochs: Count | None = None
    shared: dict[str, Any] = {}
    baseline: str | None = None
    tune: Tune = Tune()
    knn: dict[str, Any] | None = {"k": 20}
    linear: str | None = None
    untrained: bool = True
    allow_differences: bool = False
    jobs: Count | None = None
    output: Path | None = None

    def place(self, entry: Entry) -> tuple[str | None, str]:
        """``--config-path`` and ``--config-name`` of a row's recipe."""
        recipe = entry.recipe or entry.name
        if recipe.endswith(".yaml"):
            return str(Path(recipe).parent), Path(recipe).stem
        if self.recipes.startswith((".", "/", "~")):
            return self.recipes, recipe
        return None, f"{self.recipes}/{recipe}"

    @property
    def folder(self) -> Path:
        """Of everything that the comparison writes."""
        return self.output or Path("comparisons") / (self.name or self.recipes)

    @property
    def reference(self) -> str:
        """The row that differences are taken to."""
        return self.baseline or self.methods[0].name

    @property
    def knn_options(self) -> KNNOptions | None:
        """The one setting of the k-NN."""
        if self.knn is None:
            return None
        return KNNOptions.model_validate({"k": 20, "temperature": 0.07, "distance": "cosine", **self.knn})


def split_launcher(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of a command line: Hydra's own overrides, which choose and set up its launcher, and the comparison's."""
    launcher = [line for line in overrides if line.lstrip("+").startswith(("hydra.", "hydra/"))]
    return launcher, [line for line in overrides if line not in launcher]


def load_comparison(name: str, overrides: Sequence[str] = (), config_path: str | None = None) -> Comparison:
    """A checked comparison.

    Args:
        name: ``digits``.
        overrides: Hydra's ``key=value``.
        config_path: folder of the file; default: the shipped comparisons.

    Raises:
        UserError: no such comparison, a key or value that is not allowed.
    """
    try:
        raw = compose_recipe(name, overrides, config_path, "compare")
    except UserError as error:
        if error.key.startswith("--config-name"):
            raise UserError("NAME", error.problem, error.remedy) from None
        raise
    raw.setdefault("name", Path(name).stem)
    return parse_comparison(raw)


def parse_comparison(raw: dict[str, Any]) -> Comparison:
    """Check every key, and that they fit together.

    Raises:
        UserError: the first key at fault.
    """
    try:
        comparison = Comparison.model_validate(raw)
    except ValidationError as error:
        raise user_error(error, Comparison) from None
    names = [entry.name for entry in comparison.methods]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError("methods", f"got {', '.join(sorted(twice))} more than once", "give each row a name of its own")
    if UNTRAINED in names:
        problem = f"got {UNTRAINED}, which is the network before training"
        raise UserError("methods", problem, "give the row another name")
    if comparison.reference not in names:
        problem = f"got {comparison.baseline!r}{nearest(comparison.reference, names)}, allowed: {', '.join(names)}"
        raise UserError("baseline", problem, "name one of the rows")
    if comparison.knn is None and comparison.linear is None:
        raise UserError("knn", "got null, and so is linear: nothing would be measured", "give one of them")
    _check_knn(comparison)
    return comparison


def _check_knn(comparison: Comparison) -> None:
    try:
        options = comparison.knn_options
    except ValidationError as error:
        raise user_error(error, KNNOptions, "knn.") from None
    if options and max(len(options.k), len(options.temperature), len(options.distance)) > 1:
        problem = "has several settings: the best of them would be chosen by the eye"
        raise UserError("knn", problem, "give one k, temperature and distance")
