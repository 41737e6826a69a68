"""Killed, stopped, out of disk, one process lost: nothing is lost but time, and what is said is one line."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.soak import contents, different
from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.runs.folder import RunFolder, log
from solo_bam.train.callbacks.saving import steps_between_votes
from solo_bam.train.resume import newest_readable
from tests.recipes import tiny_overrides
from tests.zygote import Start, Zygote

KILLS = int(os.environ.get("KILLS", "8"))  # of a run; 30 are a minute more
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
NIGHTLY = {"two loader workers": pytest.mark.nightly}


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
    assert not different(contents(run), contents(whole))


def wait_for_rows(start: Start, folder: Path, before: set[Path], count: int) -> None:
    """Until this start has logged some rows, or has ended."""
    while start.poll() is None:
        new = set(folder.glob("bam_momentum/*/logs/*.jsonl")) - before
        if new and sum(1 for path in new for _ in log.rows(path)) >= count:
            return
        time.sleep(0.002)


# Run in the process that is to be killed; it kills its whole group by itself, so no moment is missed.
AT_A_ROW = """
import os, threading
from solo_bam.train.logger import LineLogger
ordinary, left = LineLogger.log_metrics, [{rows}]
def log_metrics(self, *args, **kwargs):
    ordinary(self, *args, **kwargs)
    left[0] -= 1
    if left[0] == 0:
        threading.Timer({seconds}, lambda: os.killpg(0, 9)).start()
LineLogger.log_metrics = log_metrics
"""
WHILE_WRITING = """
import io, os, torch
ordinary = torch.save
def save(content, out):
    whole = io.BytesIO()
    ordinary(content, whole)
    out.write(whole.getvalue()[:int({share} * len(whole.getvalue()))])
    out.flush()
    os.killpg(0, 9)
torch.save = save
"""
ON_CALL = """
import os
from solo_bam.runs.folder import RunFolder
RunFolder.{name} = lambda *_: os.killpg(0, 9)
"""


def moments(seed: int) -> list[str]:
    """Of 30 kills, 20 at any time from a row of the log on, 6 in the middle of a checkpoint, 4 between its steps."""
    dice = random.Random(seed)
    found = [AT_A_ROW.format(rows=dice.randrange(1, 16), seconds=dice.random() * 0.03) for _ in range(20)]
    found += [WHILE_WRITING.format(share=dice.random()) for _ in range(6)]
    found += [ON_CALL.format(name=name) for name in ("link_last", "remove_older") * 2]
    dice.shuffle(found)
    return found


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=NIGHTLY.get(kind, ())) for kind in KINDS])
def test_killed_at_any_moment_nothing_is_lost(kind: str, zygote: Zygote, runs: Any, tmp_path: Path) -> None:
    """By SIGKILL, a third of them while a checkpoint is being written, linked or cleaned up after."""
    overrides = [*KINDS[kind], "max_epochs=16"]
    for number, moment in enumerate(moments(seed=1)[:KILLS]):
        start = pretrain(zygote, tmp_path, overrides, before=moment)
        code = start.wait()
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
    ("kind", "number", "environment", "group", "frequency"),
    [
        ("one process", signal.SIGTERM, {}, False, 1),
        pytest.param("one process", signal.SIGTERM, {}, False, 20, marks=pytest.mark.nightly),
        ("one process", signal.SIGINT, {}, True, 20),
        pytest.param("one process", signal.SIGUSR1, SLURM, False, 1, marks=pytest.mark.nightly),
        pytest.param("two loader workers", signal.SIGTERM, {}, True, 1, marks=pytest.mark.nightly),
        ("two loader workers", signal.SIGUSR1, SLURM, True, 1),
        pytest.param("two processes", signal.SIGTERM, {}, False, 1, marks=pytest.mark.nightly),
        ("two processes", signal.SIGTERM, {}, True, 20),
    ],
)
def test_a_signal_saves_and_stops(
    kind: str, number: int, environment: dict[str, str], group: bool, frequency: int, zygote: Zygote, runs: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    """In mid-epoch; the run that goes on from there has the bits of an uninterrupted one, however seldom it is saved."""
    overrides = [*KINDS[kind], "max_epochs=4", f"checkpoint.frequency={frequency}"]
    in_mid_epoch, begun = 0, time.monotonic()
    for rows in (2, 5):
        before = set(tmp_path.glob("bam_momentum/*/logs/*.jsonl"))
        start = pretrain(zygote, tmp_path, overrides, **environment)
        wait_for_rows(start, tmp_path, before, rows)
        start.send(number, group)
        assert start.wait() == 128 + number, start.output.read_text()[-3000:]
        lines = start.output.read_text().splitlines()
        told = [line for line in lines if line.startswith("solo-bam: error")]
        assert len(told) == 1
        assert told[0].startswith(f"solo-bam: error: solo-bam: stopped by {signal.Signals(number).name} at step ")
        assert told[0].endswith(".ckpt; continue with --resume")
        assert "Traceback" not in start.output.read_text()
        in_mid_epoch += "-step=" in told[0]
    assert in_mid_epoch
    last = pretrain(zygote, tmp_path, overrides, "--resume")
    assert last.wait() == 0, last.output.read_text()[-3000:]
    assert_same(finished(tmp_path), runs(kind, 4))
    assert all(one["seconds"] < time.monotonic() - begun for one in finished(tmp_path).costs())


# ------------------------------------------------------------------------------------ broken checkpoints


def test_a_truncated_checkpoint_is_noticed_and_the_one_before_is_used(
    zygote: Zygote, runs: Any, tmp_path: Path
) -> None:
    overrides = ["max_epochs=4"]
    killed = pretrain(zygote, tmp_path, overrides, before=AT_A_ROW.format(rows=36, seconds=0))
    assert killed.wait() == -signal.SIGKILL
    (run,) = [RunFolder(path.parent) for path in tmp_path.glob("bam_momentum/*/run.json")]
    newest, earlier = run.saved()
    with newest.open("r+b") as file:
        file.truncate(newest.stat().st_size // 2)
    last = pretrain(zygote, tmp_path, overrides)
    assert last.wait() == 0
    told = last.output.read_text()
    assert f"{newest} cannot be read safely" in told
    assert f"continuing from the one before, {earlier}" in told
    assert_same(run, runs("one process", 4))
    assert newest.with_name(f"{newest.name}.broken").exists()


@pytest.mark.parametrize("left", [0, 1, 500, -1])
def test_truncation_is_noticed_wherever_it_is(left: int, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    for name in ("epoch=8", "epoch=9", "epoch=9-step=41", "epoch=10-step=45"):
        torch.save(
            {"solo_bam": {"method": "bam", "recipe": {}}, "state_dict": {}, "optimizer_states": [torch.zeros(500)]},
            run.checkpoints / f"{name}.ckpt",
        )
    assert [path.stem for path in run.saved()] == ["epoch=10-step=45", "epoch=9", "epoch=9-step=41", "epoch=8"]
    newest, before = run.saved()[:2]
    whole = newest.read_bytes()
    newest.write_bytes(whole[:left])
    with pytest.warns(UserWarning, match="epoch=10-step=45.ckpt cannot be read safely.*before, .*epoch=9.ckpt"):
        assert newest_readable(run, "bam", "--resume")[0] == before
    for path in run.saved():
        path.write_bytes(whole[:left])
    with pytest.raises(UserError, match="^--resume: none of its checkpoints can be read"):
        newest_readable(run, "bam", "--resume")


FULL_DISK = """
import errno, os, torch
ordinary, saved = torch.save, []
class Full:
    def __init__(self, out):
        self.out, self.left = out, 20000
    def write(self, data):
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.out.write(data)
    def flush(self):
        self.out.flush()
def save(content, out):
    saved.append(1)
    ordinary(content, Full(out) if len(saved) == 3 else out)
torch.save = save
"""


@pytest.mark.parametrize("kind", ["one process", "two processes"])
def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(
    kind: str, zygote: Zygote, runs: Any, tmp_path: Path
) -> None:
    overrides = [*KINDS[kind], "max_epochs=4"]
    start = pretrain(zygote, tmp_path, overrides, before=FULL_DISK)
    assert start.wait() == 2
    told = one_line(start)
    assert "checkpoint.dir: " in told
    assert "epoch=2.ckpt cannot be written (No space left on device); make room, then continue with --resume" in told
    (run,) = [RunFolder(path.parent) for path in tmp_path.glob("bam_momentum/*/run.json")]
    assert [path.name for path in run.saved()] == ["epoch=1.ckpt", "epoch=0.ckpt"]
    assert run.last_checkpoint.resolve().name == "epoch=1.ckpt"
    assert not list(run.checkpoints.glob("*.part"))
    last = pretrain(zygote, tmp_path, overrides, "--resume")
    assert last.wait() == 0, last.output.read_text()[-3000:]
    assert_same(run, runs(kind, 4))


FULL_ELSEWHERE = {
    "a row of the log": """
import errno, os
from solo_bam.train.logger import LineLogger
ordinary, rows = LineLogger.log_metrics, []
def log_metrics(self, *args, **kwargs):
    rows.append(1)
    if len(rows) == 15:
        with self._path.open("a") as out:
            out.write('{"bam_l')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    ordinary(self, *args, **kwargs)
LineLogger.log_metrics = log_metrics
""",
    "the recipe, and what tells of the end": """
import errno, os
from omegaconf import OmegaConf
from solo_bam.runs.folder import RunFolder
def save(config, path):
    open(path, "w").write("method: ba")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
OmegaConf.save = save
""",
}


@pytest.mark.parametrize("what", FULL_ELSEWHERE)
def test_a_disk_that_is_full_for_anything_is_one_line(what: str, zygote: Zygote, runs: Any, tmp_path: Path) -> None:
    """The run keeps its recipe, by which it is found again, and whatever of the logs is whole."""
    overrides = ["max_epochs=4"]
    killed = pretrain(zygote, tmp_path, overrides, before=AT_A_ROW.format(rows=12, seconds=0))
    assert killed.wait() == -signal.SIGKILL
    start = pretrain(zygote, tmp_path, overrides, before=FULL_ELSEWHERE[what])
    assert start.wait() == 2, start.output.read_text()[-3000:]
    assert "checkpoint.dir: [Errno 28] No space left on device; make room, then continue" in one_line(start)
    assert not list(tmp_path.glob("bam_momentum/*/*.part"))
    last = pretrain(zygote, tmp_path, overrides, "--resume")
    assert last.wait() == 0, last.output.read_text()[-3000:]
    assert_same(finished(tmp_path), runs("one process", 4))


# --------------------------------------------------------------------------------------- another recipe


def test_a_changed_recipe_is_not_continued(zygote: Zygote, tmp_path: Path) -> None:
    killed = pretrain(zygote, tmp_path, ["max_epochs=4"], before=AT_A_ROW.format(rows=16, seconds=0))
    assert killed.wait() == -signal.SIGKILL
    (run,) = [RunFolder(path.parent) for path in tmp_path.glob("bam_momentum/*/run.json")]
    changed = ["max_epochs=4", "seed=6", "optimizer.lr=0.5"]
    start = pretrain(zygote, tmp_path, changed, "--resume")
    assert start.wait() == 2
    listed = "optimizer.lr 0.001 -> 0.5, seed 5 -> 6"
    assert f"{run.path.name} differs in {listed}; start without --resume" in one_line(start)
    checkpoint = f"resume_from_checkpoint='{run.saved()[0]}'"
    start = pretrain(zygote, tmp_path, [*changed, checkpoint])
    assert start.wait() == 2
    assert f"resume_from_checkpoint: the recipe has changed: {listed}; change it back" in one_line(start)
    start = pretrain(zygote, tmp_path, ["max_epochs=4", checkpoint, *KINDS["two processes"][:1]])
    assert start.wait() == 2
    assert "resume_from_checkpoint: the recipe has changed: devices auto -> 2; change it back" in one_line(start)
    assert len(list(tmp_path.glob("bam_momentum/*"))) == 1
    start = pretrain(zygote, tmp_path, ["max_epochs=1", "seed=6"])
    assert start.wait() == 0
    assert f"auto_resume: a new run is started; {run.path.name} differs in" in start.output.read_text()
    start = pretrain(zygote, tmp_path, ["max_epochs=4", "data.num_workers=1", "checkpoint.frequency=3"], "--resume")
    assert start.wait() == 0, start.output.read_text()
    assert run.record()["status"] == "finished"


# ------------------------------------------------------------------------------ one of several processes

ON_PROCESS = """
import os
from solo_bam.core.errors import UserError
from solo_bam.methods.bam import BAM
ordinary = BAM.training_step
def training_step(self, batch, batch_idx):
    loss = ordinary(self, batch, batch_idx)
    if os.environ.get("LOCAL_RANK") == "{rank}" and self.trainer.global_step == 5:
        {act}
    return loss
BAM.training_step = training_step
"""
USER_ERROR = 'raise UserError("data.train_path", "x.png cannot be read", "remove it")'
FAILURES = {
    "NaN on process 1": (1, "loss = loss * float('nan')", r"optimizer.lr: the loss became nan or infinite on process 1 at step 5 \(epoch 1\)"),
    "NaN on process 0": (0, "loss = loss * float('nan')", r"optimizer.lr: the loss became nan on process 0 at step 5 \(epoch 1\)"),
    "an error on process 1": (1, USER_ERROR, r"data.train_path: x.png cannot be read \(process 1\); remove it"),
    "an error on process 0": (0, USER_ERROR, r"data.train_path: x.png cannot be read; remove it"),
    "process 1 killed": (1, "os.kill(os.getpid(), 9)", r"devices: process 1 ended with code -9; see what it said"),
}  # fmt: skip


# Losses are read, and processes ask each other, as on accelerators: not at each step.
LATER = "from solo_bam.core import hardware\nhardware.reading_waits = lambda device: True\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_loss_that_is_read_later_ends_all_with_one_line(rank: int, zygote: Zygote, tmp_path: Path) -> None:
    before = LATER + ON_PROCESS.format(rank=rank, act="loss = loss * float('nan')")
    start = pretrain(zygote, tmp_path, [*KINDS["two processes"], "max_epochs=4"], before=before)
    assert start.wait(60) == 2, start.output.read_text()[-3000:]
    assert re.search(rf"the loss became .* on process {rank} at step 5 \(epoch 1\)", one_line(start))
    (run,) = [RunFolder(path.parent) for path in tmp_path.glob("bam_momentum/*/run.json")]
    state = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())


def test_processes_that_do_not_ask_at_every_step_stop_together(zygote: Zygote, tmp_path: Path) -> None:
    start = pretrain(zygote, tmp_path, [*KINDS["two processes"], "max_epochs=1000"], before=LATER)
    wait_for_rows(start, tmp_path, set(), 60)
    told = time.monotonic()
    start.send(signal.SIGTERM, group=True)
    assert start.wait(60) == 128 + signal.SIGTERM, start.output.read_text()[-3000:]
    assert time.monotonic() - told < 20  # steps and the machine are slow, two seconds are the aim
    assert "stopped by SIGTERM at step" in one_line(start)


def test_votes_are_about_two_seconds_apart() -> None:
    seconds_per_step, every, votes = 0.1, 1, []
    for _ in range(8):
        every = steps_between_votes(every, every * seconds_per_step)
        votes.append(every)
    assert votes == [2, 4, 8, 16, 20, 20, 20, 20]
    assert steps_between_votes(20, 20 * 3.0) == 1  # steps have become slow
    assert steps_between_votes(40, 0.0) == hardware.READ_EVERY


@pytest.mark.parametrize("name", FAILURES)
def test_one_process_that_fails_ends_all_with_one_line(name: str, zygote: Zygote, tmp_path: Path) -> None:
    rank, act, message = FAILURES[name]
    before = ON_PROCESS.format(rank=rank, act=act)
    start = pretrain(zygote, tmp_path, [*KINDS["two processes"], "max_epochs=4"], before=before)
    assert start.wait(60) == 2, start.output.read_text()[-3000:]
    assert re.search(message, one_line(start))
    with pytest.raises(ProcessLookupError):
        start.send(0, group=True)  # nobody is left
    (run,) = [RunFolder(path.parent) for path in tmp_path.glob("bam_momentum/*/run.json")]
    assert run.record()["status"] == "stopped"
    assert not list(run.path.glob("failure_*"))
    state = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())


def one_line(start: Start) -> str:
    """The only error that was printed, the last line; no traceback, nor a word of the process group's."""
    text = start.output.read_text()
    assert "Traceback" not in text, text
    assert "Gloo" not in text, text
    told = [line for line in text.splitlines() if line.startswith("solo-bam: error: ")]
    assert told == text.splitlines()[-1:], text
    return told[0]


# ----------------------------------------------------------------------------------------- determinism


def test_the_seed_decides_and_the_number_of_loader_workers_does_not(zygote: Zygote, runs: Any, tmp_path: Path) -> None:
    """The logged metrics of every step and epoch, to the last bit."""
    whole = runs("one process", 4)
    logs = {}
    for name, overrides in {
        "again": [],
        "1 worker": ["data.num_workers=1"],
        "2 workers": ["data.num_workers=2"],
        "seed": ["seed=6"],
    }.items():
        (tmp_path / name).mkdir()
        start = pretrain(zygote, tmp_path / name, [*overrides, "max_epochs=4"])
        assert start.wait() == 0, start.output.read_text()[-3000:]
        logs[name] = finished(tmp_path / name)
    for name in ("again", "1 worker", "2 workers"):
        assert_same(logs[name], whole)
    losses = [
        [row["bam_loss_step"] for row in run.metrics() if "bam_loss_step" in row] for run in (logs["seed"], whole)
    ]
    assert all(a != b for a, b in zip(*losses))


# ------------------------------------------------------------------------------------------- long runs

MEASURE = """
import json, os
from lightning.pytorch import Callback
from solo_bam.train import run
class Measure(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step in (60, 240):
            pages = int(open("/proc/self/statm").read().split()[1])
            with open({path!r}, "a") as out:
                out.write(json.dumps([pages, len(os.listdir("/proc/self/fd"))]) + chr(10))
ordinary = run._callbacks
run._callbacks = lambda *args: [*ordinary(*args), Measure()]
"""


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_neither_memory_nor_open_files_grow(zygote: Zygote, tmp_path: Path) -> None:
    """Step 240 against step 60: loss, teacher, online k-NN, loggers, checkpoints at every epoch."""
    path = tmp_path / "measured"
    overrides = ["data.fraction=0.25", "max_epochs=11"]  # 22 steps an epoch
    start = pretrain(zygote, tmp_path, overrides, before=MEASURE.format(path=str(path)))
    assert start.wait(300) == 0, start.output.read_text()[-3000:]
    (early, files), (late, files_late) = (json.loads(line) for line in path.read_text().splitlines())
    assert late < 1.02 * early
    assert files_late <= files
