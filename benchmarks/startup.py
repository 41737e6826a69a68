"""How long a fresh process takes until it is of use: ``solo-bam --help``, and the first training step of the demo.

    python -m benchmarks.startup [--tiny] [--repeats 5] [--out FILE.json]

Wall time and processor time of each start, from the process's start to its end; the demo is ended after its first
step. *imports* only imports what the demo does. Starts take turns.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import machine, markdown, write

_FIRST_STEP = """
import os, sys
import lightning.pytorch as pl
from solo_bam.train import run

class Stop(pl.Callback):
    def on_train_batch_end(self, *_):
        os._exit(0)

callbacks = run._callbacks
run._callbacks = lambda *arguments: callbacks(*arguments) + [Stop()]
from solo_bam.cli import main
main(["demo", *sys.argv[1:]])
os._exit(1)
"""
STARTS = {
    "solo-bam --help": ["-m", "solo_bam", "--help"],
    "imports of the demo": ["-c", "import solo_bam.train.demo"],
    "first step of the demo": ["-c", _FIRST_STEP],
}
GOALS = {"solo-bam --help": 1.0, "first step of the demo": 15.0}


def start(name: str, overrides: list[str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor, of one start."""
    with tempfile.TemporaryDirectory() as folder:
        more = [f"checkpoint.dir={folder}", *overrides] if "step" in name else []
        used, begin = _processor(), time.perf_counter()
        subprocess.run([sys.executable, *STARTS[name], *more], check=True, capture_output=True)
        return time.perf_counter() - begin, _processor() - used


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(name: str, found: list[tuple[float, float]]) -> dict[str, str]:
    """One line of the table."""
    wall, processor = zip(*found)
    goal = f"{GOALS[name]:g}" if name in GOALS else ""
    return {"start": name, "wall, s": _told(wall), "processor, s": _told(processor), "goal, s": goal}


def _told(seconds: tuple[float, ...]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="the help only, to see that it runs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the demo's recipe")
    options = parser.parse_args()
    names = list(STARTS)[:1] if options.tiny else list(STARTS)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for round_number in range(options.repeats + 1):  # the first warms the disk's cache
        for name in names:
            once = start(name, options.overrides)
            if round_number:
                found[name].append(once)
    print(markdown([row(name, times) for name, times in found.items()]))
    write(options.out, {"machine": machine(), "seconds": found})


if __name__ == "__main__":
    main()
