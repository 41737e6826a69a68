"""Times and memory of functions, side by side in one run."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def side_by_side(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every call, the functions in turn (A B C A B C …) after one warm-up each.

    Args:
        functions: by name.
        repeats: counted calls of each.
        device: synchronised around each call.
        clock: ``time.process_time`` on a machine that others use, with one thread.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(repeats + 1):
        for name, function in functions.items():
            synchronise(device)
            start = clock()
            function()
            synchronise(device)
            if round_number:
                seconds[name].append(clock() - start)
    return seconds


def synchronise(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def highest_resident() -> int:
    """The process's peak in bytes (getrusage's would count the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_highest() -> None:
    """Let :func:`highest_resident` begin anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def ratio(slower: Sequence[float], faster: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of the round-by-round ratios."""
    ratios = [a / b for a, b in zip(slower, faster)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def told(found: Mapping[str, float]) -> str:
    """``2.31 (2.20–2.40)``."""
    return f"{found['median']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def machine(device: str = "cpu") -> dict[str, Any]:
    """What ran, for the result's file."""
    name = torch.cuda.get_device_name() if device == "cuda" else _cpu()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def write(path: Path | None, result: Mapping[str, Any]) -> None:
    """Keep a result as JSON, where asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; the first row's keys are the head."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(row[name]) for name in head) + " |" for row in rows])
