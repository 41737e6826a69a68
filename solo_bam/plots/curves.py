"""A run's curves in one picture, or several runs in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.style import context
from matplotlib.ticker import MaxNLocator

from solo_bam.plots.style import COLOURS, STYLE, Picture, shortened
from solo_bam.runs.curves import Rows, over_epochs, series, thinned
from solo_bam.solo_learn.rules import Panel

_OF_ALL_METHODS = (
    Panel(
        "Accuracy on the validation images",
        "accuracy (%)",
        {
            "knn_acc1": "k-NN",
            "momentum_knn_acc1": "teacher's k-NN",
            "val_knn_acc1": "k-NN, augmented bank",
            "val_acc1": "online linear head",
            "momentum_val_acc1": "teacher's linear head",
        },
    ),
    Panel("Effective rank of the features", "RankMe (dimensions)", {"rankme": "backbone's features"}),
)


# What runs are compared by: title, y label, and keys of which a run's first is taken; none: its method's loss.
_COMPARED = (
    ("Loss", "loss of the run's own method", ()),
    ("Online k-NN on validation images", "accuracy (%)", ("knn_acc1", "val_knn_acc1")),
)
_DASHES = ("-", "--", ":", "-.")


def draw_curves(rows: Rows, path: Path, title: str, of_method: Sequence[Panel] = ()) -> Picture | None:
    """Write a PNG of loss, accuracies, effective rank and a method's own panels over the steps; None without any.

    Args:
        rows: logged metrics, each with ``step``.
        path: of the PNG.
        title: over the picture.
        of_method: the panels that the run's method asks for.
    """
    loss = Panel("Loss", "loss (nats)", {key: key.removesuffix("_step") for key in _own_losses(rows)})
    panels = [
        panel for panel in (loss, *of_method, *_OF_ALL_METHODS) if any(series(rows, key)[0] for key in panel.lines)
    ]
    if not panels:
        return None
    with context(STYLE):
        columns = min(2, len(panels))
        lines = -(-len(panels) // columns)
        figure = Picture(figsize=(5.0 * columns, 3.2 * lines), layout="constrained")
        figure.suptitle(title)
        axes: list[Axes] = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axis, panel in zip(axes, panels):
            _draw_panel(axis, rows, panel)
        for axis in axes[len(panels) :]:
            axis.remove()
        figure.savefig(path)
    return figure


def _draw_panel(axis: Axes, rows: Rows, panel: Panel) -> None:
    for key, shown in panel.lines.items():
        steps, values = series(rows, key)
        if steps:
            marker = "o" if len(steps) < 25 else None
            axis.plot(*thinned(steps, values), label=shown, marker=marker, markersize=3)
    axis.set(title=panel.title, xlabel="step", ylabel=panel.label)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axis.legend()


def draw_runs(runs: Mapping[str, Rows], path: Path, title: str) -> Picture:
    """Draw loss and k-NN accuracy of several runs over the epochs, a colour for each run.

    Args:
        runs: name -> logged metrics, each with ``step`` and ``epoch``.
        path: of the picture; its ending chooses the format.
        title: over the picture.
    """
    with context(STYLE):
        columns = 1 if max(map(len, runs)) > 40 else 2
        lines = -(-len(runs) // columns)
        figure = Picture(figsize=(10.0, 3.4 + 0.2 * lines), layout="constrained")
        figure.suptitle(title)
        axes = figure.subplots(1, len(_COMPARED))
        for axis, (name, label, keys) in zip(axes, _COMPARED):
            for i, (run, rows) in enumerate(runs.items()):
                epochs, values = _over_epochs(rows, keys)
                dashes = _DASHES[i // len(COLOURS) % len(_DASHES)]
                marker = "o" if len(epochs) < 25 else None
                axis.plot(
                    *thinned(epochs, values, 200), dashes, color=COLOURS[i % len(COLOURS)], label=shortened(run, 60),
                    marker=marker, markersize=3,
                )  # fmt: skip
            axis.set(title=name, xlabel="epoch", ylabel=label)
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
        figure.savefig(path)
    return figure


def _own_losses(rows: Rows) -> list[str]:
    """Keys of a method's loss by step, whatever it is called."""
    names = sorted({key for row in rows for key in row if key.endswith("_step") and "class" not in key})
    return [key for key in names if "loss" in key or "neg_cos_sim" in key]


def _over_epochs(rows: Rows, keys: Sequence[str]) -> tuple[list[float], list[float]]:
    """Epochs, fractions by the step, and values of the first key that was logged."""
    found = (over_epochs(rows, key) for key in keys or _own_losses(rows))
    return next((line for line in found if line[0]), ([], []))
