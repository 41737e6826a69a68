"""How long a call takes, and each part of a training step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.timing import synchronise
from solo_bam.train.doctor.work import LOSS, NETWORK, OPTIMIZER


def clocked(call: Callable[[], Any], device: str, repeats: int, warm_up: int = 2) -> dict[str, float]:
    """Milliseconds of a call: alone (median), back to back, and of the host alone while the device runs behind."""
    for _ in range(warm_up):
        call()
    alone = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        alone.append(1e3 * (time.perf_counter() - start))
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    host = 1e3 * (time.perf_counter() - start) / repeats
    synchronise(device)
    pipelined = 1e3 * (time.perf_counter() - start) / repeats
    return {"median_ms": statistics.median(alone), "host_ms": host, "pipelined_ms": pipelined}


class PartClock:
    """Milliseconds of each part of a step: the device is waited for where a part ends."""

    def __init__(self, device: str) -> None:
        self.device, self.milliseconds = device, dict.fromkeys((NETWORK, LOSS, OPTIMIZER), 0.0)
        self._part, self._since = LOSS, 0.0

    @property
    def part(self) -> str:
        """That runs now."""
        return self._part

    @part.setter
    def part(self, name: str) -> None:
        synchronise(self.device)
        now = time.perf_counter()
        self.milliseconds[self._part] += 1e3 * (now - self._since) if self._since else 0.0
        self._part, self._since = name, now
