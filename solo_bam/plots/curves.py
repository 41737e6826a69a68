"""A run's curves in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import MaxNLocator

from solo_bam.plots.style import STYLE

Rows = Sequence[Mapping[str, float]]

# Panel: title, y label, and what it shows under which name; keys that a run lacks are left out.
_PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "Loss",
        "loss (nats)",
        {
            "bam_loss_step": "BAM",
            "train_neg_cos_sim_step": "BYOL",
            "train_nce_loss_step": "SimCLR",
            "dino_loss_step": "DINO",
        },
    ),
    ("Attention entropy", "entropy (nats)", {"source_entropy_step": "source", "target_entropy_step": "target"}),
    (
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
    (
        "Features",
        "cosine, standard deviation",
        {"positive_similarity_step": "cosine of positives", "z_std_step": "std of features"},
    ),
)


def _series(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    points = [(row["step"], row[key]) for row in rows if key in row and "step" in row]
    return [x for x, _ in points], [y for _, y in points]


def draw_curves(rows: Rows, path: Path, title: str) -> None:
    """Write a PNG of loss, attention entropy, accuracies and feature statistics over the steps.

    Args:
        rows: logged metrics, each with ``step``.
        path: of the PNG.
        title: over the picture.
    """
    panels = [(name, label, keys) for name, label, keys in _PANELS if any(_series(rows, key)[0] for key in keys)]
    if not panels:
        return
    with context(STYLE):
        columns = min(2, len(panels))
        lines = -(-len(panels) // columns)
        figure = Figure(figsize=(5.0 * columns, 3.2 * lines), layout="constrained")
        figure.suptitle(title)
        axes: list[Axes] = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axis, (name, label, keys) in zip(axes, panels):
            _draw_panel(axis, rows, name, label, keys)
        for axis in axes[len(panels) :]:
            axis.remove()
        figure.savefig(path)


def _draw_panel(axis: Axes, rows: Rows, name: str, label: str, keys: Mapping[str, str]) -> None:
    for key, shown in keys.items():
        steps, values = _series(rows, key)
        if steps:
            axis.plot(steps, values, label=shown, marker="o" if len(steps) < 25 else None, markersize=3)
    axis.set(title=name, xlabel="step", ylabel=label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
