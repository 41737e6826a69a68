"""Runs are launched by Hydra's multirun; finished ones are kept, broken ones reported, a GPU is used once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest

from solo_bam.cli import main
from solo_bam.comparison import launch
from solo_bam.comparison import run as compare
from solo_bam.comparison.collect import collect, write_plan
from solo_bam.comparison.launch import Job, alone, one_gpu
from solo_bam.comparison.plan import Plan, PlannedRun
from solo_bam.comparison.run import _on_this_machine, evaluations
from solo_bam.config import load_recipe
from solo_bam.config.comparison import load_comparison
from solo_bam.core.errors import UserError
from solo_bam.runs.folder import RunFolder
from tests.comparison.test_fairness import plan

HARDWARE: dict[str, object] = {"cores": 2}


def trained(run: PlannedRun, folder: Path, **results: float) -> RunFolder:
    """What ``solo-bam pretrain`` leaves, without the training."""
    made = RunFolder.new(run.recipe.model_copy(update={"checkpoint": run.recipe.checkpoint}))
    made.start(run.recipe, HARDWARE)
    made.finish(results)
    assert folder in made.path.parents
    return made


class Commands:
    """Stands for the processes of ``solo-bam``; ``errors`` says which of them fail, by a word of their arguments."""

    def __init__(self, jobs: list[Job], errors: dict[str, str] | None = None):
        self.jobs, self.errors, self.called = jobs, errors or {}, []  # type: ignore[var-annotated]

    def __call__(self, arguments: list[str], log: IO[str], environment: dict[str, str], fork: bool) -> str | None:
        self.called.append(arguments)
        for word, error in self.errors.items():
            if any(word in argument for argument in arguments):
                return error
        if arguments[0] == "pretrain":
            [job] = [job for job in self.jobs if job.run.arguments == arguments[1:-1]]
            trained(job.run, job.folder, knn_acc1=90.0)
        return None


def jobs_of(made: Plan, folder: Path) -> list[Job]:
    return [
        Job(run=run, evaluations=[["knn", "{run}", "k=5"], ["linear", "{run}"]], folder=folder) for run in made.runs
    ]


def test_finished_runs_are_kept_whatever_they_are_called(tmp_path: Path, monkeypatch: Any) -> None:
    made, folder = plan(tmp_path, {"method_kwargs": {"reg": 0.1}}), tmp_path / "out"
    jobs = jobs_of(made, folder)
    commands = Commands(jobs)
    monkeypatch.setattr(launch, "_call", commands)
    jobs[0].work()
    assert [words[0] for words in commands.called] == ["pretrain", "knn", "linear"]
    [run] = (folder / "runs" / "bam").iterdir()
    assert commands.called[1] == ["knn", str(run), "k=5"]
    assert [job.finished for job in jobs] == [True, False, False, False]
    run.rename(run.with_name("another name"))
    assert jobs[0].finished
    about = json.loads((run.with_name("another name") / "run.json").read_text())
    (run.with_name("another name") / "run.json").write_text(json.dumps({**about, "status": "stopped"}))
    assert not jobs[0].finished


@pytest.mark.parametrize("change", ["seed=9", "method_kwargs.temperature=0.2", "data.fraction=0.9"])
def test_a_run_of_another_recipe_is_not_taken_for_it(change: str, tmp_path: Path) -> None:
    made, folder = plan(tmp_path), tmp_path / "out"
    run = made.runs[0]
    words = run.arguments
    other = load_recipe("digits/bam", [*words[words.index("--config-name") + 2 :], change])
    folder_of_other = trained(PlannedRun(entry="bam", arguments=[], recipe=other), folder)
    folder_of_other.path.rename(folder_of_other.path.with_name(RunFolder.new(run.recipe).path.name))  # its very name
    assert run.find(folder) is None
    trained(run, folder)
    assert run.find(folder) is not None


def test_a_broken_run_is_reported_and_an_evaluation_is_caught_up_on(tmp_path: Path, monkeypatch: Any) -> None:
    made, folder = plan(tmp_path, {"method_kwargs": {"reg": 0.1}}), tmp_path / "out"
    jobs = jobs_of(made, folder)
    commands = Commands(jobs, {"linear": "optimizer.lr: too high"})
    monkeypatch.setattr(launch, "_call", commands)
    jobs[0].work()
    assert jobs[0].state()["status"] == "failed"
    assert not jobs[0].finished
    write_plan(made, folder)
    [first, *others] = collect(folder).outcomes
    assert (first.status, first.error) == ("failed", "optimizer.lr: too high")
    assert {one.status for one in others} == {"missing"}
    commands.errors, commands.called = {}, []
    jobs[0].work()
    assert [words[0] for words in commands.called] == ["linear"]  # not trained, not measured by k-NN again
    assert jobs[0].finished
    assert collect(folder).outcomes[0].status == "finished"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit('solo-bam: error: data: gone; find it')", "data: gone; find it"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9 (out of memory?)"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_what_a_broken_command_said_last(code: str, told: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "python").write_text(f"#!{sys.executable}\n{code}\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").chmod(0o755)
    with (tmp_path / "log").open("a") as log:
        log.write("an earlier start: earlier error\n")
        assert launch._call(["pretrain", "--config-name", "digits/bam"], log, dict(os.environ), fork=False) == told
    assert "$ solo-bam pretrain --config-name digits/bam" in (tmp_path / "log").read_text()


def test_a_forked_command_is_a_command_of_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    """Its output, exit code and environment; and a signal ends it alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OWN", "")
    (tmp_path / "own.py").write_text(
        "import os, sys, torch\n"
        "print('threads', torch.get_num_threads(), sys.argv[1:3], os.environ['OWN'])\n"
        "os.kill(os.getpid(), 9) if 'killed' in sys.argv else None\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OWN": "set"}
    words = ["pretrain", "--import", "own", "--config-name"]
    with (tmp_path / "log").open("a") as log:
        told = launch._call([*words, "none"], log, environment, fork=True)
        assert told is not None
        assert told.startswith("--config-name: there is no recipe 'none'")
        assert launch._call([*words, "killed"], log, environment, fork=True) == "killed by signal 9 (out of memory?)"
    assert "threads 1 ['pretrain', '--import'] set" in (tmp_path / "log").read_text()


# ------------------------------------------------------------------------------------------- machines


def test_jobs_take_different_gpus_until_there_are_none(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with one_gpu(tmp_path) as first, one_gpu(tmp_path) as second, one_gpu(tmp_path) as third:
        assert (first, second, third) == ({"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}, {})
    with one_gpu(tmp_path) as again:
        assert again == first
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with one_gpu(tmp_path) as only:
        assert only == {}


def test_a_comparison_is_not_run_twice_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(UserError, match=r"^output: .* is in use"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


# --------------------------------------------------------------------------------------- the real thing

TINY = [
    "methods=[bam,byol]", "seeds=[0]", "epochs=3", "tune.trials=0", "allow_differences=True", "linear=null",
    "knn={k: 5, num_workers: 0}",
    "shared.data.fraction=0.05", "shared.optimizer.batch_size=16", "shared.scheduler.warmup_epochs=0",
    "shared.knn_eval={train_fraction: 1, k: 5}", "shared.log_every_n_steps=1", "shared.accelerator=cpu",
    "shared.checkpoint.frequency=1", "shared.backbone.name=test_resnet",
]  # fmt: skip


def test_a_comparison_that_was_killed_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """SIGKILL to everything in the middle of the second run: the first is kept, the second resumed."""
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "solo_bam", "compare", "digits", *TINY]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, start_new_session=True, text=True)
    runs = tmp_path / "comparisons" / "digits" / "runs"
    deadline = time.monotonic() + 300
    while not list(runs.glob("byol/*/checkpoints/epoch=0.ckpt")):
        assert process.poll() is None, process.stdout
        assert time.monotonic() < deadline
        time.sleep(0.05)
    _kill_all(process)
    [first] = runs.glob("bam/*/run.json")
    [second] = runs.glob("byol/*/run.json")
    assert json.loads(second.read_text())["status"] == "running"
    before = first.stat().st_mtime_ns

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert main(["compare", "digits", *TINY]) == 0
    printed = capsys.readouterr().out
    assert "of which 1 are there already" in printed
    assert first.stat().st_mtime_ns == before
    [second] = runs.glob("byol/*/run.json")
    assert json.loads(second.read_text())["status"] == "finished"
    [log] = (tmp_path / "comparisons" / "digits" / "jobs").glob("byol-*.log")
    assert "Resuming " in log.read_text()
    results = collect(Path("comparisons") / "digits")
    assert [one.status for one in results.outcomes] == ["finished", "finished"]
    offline = results.columns[0]
    assert offline.title == "k-NN (k = 5)"
    assert {entry: list(values) for entry, values in offline.values.items()} == {
        "bam": [0],
        "byol": [0],
        "untrained": [0],
    }
    for one in results.outcomes:
        assert one.cost is not None
        assert one.cost.images_per_second > 0
        assert [point.epoch for point in one.curves["k-NN"]] == [3]
        assert [point.epoch for point in one.curves["linear"]] == [1, 2, 3]
        assert 0 < one.curves["linear"][0].hours < one.curves["linear"][2].hours <= one.cost.hours * 1.001
    assert Path("comparisons/digits/report.html").exists()


def test_the_first_rows_runs_are_measured_untrained_too() -> None:
    comparison = load_comparison("digits")
    trained = evaluations(comparison, "simclr")
    assert [words[0] for words in trained] == ["knn", "linear"]
    assert evaluations(comparison, "bam") == [*trained, *([*words, "branch=untrained"] for words in trained)]
    assert evaluations(load_comparison("digits", ["untrained=False"]), "bam") == trained
    with pytest.raises(UserError, match="methods: got untrained, which is the network before training"):
        load_comparison("digits", ["methods=[bam,{name: untrained, recipe: bam}]"])


def test_hydras_launchers_are_chosen_on_the_command_line(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert main(["compare", "digits", *TINY, "hydra/launcher=absent"]) == 2
    told = "solo-bam: error: hydra/launcher: In 'hydra/config': Could not find 'hydra/launcher/absent'; see "
    assert capsys.readouterr().err.startswith(told)
    assert not (tmp_path / "comparisons" / "digits" / "runs").exists()
    assert _on_this_machine(1) == []
    assert _on_this_machine(3) == ["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]
    monkeypatch.setattr(compare, "_JOBLIB", "hydra_plugins.absent")
    with pytest.raises(
        UserError, match=r"^jobs: got 3 runs at once, hydra-joblib-launcher is not installed; pip install"
    ):
        _on_this_machine(3)


def _kill_all(process: subprocess.Popen[str]) -> None:
    """The command, Hydra's multirun and the training, which have groups of their own."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()[1:]]
    doomed = [process.pid]
    for pid in doomed:
        doomed += [child for child, parent in pairs if parent == pid]
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    process.wait()
