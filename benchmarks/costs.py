"""The cost of a training step over processes: a model, its constants fitted here, and what it says of many GPUs.

    python -m benchmarks.scaling --links [--repeats 5] --out FILE.json      # measure, fit, check (Linux, root)
    python -m benchmarks.scaling --gpus                                     # tell

A step of one process has collectives, each a ring of the W processes: of n bytes in all, a gather or a reduce-scatter
sends (W-1)/W n in W-1 messages, an all-reduce twice both. They are: the processes' batch sizes (8 W bytes), the
columns (4 C D), C column sums for each Sinkhorn iteration (4 C), without a teacher the columns' gradient (a
reduce-scatter, which gloo does by an all-reduce), and the network's gradients (4 P). Beside them stands the loss's
arithmetic. The seconds are

    GFLOP * a + entries of the similarities * b + c                                       the loss's arithmetic
    messages * d + bytes / (link's rate * e) + bytes * f, which processes share cores for  the collectives

Arithmetic is measured in processor time, which other work on the machine does not change much; collectives, by
themselves and without the arithmetic, by the clock of the slowest process.
"""

from __future__ import annotations

import json
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
PARTS = ("loss", "columns", "network")  # arithmetic, the loss's collectives, the gradients'
CONSTANTS = {
    "loss": ("s per GFLOP", "s per million similarities", "s per loss"),
    "collectives": ("s per message", "link's share", "s per MB"),
}


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


FITTED = [(240, 64, 250_000), (528, 256, 500_000), (1008, 128, 1_000_000), (1008, 512, 2_000_000)]
UNSEEN = [(384, 128, 400_000), (768, 384, 1_500_000), (1536, 256, 3_000_000)]
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
    """What the constants of a part are multiplied with, for a step without a teacher."""
    W = step.W
    if part == "loss":
        entries = V * step.B / W * T * step.B
        products = (3 + (SINKHORN if entries > _CPU_KEPT_ENTRIES else 0)) * 2 * entries * step.D
        return [products / 1e9, entries / 1e6, 1.0]
    found = [of_network(step.P)] if part == "network" else of_loss(step.B, step.D, teacher=False, gloo=True)
    sent = sum(one.sent(W) for one in found) / 1e6
    return [sum(one.messages(W) for one in found), 8 * sent / rate if rate else 0.0, sent * max(1.0, W / cores)]


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
            with links.network(W) as (*spaces, _):
                links.run(spaces, "benchmarks.scaling", arguments, timeout=1800)
        return json.loads(out.read_text())


def member(plan: Path, out: Path) -> None:
    """One of the processes of :func:`measure`."""
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    told, W = json.loads(plan.read_text()), collectives.world_size()
    steps = [Step(B, W, D, P) for B, D, P in told["sizes"] if B % W == 0]
    calls = {(step, part): _call(step, part) for step in steps for part in (PARTS if W > 1 else PARTS[:1])}
    seconds: dict[Any, list[float]] = {}
    sent: dict[Any, int] = {}
    for number in range(told["repeats"] + 1):
        for rate in told["rates"]:
            if W > 1:
                links.set_rate(rate)
            for (step, part), call in calls.items():
                if part == "loss" and rate != told["rates"][-1]:
                    continue
                took, bytes_ = _timed(call, W, time.process_time if part == "loss" else time.perf_counter)
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


def _timed(call: Callable[[], Any], W: int, clock: Callable[[], float]) -> tuple[float, int]:
    if W > 1:
        dist.barrier()
    before, start = links.sent() if W > 1 else 0, clock()
    call()
    return clock() - start, links.sent() - before if W > 1 else 0


def _call(step: Step, part: str) -> Callable[[], Any]:
    if part == "network":
        gradients = torch.zeros(step.P)
        return lambda: collectives.all_sum(gradients)
    if part == "columns":
        columns, sums = torch.randn(T * step.B // step.W, step.D).requires_grad_(), torch.zeros(T * step.B)

        def exchange() -> None:
            for _ in range(SINKHORN):
                collectives.all_sum(sums)
            torch.autograd.backward(collectives.gather(columns).sum())

        return exchange
    loss_fn = BAMLoss(num_crops=V, num_large_crops=V, num_sink_iter=SINKHORN)
    z = torch.randn(V * step.B // step.W, step.D).requires_grad_()
    return lambda: torch.autograd.backward(loss_fn(z))


# ------------------------------------------------------------------------------------------------- the fit


Constants = dict[str, list[float]]


def _kind(one: dict[str, Any]) -> str:
    return "loss" if one["part"] == "loss" else "collectives"


def fit(rows: Sequence[dict[str, Any]], cores: int) -> Constants:
    """Of arithmetic and collectives: constants, none negative, of the smallest relative errors of the medians."""
    found = {}
    for kind in CONSTANTS:
        some = [one for one in rows if _kind(one) == kind]
        if some:
            times = np.array([statistics.median(one["seconds"]) for one in some])
            counts = np.array([_row_of(one, cores) for one in some]) / times[:, None]
            found[kind] = [float(x) for x in nnls(counts, np.ones(len(some)))[0]]
    return found


def _row_of(one: dict[str, Any], cores: int) -> list[float]:
    return row(Step(*(one[key] for key in "BWDP")), one["part"], one["rate"], cores)


def predicted(one: dict[str, Any], constants: Constants, cores: int) -> float:
    """Seconds by the model."""
    return float(np.dot(_row_of(one, cores), constants[_kind(one)]))


def told_constants(constants: Constants) -> dict[str, float]:
    """By name; the link's share as a share."""
    found = {name: x for kind, values in constants.items() for name, x in zip(CONSTANTS[kind], values)}
    if found.get("link's share"):
        found["link's share"] = 1 / found["link's share"]
    return found


def errors(rows: Sequence[dict[str, Any]], constants: Constants, cores: int) -> dict[str, float]:
    """Of predicted over measured: median, and the 10th and 90th percent of them."""
    ratios = [predicted(one, constants, cores) / statistics.median(one["seconds"]) for one in rows]
    off = [abs(ratio - 1) for ratio in ratios]
    low, high = map(float, np.quantile(ratios, [0.1, 0.9]))
    return {"rows": len(rows), "median error": statistics.median(off), "largest": max(off), "low": low, "high": high}


def bytes_error(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of what the interfaces have sent, packets' heads and repetitions included, over what the model counts."""
    ratios = []
    for one in (one for one in rows if one["part"] != "loss" and one["W"] > 1):
        share = max(1.0, one["W"] / 2)
        ratios.append(one["sent"] / 1e6 / (_row_of(one, 2)[2] / share))
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)} if ratios else {}


def links_main(repeats: int, out: Path | None, tiny: bool) -> None:
    """Measure, fit, check, print, write."""
    cores = os.cpu_count() or 1
    measured: list[dict[str, Any]] = []
    for W in (1,) if tiny else (1, 2, 3, 4):
        sizes, rates = (TINY, [None]) if tiny else ([*FITTED, *UNSEEN], [UNSEEN_RATE, *RATES])
        measured += measure(sizes, rates, W, repeats)
        result = {"machine": machine(), "load": os.getloadavg(), **checked(measured, cores, tiny), "measured": measured}
        write(out, result)
        print(f"{W} process(es) measured", flush=True)
    print(json.dumps({key: value for key, value in result.items() if key != "measured"}, indent=1))


def checked(measured: Sequence[dict[str, Any]], cores: int, tiny: bool = False) -> dict[str, Any]:
    """Constants, and errors on what they were fitted to and on other sizes, rates and three processes."""
    sizes = [tuple(one[key] for key in "BDP") for one in measured]
    known = [size in (TINY if tiny else FITTED) for size in sizes]
    fitted = [o for o, size in zip(measured, known) if size and o["rate"] != UNSEEN_RATE and o["W"] != 3]
    unseen = [o for o, size in zip(measured, known) if not size]
    constants = fit(fitted, cores)
    found: dict[str, Any] = {"constants": told_constants(constants), "bytes sent over counted": bytes_error(measured)}
    for name, rows in (("fitted", fitted), ("unseen", unseen)):
        for part in PARTS:
            if some := [one for one in rows if one["part"] == part and _kind(one) in constants]:
                found[f"{name}, {part}"] = errors(some, constants, cores)
                slow = [one for one in some if one["rate"]]
                if slow:
                    found[f"{name}, {part}, rates that are set"] = errors(slow, constants, cores)
    return found
