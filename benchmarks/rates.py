"""How wide the range of rates is in which a recipe works: ``python -m benchmarks.rates quick/bam quick/simclr``.

Each recipe is trained at 1, 2, 4 and 8 times its rate (with ``--regs 0.05 0.3:0.05`` each of these, too: ``reg``
throughout, or from the first to the second), with one seed, and measured by k-NN on a fifth of the training images,
held out. A line per run is kept in ``--results`` as soon as it has ended; what is there is not run again. The figure
has a panel per recipe, collapsed cells crossed out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from solo_bam.config import load_recipe
from solo_bam.core.errors import UserError
from solo_bam.train.run import pretrain

_FIXED = ["data.tune_fraction=0.2", "knn_eval.freq=1000000", "pictures=False", "enable_progress_bar=False"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there yet, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--regs", nargs="+", default=[], metavar="REG[:FINAL]")
    parser.add_argument("--times", nargs="+", type=float, default=[1, 2, 4, 8])
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="of every recipe")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/rates.jsonl"))
    parser.add_argument("--figure", type=Path, default=Path("docs/rates.png"))
    options = parser.parse_args(arguments)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for name, times, reg in _cells(options.recipes, options.times, options.regs):
        if any((one["recipe"], one["times"], one["reg"]) == (name, times, reg) for one in read(options.results)):
            continue
        row = {"recipe": name, "times": times, "reg": reg, **_train(name, times, reg, options.set)}
        print(row, flush=True)
        with options.results.open("a") as out:
            out.write(json.dumps(row) + "\n")
    draw([one for one in read(options.results) if one["recipe"] in options.recipes], options.figure)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _cells(
    recipes: Sequence[str], all_times: Sequence[float], regs: Sequence[str]
) -> Iterator[tuple[str, float, str | None]]:
    for name in recipes:
        own = load_recipe(name).method_kwargs
        of_its_own = ":".join(f"{own[key]:g}" for key in ("reg", "reg_final") if own.get(key)) or None
        for reg in regs if regs and of_its_own is not None else [of_its_own]:
            yield from ((name, times, reg) for times in all_times)


def _train(name: str, times: float, reg: str | None, more: Sequence[str]) -> dict[str, Any]:
    rate = times * load_recipe(name, more).optimizer.lr
    with tempfile.TemporaryDirectory() as folder:
        keys = [*more, *_FIXED, f"optimizer.lr={rate}", f"checkpoint.dir={folder}", "seed=0"]
        if reg is not None:
            first, _, final = reg.partition(":")
            keys += [f"method_kwargs.reg={first}", f"method_kwargs.reg_final={final or 'null'}"]
        try:
            trained = pretrain(load_recipe(name, keys))
        except UserError as error:  # the loss was lost
            return {"lr": rate, "knn": None, "collapsed_in": None, "error": str(error)}
    return {"lr": rate, "knn": round(trained.metrics["knn_acc1"], 2), "collapsed_in": trained.collapsed_in}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel per recipe: multiples of the rate across, ``reg`` down."""
    from matplotlib.figure import Figure
    from matplotlib.style import context

    from solo_bam.plots.style import STYLE

    names = list(dict.fromkeys(row["recipe"] for row in rows))
    regs = {name: list(dict.fromkeys(row["reg"] for row in rows if row["recipe"] == name)) for name in names}
    columns = sorted({row["times"] for row in rows})
    known = [row["knn"] for row in rows if row["knn"] is not None]
    with context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(3.0 * len(names) + 1, 2.2 + 0.75 * max(map(len, regs.values()))), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axis, name in zip(panels, names):
            grid = np.full((len(regs[name]), len(columns)), np.nan)
            for row in (row for row in rows if row["recipe"] == name):
                place = regs[name].index(row["reg"]), columns.index(row["times"])
                grid[place] = np.nan if row["knn"] is None else row["knn"]
                lost = row["knn"] is None or row["collapsed_in"] is not None
                axis.text(*place[::-1], "lost" if row["knn"] is None else f"{row['knn']:.1f}", ha="center", va="center")
                if lost:
                    axis.plot(*place[::-1], "x", color="#D55E00", markersize=34, markeredgewidth=2)
            picture = axis.imshow(grid, vmin=min(known), vmax=max(known), cmap="cividis", alpha=0.6, aspect="auto")
            axis.set(title=name, xlabel="times the recipe's rate", ylabel="" if None in regs[name] else "reg")
            axis.set_xticks(range(len(columns)), [f"{times:g}" for times in columns])
            axis.set_yticks(range(len(regs[name])), [(reg or "").replace(":", "\nto ") for reg in regs[name]])
        figure.colorbar(picture, ax=panels, label="k-NN on held-out images, %")
        figure.savefig(path)


if __name__ == "__main__":
    main()
