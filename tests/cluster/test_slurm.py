"""A real SLURM: time limits, cancelled jobs, lost nodes, arrays, and comparisons that it carries."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.soak import contents, different
from solo_bam.runs.folder import RunFolder
from tests.cli.test_survival import SMALL, assert_same, finished
from tests.cluster.slurm import Slurm, missing
from tests.comparison.test_launch import TINY
from tests.recipes import tiny_overrides
from tests.zygote import ROOT, Zygote

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
cluster = pytest.mark.nightly

SCRIPT = str(ROOT / "scripts" / "slurm" / "pretrain.sbatch")
TWO_NODES = ["--nodes=2"]
# Rows of the log come slowly, so that there is time to disturb a run; no number depends on it.
SLOW = """
import time
from solo_bam.train.logger import LineLogger
ordinary = LineLogger.log_metrics
def log_metrics(self, *args, **kwargs):
    time.sleep({seconds})
    ordinary(self, *args, **kwargs)
LineLogger.log_metrics = log_metrics
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """One for all tests of this file."""
    with Slurm() as running:
        yield running


def recipe(folder: Path, *overrides: str, slow: float = 0.1) -> list[str]:
    """Arguments of ``solo-bam pretrain`` on a recipe of seconds, to be called in ``folder``."""
    (folder / "slow.py").write_text(SLOW.format(seconds=slow))
    small = [*SMALL, "pictures=False", "max_epochs=6"]
    return ["--import", "slow", "--config-name", "digits/bam_momentum", *tiny_overrides(folder, *small, *overrides)]


def undisturbed(zygote: Zygote, folder: Path, *overrides: str) -> RunFolder:
    """The same run on this machine, without SLURM."""
    folder.mkdir()
    arguments = [word for word in recipe(folder, *overrides) if word not in ("--import", "slow")]
    start = zygote.start(["pretrain", *arguments], folder / "output")
    assert start.wait() == 0, start.output.read_text()
    return finished(folder)


def rows(folder: Path) -> int:
    """That all starts of the runs below a folder have logged."""
    return sum(path.read_text().count("\n") for path in folder.glob("bam_momentum/*/logs/*.jsonl"))


def wait_for(done: Callable[[], bool], slurm: Slurm, folder: Path, timeout: float = 300) -> None:
    """Until it is so; too late fails the test, with what the jobs have said."""
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, said(folder) + slurm.logs()
        time.sleep(0.05)


def said(folder: Path) -> str:
    """By the jobs that were submitted in a folder."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.out")))


def submit(slurm: Slurm, folder: Path, arguments: list[str], *options: str) -> str:
    """The shipped script with these arguments of ``solo-bam pretrain``."""
    return slurm.submit(*options, SCRIPT, *arguments, cwd=folder)


@pytest.mark.slow
def test_a_job_whose_time_is_up_is_queued_again_and_goes_on(slurm: Slurm, zygote: Zygote, tmp_path: Path) -> None:
    """SIGUSR1, as SLURM sends it: saved at the next step, requeued by the script, and at the end the same bits."""
    job = submit(slurm, tmp_path, recipe(tmp_path))
    wait_for(lambda: rows(tmp_path) >= 7, slurm, tmp_path)
    slurm.call("scancel", "--signal=USR1", job)
    slurm.wait(job, "COMPLETED")
    told = said(tmp_path)
    assert slurm.restarts(job) == 1, told
    assert told.count("solo-bam: error: solo-bam: stopped by SIGUSR1 at step ") == 1
    assert told.count("Resuming ") == 1
    assert "Traceback" not in told
    assert_same(finished(tmp_path), undisturbed(zygote, tmp_path / "whole"))


@cluster
def test_tasks_on_two_nodes_are_one_run(slurm: Slurm, zygote: Zygote, tmp_path: Path) -> None:
    """Told to stop and requeued as well; the weights are those of two processes on one machine."""
    job = submit(slurm, tmp_path, recipe(tmp_path, "optimizer.batch_size=8", "strategy=ddp"), *TWO_NODES)
    wait_for(lambda: rows(tmp_path) >= 7, slurm, tmp_path)
    assert len(list(tmp_path.glob("bam_momentum/*"))) == 1
    slurm.call("scancel", "--signal=USR1", job)
    slurm.wait(job, "COMPLETED")
    told = said(tmp_path)
    assert slurm.restarts(job) == 1, told
    assert told.count("solo-bam: error") == 2, told  # once on each node
    assert told.count("Resuming ") == 1, told
    assert "Traceback" not in told
    whole = undisturbed(zygote, tmp_path / "whole", "devices=2", "optimizer.batch_size=8", "strategy=ddp")
    a, b = contents(finished(tmp_path)), contents(whole)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "metrics"):
        assert not different(a[part], b[part]), part


@cluster
def test_a_task_that_fails_ends_all_with_one_line(slurm: Slurm, tmp_path: Path) -> None:
    """On each node, the same."""
    (tmp_path / "broken.py").write_text(
        "import os\n"
        "from solo_bam.train.callbacks import EpochSeed\n"
        "def fail(self, trainer, *_):\n"
        "    if os.environ['SLURM_PROCID'] == '1' and trainer.global_step == 2: raise ValueError('broken on purpose')\n"
        "EpochSeed.on_train_batch_start = fail\n"
    )
    arguments = recipe(tmp_path, "optimizer.batch_size=8", "strategy=ddp")
    job = submit(slurm, tmp_path, ["--import", "broken", *arguments], *TWO_NODES)
    slurm.wait(job, "FAILED")
    told = said(tmp_path)
    assert told.count("solo-bam: error: solo-bam: ValueError('broken on purpose') (process 1 on ") == 2, told
    assert len(list(tmp_path.glob("bam_momentum/*"))) == 1


@cluster
def test_the_time_limit(slurm: Slurm, zygote: Zygote, tmp_path: Path) -> None:
    """SLURM's own signal, 90 s before the minute is up, which is at its next look; with loader processes."""
    job = submit(slurm, tmp_path, recipe(tmp_path, "max_epochs=30", "data.num_workers=2", slow=0.5), "--time=1")
    slurm.wait(job, "COMPLETED", timeout=900)
    told = said(tmp_path)
    assert slurm.restarts(job) >= 1, told
    assert "stopped by SIGUSR1 at step " in told
    assert "Resuming " in told
    assert "Traceback" not in told
    assert_same(finished(tmp_path), undisturbed(zygote, tmp_path / "whole", "max_epochs=30"))


@cluster
def test_a_signal_before_the_first_step(slurm: Slurm, tmp_path: Path) -> None:
    """Queued again like any other; Lightning's own checkpoint for that, which would be loaded ever after, is not made."""
    (tmp_path / "early.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from solo_bam.train.callbacks import EpochSeed\n"
        "def wait(*_):\n"
        "    if not Path('early').exists():\n"
        "        Path('early').touch()\n"
        "        time.sleep(20)\n"
        "EpochSeed.on_fit_start = wait\n"
    )
    job = submit(slurm, tmp_path, ["--import", "early", *recipe(tmp_path)])
    wait_for((tmp_path / "early").exists, slurm, tmp_path)
    slurm.call("scancel", "--signal=USR1", job)
    slurm.wait(job, "COMPLETED")
    assert slurm.restarts(job) == 1
    assert not list(tmp_path.glob("bam_momentum/*/hpc*"))


@cluster
def test_a_cancelled_job_has_saved_itself(slurm: Slurm, zygote: Zygote, tmp_path: Path) -> None:
    """It stays cancelled, and the same command goes on."""
    arguments = recipe(tmp_path)
    job = submit(slurm, tmp_path, arguments)
    wait_for(lambda: rows(tmp_path) >= 7, slurm, tmp_path)
    slurm.call("scancel", job)
    slurm.wait(job, "CANCELLED")
    wait_for(lambda: "stopped by SIGTERM at step " in said(tmp_path), slurm, tmp_path, timeout=60)
    assert slurm.restarts(job) == 0
    again = submit(slurm, tmp_path, arguments)
    slurm.wait(again, "COMPLETED")
    assert "Resuming " in said(tmp_path)
    assert_same(finished(tmp_path), undisturbed(zygote, tmp_path / "whole"))


@cluster
def test_a_lost_node(slurm: Slurm, zygote: Zygote, tmp_path: Path) -> None:
    """SLURM queues the job again on another node, where it goes on from its last checkpoint."""
    job = submit(slurm, tmp_path, recipe(tmp_path, slow=0.3))
    wait_for(lambda: bool(list(tmp_path.glob("bam_momentum/*/checkpoints/epoch=1.ckpt"))), slurm, tmp_path)
    node = slurm.call("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()
    try:
        slurm.kill_node(node)
        slurm.wait(job, "COMPLETED", timeout=600)
        assert slurm.call("squeue", "--noheader", "--states=all", "--format=%N", f"--jobs={job}").strip() != node
    finally:
        slurm.start_node(node)
        slurm.wait_for_nodes(2)
    assert slurm.restarts(job) == 1
    assert "Resuming " in said(tmp_path)
    assert_same(finished(tmp_path), undisturbed(zygote, tmp_path / "whole"))


@cluster
def test_an_array(slurm: Slurm, zygote: Zygote, tmp_path: Path) -> None:
    """A seed each; the last job of an array bears the array's number, and is requeued without the others."""
    job = submit(slurm, tmp_path, recipe(tmp_path, slow=0.3), "--array=0-1")
    wait_for(lambda: rows(tmp_path) >= 20, slurm, tmp_path)
    slurm.call("scancel", "--signal=USR1", f"{job}_1")
    slurm.wait(job, "COMPLETED")
    assert [slurm.restarts(f"{job}_{number}") for number in (0, 1)] == [0, 1]
    runs = {run.record()["seed"]: run for path in tmp_path.glob("bam_momentum/*") if (run := RunFolder(path))}
    assert sorted(runs) == [0, 1]
    for seed, run in runs.items():
        assert_same(run, undisturbed(zygote, tmp_path / f"whole-{seed}", f"seed={seed}"))


@cluster
@pytest.mark.parametrize(
    ("options", "words", "told"),
    [
        (["--ntasks=2"], "solo-bam pretrain {}", "devices: got 1 on 1 node(s), SLURM has SLURM_NTASKS=2 tasks; set"),
        (["--ntasks=2"], "srun solo-bam pretrain {}", "devices: got 1 on 1 node(s), SLURM has SLURM_NTASKS=2 tasks; set"),
        (
            ["--ntasks-per-node=2"], "solo-bam pretrain {} devices=2",
            "devices: SLURM has SLURM_NTASKS=2 tasks, and only one of them was started; start with srun",
        ),
    ],
)  # fmt: skip
def test_tasks_that_are_not_the_processes(
    options: list[str], words: str, told: str, slurm: Slurm, tmp_path: Path
) -> None:
    """Nothing trains alone or waits for the rest: one line."""
    script = tmp_path / "own.sbatch"
    script.write_text(f"#!/bin/bash\n{words.format(' '.join(recipe(tmp_path)))}\n")
    job = slurm.submit(*options, str(script), cwd=tmp_path)
    slurm.wait(job, "FAILED", timeout=300)
    lines = [line for line in said(tmp_path).splitlines() if line.startswith("solo-bam: error: ")]
    assert lines
    assert all(line.startswith(f"solo-bam: error: {told}") for line in lines)
    assert "Traceback" not in said(tmp_path)
    assert not list(tmp_path.glob("bam_momentum/*"))


# -------------------------------------------------------------------------------------------- comparisons

SEARCH = [word for word in TINY if not word.startswith("tune.")] + [
    "tune.trials=2",
    "tune.epochs=1",
    "shared.pictures=False",
]
COSTS = {"images_per_second", "hours", "device_hours", "device", "peak_memory_bytes"}


def compare(slurm: Slurm, folder: Path, *words: str) -> subprocess.Popen[str]:
    """``solo-bam compare digits`` with its output in a file."""
    folder.mkdir(exist_ok=True)
    (folder / "slow.py").write_text(SLOW.format(seconds=0.3))
    command = [sys.executable, "-m", "solo_bam", "compare", "digits", "--import", "slow", *SEARCH, *words]
    with (folder / "said").open("w") as out:
        return subprocess.Popen(
            command, env=slurm.environment, cwd=folder, stdout=out, stderr=subprocess.STDOUT, text=True
        )


def results(folder: Path) -> list[dict[str, str]]:
    """All numbers but those of cost."""
    with (folder / "comparisons" / "digits" / "results.csv").open(newline="") as lines:
        return [{key: value for key, value in row.items() if key not in COSTS} for row in csv.DictReader(lines)]


def queued(slurm: Slurm, state: str) -> list[str]:
    """Ids of the comparison's jobs in a state."""
    listed = slurm.call("squeue", "--noheader", "--array", f"--states={state}", "--format=%i %j")
    return [line.split()[0] for line in listed.splitlines() if "solo-bam-" in line]


@cluster
def test_a_comparison_on_slurm_goes_on_after_cancelled_jobs(slurm: Slurm, tmp_path: Path) -> None:
    """A job that runs and one that waits are cancelled, one line each; in the end the numbers are those of joblib."""
    here = compare(slurm, tmp_path / "here", "launcher=joblib", "jobs=2")
    assert here.wait(900) == 0, (tmp_path / "here" / "said").read_text()

    folder = tmp_path / "slurm"
    words = ["launcher=slurm", "launcher.timeout_min=20", "launcher.cpus_per_task=1", "jobs=1"]
    first = compare(slurm, folder, *words)
    runs = folder / "comparisons" / "digits" / "runs"
    # The search has two trials of each row, all with an epoch; the runs that count have three.
    wait_for(lambda: "Runs: 2" in (folder / "said").read_text() and bool(queued(slurm, "PENDING")), slurm, folder, 900)
    wait_for(lambda: len(list(runs.glob("bam/*/checkpoints/*.ckpt"))) >= 5, slurm, folder, 600)
    (running,), (waiting,) = queued(slurm, "RUNNING"), queued(slurm, "PENDING")
    slurm.call("scancel", waiting)
    slurm.call("scancel", running)
    assert first.wait(600) == 1
    told = (folder / "said").read_text()
    assert f"FAILED: bam, seed 0: SLURM's job {running} has ended (cancelled" in told
    assert f"FAILED: byol, seed 0: SLURM's job {waiting} has ended (cancelled" in told
    assert "Traceback" not in told

    second = compare(slurm, folder, *words)
    assert second.wait(900) == 0, (folder / "said").read_text()
    assert "Search: 2, of which" not in (folder / "said").read_text()  # the search is done
    (log,) = (folder / "comparisons" / "digits" / "jobs").glob("bam-0-*.log")
    assert "Resuming " in log.read_text()
    assert results(folder) == results(tmp_path / "here")


@cluster
def test_a_comparison_that_is_stopped_cancels_its_jobs(slurm: Slurm, tmp_path: Path) -> None:
    """Ctrl-C: the training saves itself, nothing stays in the queue; time limits of jobs are no end of theirs."""
    words = ["launcher=slurm", "launcher.timeout_min=20", "launcher.cpus_per_task=1", "tune.trials=0", "epochs=12"]
    first = compare(slurm, tmp_path, *words)
    runs = tmp_path / "comparisons" / "digits" / "runs"
    wait_for(lambda: len(list(runs.glob("*/*/checkpoints/epoch=0.ckpt"))) == 2, slurm, tmp_path)
    os.kill(first.pid, signal.SIGINT)
    assert first.wait(90) == 2
    assert "interrupted; the same command goes on" in (tmp_path / "said").read_text()
    assert not queued(slurm, "PENDING,RUNNING,COMPLETING")
    logs = [path.read_text() for path in (tmp_path / "comparisons" / "digits" / "jobs").glob("*-0-*.log")]
    assert sum("stopped by SIGTERM at step" in text for text in logs) == 2

    second = compare(slurm, tmp_path, *words[:1], "launcher.timeout_min=1", *words[2:])
    assert second.wait(900) == 0, (tmp_path / "said").read_text()
    logs = [path.read_text() for path in (tmp_path / "comparisons" / "digits" / "jobs").glob("*-0-*.log")]
    assert any("stopped by SIGUSR1 at step" in text for text in logs)
