"""A table of faults on two and three hosts: all ends in time, one line says where and why, nothing is lost but time.

``make test-nightly`` runs them and writes what it has measured into ``docs/results/faults.csv``.
"""

from __future__ import annotations

import csv
import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from solo_bam.runs.folder import RunFolder
from tests.cli.test_survival import FULL_DISK, SMALL, assert_same
from tests.cluster.hosts import Cluster, Launch, needs_hosts
from tests.cluster.test_hosts import differences
from tests.recipes import tiny_overrides
from tests.zygote import Zygote

pytestmark = needs_hosts()

TIMEOUT = 10  # distributed.timeout of runs that are to reach it, seconds
LONG = 60  # of the others
SPARE = 25  # seconds beyond it in which all has to have ended, torchrun too
EPOCHS = 3

# ------------------------------------------------------------------- what happens inside a training process

# ``first_time`` says so once, whatever the number of starts, and notes when.
NOTE = """
import os, signal, threading, time
from pathlib import Path
def first_time(path={noted!r}):
    try:
        with open(path, "x") as out:
            out.write(repr(time.clock_gettime(time.CLOCK_MONOTONIC)))
    except FileExistsError:
        return False
    return True
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""
# At a step of a rank; the others may be kept waiting, so that the fault finds the rank inside a collective.
AT_STEP = """
from solo_bam.methods.bam import BAM
from solo_bam.core.errors import UserError
ordinary = BAM.training_step
def training_step(self, batch, batch_idx):
    time.sleep({pace})
    loss = ordinary(self, batch, batch_idx)
    if self.trainer.global_step == 5 and rank == {rank} and first_time():
        {act}
    elif self.trainer.global_step == 5 and attempt == 0:
        time.sleep({others})
    return loss
BAM.training_step = training_step
"""
ON_HOOK = """
from solo_bam.train.callbacks import {owner}
ordinary_hook = {owner}.{hook}
def hook(self, trainer, *args):
    if trainer.current_epoch == 1 and rank == {rank} and first_time():
        die()
    return ordinary_hook(self, trainer, *args)
{owner}.{hook} = hook
"""
WHILE_WRITING = """
import io, torch
ordinary_save, saved = torch.save, []
def save(content, out):
    saved.append(1)
    if len(saved) == 2 and rank == 0 and first_time():
        whole = io.BytesIO()
        ordinary_save(content, whole)
        out.write(whole.getvalue()[:len(whole.getvalue()) // 2])
        out.flush()
        die()
    ordinary_save(content, out)
torch.save = save
"""
AT_START = "if rank == {rank} and first_time(): die()\n"


def at_step(rank: int, act: str, others: float = 0, pace: float = 0) -> str:
    return AT_STEP.format(rank=rank, act=act, others=others, pace=pace)


PACE = at_step(-1, "pass", pace=0.4)  # for faults from outside: slow enough to meet the training

# -------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Fault:
    """What happens, and what is to be seen of it.

    Attributes:
        name: for the table.
        hosts: how many.
        before: Python in every training process.
        act: a method of a host, its number and arguments, once an epoch is saved; nothing: the processes do it by themselves.
        told: that every line of ours matches; None: the run goes on undisturbed.
        limit: seconds from the fault until every process has ended, ``torchrun`` too.
        restarts: ``--max-restarts``: the run goes on by itself.
        processes: on each host.
        timeout: ``distributed.timeout``.
        clocks: seconds by which hosts are ahead.
    """

    name: str
    hosts: int
    before: str = ""
    act: tuple[Any, ...] = ()
    told: str | None = None
    limit: float = TIMEOUT + SPARE
    restarts: int = 0
    timeout: float = LONG
    clocks: tuple[int, ...] = ()


def gone(rank: int) -> str:
    name = f"process {rank} on host-{'abc'[rank]}"
    return rf"devices: (the launcher of )?{name} has ended or cannot be reached"


LATE = rf"is alive and did not come \(no answer within distributed.timeout={TIMEOUT} s\)"
USER_ERROR = 'raise UserError("data.train_path", "x.png cannot be read", "remove it")'


def kills() -> Iterator[Fault]:
    """SIGKILL of one process, by moment, process and number of hosts."""
    for hosts in (2, 3):
        for rank in (0, hosts - 1):
            what = f"process {rank} killed"
            soon: dict[str, Any] = {"hosts": hosts, "told": gone(rank), "limit": SPARE}
            yield Fault(f"{what} in forward", before=at_step(rank, "die()"), **soon)
            late = at_step(rank, "threading.Timer(0.5, die).start()", others=1.5)
            yield Fault(f"{what} in a collective", before=late, **soon)
            saving = (
                WHILE_WRITING
                if rank == 0
                else ON_HOOK.format(owner="CheckpointWriter", hook="on_save_checkpoint", rank=rank)
            )
            yield Fault(f"{what} while a checkpoint is saved", before=saving, **soon)
            validation = ON_HOOK.format(owner="NonFiniteLoss", hook="on_validation_start", rank=rank)
            yield Fault(f"{what} in validation", before=validation, **soon)
    yield Fault(
        "process 1 killed at its start",
        2,
        AT_START.format(rank=1),
        told="distributed.timeout: not all of 2 processes came",
        timeout=TIMEOUT,
    )
    for rank in (0, 1):
        yield Fault(
            f"process {rank} killed in forward, --max-restarts=2",
            2,
            at_step(rank, "die()"),
            told=gone(rank),
            restarts=2,
        )
    yield Fault(
        "process 2 killed in a collective, --max-restarts=2",
        3,
        at_step(2, "threading.Timer(0.5, die).start()", others=1.5),
        told=gone(2),
        restarts=2,
    )


def others() -> Iterator[Fault]:
    """Failures of one process that is not killed."""
    for rank in (0, 1):
        where = rf"\(process {rank} on host-{'ab'[rank]}\)"
        yield Fault(
            f"a file that process {rank} cannot read",
            2,
            at_step(rank, USER_ERROR),
            told=rf"x.png cannot be read {where}; remove it",
            limit=SPARE,
        )
        yield Fault(
            f"a bug on process {rank}",
            2,
            at_step(rank, "raise KeyError('bug')"),
            told=rf"solo-bam: KeyError\('bug'\) {where}; see its traceback",
            limit=SPARE,
        )
    yield Fault(
        "a loss that is not finite on process 1",
        3,
        at_step(1, "loss = loss * float('nan')"),
        told="the loss became .* on process 1 on host-b at step 5",
        limit=SPARE,
    )
    for hosts in (2, 3):
        yield Fault(
            f"process {hosts - 1} hangs",
            hosts,
            at_step(hosts - 1, "time.sleep(600)"),
            told=rf"process {hosts - 1} on host-{'abc'[hosts - 1]} {LATE}",
            timeout=TIMEOUT,
        )
    yield Fault(
        "process 0 hangs", 2, at_step(0, "time.sleep(600)"), told=rf"process 0 on host-a {LATE}", timeout=TIMEOUT
    )
    yield Fault(
        "process 1 is stopped (SIGSTOP)",
        2,
        at_step(1, "os.kill(os.getpid(), signal.SIGSTOP)"),
        told=gone(1),
        limit=TIMEOUT + 45,
        timeout=TIMEOUT,
    )


def outside() -> Iterator[Fault]:
    """Hosts and networks."""
    for hosts in (2, 3):
        for number in (0, hosts - 1):
            yield Fault(f"host {number} lost", hosts, PACE, ("kill", number), gone(number), limit=SPARE)
    late = rf"has ended or cannot be reached \(no answer within distributed.timeout={TIMEOUT} s\)"
    for number in (0, 1):
        yield Fault(f"host {number}'s network cut for 1 s", 2, PACE, ("cut_for", number, 1))
        yield Fault(f"host {number}'s network cut for 10 s", 2, PACE, ("cut_for", number, 10))
        yield Fault(
            f"host {number}'s network cut for 100 s", 2, PACE, ("cut", number), late, limit=100, timeout=TIMEOUT
        )
    yield Fault("host 2's network cut for 100 s", 3, PACE, ("cut", 2), late, limit=100, timeout=TIMEOUT)
    yield Fault("host 1 loses 5 % of its packets", 2, PACE, ("lose", 1, 0.05))
    yield Fault("host 1 at 1 Mbit/s", 2, PACE, ("throttle", 1, "1mbit"))
    slow = at_step(-1, "pass", pace=0.5).replace("\n", "\n  ")
    yield Fault("host 1 half a second late at each step", 2, f"if rank == 1:{slow}")
    yield Fault("clocks 10 s apart", 2, clocks=(0, 10))
    yield Fault("clocks 1 h apart", 3, clocks=(0, 0, 3600))


FAULTS = [*kills(), *others(), *outside()]
COLUMNS = ["fault", "hosts", "seconds until all had ended", "first line", "checkpoints left", "resumed equal"]


def write_row(*row: object) -> None:
    """Write down what was measured, in place of an earlier measurement, where the environment names a file."""
    print(*row, sep=" | ")
    path = os.environ.get("FAULTS_TABLE")
    if not path:
        return
    order = [(fault.name, str(fault.hosts)) for fault in FAULTS]
    with open(path, "a+", newline="", encoding="utf-8") as table:
        fcntl.flock(table, fcntl.LOCK_EX)
        table.seek(0)
        rows = {(each[0], each[1]): each for each in [*csv.reader(table)][1:]}
        rows[str(row[0]), str(row[1])] = [str(cell) for cell in row]
        table.truncate(0)
        out = csv.writer(table, lineterminator="\n")
        out.writerow(COLUMNS)
        out.writerows(
            rows[key] for key in sorted(rows, key=lambda key: (order.index(key) if key in order else len(order), key))
        )


def command(folder: Path, hosts: int, timeout: float = LONG) -> list[str]:
    more = [
        f"num_nodes={hosts}",
        "optimizer.batch_size=8",
        f"max_epochs={EPOCHS}",
        f"distributed.timeout={timeout}",
        "pictures=False",
        f"precision={64 if hosts > 2 else 32}",
    ]
    return ["pretrain", "--config-name", "digits/bam_momentum", *tiny_overrides(folder, *SMALL, *more)]


@pytest.fixture(scope="module")
def undisturbed(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], RunFolder]:
    """Runs that nothing happened to, by number of hosts."""
    done: dict[int, RunFolder] = {}

    def whole(hosts: int) -> RunFolder:
        if hosts not in done:
            folder = tmp_path_factory.mktemp("whole")
            with Cluster(hosts, zygote, folder) as cluster:
                launch = cluster.torchrun(command(folder, hosts))
                assert set(launch.wait(240).values()) == {0}, launch.text()[-5000:]
            done[hosts] = finished(folder)
        return done[hosts]

    return whole


def finished(folder: Path) -> RunFolder:
    (run,) = [RunFolder(path.parent) for path in folder.glob("bam_momentum/*/run.json")]
    assert run.status == "finished"
    return run


def how_equal(run: RunFolder, whole: RunFolder, hosts: int) -> str:
    """Bit by bit on two hosts. On three, in float64, but for rounding: sums of three depend on their order, which is
    another in the first step after a start, before torch's DDP has put the gradients into the order of their arrival."""
    if hosts == 2:
        assert_same(run, whole)
        return "bit by bit"
    found = differences(run, whole)
    assert max(found) < 1e-6, found
    return f"weights to {found[0]:.0e}"


def wait_for_checkpoint(launch: Launch, folder: Path) -> None:
    """Until the first epoch is saved."""
    end = time.monotonic() + 120
    while not list(folder.glob("bam_momentum/*/checkpoints/epoch=0.ckpt")):
        assert time.monotonic() < end, launch.text()[-3000:]
        time.sleep(0.05)


def check(fault: Fault, zygote: Zygote, whole: RunFolder, folder: Path) -> None:
    """One fault: how it ends, what it leaves, and whether the run that goes on is the undisturbed one."""
    noted = folder / "noted"
    before = NOTE.format(noted=str(noted)) + fault.before
    clocks = {f"host-{'abc'[n]}": seconds for n, seconds in enumerate(fault.clocks)}
    with Cluster(fault.hosts, zygote, folder) as cluster:
        launch = cluster.torchrun(
            command(folder, fault.hosts, fault.timeout), before=before, restarts=fault.restarts, clocks=clocks
        )
        at = time.monotonic()
        if fault.act:
            method, number, *arguments = fault.act
            wait_for_checkpoint(launch, folder)
            at = time.monotonic()
            getattr(cluster.hosts[number], method)(*arguments)
        cut = fault.act[:1] == ("cut",)
        if cut:  # the torchrun of the host that is cut off waits for its store until the network is back
            launch.wait_for_training(fault.limit + 120)
            seconds = time.monotonic() - at
            time.sleep(max(0.0, 100 - seconds))
            cluster.hosts[fault.act[1]].join()
        codes = launch.wait(fault.limit + 120)
        if noted.exists():
            at = float(noted.read_text())
        if not cut:
            seconds = time.monotonic() - at
        left = sorted(path.name for path in folder.glob("bam_momentum/*/checkpoints/epoch=*.ckpt"))
        for path in folder.glob("bam_momentum/*/checkpoints/epoch=*.ckpt"):
            torch.load(path, weights_only=True)
        goes_on = fault.told is None or bool(fault.restarts)
        errors = launch.errors()
        if fault.restarts:  # torchrun may end the others, to start them anew, before they have told
            assert errors or re.search(r"failed \(exitcode: -9\)", launch.text()), launch.text()[-5000:]
        elif fault.told is not None:
            assert errors, launch.text()[-5000:]
        if fault.told is not None:
            assert all(re.search(fault.told, line) for line in errors), errors
            # Without the first host's store each tells by itself.
            one = len({*errors}) == 1 or (fault.restarts and not errors)
            assert one or "cut" in fault.name or " 0 " in fault.name, errors
        if goes_on:
            assert set(codes.values()) == {0}, launch.text()[-5000:]
        else:
            assert seconds < fault.limit, (seconds, launch.text()[-5000:])
            assert 0 not in codes.values(), launch.text()[-5000:]
            again = cluster.torchrun(command(folder, fault.hosts))
            assert set(again.wait(240).values()) == {0}, again.text()[-5000:]
    equal = how_equal(finished(folder), whole, fault.hosts)
    told = errors[0].removeprefix("solo-bam: error: ") if errors else "none of ours: it goes on"
    ended = "" if goes_on else f"{seconds:.1f}"
    write_row(fault.name, fault.hosts, ended, told.replace(str(folder), ""), " ".join(left), equal)


@pytest.mark.nightly
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.name}, {fault.hosts} hosts")
def test_nothing_is_lost_but_time(
    fault: Fault, zygote: Zygote, undisturbed: Callable[[int], RunFolder], tmp_path: Path
) -> None:
    check(fault, zygote, undisturbed(fault.hosts), tmp_path)


def test_a_killed_process_ends_all_and_the_run_goes_on(
    zygote: Zygote, undisturbed: Callable[[int], RunFolder], tmp_path: Path
) -> None:
    """The quick one of these."""
    fault = Fault("process 1 killed", 2, at_step(1, "die()"), told=gone(1), restarts=1)
    check(fault, zygote, undisturbed(2), tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_torchrun_saves_on_all(
    rank: int, zygote: Zygote, undisturbed: Callable[[int], RunFolder], tmp_path: Path
) -> None:
    before = NOTE.format(noted=str(tmp_path / "noted")) + PACE
    with Cluster(2, zygote, tmp_path) as cluster:
        launch = cluster.torchrun(command(tmp_path, 2), before=before)
        wait_for_checkpoint(launch, tmp_path)
        begun = time.monotonic()
        launch.starts[cluster.hosts[rank]].send(signal.SIGTERM)
        codes = launch.wait(240)
        seconds = time.monotonic() - begun
        assert 0 not in codes.values()
        assert "solo-bam: stopped by" in launch.errors()[0], launch.text()[-5000:]
        (run,) = [RunFolder(path.parent) for path in tmp_path.glob("bam_momentum/*/run.json")]
        left = [path.name for path in run.saved()]
        again = cluster.torchrun(command(tmp_path, 2))
        assert set(again.wait(240).values()) == {0}, again.text()[-5000:]
    how_equal(finished(tmp_path), undisturbed(2), 2)
    name = f"SIGTERM to the torchrun of host {rank}"
    told = launch.errors()[0].removeprefix("solo-bam: error: ").replace(str(tmp_path), "")
    write_row(name, 2, f"{seconds:.1f}", told, " ".join(left), "yes")


@pytest.mark.nightly
@pytest.mark.parametrize("hosts", [2, 3])
def test_a_full_disk(hosts: int, zygote: Zygote, undisturbed: Callable[[int], RunFolder], tmp_path: Path) -> None:
    """Of the host that saves; on the others nothing is written."""
    full = f"if rank == 0 and attempt == 0:\n  if first_time(): exec({FULL_DISK!r}, globals())\n"
    fault = Fault(
        "the disk of the first process full",
        hosts,
        full,
        told="checkpoint.dir: .*cannot be written .No space left on device. .process 0 on host-a.; make room",
        limit=60,
    )
    check(fault, zygote, undisturbed(hosts), tmp_path)


@pytest.mark.nightly
def test_a_full_disk_on_another_host(zygote: Zygote, undisturbed: Callable[[int], RunFolder], tmp_path: Path) -> None:
    """Where nothing is saved: it is no reason to stop."""
    disk = tmp_path / "disk"
    disk.mkdir()
    fill = f"import os, tempfile\nif rank == 1:\n  os.environ['TMPDIR'] = tempfile.tempdir = {str(disk)!r}\n  open({str(disk / 'full')!r}, 'wb').write(bytes(60000))\n"
    with Cluster(2, zygote, tmp_path) as cluster:
        launch = cluster.torchrun(command(tmp_path, 2), before=fill, disks={"host-b": {str(disk): "64k"}})
        assert set(launch.wait(240).values()) == {0}, launch.text()[-5000:]
    assert not list(disk.iterdir())
    how_equal(finished(tmp_path), undisturbed(2), 2)
    write_row("another host's own disk full", 2, "", "none of ours: it goes on", "", "yes")


def test_hosts_are_taken_away_again(tmp_path: Path, zygote: Zygote) -> None:
    """No namespace is left, and none reaches the machine's own network."""
    with Cluster(2, zygote, tmp_path) as cluster:
        names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert all(host.namespace in names for host in cluster.hosts)
        routes = subprocess.run(
            ["ip", "-n", cluster.hosts[0].namespace, "route"], capture_output=True, text=True, check=True
        ).stdout
        assert "default" not in routes
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(host.namespace in names for host in cluster.hosts)
