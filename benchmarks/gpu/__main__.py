"""Everything worth running on a borrowed GPU, in order of value.

    python -m benchmarks.gpu [--device cuda] [--tiny] [--budget 540] [--data CIFAR10_JPEG] [--only STEP …] [--out DIR]

Each step runs in a process of its own with a time limit, forked from this one, which has imported everything and left
the GPU alone. ``DIR/gpu.json`` and ``DIR/gpu.md`` are written again after
every value, so that a stop at any moment keeps what was measured; ``--only`` keeps the other steps' results that are
there, if they are of the same device and torch, and tells the environment again. ``DIR/trace.json`` opens in Perfetto.
``--device cpu --tiny`` runs all of it in a few minutes. ``docs/gpu.md`` says how to bring it onto a bare machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.steps import STEPS, Where
from solo_bam.core.files import written_whole


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
    """Run the plan, or some of its steps."""
    options = _parser().parse_args(arguments)
    where = Where(options.device, options.tiny, options.data and options.data.absolute(), options.out.absolute())
    where.out.mkdir(parents=True, exist_ok=True)
    return _run_all(options, where)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--budget", type=float, default=540, help="seconds for all steps together")
    parser.add_argument("--data", type=Path, help="folder with train/<class>/*.jpg and test/<class>/*.jpg of CIFAR-10")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in PLAN], help="these steps alone")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "benchmarks/results/gpu")))
    return parser


def _run_all(options: argparse.Namespace, where: Where) -> int:
    begun, known = time.perf_counter(), where.out / "gpu.json"
    earlier = json.loads(known.read_text()) if known.exists() else {}
    results: dict[str, Any] = dict(earlier) if options.only else {}
    if earlier and not options.only:  # another device's, or an earlier code's: measured numbers are never lost
        _set_aside(known, earlier)
    # Whatever is asked for: results of several devices must not end up under one name.
    asked = [step for step in PLAN if not options.only or step.name in (*options.only, "environment")]
    for step in asked:
        left = options.budget - (time.perf_counter() - begun)
        result = results[step.name] = {}
        if left < step.expected / 2 and not where.tiny:
            result["skipped"] = f"{left:.0f} s were left"
        else:
            limit = step.limit if where.device == "cuda" else 5 * step.limit
            _run(step, where, min(limit, max(left, 1)), result, partial(_write, where.out, results))
        if step.name == "environment" and options.only and _elsewhere(earlier.get("environment", {}), result):
            _set_aside(known, earlier)
            results = {"environment": result}
        _write(where.out, results)
        print(f"{step.name}: {json.dumps(result)[:600]}", flush=True)
    return 1 if any("failed" in results[step.name] for step in asked) else 0


def _elsewhere(earlier: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether an earlier run had another device or another torch."""
    return any(earlier.get(key, now.get(key)) != now.get(key) for key in ("device", "torch"))


def _set_aside(known: Path, earlier: dict[str, Any]) -> None:
    """Keep the results of an earlier run under another name."""
    aside = known.with_name(f"gpu-{time.strftime('%Y%m%d-%H%M%S', time.localtime(known.stat().st_mtime))}.json")
    aside.write_text(json.dumps(earlier, indent=1) + "\n")
    known.unlink()


def _run(step: Step, where: Where, limit: float, result: dict[str, Any], keep: Callable[[], None]) -> None:
    """A step in a process of its own: adds each value to ``result`` and keeps it as it comes, then how it ended."""
    start = time.perf_counter()
    with tempfile.NamedTemporaryFile("r") as said:
        context: Any = multiprocessing.get_context(_start_method(where.device))
        values, out = context.Pipe(duplex=False)
        process = context.Process(target=_in_a_process, args=(step.name, where, out, said.name))
        process.start()
        out.close()
        late = threading.Timer(limit, _end, [process])
        late.start()
        try:
            with suppress(EOFError):
                for found in iter(values.recv, None):
                    result |= found
                    keep()
            process.join()
        finally:
            late.cancel()
            late.join()
            _end(process)
        seconds = time.perf_counter() - start
        if process.exitcode:
            result["failed"] = process.exitcode if seconds < limit else f"not done after {limit:.0f} s"
            result["said"] = said.read()[-3000:]
    result["seconds"] = round(seconds, 1)


def _start_method(device: str) -> str:
    """A fork, which spares the imports, unless one of them has asked the GPU's driver something: no fork can use it."""
    if device == "cpu":
        return "fork"
    probe = multiprocessing.get_context("fork").Process(target=lambda: os._exit(torch.cuda._is_in_bad_fork()))
    probe.start()
    probe.join()
    return "spawn" if probe.exitcode else "fork"


def _in_a_process(name: str, where: Where, out: Connection, said: str) -> None:
    os.setsid()
    file = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
    code: Any = 1
    try:
        for key, value in STEPS[name](where):
            out.send({key: value})
        code = 0
    except SystemExit as error:
        code = error.code
    except Exception:
        traceback.print_exc()
    out.send(None)
    os._exit(code)  # multiprocessing would wait for what the step has left behind; the group is ended instead


def _end(process: BaseProcess) -> None:
    """With all that it has started: a training left behind would hold the GPU."""
    assert process.pid
    process.kill()  # it may not lead its group yet
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
