"""One look for all figures: Okabe and Ito's colours, told apart by colour-blind readers too."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.figure import Figure
from matplotlib.style import context

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

STYLE = {
    "figure.dpi": 120,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),  # type: ignore[attr-defined]
    "legend.frameon": False,
    "savefig.bbox": "tight",
}


class Picture(Figure):
    """A matplotlib figure that a notebook shows, whatever its backend."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        with context(STYLE):
            self.savefig(out, format="png", dpi=80)
        return out.getvalue()


def shortened(text: str, length: int = 22) -> str:
    """A name that fits into a figure; its middle is left out, since runs differ at their ends."""
    keep = (length - 1) // 2
    return text if len(text) <= length else f"{text[:keep]}…{text[-keep:]}"
