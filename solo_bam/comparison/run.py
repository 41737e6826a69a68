"""A comparison from its plan to its report: search, train, measure, report."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from solo_bam.comparison.collect import collect, write_plan
from solo_bam.comparison.fairness import notes
from solo_bam.comparison.launch import Job, alone, launch
from solo_bam.comparison.plan import RUNS, Plan, PlannedRun
from solo_bam.comparison.progress import Progress, overview
from solo_bam.comparison.report.answer import answer
from solo_bam.comparison.report.write import write_report
from solo_bam.comparison.results import Results
from solo_bam.comparison.search import tune
from solo_bam.comparison.slurm import launcher_words
from solo_bam.comparison.space import describe
from solo_bam.config.comparison import SLURM, START, UNTRAINED, Comparison
from solo_bam.config.overrides import override_lines
from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded

_JOBLIB = "hydra_plugins.hydra_joblib_launcher"


def compare(plan: Plan, launcher: Sequence[str] = ()) -> tuple[Results, Path]:
    """Run a plan to its end.

    Args:
        plan: of :func:`make_plan`.
        launcher: Hydra's overrides; none: ``jobs`` of the comparison at once, on this machine.

    Returns:
        What came out, and the page that shows it.

    Raises:
        UserError: the comparison is running already, the launcher failed, or the tuning did.
    """
    comparison, folder = plan.comparison, expanded(plan.comparison.folder)
    at_once = 1 if SLURM in launcher else comparison.jobs or _gpus(plan)
    launcher = (
        launcher_words(launcher, folder, comparison.jobs)
        if SLURM in launcher
        else launcher or _on_this_machine(at_once)
    )
    plan = plan.model_copy(update={"at_once": at_once})
    with alone(folder) as lock:
        print(f"Report, from now on: {folder / 'report.html'}")
        if plan.spaces:

            def work(runs: Sequence[PlannedRun]) -> None:
                _work("Search", [_job(run, [], folder, at_once) for run in runs], folder, launcher, lock)

            plan = tune(plan, folder, work)
        write_plan(plan, folder)
        start = START if any(recipe.backbone.pretrained for recipe in plan.recipes.values()) else UNTRAINED
        measured = [(run, evaluations(comparison, run.entry, start)) for run in plan.runs]
        jobs = [_job(run, words, folder, at_once) for run, words in measured]
        _work("Runs", jobs, folder, launcher, lock)
        results = collect(folder)
        page = write_report([results], folder)
    for one in results.failed:
        print(f"FAILED: {one.entry}, seed {one.seed}: {one.error}")
    print(*filter(None, [answer(results)]), f"Report: {page}", sep="\n")
    return results, page


def _work(stage: str, jobs: Sequence[Job], folder: Path, launcher: Sequence[str], lock: IO[str]) -> None:
    """Whatever is not finished yet; the page shows it meanwhile."""

    def show(now: str) -> str:
        results = collect(folder)
        write_report([results], folder, now=now)
        return overview(results)

    left = [job for job in jobs if not job.finished]
    print(f"{stage}: {len(jobs)}, of which {len(jobs) - len(left)} are there already")
    if left:
        launch(left, folder, launcher, lock, Progress(stage, jobs, show))


def evaluations(comparison: Comparison, entry: str, start: str = UNTRAINED) -> list[list[str]]:
    """Arguments of the commands that measure a row's runs, ``{run}`` for their folder.

    All rows start from the same network, so the first row's runs are measured as they started, too.
    """
    found = []
    options = comparison.knn_options
    if options is not None:
        lines = override_lines(options.model_dump(mode="json", exclude_defaults=True))
        found.append(["knn", "{run}", *lines])
    if comparison.linear is not None:
        runs = expanded(comparison.folder) / RUNS
        places = override_lines({"checkpoint": {"enabled": False, "dir": str(runs)}, "enable_progress_bar": False})
        found.append(["linear", "{run}", "--config-name", comparison.linear, *places])
    if comparison.untrained and entry == comparison.methods[0].name:
        found += [[*words, f"branch={start}"] for words in found]
    if comparison.transfer is not None:  # which measures the start itself
        before = comparison.untrained and entry == comparison.methods[0].name
        lines = override_lines({**comparison.transfer, **({} if before else {"untrained": False})})
        found.append(["transfer", "{run}", *lines])
    return found


def _job(run: PlannedRun, measured_by: Sequence[Sequence[str]], folder: Path, at_once: int) -> Job:
    environment = {}
    if at_once > 1 and run.recipe.accelerator in ("auto", "cpu") and not hardware.gpus():
        environment["OMP_NUM_THREADS"] = str(max(1, hardware.cores() // at_once))
    return Job(run=run, evaluations=[list(words) for words in measured_by], folder=folder, environment=environment)


def _gpus(plan: Plan) -> int:
    """Runs at once where nobody says: one per GPU, if a run takes one."""
    alone_on_one = all(recipe.devices in (1, "1") for recipe in plan.recipes.values())
    return max(1, hardware.gpus()) if alone_on_one else 1


def _on_this_machine(at_once: int) -> list[str]:
    """Hydra's launcher for several processes; its own takes one job after another.

    Raises:
        UserError: it is not installed.
    """
    if at_once == 1:
        return []
    if importlib.util.find_spec("hydra_plugins") is None or not importlib.util.find_spec(_JOBLIB):
        problem = f"got {at_once} runs at once, hydra-joblib-launcher is not installed"
        raise UserError("jobs", problem, "pip install 'solo-bam[jobs]' or set jobs=1")
    return ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={at_once}"]


def announce(plan: Plan) -> None:
    """What will be run, and every key in which the recipes differ."""
    comparison = plan.comparison
    print(f"{comparison.name}: {', '.join(plan.recipes)}; seeds {', '.join(map(str, comparison.seeds))}")
    rows, search = len(comparison.methods), comparison.tune
    wider = f" (and {rows * search.extra} where ranges are widened)" if search.extra else ""
    print(f"Trainings: {rows * search.trials} to search{wider}, {rows * len(comparison.seeds)} that count")
    for entry, space in plan.spaces.items():
        print(f"  {entry} searches " + "; ".join(f"{key} {describe(found)}" for key, found in space.items()))
    for difference in plan.differences:
        print(f"  {'differs' if difference.fair else 'UNFAIR '} {difference.told}")
    for line in notes(plan.recipes):
        print(f"  note: {line}")
    for line in plan.unfair:
        print(f"UNFAIR: {line}")
