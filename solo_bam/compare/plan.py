"""Which runs a comparison is made of, each with its whole recipe and the command that makes it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from solo_bam.compare.fairness import OWN, Difference, differences, is_own, unequally_tuned
from solo_bam.config import Recipe, load_recipe
from solo_bam.config.comparison import Comparison, Entry
from solo_bam.config.resolve import resolve
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded
from solo_bam.data import find_source
from solo_bam.runs.folder import RunFolder, changes, flat
from solo_bam.train.pretrain import check_size, find_devices

RUNS = "runs"  # within a comparison's folder
_PLAIN = re.compile(r"[A-Za-z_/][\w/.+-]*")


class PlannedRun(BaseModel):
    """A pretraining of a comparison.

    Attributes:
        entry: the row that it belongs to.
        factor: of a trial of the tuning, what the recipe's learning rate is multiplied by; None: a run that counts.
        arguments: of ``solo-bam pretrain``.
        recipe: what they make.
    """

    entry: str
    factor: float | None
    arguments: list[str]
    recipe: Recipe

    @property
    def label(self) -> str:
        """For people: ``bam, seed 0``."""
        return f"{self.entry}, " + (f"seed {self.recipe.seed}" if self.factor is None else f"rate x {self.factor:g}")

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


class Plan(BaseModel):
    """Everything that is decided before the first run; kept as ``plan.json``.

    Attributes:
        comparison: what was asked for.
        recipes: of each row, with the first seed.
        differences: keys in which they differ.
        unfair: what makes the comparison unfair, a line each.
        trials: the tuning's runs, every row with every factor.
        factors: of the rows' learning rates, as the trials chose them; empty before, and without a tuning.
        runs: those that count, a seed of every row before the next seed.
        at_once: how many shared the machine, or each GPU's host.
        modules: of the user's own, which register methods.
    """

    comparison: Comparison
    recipes: dict[str, Recipe]
    differences: list[Difference]
    unfair: list[str]
    trials: list[PlannedRun] = []
    factors: dict[str, float] = {}
    runs: list[PlannedRun] = []
    at_once: int = 1
    modules: list[str] = []

    def with_trials(self) -> Plan:
        """With the runs of the tuning."""
        tune = self.comparison.tune
        extra = [f"seed={tune.seed}", f"data.tune_fraction={tune.fraction}"]
        extra += [] if tune.epochs is None else [f"max_epochs={tune.epochs}"]
        extra.append("knn_eval.freq=1000000")  # after the last epoch
        trials = [
            self._run(entry, factor, factor, extra) for entry in self.comparison.methods for factor in tune.factors
        ]
        return self.model_copy(update={"trials": trials})

    def with_runs(self, factors: Mapping[str, float]) -> Plan:
        """With the runs that count, their learning rates multiplied by ``factors``."""
        runs = [
            self._run(entry, None, factors.get(entry.name), [f"seed={seed}"])
            for seed in self.comparison.seeds
            for entry in self.comparison.methods
        ]
        return self.model_copy(update={"factors": dict(factors), "runs": runs})

    def rate(self, entry: str, factor: float) -> float:
        """The learning rate that a factor makes."""
        return float(f"{self.recipes[entry].optimizer.lr * factor:.6g}")

    def _run(self, entry: Entry, factor: float | None, times: float | None, extra: Sequence[str]) -> PlannedRun:
        rate = [] if times is None else [f"optimizer.lr={self.rate(entry.name, times)}"]
        devices = ["devices=1"] if self.recipes[entry.name].devices == 1 else []
        arguments, recipe = _compose(self.comparison, entry, [*extra, *rate, *devices])
        arguments = [*(word for module in self.modules for word in ("--import", module)), *arguments]
        return PlannedRun(entry=entry.name, factor=factor, arguments=arguments, recipe=recipe)


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
    found = differences(recipes)
    unfair = list(_unfair(comparison, recipes, found))
    plan = Plan(comparison=comparison, recipes=recipes, differences=found, unfair=unfair, modules=list(modules))
    if plan.unfair and not comparison.allow_differences:
        more = f" (and {len(plan.unfair) - 1} more)" if len(plan.unfair) > 1 else ""
        remedy = "make it the same for all, or set allow_differences=True, which marks every table and picture"
        key = next((one.key for one in found if not one.fair), "tune.factors")
        raise UserError(key, f"the comparison would be unfair: {plan.unfair[0]}{more}", remedy)
    return plan.with_trials() if comparison.tune.factors else plan.with_runs({})


def _compose(comparison: Comparison, entry: Entry, extra: Sequence[str]) -> tuple[list[str], Recipe]:
    """Arguments of ``solo-bam pretrain`` and the recipe that they make."""
    path, name = comparison.place(entry)
    asked = [] if comparison.epochs is None else [f"max_epochs={comparison.epochs}"]
    asked = [*override_lines(comparison.shared), *asked, *override_lines(entry.keys), *extra]
    runs = f"checkpoint.dir={quoted(str(expanded(comparison.folder) / RUNS))}"
    kept = ["checkpoint.enabled=True", runs, "auto_resume.enabled=True", "auto_resume.max_hours=1e6"]
    try:
        recipe = load_recipe(name, [*asked, *kept], path)
    except UserError as error:
        raise UserError(f"methods.{entry.name}", f"{error.key}: {error.problem}", error.remedy) from None
    place = [] if path is None else ["--config-path", path]
    return [*place, "--config-name", name, *asked, *kept], recipe


def _on_one_device(recipe: Recipe) -> Recipe:
    """As many processes for every method, whatever the machine has, where the recipe leaves it to that."""
    return recipe.model_copy(update={"devices": 1}) if recipe.devices == "auto" else recipe


def override_lines(keys: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested sections as Hydra's ``section.key=value``."""
    lines = []
    for key, value in keys.items():
        inner = isinstance(value, Mapping) and value
        lines += override_lines(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}={quoted(value)}"]
    return lines


def quoted(value: Any) -> str:
    """A plain value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(quoted, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false", "nan", "inf"):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _check_runs(name: str, recipe: Recipe) -> None:
    """What ``solo-bam pretrain`` would refuse after the first methods have trained for days."""
    try:
        _, world_size = find_devices(recipe)
        source = find_source(recipe.data)
        resolve(recipe, source.num_classes, source.val is not None, world_size)
        check_size(len(source.train), recipe.optimizer.batch_size, world_size)
    except UserError as error:
        raise UserError(f"methods.{name}", f"{error.key}: {error.problem}", error.remedy) from None
    if source.val is None:
        raise UserError("shared.data", f"{name} has no labelled validation images to be measured on", "give them")


def _unfair(comparison: Comparison, recipes: Mapping[str, Recipe], found: Sequence[Difference]) -> Iterator[str]:
    yield from (one.told for one in found if not one.fair)
    if comparison.tune.factors:
        return
    by_hand = {entry.name: _sets_own(entry) for entry in comparison.methods}
    if told := unequally_tuned(recipes, by_hand):
        yield f"{told}; tune.factors=[0.3,1,3] tries the same rates for all"


def _sets_own(entry: Entry) -> bool:
    """Whether the comparison gives a row settings of the method's own part."""
    keys = [key for key, _ in flat(entry.keys)] if entry.keys else []
    return any(is_own(key) and key.split(".")[0] in OWN for key in keys)
