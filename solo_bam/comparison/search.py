"""The search: Optuna asks for the same number of trials for every row, and its database is where it goes on.

``search.db`` in the comparison's folder is SQLite: ``optuna-dashboard sqlite:///search.db`` shows it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from solo_bam.comparison.collect import held_out, why_it_failed, write_plan
from solo_bam.comparison.edges import best, describe_edges, edges
from solo_bam.comparison.plan import Plan, PlannedRun, Tried, check_spaces
from solo_bam.comparison.space import Choices, Range, Space
from solo_bam.config.keys import flat
from solo_bam.core.errors import UserError
from solo_bam.runs.identity import recipe_hash

DATABASE = "search.db"  # within a comparison's folder
LOST = ("the loss became", "the training collapsed")  # how trials end that have been a try all the same
_STEPS = 4  # significant digits of the values that are tried


def tune(plan: Plan, folder: Path, work: Callable[[Sequence[PlannedRun]], None]) -> Plan:
    """Search for every row, and choose.

    Args:
        plan: of a comparison with a search.
        folder: of the comparison.
        work: trains runs; called with those that are new or not finished.

    Returns:
        The plan with all trials, what they chose, and the runs that count.

    Raises:
        UserError: a trial failed for another reason than that its loss diverged, or all of a row diverged.
    """
    plan = _search(plan, folder, work, plan.comparison.tune.trials)
    if plan.comparison.tune.extra and (wider := _widened(plan)) is not None:
        plan = _search(wider, folder, work, plan.comparison.tune.trials + plan.comparison.tune.extra)
    return plan.with_runs({entry: best(plan, entry).values for entry in plan.recipes})


# -------------------------------------------------------------------------------------------- trials


def _search(plan: Plan, folder: Path, work: Callable[[Sequence[PlannedRun]], None], trials: int) -> Plan:
    """Ask, train and tell, a batch of every row at a time, until each row has so many trials."""
    studies = {entry: Study(plan, entry, folder) for entry in plan.recipes}
    while True:
        asked = [study.ask(min(trials, study.told + plan.comparison.tune.batch)) for study in studies.values()]
        plan = plan.model_copy(update={"trials": [one for study in studies.values() for one in study.tried(plan)]})
        if not any(asked):
            return plan
        write_plan(plan, folder)
        work([one.run for one in plan.trials if one.accuracy is None])
        for one in plan.trials:
            if one.accuracy is None:
                studies[one.run.entry].tell(one, _accuracy(one.run, folder))


def _accuracy(run: PlannedRun, folder: Path) -> float:
    """Of an ended trial; 0, the worst, where the loss diverged or the training was stopped since it had collapsed.

    Raises:
        UserError: it failed for another reason: the row would have had a trial fewer.
    """
    accuracy = held_out(run, folder)
    if accuracy is not None:
        return accuracy
    error = why_it_failed(run, folder)
    if any(words in error for words in LOST):
        return 0.0
    raise UserError("tune.trials", f"{run.label} failed ({error})", f"see {folder / 'jobs'}, and compare again")


class Study:
    """A row's trials in Optuna's database.

    What is asked for follows from the seed and the trials done alone: the recipe's own values first, then, up to half
    of the trials, a quasi-random sequence that is the same for every row, then a tree-structured Parzen estimator.

    Args:
        plan: with the row's space.
        entry: the row.
        folder: of the comparison.
    """

    def __init__(self, plan: Plan, entry: str, folder: Path):
        _quiet()
        self.plan, self.entry, self.tune = plan, entry, plan.comparison.tune
        self.space = plan.spaces[entry]
        own = plan.trial(entry, 0, {})
        values = dict(flat(own.recipe.model_dump(mode="json")))
        self.own = {key: values[key] for key in self.space}
        storage = optuna.storages.RDBStorage(f"sqlite:///{(folder / DATABASE).absolute()}")
        name = f"{entry} {_digest(own, self.tune.trials, self.tune.batch, _start(plan, entry))}"
        self.study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)

    @property
    def told(self) -> int:
        """How many trials have ended."""
        return len(self._trials(TrialState.COMPLETE))

    def ask(self, until: int) -> bool:
        """Ask until there are so many trials; whether any of them has not ended."""
        while len(self._trials(TrialState.RUNNING, TrialState.COMPLETE)) < until:
            self._ask(len(self._trials(TrialState.RUNNING, TrialState.COMPLETE)))
        return bool(self._trials(TrialState.RUNNING))

    def _ask(self, number: int) -> None:
        seed = int.from_bytes(hashlib.sha256(f"{self.tune.seed} {number}".encode()).digest()[:4], "big")
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, constant_liar=True)
        if number < -(-self.tune.trials // 2):
            values = self.own if number == 0 else _quasi_random(self.space, number, self.tune.seed)
            self.study.enqueue_trial(values, skip_if_exists=True)
        self.study.ask({key: _distribution(found) for key, found in self.space.items()})

    def tell(self, tried: Tried, accuracy: float) -> None:
        """The accuracy of a trial that has ended."""
        assert tried.run.trial is not None
        self.study.tell(tried.run.trial, accuracy)

    def tried(self, plan: Plan) -> Iterator[Tried]:
        """All trials so far."""
        for one in self._trials(TrialState.RUNNING, TrialState.COMPLETE):
            values = {key: _rounded(one.params[key]) for key in self.space}
            yield Tried(run=plan.trial(self.entry, one.number, values), values=values, accuracy=one.value)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)


def _digest(own: PlannedRun, *more: Any) -> str:
    """Of all that the trials depend on: another search is another study."""
    return hashlib.sha256(json.dumps([recipe_hash(own.recipe), *more]).encode()).hexdigest()[:8]


def _start(plan: Plan, entry: str) -> Any:
    """The space as it was before it was widened."""
    return {key: str(found) for key, found in (plan.narrow or plan.spaces)[entry].items()}


def _quasi_random(space: Space, number: int, seed: int) -> dict[str, Any]:
    """A point of a Halton sequence, whose first coordinates are the same for spaces of any size."""
    shares = qmc.Halton(len(space), seed=seed).random(number)[-1] if space else []
    return {key: _at(found, float(share)) for (key, found), share in zip(space.items(), shares)}


def _at(found: Range | Choices, share: float) -> Any:
    return found.at(share) if isinstance(found, Range) else found[int(share * len(found))]


def _distribution(found: Range | Choices) -> BaseDistribution:
    if isinstance(found, Range):
        return FloatDistribution(found.low, found.high, log=found.log)
    return CategoricalDistribution(found)


def _rounded(value: Any) -> Any:
    return float(f"{value:.{_STEPS}g}") if isinstance(value, float) else value


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


# --------------------------------------------------------------------------------------------- edges


def _widened(plan: Plan) -> Plan | None:
    """With the ranges that a best lies at the end of longer there, for all rows; None where there are none."""
    asked = {(key, side) for entry, key, side in edges(plan) if isinstance(plan.spaces[entry][key], Range)}
    wider = plan
    for key, side in sorted(asked):
        spaces = {entry: _longer(space, key, side) for entry, space in wider.spaces.items()}
        try:
            tried = check_spaces(wider.model_copy(update={"spaces": spaces}))
        except UserError:  # a value that a recipe refuses: the range ends there
            continue
        wider = tried if spaces != wider.spaces else wider
    if wider.spaces == plan.spaces:
        return None
    return wider.model_copy(update={"narrow": plan.spaces, "widened": describe_edges(plan)})


def _longer(space: Space, key: str, side: int) -> Space:
    return {name: one.widened(side) if name == key and isinstance(one, Range) else one for name, one in space.items()}
