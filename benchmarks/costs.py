"""The cost of a training step over processes: a model, its constants fitted here, and what it says of many GPUs.

    python -m benchmarks.scaling --links [--repeats 5] --out FILE.json      # measure, fit, check (Linux, root)
    python -m benchmarks.scaling --gpus                                     # tell

A step of one process has collectives, each a ring of the W processes: of n bytes in all, a gather or a reduce-scatter
sends (W-1)/W n in W-1 messages, an all-reduce twice both. They are: the processes' batch sizes (8 W bytes), the
columns (4 C D), C column sums for each Sinkhorn iteration (4 C), without a teacher the columns' gradient (a
reduce-scatter, which gloo does by an all-reduce), and the network's gradients (4 P). Beside them stands the loss's
arithmetic. The seconds are

    products / FLOP rate + entries of the similarities * a + messages * latency
        + bytes / (link's rate * share of it that is reached) + bytes * b

with a, b of the processor, which as many processes share as there are more of than cores.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scipy.optimize import nnls

from benchmarks import links
from benchmarks.timing import machine, write
from solo_bam.core import collectives
from solo_bam.losses import BAMLoss
from solo_bam.losses._kernel import _CPU_KEPT_ENTRIES

V = T = 2
SINKHORN = 3
RATES: list[float | None] = [50, 200, None]  # megabits per second
UNSEEN_RATE = 100.0
CONSTANTS = (
    "s per GFLOP", "s per million similarities", "s per message", "link's share", "s per MB", "s per loss"
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """Global batch, processes, dimensions and parameters of a network."""

    B: int
    W: int
    D: int
    P: int


@dataclass(frozen=True)
class Collective:
    """One of a step: ``bytes`` of the whole result, which ``rounds`` rings bring about."""

    what: str
    bytes: float
    rounds: int = 1

    def sent(self, W: int) -> float:
        """By one process."""
        return self.rounds * (W - 1) / W * self.bytes

    def messages(self, W: int) -> int:
        """One after the other."""
        return self.rounds * (W - 1)


FITTED = [(240, 64, 250_000), (528, 256, 1_000_000), (1008, 128, 2_000_000), (1008, 512, 4_000_000)]
UNSEEN = [(384, 128, 500_000), (768, 384, 3_000_000), (1536, 256, 6_000_000)]
TINY = [(16, 8, 1000)]


def of_loss(B: int, D: int, teacher: bool, gloo: bool, V: int = V, T: int = T) -> list[Collective]:
    """The collectives of the loss, forward and backward."""
    columns = T * B
    found = [Collective("columns", 4 * columns * D), Collective("column sums", 4 * columns, 2 * SINKHORN)]
    if not teacher:
        found.append(Collective("columns' gradient", 4 * columns * D, 2 if gloo else 1))
    return found


def of_network(P: int) -> Collective:
    """Its gradients' all-reduce, in float32."""
    return Collective("gradients", 4 * P, 2)


def row(step: Step, part: str, rate: float | None, cores: int) -> list[float]:
    """What the constants are multiplied with: of the loss or the network's gradients of a step without a teacher."""
    W, entries = step.W, V * step.B / step.W * T * step.B
    sharing = max(1.0, W / cores)
    found = [of_network(step.P)] if part == "network" else of_loss(step.B, step.D, teacher=False, gloo=True)
    sizes = W - 1 if part == "loss" else 0
    sent = sum(one.sent(W) for one in found) / 1e6
    messages = sum(one.messages(W) for one in found) + sizes
    products = (3 + (SINKHORN if entries > _CPU_KEPT_ENTRIES else 0)) * 2 * entries * step.D / 1e9
    arithmetic = [products, entries / 1e6] if part == "loss" else [0.0, 0.0]
    link = 8 * sent / rate if rate else 0.0
    return [*(x * sharing for x in arithmetic), messages, link, sent * sharing, float(part == "loss") * sharing]


# --------------------------------------------------------------------------------------------- measurement


def measure(sizes: Sequence[tuple[int, int, int]], rates: Sequence[float | None], W: int, repeats: int) -> Any:
    """Rows of seconds: every size at every rate, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        plan, out = Path(folder, "plan.json"), Path(folder, "out.json")
        plan.write_text(json.dumps({"sizes": sizes, "rates": rates if W > 1 else [None], "repeats": repeats}))
        arguments = ["--member", str(plan), "--out", str(out)]
        if W == 1:
            member(plan, out)
        else:
            with links.network(W) as spaces:
                links.run(spaces, "benchmarks.scaling", arguments, timeout=1800)
        return json.loads(out.read_text())


def member(plan: Path, out: Path) -> None:
    """One of the processes of :func:`measure`."""
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    told, W = json.loads(plan.read_text()), collectives.world_size()
    steps = [Step(B, W, D, P) for B, D, P in told["sizes"] if B % W == 0]
    calls = {(step, part): _call(step, part) for step in steps for part in ("loss", "network")[:W]}
    seconds: dict[Any, list[float]] = {}
    sent: dict[Any, int] = {}
    for number in range(told["repeats"] + 1):
        for rate in told["rates"]:
            if W > 1:
                links.set_rate(rate)
            for (step, part), call in calls.items():
                took, bytes_ = _timed(call, W)
                if number:
                    seconds.setdefault((rate, step, part), []).append(took)
                    sent[rate, step, part] = bytes_
    everyones = collectives.gather_objects(list(seconds.values()))
    slowest = [[max(one) for one in zip(*each)] for each in zip(*everyones)]
    if collectives.rank() == 0:
        keys = [{"rate": rate, "part": part, **asdict(step)} for rate, step, part in seconds]
        out.write_text(json.dumps([{**k, "seconds": s, "sent": sent[q]} for k, s, q in zip(keys, slowest, seconds)]))
    if W > 1:
        links.set_rate(None)
        dist.barrier()
        dist.destroy_process_group()


def _timed(call: Callable[[], Any], W: int) -> tuple[float, int]:
    if W == 1:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start, 0
    dist.barrier()
    before, start = links.sent(), time.perf_counter()
    call()
    return time.perf_counter() - start, links.sent() - before


def _call(step: Step, part: str) -> Callable[[], Any]:
    if part == "network":
        gradients = torch.zeros(step.P)
        return lambda: collectives.all_sum(gradients)
    loss_fn = BAMLoss(num_crops=V, num_large_crops=V, num_sink_iter=SINKHORN)
    z = torch.randn(V * step.B // step.W, step.D).requires_grad_()
    return lambda: torch.autograd.backward(loss_fn(z))


# ------------------------------------------------------------------------------------------------- the fit


def fit(rows: Sequence[dict[str, Any]], cores: int) -> np.ndarray[Any, Any]:
    """Constants, none negative, of the smallest relative errors of the medians."""
    counts = np.array([_row_of(one, cores) for one in rows])
    times = np.array([statistics.median(one["seconds"]) for one in rows])
    return nnls(counts / times[:, None], np.ones(len(rows)))[0]


def _row_of(one: dict[str, Any], cores: int) -> list[float]:
    return row(Step(*(one[key] for key in "BWDP")), one["part"], one["rate"], cores)


def predicted(one: dict[str, Any], constants: np.ndarray[Any, Any], cores: int) -> float:
    """Seconds by the model."""
    return float(np.dot(_row_of(one, cores), constants))


def told_constants(constants: np.ndarray[Any, Any]) -> dict[str, float]:
    """By name; the link's share as a share."""
    found = dict(zip(CONSTANTS, map(float, constants)))
    found["link's share"] = 1 / found["link's share"] if found["link's share"] else math.nan
    return found


def errors(rows: Sequence[dict[str, Any]], constants: np.ndarray[Any, Any], cores: int) -> dict[str, float]:
    """Of predicted over measured: median, and the 10th and 90th percent of them."""
    ratios = [predicted(one, constants, cores) / statistics.median(one["seconds"]) for one in rows]
    off = [abs(ratio - 1) for ratio in ratios]
    low, high = np.quantile(ratios, [0.1, 0.9])
    return {"rows": len(rows), "median error": statistics.median(off), "largest": max(off), "low": low, "high": high}


def links_main(repeats: int, out: Path | None, tiny: bool) -> None:
    """Measure, fit, check, print, write."""
    cores = os.cpu_count() or 1
    measured = []
    for W in (1,) if tiny else (1, 2, 3, 4):
        sizes, rates = (TINY, [None]) if tiny else ([*FITTED, *UNSEEN], [*RATES, UNSEEN_RATE])
        measured += measure(sizes, rates, W, repeats)
        write(out, {"machine": machine(), "measured": measured})
        print(f"{W} processes measured", flush=True)
    sizes = [tuple(one[key] for key in "BDP") for one in measured]
    seen = [size in (TINY if tiny else FITTED) and one["rate"] != UNSEEN_RATE for size, one in zip(sizes, measured)]
    fitted = [one for one, known in zip(measured, seen) if known and one["W"] != 3]
    unseen = [one for one, size in zip(measured, sizes) if size in UNSEEN]
    constants = fit(fitted, cores)
    result: dict[str, Any] = {"constants": told_constants(constants), "fitted": errors(fitted, constants, cores)}
    if unseen:
        result["unseen"] = errors(unseen, constants, cores)
        result["unseen, by processes"] = {
            W: errors([one for one in unseen if one["W"] == W], constants, cores) for W in (1, 2, 3, 4)
        }
    print(json.dumps(result, indent=1))
    write(out, {"machine": machine(), **result, "measured": measured})
