"""Killed, stopped, out of disk, one process lost: nothing is lost but time, and what is said is one line."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from solo_bam import run_log
from solo_bam.runs import RunFolder
from tests.recipes import tiny_overrides
from tests.zygote import Start, Zygote

# A network and a head of a few thousand weights: 4 steps, 2 batches of validation and a checkpoint in 0.2 s.
SMALL = [
    "backbone.name=test_resnet", "method_kwargs.proj_hidden_dim=32", "method_kwargs.proj_output_dim=16",
    "limit_val_batches=2", "auto_resume.enabled=True",
]  # fmt: skip
KINDS = {
    "one process": [],
    "two loader workers": ["data.num_workers=2"],
    "two processes": ["devices=2", "optimizer.batch_size=8", "strategy=ddp"],
}
KILLS = 30


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as warm:
        yield warm


@pytest.fixture(scope="module")
def runs(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Uninterrupted runs by number of epochs and processes, each run once."""
    done: dict[tuple[int, bool], RunFolder] = {}

    def whole(kind: str, epochs: int) -> RunFolder:
        key = (epochs, kind == "two processes")
        if key not in done:
            folder = tmp_path_factory.mktemp("whole")
            start = pretrain(
                zygote, folder, [*KINDS["two processes" if key[1] else "one process"], f"max_epochs={epochs}"]
            )
            assert start.wait() == 0, start.output.read_text()
            done[key] = finished(folder)
        return done[key]

    return whole


def pretrain(zygote: Zygote, folder: Path, overrides: list[str], *options: str, **more: str) -> Start:
    """Start ``solo-bam pretrain`` on a recipe with dropout-free but seeded everything: BAM with a teacher and k-NN."""
    arguments = ["--config-name", "digits/bam_momentum", *tiny_overrides(folder, *SMALL, *overrides), *options]
    return zygote.start(["pretrain", *arguments], folder / f"output_{len(list(folder.glob('output_*')))}", **more)


def finished(folder: Path) -> RunFolder:
    """The run below a folder that has come to its end."""
    found = [RunFolder(path.parent) for path in folder.glob("bam_momentum/*/run.json")]
    (run,) = [run for run in found if run.record().get("status") == "finished"]
    return run


def assert_same(run: RunFolder, whole: RunFolder) -> None:
    """Weights, optimiser, schedule, counters and logged metrics are equal bit by bit."""
    a, b = (torch.load(each.last_checkpoint, weights_only=True) for each in (run, whole))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert_equal(a[part], b[part], part)
    assert run.metrics() == whole.metrics()
    assert (run.path / "metrics.csv").read_bytes() == (whole.path / "metrics.csv").read_bytes()
    assert run.record()["results"] == whole.record()["results"]


def assert_equal(a: Any, b: Any, where: str) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_equal(x, y, f"{where}.{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def wait_for_rows(start: Start, folder: Path, before: set[Path], count: int) -> None:
    """Until this start has logged some rows, or has ended."""
    while start.poll() is None:
        new = set(folder.glob("bam_momentum/*/logs/*.jsonl")) - before
        if new and sum(1 for path in new for _ in run_log.rows(path)) >= count:
            return
        time.sleep(0.002)


def wait_for_writing(start: Start, folder: Path) -> None:
    """Until a checkpoint is being written, or the start has ended."""
    while start.poll() is None:
        if list(folder.glob("bam_momentum/*/checkpoints/*.part")):
            return
        time.sleep(0.0005)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_nothing_is_lost(kind: str, zygote: Zygote, runs: Any, tmp_path: Path) -> None:
    """30 kills by SIGKILL, a third of them while a checkpoint is being written."""
    dice = random.Random(1)
    overrides = [*KINDS[kind], "max_epochs=16"]
    for number in range(KILLS):
        before = set(tmp_path.glob("bam_momentum/*/logs/*.jsonl"))
        for part in tmp_path.glob("bam_momentum/*/checkpoints/*.part"):
            part.rename(part.with_suffix(".part.part"))  # still to be cleaned up, but not taken for a new one
        start = pretrain(zygote, tmp_path, overrides)
        if number % 3 == 2:
            wait_for_writing(start, tmp_path)
        else:
            wait_for_rows(start, tmp_path, before, dice.randrange(0, 9))
            time.sleep(dice.random() * 0.03)
        code = start.kill()
        assert code == -signal.SIGKILL, (
            f"kill {number}: ended with {code} before it\n{start.output.read_text()[-2000:]}"
        )
    last = pretrain(zygote, tmp_path, overrides)
    assert last.wait() == 0, last.output.read_text()[-3000:]
    assert "Resuming" in last.output.read_text()
    run = finished(tmp_path)
    assert_same(run, runs(kind, 16))
    assert not list(run.checkpoints.glob("*.part"))


SLURM = {
    "SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "number", "environment", "group"),
    [
        ("one process", signal.SIGTERM, {}, False),
        ("one process", signal.SIGUSR1, SLURM, False),
        ("two loader workers", signal.SIGTERM, {}, True),
        ("two processes", signal.SIGTERM, {}, False),
        ("two processes", signal.SIGTERM, {}, True),
    ],
)
def test_a_signal_saves_and_stops(
    kind: str, number: int, environment: dict[str, str], group: bool, zygote: Zygote, runs: Any, tmp_path: Path
) -> None:
    """In mid-epoch; the run that goes on from there has the bits of an uninterrupted one."""
    overrides = [*KINDS[kind], "max_epochs=4"]
    in_mid_epoch = 0
    for rows in (2, 5, 6):
        before = set(tmp_path.glob("bam_momentum/*/logs/*.jsonl"))
        start = pretrain(zygote, tmp_path, overrides, **environment)
        wait_for_rows(start, tmp_path, before, rows)
        start.send(number, group)
        assert start.wait() == 128 + number, start.output.read_text()[-3000:]
        lines = start.output.read_text().splitlines()
        told = [line for line in lines if line.startswith("solo-bam: error")]
        assert len(told) == 1
        assert told[0].startswith(f"solo-bam: error: pretrain: stopped by {signal.Signals(number).name} at step ")
        assert told[0].endswith(".ckpt; continue with --resume")
        assert "Traceback" not in start.output.read_text()
        in_mid_epoch += "-step=" in told[0]
    assert in_mid_epoch
    last = pretrain(zygote, tmp_path, overrides, "--resume")
    assert last.wait() == 0, last.output.read_text()[-3000:]
    assert_same(finished(tmp_path), runs(kind, 4))
