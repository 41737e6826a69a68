"""What a step and an evaluation cost as the global batch and the processes grow: measured, and by a stated model.

    python -m benchmarks.scaling [--tiny] [--repeats 3] [--out FILE.json]
    python -m benchmarks.scaling --links | --gpus      # a step's cost over links of a set rate; over 8 to 1,024 GPUs

Measured: the loss forward and backward, the gather of the columns forward and backward, and the k-NN search, on gloo
processes of one thread each; the seconds are those of the slowest process. Where processes outnumber the cores they
share them. The model counts, of each process, operations and bytes sent:

- loss: 2 · V B/W · T B · D operations for each product of the images with the columns: the similarities, the two of
  the backward, and, where there are more similarities than the loss keeps, one more for each Sinkhorn iteration;
- gather: (W-1)/W of the columns' bytes forward, as many backward (a reduce-scatter), and Sinkhorn's column sums;
  with a momentum teacher nothing backward;
- k-NN: 2 · N/W · M · D operations; M · k keys of eight bytes for each other process;
- the backbone: twice (W-1)/W of its gradients' bytes, in float32.

B is the global batch, V = 2 the crops, T = 2 those that are columns, W the processes, D the dimensions.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks import costs, many_gpus
from benchmarks.timing import machine, markdown, write
from solo_bam.core import collectives
from solo_bam.core.neighbors import BANK_TILE, find_neighbours
from solo_bam.losses import BAMLoss
from solo_bam.losses._kernel import _CPU_KEPT_ENTRIES
from solo_bam.train.doctor.estimate import gradient_bytes

V = T = 2
SINKHORN = 3
K = 20
PARAMETERS = {"ResNet-18": 11.2e6, "ResNet-50": 23.5e6, "ViT-S/16": 21.7e6, "ViT-B/16": 85.8e6}


@dataclass(frozen=True)
class Size:
    """Global batch, processes and dimensions of one row; and the k-NN's bank and queries of all processes."""

    B: int
    W: int
    D: int = 256
    bank: int = 50_000
    queries: int = 2000


MEASURED = [Size(B, W) for W in (1, 2, 4) for B in (256, 1024, 4096)]
MODELLED = [
    Size(B, W, D) for D in (256, 4096) for B, W in ((256, 1), (1024, 4), (4096, 16), (16_384, 64), (65_536, 64))
]
TINY = [Size(16, W, 8, 64, 10) for W in (1, 2)]


# ------------------------------------------------------------------------------------------------ model


def model(size: Size, teacher: bool = False) -> dict[str, float]:
    """Operations and bytes sent of one process, as the module says."""
    B, W, D = size.B, size.W, size.D
    others = (W - 1) / W
    columns = T * B
    entries = V * B / W * columns
    products = 3 + (SINKHORN if entries > _CPU_KEPT_ENTRIES else 0)
    gathered = 4 * columns * D
    sums = SINKHORN * 2 * others * 4 * columns  # all-reduced
    return {
        "loss, operations": products * 2 * entries * D,
        "gather, bytes": others * gathered * (1 if teacher else 2) + sums,
        "gathered columns, bytes": gathered,
        "k-NN, operations": 2 * size.bank / W * size.queries * D,
        "k-NN, bytes": 8 * K * size.queries * (W - 1),
        **{f"{name}, bytes": gradient_bytes(count, W) for name, count in PARAMETERS.items()},
    }


def model_row(size: Size) -> dict[str, str]:
    """One line of the table: what is sent, and how that compares with the backbones' gradients."""
    found, taught = model(size), model(size, teacher=True)
    line = {
        "B, W, D": f"{size.B}, {size.W}, {size.D}",
        "loss, GFLOP per process": f"{found['loss, operations'] / 1e9:.3g}",
        "columns, MB": f"{found['gathered columns, bytes'] / 1e6:.3g}",
        "sent, MB (with teacher)": f"{found['gather, bytes'] / 1e6:.3g} ({taught['gather, bytes'] / 1e6:.3g})",
    }
    for name in PARAMETERS:
        gradients = found[f"{name}, bytes"]
        line[f"/ {name}"] = f"{found['gather, bytes'] / gradients:.2f}" if gradients else "-"
    return line


# ------------------------------------------------------------------------------------------- measurement


def measure(size: Size, repeats: int) -> dict[str, Any]:
    """Seconds of each round of the loss, the gather and the k-NN search, of the slowest process."""
    with tempfile.TemporaryDirectory() as folder:
        if size.W == 1:
            seconds = _rounds(size, repeats)
        else:
            out = f"{folder}/out.pt"
            spawn(_process, (size, repeats, f"{folder}/store", out), nprocs=size.W)  # type: ignore[no-untyped-call]
            seconds = torch.load(out)
    return {"size": asdict(size), "seconds": seconds, "model": model(size)}


def _process(rank: int, size: Size, repeats: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size.W)
    everyones = collectives.gather_objects(_rounds(size, repeats))
    if rank == 0:
        torch.save({name: [max(r) for r in zip(*(one[name] for one in everyones))] for name in everyones[0]}, out)
    dist.barrier()  # gloo may abort a process whose peers have gone
    dist.destroy_process_group()


def _rounds(size: Size, repeats: int) -> dict[str, list[float]]:
    calls = {"loss": _loss(size), "gather": _gather(size), "k-NN": _search(size)}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(repeats + 1):
        for name, call in calls.items():
            if size.W > 1:
                dist.barrier()
            start = time.perf_counter()
            call()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _loss(size: Size) -> Callable[[], Any]:
    loss_fn = BAMLoss(num_crops=V, num_large_crops=V, num_sink_iter=SINKHORN)
    z = torch.randn(V * size.B // size.W, size.D).requires_grad_()
    return lambda: torch.autograd.backward(loss_fn(z))


def _gather(size: Size) -> Callable[[], Any]:
    columns = torch.randn(T * size.B // size.W, size.D).requires_grad_()
    return lambda: torch.autograd.backward(collectives.gather(columns).sum())


def _search(size: Size) -> Callable[[], Any]:
    queries = torch.randn(size.queries, size.D, generator=torch.Generator().manual_seed(0))
    own = torch.randn(size.bank // size.W, size.D)
    first = collectives.rank() * len(own)
    tiles = [(first + start, own[start : start + BANK_TILE]) for start in range(0, len(own), BANK_TILE)]
    return lambda: find_neighbours(tiles, queries, K, shared=True)


def measured_row(found: dict[str, Any]) -> dict[str, str]:
    """One line of the table: medians with the lowest and the highest round, in ms."""
    size, seconds = found["size"], found["seconds"]
    line = {"B, W, D": f"{size['B']}, {size['W']}, {size['D']}"}
    for name, times in seconds.items():
        ms = [1000 * t for t in times]
        line[f"{name}, ms"] = f"{statistics.median(ms):.0f} ({min(ms):.0f}–{max(ms):.0f})"
    rate = found["model"]["loss, operations"] / statistics.median(seconds["loss"]) / 1e9
    return line | {"loss, GFLOP/s per process": f"{rate:.0f}"}


def main() -> None:
    """Measure, model, print both tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--links", action="store_true", help="fit and check the model of benchmarks.costs")
    parser.add_argument("--gpus", action="store_true", help="tell the tables of benchmarks.many_gpus")
    parser.add_argument("--member", type=Path, help=argparse.SUPPRESS)  # one of the processes of --links
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.gpus:
        return many_gpus.gpus_main(options.out)
    if options.member:
        return costs.member(options.member, options.out)
    if options.links:
        return costs.links_main(options.repeats, options.out, options.tiny)
    results, rows = [], []
    for size in TINY if options.tiny else MEASURED:
        results.append(measure(size, options.repeats))
        rows.append(measured_row(results[-1]))
        print(f"{size}: {rows[-1]}", flush=True)
    print("\n" + markdown(rows) + "\n\n" + markdown([model_row(size) for size in MODELLED]))
    modelled = [{"size": asdict(size), "model": model(size)} for size in MODELLED]
    write(options.out, {"machine": machine(), "measured": results, "modelled": modelled})


if __name__ == "__main__":
    main()
