"""Which runs a comparison is made of, each with its whole recipe and the command that makes it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from pydantic import BaseModel

from solo_bam.comparison.fairness import OWN, Difference, differences, is_own, unequally_tuned
from solo_bam.comparison.space import DEFAULT, Range, Space, load_space
from solo_bam.config import Recipe, load_recipe, recipe_folders
from solo_bam.config.comparison import Comparison, Entry
from solo_bam.config.find import recipe_names
from solo_bam.config.keys import flat
from solo_bam.config.linear import recipe_of_run
from solo_bam.config.overrides import override_lines, quoted
from solo_bam.config.recipe import parse_recipe
from solo_bam.config.resolve import resolve
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.identity import changes

RUNS = "runs"  # within a comparison's folder


class PlannedRun(BaseModel):
    """A pretraining of a comparison.

    Attributes:
        entry: the row that it belongs to.
        trial: its number, of a trial of the search; None: a run that counts.
        arguments: of ``solo-bam pretrain``.
        recipe: what they make.
    """

    entry: str
    trial: int | None = None
    arguments: list[str]
    recipe: Recipe

    @property
    def label(self) -> str:
        """For people: ``bam, seed 0``."""
        return f"{self.entry}, " + (f"seed {self.recipe.seed}" if self.trial is None else f"trial {self.trial}")

    @property
    def command(self) -> str:
        """What makes it, for a shell."""
        return shlex.join(["solo-bam", "pretrain", *self.arguments])

    def find(self, folder: Path) -> RunFolder | None:
        """The finished run of exactly this recipe in a comparison's folder, the newest of several.

        Neither its folder's name nor the recipe's matters.
        """
        alike = [
            run
            for path in (folder / RUNS / self.recipe.method).glob("*/run.json")
            if (run := RunFolder(path.parent)).record().get("status") == "finished"
            and (made_by := run.recipe()) is not None
            and not changes(made_by, self.recipe).keys() - {"name"}
        ]
        return max(alike, key=lambda run: (run.path / "run.json").stat().st_mtime) if alike else None


class Tried(BaseModel):
    """A trial of the search.

    Attributes:
        run: its training.
        values: ``{dotted key: value}`` that it tries.
        accuracy: (%), of the k-NN on the held-out images; 0 where the loss diverged; None: it has not ended.
    """

    run: PlannedRun
    values: dict[str, Any]
    accuracy: float | None = None


class Plan(BaseModel):
    """Everything that is decided before the first run; kept as ``plan.json``.

    Attributes:
        comparison: what was asked for.
        recipes: of each row, with the first seed.
        differences: keys in which they differ.
        unfair: what makes the comparison unfair, a line each.
        spaces: of each row, what is searched; empty without a search.
        trials: of the search so far.
        narrow: the spaces before they were widened; empty where they were not.
        widened: why they were, a line each.
        chosen: of each row, the values that its trials chose; empty before, and without a search.
        runs: those that count, a seed of every row before the next seed.
        at_once: how many shared the machine, or each GPU's host.
        modules: of the user's own, which register methods.
    """

    comparison: Comparison
    recipes: dict[str, Recipe]
    differences: list[Difference]
    unfair: list[str]
    spaces: dict[str, Space] = {}
    trials: list[Tried] = []
    narrow: dict[str, Space] = {}
    widened: list[str] = []
    chosen: dict[str, dict[str, Any]] = {}
    runs: list[PlannedRun] = []
    at_once: int = 1
    modules: list[str] = []

    def trial(self, entry: str, number: int, values: Mapping[str, Any]) -> PlannedRun:
        """A training of the search: on the same images and seed for all, measured after its last epoch."""
        tune = self.comparison.tune
        fixed = [f"seed={tune.seed}", f"data.tune_fraction={tune.fraction}", "knn_eval.freq=1000000", "pictures=False"]
        fixed += [] if tune.epochs is None else [f"max_epochs={tune.epochs}"]
        return self._run(self._entry(entry), number, values, fixed)

    def with_runs(self, chosen: Mapping[str, Mapping[str, Any]]) -> Plan:
        """With the runs that count, which have the chosen values."""
        runs = [
            self._run(entry, None, chosen.get(entry.name, {}), [f"seed={seed}"])
            for seed in self.comparison.seeds
            for entry in self.comparison.methods
        ]
        return self.model_copy(update={"chosen": {name: dict(values) for name, values in chosen.items()}, "runs": runs})

    def tried(self, entry: str) -> list[Tried]:
        """A row's trials."""
        return [one for one in self.trials if one.run.entry == entry]

    def _entry(self, name: str) -> Entry:
        return next(entry for entry in self.comparison.methods if entry.name == name)

    def _run(self, entry: Entry, trial: int | None, values: Mapping[str, Any], extra: Sequence[str]) -> PlannedRun:
        searched = [f"{key}={quoted(value)}" for key, value in values.items()]
        devices = ["devices=1"] if self.recipes[entry.name].devices == 1 else []
        arguments, recipe = _compose(self.comparison, entry, [*extra, *searched, *devices])
        arguments = [*(word for module in self.modules for word in ("--import", module)), *arguments]
        return PlannedRun(entry=entry.name, trial=trial, arguments=arguments, recipe=recipe)


def make_plan(comparison: Comparison, modules: Sequence[str] = ()) -> Plan:
    """Compose every row's recipe, and find what they differ in.

    Args:
        comparison: what is asked for.
        modules: of the user's own, which have been imported.

    Raises:
        UserError: a recipe, its data or devices that do not fit, or with ``allow_differences: False`` a difference
            that makes the comparison unfair.
    """
    seed = f"seed={comparison.seeds[0]}"
    recipes = {entry.name: _on_one_device(_compose(comparison, entry, [seed])[1]) for entry in comparison.methods}
    for name, recipe in recipes.items():
        _check_runs(name, recipe)
    _check_linear(comparison, next(iter(recipes.values())))
    found = differences(recipes)
    unfair = list(_unfair(comparison, recipes, found))
    plan = Plan(comparison=comparison, recipes=recipes, differences=found, unfair=unfair, modules=list(modules))
    if plan.unfair and not comparison.allow_differences:
        more = f" (and {len(plan.unfair) - 1} more)" if len(plan.unfair) > 1 else ""
        remedy = "make it the same for all, or set allow_differences=True, which marks every table and picture"
        key = next((one.key for one in found if not one.fair), "tune.trials")
        raise UserError(key, f"the comparison would be unfair: {plan.unfair[0]}{more}", remedy)
    if comparison.tune.trials == 0:
        return plan.with_runs({})
    spaces = {entry.name: _space(comparison, entry, recipes[entry.name]) for entry in comparison.methods}
    return check_spaces(plan.model_copy(update={"spaces": spaces}))


def _space(comparison: Comparison, entry: Entry, recipe: Recipe) -> Space:
    """What is searched for a row: all of its space but what the comparison sets."""
    given = {key for keys in (comparison.shared, entry.keys) for key, _ in flat(keys)}
    name = entry.space or (recipe.method if recipe.method in recipe_names(recipe_folders("spaces")) else DEFAULT)
    space = {key: found for key, found in load_space(name, recipe, entry.name).items() if key not in given}
    for key in space:
        if not is_own(key):
            problem = "belongs to all rows, and would differ between them"
            raise UserError(f"spaces/{name}: {key}", problem, "search the method's own part")
    return space


def check_spaces(plan: Plan) -> Plan:
    """The plan, if the ends of all ranges and all choices make recipes.

    Raises:
        UserError: the first that does not.
    """
    from solo_bam.train.pretrain import find_devices

    for entry, space in plan.spaces.items():
        composed = plan.trial(entry, 0, {}).recipe.model_dump(mode="json")  # once: Hydra takes a fifth of a second
        for key, found in space.items():
            for value in [found.low, found.high] if isinstance(found, Range) else found:
                content = OmegaConf.create(composed)
                OmegaConf.update(content, key, value)
                with _told_of(entry):
                    recipe = parse_recipe(cast(dict[str, Any], OmegaConf.to_container(content)))
                    resolve(recipe, 10, True, find_devices(recipe)[1])
    return plan


@contextmanager
def _told_of(entry: str) -> Iterator[None]:
    """Errors of a row's recipe name the row."""
    try:
        yield
    except UserError as error:
        key = "" if error.key == "--config-name" else f"{error.key}: "  # which comparisons do not have
        raise UserError(f"methods.{entry}", f"{key}{error.problem}", error.remedy) from None


def _compose(comparison: Comparison, entry: Entry, extra: Sequence[str]) -> tuple[list[str], Recipe]:
    """Arguments of ``solo-bam pretrain`` and the recipe that they make."""
    path, name = comparison.place(entry)
    asked = [] if comparison.epochs is None else [f"max_epochs={comparison.epochs}"]
    asked = [*override_lines(comparison.shared), *asked, *override_lines(entry.keys), *extra]
    runs = f"checkpoint.dir={quoted(str(expanded(comparison.folder) / RUNS))}"
    kept = ["checkpoint.enabled=True", runs, "auto_resume.enabled=True", "auto_resume.max_hours=1e6"]
    with _told_of(entry.name):
        recipe = load_recipe(name, [*asked, *kept], path)
    place = [] if path is None else ["--config-path", path]
    return [*place, "--config-name", name, *asked, *kept], recipe


def _on_one_device(recipe: Recipe) -> Recipe:
    """As many processes for every method, whatever the machine has, where the recipe leaves it to that."""
    return recipe.model_copy(update={"devices": 1}) if recipe.devices == "auto" else recipe


def _check_runs(name: str, recipe: Recipe) -> None:
    """What ``solo-bam pretrain`` would refuse after the first methods have trained for days."""
    from solo_bam.data import find_source
    from solo_bam.data.module import fraction
    from solo_bam.train.pretrain import count_steps, find_devices

    with _told_of(name):
        _, world_size = find_devices(recipe)
        source = find_source(recipe.data)
        resolve(recipe, source.num_classes, source.val is not None, world_size)
        count_steps(
            len(fraction(source.train(lambda image: image), recipe.data.fraction)),
            recipe.optimizer.batch_size,
            world_size,
        )
    if source.val is None:
        raise UserError("shared.data", f"{name} has no labelled validation images to be measured on", "give them")


def _check_linear(comparison: Comparison, trained_by: Recipe) -> None:
    """What ``solo-bam linear`` would refuse of each run; all have the same images."""
    if comparison.linear is None:
        return
    from solo_bam.evaluate.pretrained import complete
    from solo_bam.train.linear import checked_data
    from solo_bam.train.pretrain import find_devices

    try:
        recipe = complete(recipe_of_run(Path(RUNS), trained_by, comparison.linear), trained_by)
        checked_data(recipe, find_devices(recipe)[1])
    except UserError as error:
        raise UserError("linear", f"{error.key}: {error.problem}", error.remedy) from None


def _unfair(comparison: Comparison, recipes: Mapping[str, Recipe], found: Sequence[Difference]) -> Iterator[str]:
    yield from (one.told for one in found if not one.fair)
    if comparison.tune.trials:
        return
    by_hand = {entry.name: _sets_own(entry) for entry in comparison.methods}
    if told := unequally_tuned(recipes, by_hand):
        yield f"{told}; tune.trials=8 searches for all alike"


def _sets_own(entry: Entry) -> bool:
    """Whether the comparison gives a row settings of the method's own part."""
    keys = [key for key, _ in flat(entry.keys)] if entry.keys else []
    return any(is_own(key) and key.split(".")[0] in OWN for key in keys)
