"""The search: the same for every row, on held-out images alone, and exact after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from solo_bam.comparison.collect import collect, read_plan, write_plan
from solo_bam.comparison.edges import describe_edges
from solo_bam.comparison.launch import Job
from solo_bam.comparison.plan import Plan, PlannedRun, make_plan
from solo_bam.comparison.report.write import write_report
from solo_bam.comparison.search import DATABASE, tune
from solo_bam.comparison.space import Range
from solo_bam.config.comparison import parse_comparison
from solo_bam.core.errors import UserError
from tests.comparison.test_fairness import plan
from tests.comparison.test_launch import trained

Accuracy = Callable[[PlannedRun], float]


def searched(tmp_path: Path, accuracy: Accuracy, **settings: Any) -> tuple[Plan, list[PlannedRun]]:
    """A search whose trainings take no time, and the trainings that it asked for."""
    made = plan(tmp_path, methods=["bam", "simclr"], tune={"trials": 4, "seed": 9, "epochs": 3, **settings})
    folder, asked = tmp_path / "out", []
    folder.mkdir(parents=True, exist_ok=True)

    def work(runs: Sequence[PlannedRun]) -> None:
        for run in runs:
            asked.append(run)
            if run.find(folder) is None:
                trained(run, folder, knn_acc1=accuracy(run))

    return tune(made, folder, work), asked


def rate_near(best: float) -> Accuracy:
    """Better the nearer the rate is to a value."""
    return lambda run: 90 - abs(run.recipe.optimizer.lr - best) * 1000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, list[PlannedRun]]:
    """A search that was never stopped, and where it is."""
    folder = tmp_path_factory.mktemp("whole")
    return folder / "out", *searched(folder, rate_near(0.003))


def test_every_row_has_as_many_trials_on_the_same_held_out_images(whole: tuple[Path, Plan, list[PlannedRun]]) -> None:
    _, found, asked = whole
    assert [run.entry for run in asked].count("bam") == [run.entry for run in asked].count("simclr") == 4
    for run in asked:
        recipe = run.recipe
        assert (recipe.seed, recipe.max_epochs, recipe.data.tune_fraction) == (9, 3, 0.2)
        assert not recipe.pictures
    first = [one for one in found.trials if one.run.trial == 0]
    assert [one.run.recipe.optimizer.lr for one in first] == [2e-3, 2e-3], "the recipes as they are"
    second = {one.run.entry: one.values["optimizer.lr"] for one in found.trials if one.run.trial == 1}
    assert second["bam"] == second["simclr"], "a quasi-random sequence that is the same for all"
    assert [(run.entry, run.recipe.seed) for run in found.runs] == [
        ("bam", 0),
        ("simclr", 0),
        ("bam", 1),
        ("simclr", 1),
    ]
    for run in found.runs:
        assert run.recipe.data.tune_fraction == 0
        best = max((one for one in found.trials if one.run.entry == run.entry), key=lambda one: one.accuracy or 0)
        assert run.recipe.optimizer.lr == best.values["optimizer.lr"]


def test_a_search_that_was_killed_asks_for_the_same_trials(
    whole: tuple[Path, Plan, list[PlannedRun]], tmp_path: Path
) -> None:
    done: list[PlannedRun] = []

    class Killed(Exception):
        pass

    def accuracy(run: PlannedRun) -> float:
        if len(done) == 5:
            raise Killed
        done.append(run)
        return rate_near(0.003)(run)

    with pytest.raises(Killed):
        searched(tmp_path / "killed", accuracy)
    done.clear()
    again, _ = searched(tmp_path / "killed", rate_near(0.003))
    assert [one.values for one in again.trials] == [one.values for one in whole[1].trials]
    assert again.chosen == whole[1].chosen


def test_optuna_can_open_what_was_tried(whole: tuple[Path, Plan, list[PlannedRun]]) -> None:
    names = optuna.get_all_study_names(f"sqlite:///{whole[0] / DATABASE}")
    assert sorted(name.split()[0] for name in names) == ["bam", "simclr"]


def test_a_best_at_the_end_of_a_range_is_told_and_all_ranges_widened_once(tmp_path: Path) -> None:
    found, asked = searched(
        tmp_path, lambda run: 50 + 1000 * run.recipe.optimizer.lr * (run.entry == "bam"), trials=6, extra=2
    )
    before, after = (made["simclr"]["optimizer.lr"] for made in (found.narrow, found.spaces))
    assert isinstance(before, Range)
    assert isinstance(after, Range)
    assert after.high > before.high, "widened for the row that did not ask, too"
    assert any(edge.startswith("bam: the best optimizer.lr is the largest tried") for edge in found.widened)
    assert [run.entry for run in asked].count("bam") == [run.entry for run in asked].count("simclr") == 8
    assert describe_edges(found) is not None


def test_a_trial_that_diverged_was_a_try_and_one_that_broke_was_not(tmp_path: Path) -> None:
    made = plan(tmp_path, methods=["bam"], tune={"trials": 2})
    folder = tmp_path / "out"
    folder.mkdir()
    said = ["optimizer.lr: the loss became nan at step 3", "optimizer.lr: the training collapsed in epoch 2; lower it"]

    def work(runs: Sequence[PlannedRun]) -> None:
        for run in runs:
            if run.trial == 0:
                trained(run, folder, knn_acc1=50.0)
            else:
                job = Job(run=run, evaluations=[], folder=folder)
                job.place.mkdir(parents=True, exist_ok=True)
                job.tell(status="failed", error=said[0])

    assert [one.accuracy for one in tune(made, folder, work).trials] == [50.0, 0.0]
    for error, refused in [(said[1], False), ("killed by signal 9", True)]:
        said[0] = error
        other = tmp_path / error[:6]
        again = plan(other, methods=["bam"], tune={"trials": 2})
        folder = other / "out"
        folder.mkdir(parents=True)
        if refused:
            with pytest.raises(UserError, match=r"^tune.trials: bam, trial 1 failed \(killed by signal 9\)"):
                tune(again, folder, work)
        else:
            assert tune(again, folder, work).trials[1].accuracy == 0.0


def test_the_report_tells_the_search(whole: tuple[Path, Plan, list[PlannedRun]]) -> None:
    folder, found, _ = whole
    write_plan(found, folder)
    results = collect(folder)
    assert "best of 4 trials" in results.tuning
    assert "bam 4, simclr 3" in results.tuning, "the sizes of the spaces"
    write_report([results], folder)
    text = (folder / "results.md").read_text()
    assert "| bam | 4 |" in text
    assert f"optimizer.lr={found.chosen['bam']['optimizer.lr']:g}" in text


def test_a_comparison_from_before_the_search_is_still_reported(tmp_path: Path) -> None:
    made = plan(tmp_path, methods=["bam"], allow_differences=True)
    folder = tmp_path / "out"
    folder.mkdir()
    raw = json.loads(made.model_dump_json())
    run = raw["runs"][0]
    raw["comparison"]["tune"] = {"factors": [1.0, 3.0], "fraction": 0.2, "seed": 100, "epochs": None}
    raw["trials"] = [{**run, "factor": factor} for factor in (1.0, 3.0)]
    raw["factors"] = {"bam": 3.0}
    for key in ("spaces", "narrow", "widened", "chosen"):
        raw.pop(key)
    (folder / "plan.json").write_text(json.dumps(raw))
    assert len(read_plan(folder).trials) == 2
    assert [trial.number for trial in collect(folder).trials if trial.chosen] == [0, 1]  # both have the run's rate here


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("optimizer: {lrr: {low: 1e-3, high: 1e-2}}", "optimizer.lrr: bam has no such key"),
        ("optimizer: {lr: {low: 1e-2, high: 1e-3}}", "low must be below high"),
        ("optimizer: {lr: {low: 1e-2, high: 1e-1}}", "which is not among what is searched"),
        ("optimizer: {batch_size: [128, 256]}", "belongs to all rows"),
        ("method_kwargs: {reg: [0.05]}", "method_kwargs.reg"),
    ],
)
def test_a_mistake_in_a_space_is_one_line(space: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(space + "\n")
    raw = {
        "recipes": "digits", "methods": [{"name": "bam", "space": str(tmp_path / "mine.yaml")}], "tune": {"trials": 2},
        "output": tmp_path / "out",
    }  # fmt: skip
    with pytest.raises(UserError, match=message) as caught:
        make_plan(parse_comparison(raw))
    assert "\n" not in str(caught.value)
