"""Everything worth running on a borrowed GPU, in order of value.

    python -m benchmarks.gpu [--device cuda] [--tiny] [--budget 540] [--data CIFAR10_JPEG] [--only STEP …] [--out DIR]

Each step runs in a process of its own with a time limit. ``DIR/gpu.json`` and ``DIR/gpu.md`` are written again after
every step, so that a stop at any moment keeps what was measured; ``DIR/trace.json`` opens in Perfetto. ``--device cpu
--tiny`` runs all of it in a few minutes. ``docs/gpu.md`` says how to bring it onto a bare machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.steps import STEPS, Where

_RESULT = "RESULT "


class Step(NamedTuple):
    """A step: how long it should take on a GPU, and after how many seconds it is ended."""

    name: str
    expected: float
    limit: float


PLAN = (
    Step("environment", 10, 60),
    Step("tests", 60, 180),
    Step("loss", 40, 90),
    Step("loader", 20, 60),
    Step("step", 50, 100),
    Step("waits", 20, 60),
    Step("profile", 20, 60),
    Step("fit", 45, 120),
    Step("knn", 15, 60),
    Step("compile", 90, 180),
    Step("speedrun", 120, 400),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the plan, or one of its steps here."""
    options = _parser().parse_args(arguments)
    where = Where(options.device, options.tiny, options.data and options.data.absolute(), options.out.absolute())
    where.out.mkdir(parents=True, exist_ok=True)
    if options.step:
        print("\n" + _RESULT + json.dumps(STEPS[options.step](where)), flush=True)
        return 0
    return _run_all(options, where)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--budget", type=float, default=540, help="seconds for all steps together")
    parser.add_argument("--data", type=Path, help="folder with train/<class>/*.jpg and test/<class>/*.jpg of CIFAR-10")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in PLAN], help="these steps alone")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "benchmarks/results/gpu")))
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    return parser


def _run_all(options: argparse.Namespace, where: Where) -> int:
    begun, results = time.perf_counter(), {}
    for step in PLAN:
        left = options.budget - (time.perf_counter() - begun)
        if options.only and step.name not in options.only:
            continue
        if left < step.expected / 2 and not where.tiny:
            results[step.name] = {"skipped": f"{left:.0f} s were left"}
        else:
            results[step.name] = _run(step, where, min(step.limit, max(left, 1)))
        _write(where.out, results)
        print(f"{step.name}: {json.dumps(results[step.name])[:600]}", flush=True)
    return 1 if any("failed" in result for result in results.values()) else 0


def _run(step: Step, where: Where, limit: float) -> dict[str, Any]:
    """A step in a process of its own: what it measured, or how it ended."""
    words = [sys.executable, "-m", "benchmarks.gpu", "--step", step.name, "--device", where.device]
    words += ["--out", str(where.out), *(["--tiny"] if where.tiny else [])]
    words += [] if where.data is None else ["--data", str(where.data)]
    start = time.perf_counter()
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit)
        lines = [line for line in done.stdout.splitlines() if line.startswith(_RESULT)]
        said = {"failed": done.returncode, "said": (done.stdout + done.stderr)[-3000:]}
        result: dict[str, Any] = json.loads(lines[-1].removeprefix(_RESULT)) if lines else said
    except subprocess.TimeoutExpired as error:
        result = {"failed": f"not done after {limit:.0f} s", "said": str(error.stdout)[-1500:]}
    return {**result, "seconds": round(time.perf_counter() - start, 1)}


def _write(out: Path, results: dict[str, Any]) -> None:
    (out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = []
    for name, result in results.items():
        lines += [f"## {name}", "", "| measured | value |", "|---|---|"]
        lines += [f"| {key} | {_told(value)} |" for key, value in result.items() if key != "said"] + [""]
    (out / "gpu.md").write_text("\n".join(lines))


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_told(part)}" for key, part in value.items())
    if isinstance(value, list):
        return " ".join(map(_told, value[:8]))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
