"""A batch of crops of images in memory, of this code and of an earlier commit's, in turns.

    python -m benchmarks.crops [--against d658551] [--recipes cifar/simclr digits/bam] [--batches 128 1024]
                               [--rounds 12] [--tiny] [--out FILE.json]

Processor time of one thread of ``TensorLoader.crops`` on smooth noise of 32 px, and operations of two images that are
no views. Each code runs in a process of its own; the turns are calls. It takes the
repository's history, and what the earlier code rests on: ``d658551`` on kornia 0.9.0 (``pip install --target DIR``, and
``PYTHONPATH=DIR``).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[1]


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts all that is not a view."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and func.overloadpacket.__name__ != "_unsafe_view"
        return func(*args, **(kwargs or {}))


def serve(recipe: str, batch: int) -> None:
    """Print the operations of a batch, then for each line that comes the processor time of another one."""
    from solo_bam.config import load_recipe
    from solo_bam.data.loaders.tensor import TensorLoader
    from solo_bam.data.transforms.augmentations import Crops

    torch.set_num_threads(1)
    asked = load_recipe(recipe)
    low = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.functional.interpolate(low, size=(32, 32), mode="bicubic").clamp(0, 1)
    images: Any = SimpleNamespace(pixels=(255 * pixels).byte(), labels=torch.zeros(batch, dtype=torch.long))
    loader = TensorLoader(images, Crops(asked.data.dataset, asked.augmentations).pipelines, range(batch), 0, batch)
    with Operations() as operations:
        loader.crops(0, range(2))  # a CPU makes many images in pieces
    print(operations.count, flush=True)
    for epoch, _ in enumerate(sys.stdin):
        start = time.process_time()
        loader.crops(epoch, range(batch))
        print(time.process_time() - start, flush=True)


def measure(recipe: str, batch: int, trees: dict[str, Path], rounds: int) -> dict[str, Any]:
    """Operations and seconds of each code, two rounds of warm-up left out."""
    words = [sys.executable, "-W", "ignore", str(Path(__file__)), "--serve", recipe, "--batches", str(batch)]
    with ExitStack() as stack:
        servers: dict[str, Any] = {}
        for name, tree in trees.items():
            path = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
            environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            servers[name] = stack.enter_context(subprocess.Popen(words, cwd=tree, env=environment, **pipes))
        counts = {name: int(server.stdout.readline()) for name, server in servers.items()}
        seconds: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(rounds + 2):
            for name, server in servers.items():
                print(file=server.stdin, flush=True)
                seconds[name].append(float(server.stdout.readline()))
        for server in servers.values():
            server.stdin.close()
    return {"recipe": recipe, "batch": batch, "operations": counts, "seconds": {n: t[2:] for n, t in seconds.items()}}


def row(found: dict[str, Any]) -> dict[str, str]:
    """One line of the table."""
    from benchmarks.timing import ratio, told

    each = {n: f"{1e6 * statistics.median(t) / found['batch']:.0f}" for n, t in found["seconds"].items()}
    return {
        "recipe, batch": f"{found['recipe']}, {found['batch']}",
        "operations of two images, old": f"{found['operations']['old']:,}",
        "new": str(found["operations"]["new"]),
        "microseconds per image, old": each["old"],
        "new ": each["new"],
        "old / new": told(ratio(found["seconds"]["old"], found["seconds"]["new"])),
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="d658551", metavar="COMMIT")
    parser.add_argument("--recipes", nargs="+", default=["cifar/simclr", "digits/bam"])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tiny", action="store_true", help="16 images, to see that it runs")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.batches[0])
        return
    from benchmarks.timing import machine, markdown, write

    if options.tiny:
        options.recipes, options.batches, options.rounds = options.recipes[-1:], [16], 1
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", options.against], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        trees = {"old": Path(folder), "new": ROOT}
        results = [measure(r, b, trees, options.rounds) for r in options.recipes for b in options.batches]
    print(markdown([row(found) for found in results]))
    about = {"machine": {**machine(), "threads": 1}, "against": options.against}
    write(options.out, {**about, "results": results})


if __name__ == "__main__":
    main()
