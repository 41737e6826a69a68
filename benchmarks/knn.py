"""Weighted k-NN accuracy: against solo-learn's ``WeightedKNNClassifier``, and against the product of the features.

    python -m benchmarks.knn [--tiny] [--device cuda] [--threads 2] [--processor] [--queries 10000]
                            [--repeats 3] [--out FILE.json]

*solo-learn* is its own file, as installed, on normalised features; only the metric's constructor, which today's
torchmetrics refuses, is gone around. *Floor* is the product of all queries with the whole bank in float32, tile by
tile: no search that computes every closeness in float32 can be faster. Both answer the same question, the accuracies
@1 and @5; the answers are kept beside the times. Memory is the growth of the process's peak during one call in a fresh
process (on a GPU, of the allocator's).
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from benchmarks.timing import forget_highest, highest_resident, machine, markdown, ratio, side_by_side, told, write
from solo_bam.core.neighbors import count_hits, find_neighbours, in_tiles

CLASSES = 100
TEMPERATURE = 0.07
IMPLEMENTATIONS = ("solo-learn", "solo-bam", "floor")


@dataclass(frozen=True)
class Case:
    """Sizes and settings of one measurement.

    ``features``: ``classes`` has a cloud per class; ``positive`` is as after a ReLU, all cosines near 0.9; ``equal`` as
    of a collapsed network, all the same but for the rounding.
    """

    distance: str
    k: int
    bank: int = 50_000
    queries: int = 10_000
    D: int = 512
    features: str = "classes"

    def __str__(self) -> str:
        return f"{self.distance}, k {self.k}, {self.features}, {self.queries} queries"


CASES = [Case(distance, k) for distance in ("cosine", "euclidean") for k in (20, 200)]
CASES += [Case("cosine", 20, queries=2000, features=features) for features in ("positive", "equal")]
TINY = [Case(distance, k, 300, 100, 16) for distance in ("cosine", "euclidean") for k in (3, 20)]


def make_data(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bank, its labels, queries, theirs."""
    generator = torch.Generator().manual_seed(0)
    count = case.bank + case.queries
    labels = torch.arange(count) % CLASSES
    noise = torch.randn(count, case.D, generator=generator)
    centres = torch.randn(CLASSES, case.D, generator=generator)
    if case.features == "equal":
        x = centres[:1] + 1e-6 * noise
    elif case.features == "positive":
        x = F.relu(3 + 0.12 * centres[labels] + noise)
    else:
        x = 0.12 * centres[labels] + noise
    return x[: case.bank], labels[: case.bank], x[case.bank :], labels[case.bank :]


def theirs() -> type[Metric]:
    """solo-learn's class from its own file, whichever edition is installed."""
    package = importlib.util.find_spec("solo")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "utils" / "knn.py"
    spec = importlib.util.spec_from_file_location("their_knn", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WeightedKNNClassifier


def _solo_learn(case: Case, data: tuple[Tensor, ...]) -> tuple[float, float]:
    cls = theirs()
    metric: Any = cls.__new__(cls)
    Metric.__init__(metric)
    metric.k, metric.T, metric.distance_fx = case.k, TEMPERATURE, case.distance
    metric.max_distance_matrix_size, metric.epsilon = int(5e6), 1e-5  # its defaults
    for name in ("train_features", "train_targets", "test_features", "test_targets"):
        metric.add_state(name, default=[], persistent=False)
    bank, labels, queries, targets = data
    if case.distance == "cosine":  # the head edition's metric does this, the release edition's leaves it to its user
        bank, queries = F.normalize(bank), F.normalize(queries)
    metric.update(train_features=bank, train_targets=labels, test_features=queries, test_targets=targets)
    return metric.compute()


def _solo_bam(case: Case, data: tuple[Tensor, ...]) -> tuple[float, float]:
    bank, labels, queries, targets = data
    near = find_neighbours(in_tiles(bank), queries, case.k, case.distance)
    hits = count_hits(near, labels, targets, [case.k], TEMPERATURE, case.distance)[case.k]
    return 100 * hits[0] / len(targets), 100 * hits[1] / len(targets)


def _floor(case: Case, data: tuple[Tensor, ...]) -> tuple[float, float]:
    bank, _, queries, _ = data
    for rows in torch.split(queries, 512):
        for tile in torch.split(bank, 8192):
            rows @ tile.T
    return float("nan"), float("nan")


FUNCTIONS = dict(zip(IMPLEMENTATIONS, (_solo_learn, _solo_bam, _floor)))


def make(name: str, case: Case, device: str = "cpu") -> Callable[[], tuple[float, float]]:
    """One evaluation by one implementation: the accuracies @1 and @5 in percent."""
    data = tuple(part.to(device) for part in make_data(case))
    return lambda: FUNCTIONS[name](case, data)


def _peak(name: str, case: Case, device: str, threads: int) -> int:
    torch.set_num_threads(threads)
    call = make(name, case, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    make(name, TINY[0])()  # libraries load at the first call
    gc.collect()
    forget_highest()
    before = highest_resident()
    call()
    return highest_resident() - before


def peak_memory(name: str, case: Case, device: str = "cpu", threads: int = 1) -> int:
    """Bytes that one evaluation needs beside the features; a GPU's allocator counts without a fresh process."""
    if device == "cuda":
        return _peak(name, case, device, threads)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, case, device, threads))


def measure(
    case: Case, repeats: int, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Answers, seconds and bytes of all implementations."""
    functions = {name: make(name, case, device) for name in IMPLEMENTATIONS}
    answers: dict[str, tuple[float, float]] = {}

    def kept(name: str) -> Callable[[], None]:
        return lambda: answers.update({name: functions[name]()})

    seconds = side_by_side({name: kept(name) for name in IMPLEMENTATIONS}, repeats, device, clock)
    functions.clear()
    memory = {name: peak_memory(name, case, device, torch.get_num_threads()) for name in IMPLEMENTATIONS[:2]}
    answers.pop("floor")
    return {"case": asdict(case), "seconds": seconds, "peak_bytes": memory, "accuracies": answers}


def row(case: Case, found: dict[str, Any]) -> dict[str, str]:
    """One line of the table."""
    seconds, memory, answers = found["seconds"], found["peak_bytes"], found["accuracies"]
    return {
        "case": str(case),
        "solo-learn / solo-bam": told(ratio(seconds["solo-learn"], seconds["solo-bam"])),
        "solo-learn / floor": told(ratio(seconds["solo-learn"], seconds["floor"])),
        "solo-bam, s": f"{sorted(seconds['solo-bam'])[len(seconds['solo-bam']) // 2]:.2f}",
        "memory, MB (solo-learn)": f"{memory['solo-bam'] / 1e6:.0f} ({memory['solo-learn'] / 1e6:.0f})",
        "accuracy @1, @5 (solo-learn)": " ".join(
            f"{mine:.2f} ({other:.2f})" for mine, other in zip(answers["solo-bam"], answers["solo-learn"])
        ),
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processor", action="store_true", help="processor time: for one thread, on a shared machine")
    parser.add_argument("--queries", type=int, metavar="N", help="fewer, to be done sooner")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results, rows = [], []
    clock = time.process_time if options.processor else time.perf_counter
    for case in TINY if options.tiny else CASES:
        case = replace(case, queries=options.queries or case.queries)
        results.append(measure(case, options.repeats, options.device, clock))
        rows.append(row(case, results[-1]))
        print(f"{case}: {rows[-1]}", flush=True)
    print("\n" + markdown(rows))
    about = {**machine(options.device), "clock": clock.__name__}
    write(options.out, {"machine": about, "results": results})


if __name__ == "__main__":
    main()
