"""A training step with ``performance.chunked_batch``: its time over that of the whole batch, and the memory of both.

    python -m benchmarks.chunks [--recipe quick/bam] [--chunk 64] [--batches 256 1024] [--repeats 5] [key=value …]

Steps in turns, on random crops, with one thread and by processor time. Memory is what ``solo-bam doctor`` counts: the
tensors that a step holds at most, beside weights, gradients and the optimizer's states.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.step import Setting, batch_of, model_of, step_of
from benchmarks.timing import machine, markdown, ratio, side_by_side, told
from solo_bam.config import Recipe, load_recipe
from solo_bam.train.doctor.work import work_of


def recipe_of(name: str, batch: int, chunk: int | None, overrides: list[str]) -> Recipe:
    """A recipe on the CPU without k-NN."""
    recipe = load_recipe(name, ["accelerator=cpu", f"optimizer.batch_size={batch}", *overrides])
    recipe.performance.chunked_batch, recipe.knn_eval.enabled = chunk, False
    return recipe


def measure(recipe: Recipe) -> tuple[Callable[[], None], str]:
    """A step, and the memory that it needs."""
    setting = Setting(recipe.optimizer.batch_size, "cpu", "32", compiled=False)
    work = work_of(model_of(recipe, setting), recipe)
    step = step_of(model_of(recipe, setting), batch_of(recipe, setting), setting)
    return step, f"{(work.peak_memory - work.lasting_memory) / 2**20:,.0f} MiB"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="quick/bam")
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="*", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    options, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    rows = []
    for batch in options.batches:
        kinds = {"chunked": options.chunk, "whole": None}
        found = {kind: measure(recipe_of(options.recipe, batch, size, overrides)) for kind, size in kinds.items()}
        steps = {kind: step for kind, (step, _) in found.items()}
        seconds = side_by_side(steps, options.repeats, clock=time.process_time)
        times = {f"{kind} step": f"{statistics.median(each):.2f} s" for kind, each in seconds.items()}
        times["chunked / whole"] = told(ratio(seconds["chunked"], seconds["whole"]))
        rows.append({"batch": str(batch), **times, **{kind: memory for kind, (_, memory) in found.items()}})
    print(f"{options.recipe} {' '.join(overrides)}, chunks of {options.chunk}: {machine()}\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
