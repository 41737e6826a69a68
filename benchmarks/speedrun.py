"""A training against the clock: from the process's start to the accuracy of its last epoch, everything included.

    python -m benchmarks.speedrun speedrun/simclr [--runs 3] [--device cuda] [--tiny] [--out FILE.json] [key=value …]

Each run is ``solo-bam pretrain`` and ``solo-bam knn`` on the finished network, with a seed of its own, for the epochs
that the recipe says: nothing is stopped by what the test images show, and every seed is told. ``--tiny`` runs the same
recipe at a hundredth of the size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import machine, markdown, write

_TINY = (
    "data.dataset=digits", "data.train_path=null", "data.val_path=null", "data.num_workers=0",
    "data.fraction=0.1", "backbone.name=test_resnet", "max_epochs=1",
    "optimizer.batch_size=64", "scheduler.warmup_epochs=0", "augmentations.0.crop_size=16", "precision=32",
    "performance.compile=False", "enable_progress_bar=False",
)  # fmt: skip


def run(recipe: str, seed: int, device: str, overrides: Sequence[str]) -> dict[str, Any]:
    """One training and its k-NN.

    Raises:
        RuntimeError: a command failed, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        where = [f"accelerator={'gpu' if device == 'cuda' else 'cpu'}", "devices=1", f"checkpoint.dir={folder}"]
        start = time.perf_counter()
        _command("pretrain", "--config-name", recipe, f"seed={seed}", *where, *overrides)
        trained = time.perf_counter() - start
        record = next(Path(folder).glob("*/*/run.json"))
        # Not resumed with the knn's own accelerator: both commands take the same device.
        _command("knn", str(record.parent), "k=[10,20]", "distance=cosine", "num_workers=0", where[0])
        seconds = time.perf_counter() - start
        found = [json.loads(path.read_text()) for path in record.parent.glob("evaluation/knn-*.json")]
        costs = [json.loads(line) for p in record.parent.rglob("cost.jsonl") for line in p.read_text().splitlines()]
    accuracies = {f"k-NN, k {r['protocol']['k']}": r["value"] for r in found[0] if r["metric"] == "accuracy"}
    rate = statistics.median(cost["images"] / cost["seconds"] for cost in costs)
    return {"seed": seed, "seconds": seconds, "training_s": trained, "images_per_s": rate, **accuracies}


def _command(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "solo_bam", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"solo-bam {' '.join(words)}\n{(done.stdout + done.stderr)[-3000:]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every seed, print a table, write JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="e.g. speedrun/simclr")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--runs", type=int, default=3, help="seeds")
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--tiny", action="store_true", help="a hundredth of the size, to see that it runs")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_intermixed_args(arguments)
    overrides = [*(_TINY if options.tiny else ()), *options.overrides]
    rows: list[dict[str, Any]] = []
    for seed in range(options.runs):
        rows.append(run(options.recipe, seed, options.device, overrides))
        words = f"python -m benchmarks.speedrun {options.recipe} {' '.join(overrides)}".strip()
        means = {key: statistics.fmean(row[key] for row in rows) for key in rows[0] if key != "seed"}
        write(options.out, {"command": words, "machine": machine(options.device), "runs": rows, "means": means})
        print(f"seed {seed}: {rows[-1]}", flush=True)
    print(markdown([{key: f"{value:.4g}" for key, value in row.items()} for row in rows]))


if __name__ == "__main__":
    main()
