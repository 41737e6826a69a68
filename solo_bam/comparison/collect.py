"""From a comparison's folder to its results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from solo_bam.comparison.edges import describe_edges
from solo_bam.comparison.fairness import describe_crops, notes
from solo_bam.comparison.launch import FAILED, Job
from solo_bam.comparison.plan import Plan, PlannedRun
from solo_bam.comparison.results import Column, Cost, Point, Results, RunResult, Trial
from solo_bam.config.comparison import START, UNTRAINED, Tune
from solo_bam.config.resolve import cifar_stem_stride, describe_stem
from solo_bam.config.schema import Recipe
from solo_bam.core.errors import UserError
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.records import Record, read_records

PLAN = "plan.json"
# Logged accuracies that make the curves; the first that a run has.
_CURVES = {"k-NN": ("knn_acc1", "val_knn_acc1"), "linear": ("val_acc1",)}
HEALTH = ("projection_spread", "feature_spread", "rankme")
TUNED_BY = "knn_acc1"


def read_plan(folder: Path) -> Plan:
    """What a comparison's folder was made from.

    Raises:
        UserError: it is none.
    """
    path = folder / PLAN
    try:
        return Plan.model_validate(_as_searched(json.loads(path.read_text())))
    except OSError:
        problem = f"{folder} holds no comparison ({PLAN})"
        raise UserError("DIR", problem, "give a folder that solo-bam compare has made") from None
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError("DIR", f"{path} is not what solo-bam compare has written", "compare again") from None


def _as_searched(raw: Any) -> Any:
    """A plan from before there was a search: factors of the learning rate, of which each made a trial."""
    raw["comparison"].pop("latex", None)  # a key of earlier comparisons
    factors = raw["comparison"]["tune"].pop("factors", None)
    if factors is None:
        return raw
    raw["trials"] = [
        {"run": {**run, "trial": factors.index(run["factor"])}, "values": _rate(run)} for run in raw.get("trials", [])
    ]
    chosen = raw.pop("factors", {})
    raw["chosen"] = {
        trial["run"]["entry"]: trial["values"]
        for trial in raw["trials"]
        if chosen.get(trial["run"]["entry"]) == trial["run"]["factor"]
    }
    return raw


def _rate(run: dict[str, Any]) -> dict[str, float]:
    return {"optimizer.lr": run["recipe"]["optimizer"]["lr"]}


def collect(folder: Path) -> Results:
    """What the runs on disk tell.

    Args:
        folder: of a comparison.

    Raises:
        UserError: it holds no comparison, or a file of it that cannot be read.
    """
    plan = read_plan(folder)
    comparison = plan.comparison
    outcomes = [outcome(run, folder) for run in plan.runs]
    return Results(
        name=comparison.name or folder.name,
        entries=[entry.name for entry in comparison.methods],
        baseline=comparison.reference,
        outcomes=outcomes,
        trials=list(trials(plan, folder)),
        tuning=_tuning(plan),
        differences=plan.differences,
        unfair=plan.unfair,
        notes=list(notes(plan.recipes)),
        columns=columns(outcomes),
        stated=_stated(next(iter(plan.recipes.values())), comparison.tune, outcomes),
        at_once=plan.at_once,
        dataset=next(iter(plan.recipes.values())).data.dataset,
        edges=describe_edges(plan),
    )


# ------------------------------------------------------------------------------------------------ runs


def outcome(run: PlannedRun, folder: Path) -> RunResult:
    """One run as it lies on disk."""
    row: dict[str, Any] = {
        "entry": run.entry,
        "method": run.recipe.method,
        "seed": run.recipe.seed,
        "command": ["solo-bam", "pretrain", *run.arguments],
    }
    job = Job(run=run, evaluations=[], folder=folder)
    state = job.state()
    error = state.get("error") if state.get("status") == FAILED else None
    row |= {"error": error, "log": job.log if error else None}
    found = run.find(folder)
    if found is None:
        return RunResult(**row, status="failed" if error else "missing")
    about = {key: value for key, value in found.record().items() if key not in ("results", "command", "status")}
    logged = found.metrics()
    return RunResult(
        **row,
        status="failed" if error else "finished",
        folder=found.path,
        records=_records(found),
        curves=dict(_curves(logged, found.costs())),
        health={name: row[name] for row in logged for name in HEALTH if name in row},
        cost=cost(found),
        about=about,
    )


def _records(run: RunFolder) -> list[Record]:
    try:
        return read_records(run.path / "evaluation")
    except (ValueError, OSError) as error:
        problem = f"{run.path / 'evaluation'} holds something else than records ({str(error).splitlines()[0]})"
        raise UserError("DIR", problem, "remove that file") from None


def cost(run: RunFolder) -> Cost | None:
    """What its training took; None where it was not measured."""
    rows = run.costs()
    if not rows:
        return None
    images, seconds = (sum(row[key] for row in rows) for key in ("images", "seconds"))
    return Cost(
        images_per_second=images / seconds,
        hours=seconds / 3600,
        device_hours=sum(map(_device_hours, rows)),
        device=rows[-1]["device"],
        peak_memory=max(row["peak_memory"] for row in rows),
    )


def _device_hours(row: dict[str, Any]) -> float:
    return float(row["seconds" if row["device"] == "GPU" else "processor_seconds"] * row["processes"] / 3600)


def _curves(rows: Sequence[dict[str, float]], costs: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[Point]]]:
    """Accuracies over epochs, hours of training and its cost."""
    until, total = {}, np.zeros(3)
    for row in costs:
        total = total + [row["seconds"] / 3600, row["images"], _device_hours(row)]
        until[row["epoch"]] = total.tolist()
    for name, keys in _CURVES.items():
        key = next((key for key in keys if any(key in row for row in rows)), None)
        points = {int(row["epoch"]): row[key] for row in rows if key in row and "epoch" in row}
        if points:
            told = [(epoch, value, until.get(epoch, [math.nan] * 3)) for epoch, value in points.items()]
            yield name, [Point(epoch + 1, hours, value, images, busy) for epoch, value, (hours, images, busy) in told]


# --------------------------------------------------------------------------------------------- columns


def columns(outcomes: Sequence[RunResult]) -> list[Column]:
    """Numbers by protocol: those measured after the training first, the student's before the teacher's."""
    found: dict[str, Column] = {}
    for one in outcomes:
        for record in one.records:
            if record.unit != "%" or record.metric != "accuracy":
                continue
            branch, entry = record.branch, one.entry
            if branch in (UNTRAINED, START):
                branch, entry = "student", branch
            key = f"{record.protocol_key}-{branch}"
            column = found.setdefault(key, _column(key, record, branch))
            column.values.setdefault(entry, {})[one.seed] = record.value
    return sorted(found.values(), key=lambda column: (column.branch != "student", column.online))


def _column(key: str, record: Record, branch: str | None) -> Column:
    title = record.protocol.title + (", teacher" if branch == "teacher" else "")
    protocol = record.protocol
    return Column(key, title, record.unit, record.stated, branch or "student", protocol.online, {}, protocol.headline)


# ---------------------------------------------------------------------------------------------- tuning


def trials(plan: Plan, folder: Path) -> Iterator[Trial]:
    """The search's trainings, with what they measured on the held-out images."""
    for one in plan.trials:
        accuracy = held_out(one.run, folder) if one.accuracy is None else one.accuracy
        chosen = bool(one.values) and plan.chosen.get(one.run.entry) == one.values
        yield Trial(one.run.entry, one.run.trial or 0, one.values, accuracy, chosen)


def held_out(run: PlannedRun, folder: Path) -> float | None:
    """The accuracy (%) of a trial's k-NN on the held-out images; None where it has not ended well."""
    found = run.find(folder)
    return None if found is None else found.record().get("results", {}).get(TUNED_BY)


def why_it_failed(run: PlannedRun, folder: Path) -> str:
    """What its job said last."""
    return Job(run=run, evaluations=[], folder=folder).state().get("error") or "it has not ended"


def _tuning(plan: Plan) -> str:
    tune = plan.comparison.tune
    before = [name for name, recipe in plan.recipes.items() if recipe.tuned == recipe.data.dataset]
    earlier = f" Settings of {', '.join(before)} had been chosen on this data before." if before else ""
    if not plan.trials and not tune.trials:
        return f"No tuning: every recipe as it is.{earlier}"
    number = max((one.run.trial or 0 for one in plan.trials), default=tune.trials - 1) + 1
    sizes = ", ".join(f"{entry} {len(space)}" for entry, space in plan.spaces.items())
    searched = f" Keys searched: {sizes}." if sizes else ""
    wider = f" Ranges were widened for all rows, once: {'; '.join(plan.widened)}." if plan.widened else ""
    return (
        f"Each row's settings are the best of {number} trials, by k-NN on {100 * tune.fraction:g} % of the training "
        f"images, held out; seed {tune.seed}.{searched}{wider}{earlier}"
    )


def _stated(recipe: Recipe, tune: Tune, outcomes: Sequence[RunResult]) -> dict[str, str]:
    ran = {one.precision for one in outcomes if one.precision}
    stem = f" with {describe_stem(recipe)}" if cifar_stem_stride(recipe) else ""
    return {
        "data": recipe.data.called,
        "backbone": f"{recipe.backbone.name}{stem}",
        "crops": describe_crops(recipe),
        "epochs": str(recipe.max_epochs),
        "batch": str(recipe.optimizer.batch_size),
        "precision": " and ".join(sorted(ran)) or str(recipe.precision),
        "search": f"{tune.trials} trials each" if tune.trials else "none",
    }


def write_plan(plan: Plan, folder: Path) -> None:
    """Keep it, readable."""
    (folder / PLAN).write_text(json.dumps(plan.model_dump(mode="json"), indent=2) + "\n")
