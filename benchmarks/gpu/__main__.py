"""Everything worth running on a borrowed GPU, in order of value.

    python -m benchmarks.gpu [--device cuda] [--tiny] [--budget 540] [--data CIFAR10_JPEG] [--only STEP …] [--out DIR]

Each step runs in a process of its own with a time limit. ``DIR/gpu.json`` and ``DIR/gpu.md`` are written again after
every value, so that a stop at any moment keeps what was measured; ``--only`` keeps the other steps' results that are
there. ``DIR/trace.json`` opens in Perfetto. ``--device cpu --tiny`` runs all of it in a few minutes. ``docs/gpu.md``
says how to bring it onto a bare machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.steps import STEPS, Where
from solo_bam.core.files import written_whole

_RESULT = "RESULT "


class Step(NamedTuple):
    """A step: how long it should take on a GPU, and after how many seconds it is ended."""

    name: str
    expected: float
    limit: float


PLAN = (
    Step("environment", 10, 120),
    Step("tests", 60, 180),
    Step("loss", 40, 90),
    Step("loader", 20, 60),
    Step("step", 80, 180),
    Step("waits", 20, 60),
    Step("profile", 20, 60),
    Step("fit", 45, 120),
    Step("knn", 20, 60),
    Step("speedrun", 120, 400),
    Step("compile", 90, 400),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the plan, or one of its steps here."""
    options = _parser().parse_args(arguments)
    where = Where(options.device, options.tiny, options.data and options.data.absolute(), options.out.absolute())
    where.out.mkdir(parents=True, exist_ok=True)
    if options.step:
        for name, value in STEPS[options.step](where):
            print("\n" + _RESULT + json.dumps({name: value}), flush=True)
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
    begun, known = time.perf_counter(), where.out / "gpu.json"
    results: dict[str, Any] = json.loads(known.read_text()) if options.only and known.exists() else {}
    asked = [step for step in PLAN if not options.only or step.name in options.only]
    for step in asked:
        left = options.budget - (time.perf_counter() - begun)
        result = results[step.name] = {}
        if left < step.expected / 2 and not where.tiny:
            result["skipped"] = f"{left:.0f} s were left"
        else:
            limit = step.limit if where.device == "cuda" else 5 * step.limit
            _run(step, where, min(limit, max(left, 1)), result, lambda: _write(where.out, results))
        _write(where.out, results)
        print(f"{step.name}: {json.dumps(result)[:600]}", flush=True)
    return 1 if any("failed" in results[step.name] for step in asked) else 0


def _run(step: Step, where: Where, limit: float, result: dict[str, Any], keep: Callable[[], None]) -> None:
    """A step in a process of its own: adds each value to ``result`` and keeps it as it comes, then how it ended."""
    words = [sys.executable, "-m", "benchmarks.gpu", "--step", step.name, "--device", where.device]
    words += ["--out", str(where.out), *(["--tiny"] if where.tiny else [])]
    words += [] if where.data is None else ["--data", str(where.data)]
    start, said = time.perf_counter(), []
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        late = threading.Timer(limit, _end, [process])
        late.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(_RESULT):
                    result |= json.loads(line.removeprefix(_RESULT))
                    keep()
                else:
                    said.append(line)
            code = process.wait()
        finally:
            late.cancel()
            _end(process)
        errors.seek(0)
        if code:
            seconds = time.perf_counter() - start
            result["failed"] = code if seconds < limit else f"not done after {limit:.0f} s"
            result["said"] = ("".join(said) + errors.read())[-3000:]
    result["seconds"] = round(time.perf_counter() - start, 1)


def _end(process: subprocess.Popen[str]) -> None:
    """With all that it has started: a training left behind would hold the GPU."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _write(out: Path, results: dict[str, Any]) -> None:
    with written_whole(out / "gpu.json") as part:
        part.write_text(json.dumps(results, indent=1) + "\n")
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the step that runs, too
    sys.exit(main())
