"""Hours of misfortune: a training is killed, stopped, robbed of its disk and its images, and loses no bit.

    python -m benchmarks.soak [--hours 2] [--seed 0] [--epochs 30] [--out FILE.json]
    python -m benchmarks.soak --report FILE.json          # its table and figure, into docs/

Rounds of one and of two processes take turns until the hours are over. In a round two runs of one recipe and seed
train side by side: nothing happens to the *undisturbed* one; the *disturbed* one meets an event at a random moment
after each start and is started again with `auto_resume`, until it is finished. Then weights, optimizers, schedules,
counters, metrics and results are compared bit by bit. The events:

- kill: SIGKILL to all processes; kill one: to one of them, after which the others must end by themselves;
- signal: SIGTERM or SIGUSR1, to the first process or to all;
- full disk: the run's folder lies on a small tmpfs (which takes root), which is filled, but for some bytes, until the
  run has ended, and emptied;
- damaged image: a training image is emptied, cut off or overwritten until the run has ended (`data.on_error=stop`),
  and mended.

A start whose exit code or last line is not what docs/reliability.md promises is a surprise; the soak ends with 1 if
there was any, or a bit that differs. Resident memory and open files of all processes are noted all the time, also those
of a *long* run that lasts as long as the soak. The file is written after every event. Starts are forks of one warm
process, which spares each some seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image
from torch.utils._pytree import tree_flatten_with_path

from benchmarks.timing import machine
from solo_bam.core.files import written_whole
from solo_bam.runs.folder import RunFolder
from tests.recipes import TINY
from tests.zygote import Start, Zygote

KINDS = {"2": ["devices=2", "strategy=ddp", "optimizer.batch_size=8"], "1": []}  # processes
WEIGHTS = {"kill": 14, "kill one": 2, "signal": 3, "full disk": 2, "damaged image": 2}
SMALL = [
    "method_kwargs.proj_hidden_dim=32", "method_kwargs.proj_output_dim=16", "limit_val_batches=2", "data.fraction=-1",
    "data.dataset=custom", "log_every_n_steps=5", "auto_resume.enabled=True", "pictures=False",
]  # fmt: skip
DISK = 64  # MiB of the tmpfs; a checkpoint takes 5
DEADLINE = 120  # seconds in which a run must have ended after an event


@dataclass
class Soak:
    """What the rounds share.

    Args:
        hours: after which no round is started, and no event comes.
        seed: of events and rounds.
        epochs: of each run.
        gap: mean seconds between a start and its event.
        images: of each of ten classes.
        every: seconds between two looks at memory and files.
        out: where to.
        most: events of a round, in place of the hours.
    """

    hours: float
    seed: int
    epochs: int
    gap: float
    images: int
    every: float
    out: Path | None
    most: int | None = None
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="soak-")))
    result: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = time.time()
        self.dice = random.Random(self.seed)
        self.looked_at: dict[str, tuple[int, Start]] = {}
        about = {"hours asked": self.hours, "seed": self.seed, "epochs": self.epochs, "gap": self.gap}
        self.result |= {"machine": machine(), **about, "rounds": [], "events": [], "samples": []}

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.time() - self.began

    @property
    def calm(self) -> bool:
        """Whether no event comes any more."""
        if self.most is None:
            return self.seconds > 3600 * self.hours
        return sum(event["round"] == len(self.result["rounds"]) - 1 for event in self.result["events"]) >= self.most

    def write(self) -> None:
        """Keep what there is."""
        self.result["hours"] = round(self.seconds / 3600, 3)
        if self.out is not None:
            with written_whole(self.out) as part:
                part.write_text(json.dumps(self.result) + "\n")

    def watch(self, done: threading.Event) -> None:
        """Note memory and open files of what runs: [seconds, round, name, start, its age, MB, files, processes]."""
        while not done.wait(self.every):
            for name, (number, start) in list(self.looked_at.items()):
                with suppress(psutil.Error):
                    first = psutil.Process(start.pid)
                    processes = [first, *first.children(recursive=True)]
                    memory = sum(process.memory_info().rss for process in processes) / 1e6
                    files = sum(process.num_fds() for process in processes)
                    age = time.time() - first.create_time()
                    row = [self.seconds, len(self.result["rounds"]) - 1, name, number, age, memory, files]
                    row = [round(x, 1) if isinstance(x, float) else x for x in row]
                    if memory:  # else it has ended, and nobody has asked yet
                        self.result["samples"].append([*row, len(processes)])


def make_images(folder: Path, count: int) -> None:
    """Handwritten digits as PNG files, ``count`` of each for training and 4 for validation."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        for number, pixels in enumerate(digits.images[digits.target == label][: count + 4]):
            path = folder / ("train" if number < count else "val") / f"class_{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * 15.9).astype("uint8")).resize((32, 32)).save(path)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A tmpfs on a folder; False where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


# ------------------------------------------------------------------------------------------------ a round


class Round:
    """Two runs of one recipe.

    Args:
        soak: whose.
        zygote: that starts them.
        kind: of :data:`KINDS`.
        disk: folder of the disturbed run.
        disk_is_small: whether it can be filled.
    """

    def __init__(self, soak: Soak, zygote: Zygote, kind: str, disk: Path, disk_is_small: bool):
        self.soak, self.zygote, self.kind = soak, zygote, kind
        self.number = len(soak.result["rounds"])
        self.images = soak.folder / "images"
        self.folders = {"undisturbed": soak.folder / f"round_{self.number}", "disturbed": disk / f"round_{self.number}"}
        self.folders["long"] = soak.folder / "long"
        self.starts = Counter[str]()
        self.events: dict[str, Callable[[Start], dict[str, Any]]] = {
            "kill": self.kill, "kill one": self.kill_one, "signal": self.signal, "full disk": self.fill_disk,
            "damaged image": self.damage,
        }  # fmt: skip
        if not disk_is_small:
            del self.events["full disk"]

    def run(self) -> None:
        """Until both are finished; then compare."""
        soak = self.soak
        soak.result["rounds"].append({"processes": self.kind, "seed": soak.seed + self.number, "began": soak.seconds})
        alone = self.start("undisturbed")
        start = self.start("disturbed")
        while start.poll() != 0:
            if not self.outlives(start, soak.dice.expovariate(1 / soak.gap), soak.dice.random() < 0.4):
                if start.code != 0:
                    self.note("none", start, {"expected": [0]})
                    if len(surprises(soak.result)) > 20:
                        raise SystemExit("too many surprises")
            else:
                name = soak.dice.choices(list(self.events), [WEIGHTS[name] for name in self.events])[0]
                began = time.monotonic()
                self.note(name, start, self.events[name](start) | {"took": round(time.monotonic() - began, 2)})
            if start.code != 0:
                start = self.start("disturbed")
        while alone.wait(7200) != 0:  # the machine itself has stopped it
            shutil.rmtree(self.folders["undisturbed"])
            alone = self.start("undisturbed")
            if self.starts["undisturbed"] > 3:
                break
        row = soak.result["rounds"][-1]
        row |= {"ended": soak.seconds, "starts": self.starts["disturbed"], "different": self.compare(alone)}
        del soak.looked_at["undisturbed"], soak.looked_at["disturbed"]
        soak.write()

    def start(self, name: str, epochs: int | None = None) -> Start:
        """Begin or go on."""
        self.folders[name].mkdir(exist_ok=True)
        self.logs_before = len(self.logs())
        images = self.images if name == "disturbed" else self.soak.folder / "whole"
        arguments = [
            "pretrain", "--config-name", "digits/bam_momentum", *TINY, *SMALL, *KINDS[self.kind],
            f"data.train_path={images}/train", f"data.val_path={images}/val",
            f"max_epochs={epochs or self.soak.epochs}", f"seed={self.soak.seed + self.number}",
            f"checkpoint.dir={self.folders[name]}",
        ]  # fmt: skip
        output = self.soak.folder / f"{name}_{self.number}_{self.starts[name]}.txt"
        start = self.zygote.start(arguments, output, SLURM_JOB_ID="1")  # or SIGUSR1 is nothing special
        self.soak.looked_at[name] = self.starts[name], start
        self.starts[name] += 1
        return start

    def outlives(self, start: Start, seconds: float, at_once: bool) -> bool:
        """Whether a start still runs after seconds, counted from its beginning or from the first row that it logs."""
        end = time.monotonic() + seconds if at_once else None
        while start.poll() is None:
            if end is None and len(self.logs()) > self.logs_before:
                end = time.monotonic() + seconds
            if end is not None and time.monotonic() > end and not self.soak.calm:
                return True
            time.sleep(0.02)
        return False

    def logs(self) -> list[Path]:
        """Of the disturbed run's starts."""
        return list(self.folders["disturbed"].glob("*/*/logs/start_*.jsonl"))

    def note(self, name: str, start: Start, about: dict[str, Any]) -> None:
        """Put an event down, and what came of it; whoever is left of the run is killed."""
        left = False
        with suppress(ProcessLookupError):
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                os.killpg(start.pid, 0)
                time.sleep(0.05)
            left = True
            os.killpg(start.pid, signal.SIGKILL)
        text = start.output.read_text(errors="replace")
        last = (text.splitlines() or [""])[-1].replace(str(self.soak.folder), "")
        fine = start.code in about["expected"] and not left and "Traceback" not in text
        if start.code == 2:
            fine = fine and last.startswith("solo-bam: error: ")
        if start.code == 0:
            about["expected"], fine = "it was finished before", True
        row = {
            "seconds": self.soak.seconds,
            "round": self.number,
            "event": name,
            "code": start.code,
            "last": last[:300],
        }
        self.soak.result["events"].append({**row, **about, "fine": fine, "left": left})
        if fine:
            start.output.unlink()
        self.soak.write()

    # ------------------------------------------------------------------------------------------ events

    def kill(self, start: Start) -> dict[str, Any]:
        """All processes at once."""
        self.ended(start, lambda: _kill(start))
        return {"expected": [-signal.SIGKILL]}

    def kill_one(self, start: Start) -> dict[str, Any]:
        """Any of them; the first one's code is 2 if it was another, unless that had not begun to train yet."""
        with suppress(psutil.Error):
            first = psutil.Process(start.pid)
            self.soak.dice.choice([first, *first.children(recursive=True)]).kill()
        self.ended(start)
        return {"expected": [-signal.SIGKILL, 2]}

    def signal(self, start: Start) -> dict[str, Any]:
        """A signal that saves; before the first step it ends the process as usual."""
        number, group = self.soak.dice.choice([signal.SIGTERM, signal.SIGUSR1]), self.soak.dice.random() < 0.5
        for to_all in (group, False):  # where it has no group of its own yet, to it alone
            with suppress(ProcessLookupError):
                start.send(number, to_all)
                break
        self.ended(start)
        return {"signal": number.name, "expected": [128 + number, -number]}

    def fill_disk(self, start: Start) -> dict[str, Any]:
        """But for up to 8 MB; what the run itself frees is filled as well."""
        disk = self.folders["disturbed"].parent
        left = int(self.soak.dice.choice([0, 1e3, 1e5, 8e6]) * self.soak.dice.random())
        ballast = disk / "ballast"
        with ballast.open("wb") as out:
            self.ended(start, lambda: _fill(out.fileno(), disk, left))
        ballast.unlink()
        return {"bytes left": left, "expected": [2]}

    def damage(self, start: Start) -> dict[str, Any]:
        """A training image until the run has noticed."""
        path = self.soak.dice.choice(sorted(self.images.glob("train/*/*.png")))
        whole = path.read_bytes()
        cut = whole[: self.soak.dice.randrange(len(whole) - 100)]
        with path.open("r+b") as out:  # the same file, as a failing disk would have it
            out.write(self.soak.dice.choice([b"", self.soak.dice.randbytes(len(whole)), cut]))
            out.truncate()
        self.ended(start)
        path.write_bytes(whole)
        return {"expected": [2]}

    def ended(self, start: Start, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for it; what has not ended in time is killed, which is a surprise."""
        deadline = time.monotonic() + DEADLINE
        while start.poll() is None:
            meanwhile()
            if time.monotonic() > deadline:
                _kill(start)
            time.sleep(0.005)

    # --------------------------------------------------------------------------------------- comparison

    def compare(self, alone: Start) -> list[str]:
        """What differs between the runs."""
        if alone.code != 0:
            return [f"the undisturbed run ended with {alone.code}: {alone.output.read_text()[-300:]}"]
        folders = [self.folders[name] for name in ("undisturbed", "disturbed")]
        a, b = (finished(folder) for folder in folders)
        if a is None or b is None:
            return ["there is not one finished run each"]
        found = different(contents(a), contents(b))
        for folder in folders:
            shutil.rmtree(folder)
        return found


def _kill(start: Start) -> None:
    """All of its processes; the first alone where it has no group of its own yet."""
    with suppress(ProcessLookupError):
        os.kill(start.pid, signal.SIGKILL)
        os.killpg(start.pid, signal.SIGKILL)


def _fill(descriptor: int, disk: Path, left: int) -> None:
    state = os.statvfs(disk)
    room = state.f_bavail * state.f_bsize - left
    if room > 0:
        with suppress(OSError):  # the run was quicker
            os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, room)


def finished(folder: Path) -> RunFolder | None:
    """The one run below a folder that has come to its end."""
    found = [RunFolder(path.parent) for path in folder.glob("*/*/run.json")]
    done = [run for run in found if run.record().get("status") == "finished"]
    return done[0] if len(done) == 1 else None


def contents(run: RunFolder) -> dict[str, Any]:
    """What must not depend on what a run has met."""
    state = torch.load(run.last_checkpoint, weights_only=True)
    parts = {part: state[part] for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")}
    results = run.record()["results"]
    return {**parts, "metrics": run.metrics(), "csv": (run.path / "metrics.csv").read_bytes(), "results": results}


def different(a: Any, b: Any) -> list[str]:
    """Where two nested contents differ in a bit."""
    (ours, tree), (theirs, other) = tree_flatten_with_path(a), tree_flatten_with_path(b)
    if tree != other:
        return ["the structure"]
    return [
        "".join(str(key) for key in path)
        for (path, x), (_, y) in zip(ours, theirs)
        if not (torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y)
    ]


def surprises(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Events of which something else came than what is promised."""
    return [event for event in result["events"] if not event["fine"]]


def soak(about: Soak, zygote: Zygote) -> int:
    """All rounds; 1 where something was not as promised."""
    for name in ("images", "whole"):  # the disturbed runs have their own
        make_images(about.folder / name, about.images)
    done = threading.Event()
    watch = threading.Thread(target=about.watch, args=(done,), daemon=True)
    watch.start()
    longest = 0.0
    try:
        with small_disk(about.folder / "disk") as disk_is_small:
            about.result["disk is small"] = disk_is_small
            if about.most is None:
                Round(about, zygote, "1", about.folder / "disk", disk_is_small).start("long", epochs=1_000_000)
            for number in range(10**6):
                if number >= len(KINDS) and about.seconds + longest / 2 > 3600 * about.hours:
                    break
                began = about.seconds
                Round(about, zygote, [*KINDS][number % len(KINDS)], about.folder / "disk", disk_is_small).run()
                longest = max(longest, about.seconds - began)
                print(json.dumps(about.result["rounds"][-1]), flush=True)
    finally:
        for _, start in about.looked_at.values():
            _kill(start)
        done.set()
        watch.join()
        about.write()
    wrong = surprises(about.result) + [one for one in about.result["rounds"] if one["different"]]
    for one in wrong:
        print(json.dumps(one))
    if not wrong:
        shutil.rmtree(about.folder)
    return int(bool(wrong))


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30, help="of each run; rounds follow one another")
    parser.add_argument(
        "--gap", type=float, default=4.0, help="mean seconds from a start, or its first row, to its event"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--tiny", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="put a file's table and figure into docs/")
    options = parser.parse_args(arguments)
    if options.report is not None:
        from benchmarks.soak_report import report

        report(json.loads(options.report.read_text()), Path("docs"))
        return 0
    about = Soak(options.hours, options.seed, options.epochs, options.gap, images=10, every=5, out=options.out)
    if options.tiny:
        about = Soak(0, options.seed, epochs=2, gap=0.5, images=8, every=0.1, out=options.out, most=1)
    with Zygote() as zygote:
        return soak(about, zygote)


if __name__ == "__main__":
    raise SystemExit(main())
