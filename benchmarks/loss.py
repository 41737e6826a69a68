"""The loss, forward and backward: against the published order of operations, and against its own matrix products.

    python -m benchmarks.loss [--tiny] [--device cuda] [--cases N …] [--threads 1 --processor] [--repeats 5]
                              [--out FILE.json]

*Baseline* is ``benchmarks/published.py``. *Floor* is three matrix products of the same sizes: the similarities, and
the two of the backward (with a teacher: the similarities of student and teacher, and one). Memory is the growth of the
process's peak during one call in a fresh process (on a GPU, of the allocator's). ``--processor`` counts processor time,
for a machine that others use.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.published import published_loss
from benchmarks.timing import highest_resident, machine, markdown, ratio, side_by_side, told, write
from solo_bam.losses import BAMLoss


@dataclass(frozen=True)
class Case:
    """Sizes and settings of one measurement."""

    B: int
    V: int
    D: int
    teacher: bool = False
    top_k: int = 0

    def __str__(self) -> str:
        return f"B {self.B}, V {self.V}, D {self.D}, teacher {'yes' if self.teacher else 'no'}, top-k {self.top_k}"


SIZES = ((2048, 2, 256), (1024, 8, 256), (256, 8, 4096))
CASES = [Case(*size, teacher, k) for size in SIZES for teacher in (False, True) for k in (0, 128)]
TINY = [Case(16, 4, 8, teacher, k) for teacher in (False, True) for k in (0, 4)]
LARGE = Case(16_384, 8, 256)  # the baseline would need more than 100 GB
IMPLEMENTATIONS = ("baseline", "solo-bam", "floor")


def make(name: str, case: Case, device: str = "cpu") -> Callable[[], Any]:
    """One forward and backward of one implementation, on its own random features."""
    generator = torch.Generator().manual_seed(0)

    def features() -> torch.Tensor:
        # Views of an image resemble each other, as they do in training.
        images = torch.randn(1, case.B, case.D, generator=generator)
        views = torch.randn(case.V, case.B, case.D, generator=generator)
        return (images + views).flatten(0, 1).to(device)

    z = features().requires_grad_()
    z_teacher = features() if case.teacher else None
    if name == "floor":
        return _floor(F.normalize(z.detach(), dim=-1), z_teacher, case)
    settings: dict[str, Any] = {"num_crops": case.V, "num_large_crops": 2, "top_k_sink": case.top_k}
    loss_fn = BAMLoss(**settings)

    def step() -> None:
        z.grad = None
        loss = published_loss(z, z_teacher, **settings) if name == "baseline" else loss_fn(z, z_teacher)
        loss.backward()

    return step


def _floor(z: torch.Tensor, z_teacher: torch.Tensor | None, case: Case) -> Callable[[], Any]:
    columns = (z if z_teacher is None else z_teacher)[: 2 * case.B]

    def products() -> None:
        S = z @ columns.T
        S @ columns
        if z_teacher is None:
            S.T @ z
        else:
            z_teacher @ columns.T

    return products


def _peak(name: str, case: Case, device: str) -> int:
    """Bytes that one call adds to the peak; in a fresh process."""
    call = make(name, case, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    make(name, Case(16, case.V, case.D, case.teacher, min(case.top_k, 4)))()  # libraries load at the first call
    gc.collect()
    before = highest_resident()
    call()
    return highest_resident() - before


def peak_memory(name: str, case: Case, device: str = "cpu") -> int:
    """Bytes that one forward and backward needs beside its input; a GPU's allocator counts without a fresh process."""
    if device == "cuda":
        return _peak(name, case, device)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, case, device))


def measure(
    case: Case, repeats: int, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Seconds and bytes of all implementations."""
    functions = {name: make(name, case, device) for name in IMPLEMENTATIONS}
    seconds = side_by_side(functions, repeats, device, clock)
    del functions
    memory = {name: peak_memory(name, case, device) for name in IMPLEMENTATIONS}
    return {"case": asdict(case), "seconds": seconds, "peak_bytes": memory}


def row(case: Case, found: dict[str, Any]) -> dict[str, str]:
    """One line of the table."""
    seconds, memory = found["seconds"], found["peak_bytes"]
    return {
        "case": str(case),
        "baseline / solo-bam": told(ratio(seconds["baseline"], seconds["solo-bam"])),
        "solo-bam / floor": told(ratio(seconds["solo-bam"], seconds["floor"])),
        "solo-bam, ms": f"{1000 * sorted(seconds['solo-bam'])[len(seconds['solo-bam']) // 2]:.0f}",
        "memory, MB (baseline)": f"{memory['solo-bam'] / 1e6:.0f} ({memory['baseline'] / 1e6:.0f})",
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cases", nargs="+", type=int, metavar="N", help=f"of {len(CASES)}, from 1; default: all")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--processor", action="store_true", help="processor time, of one thread")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", action="store_true", help=f"also {LARGE}, solo-bam only")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    if options.processor and options.threads != 1:
        parser.error("--processor adds up what threads wait: give --threads 1")
    return options


def main() -> None:
    """Measure, print a table, write JSON."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.process_time if options.processor else time.perf_counter
    cases = TINY if options.tiny else CASES
    results, rows = [], []
    for case in [cases[i - 1] for i in options.cases] if options.cases else cases:
        results.append(measure(case, options.repeats, options.device, clock))
        rows.append(row(case, results[-1]))
        print(f"{case}: {rows[-1]}", flush=True)
    print("\n" + markdown(rows))
    if options.large:
        large: dict[str, Any] = {
            "case": asdict(LARGE),
            "seconds": side_by_side({"solo-bam": make("solo-bam", LARGE, options.device)}, 1, options.device),
        }
        large["peak_bytes"] = peak_memory("solo-bam", LARGE, options.device)
        results.append(large)
        print(
            f"\n{LARGE}: {large['seconds']['solo-bam'][0]:.1f} s, {large['peak_bytes'] / 1e9:.2f} GB beside the input"
        )
    clock_name = "processor" if options.processor else "wall"
    write(options.out, {"machine": machine(options.device), "clock": clock_name, "results": results})


if __name__ == "__main__":
    main()
