"""One picture of runs or of a checkpoint, by its kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from solo_bam.core.errors import UserError, nearest
from solo_bam.core.files import expanded, writable

if TYPE_CHECKING:
    from solo_bam.config.plotting import PlotOptions
    from solo_bam.train.pictures import Drawn

# Each kind with what it takes, and what it shows.
KINDS = {
    "curves": ("RUN…", "losses and accuracies; several runs in one picture"),
    "entropy": ("RUN", "entropy of BAM's attention over training"),
    "similarity": ("CHECKPOINT", "how alike views, classes and other images are, before training and after"),
    "features": ("CHECKPOINT", "features in the plane, coloured by class"),
    "attention": ("CHECKPOINT", "a ViT's [CLS] attention per head and on average; other networks' heat maps"),
    "confusion": ("FILE|RUN", "a confusion matrix"),
}


def draw(kind: str, paths: Sequence[Path], options: PlotOptions) -> Drawn:
    """Draw one of :data:`KINDS`, and write it to its file.

    Raises:
        UserError: there is no such kind, or matplotlib or what is to be drawn is missing.
    """
    if kind not in KINDS:
        raise UserError("kind", f"got {kind!r}{nearest(kind, KINDS)}, allowed: {', '.join(KINDS)}", "correct it")
    try:
        from solo_bam.train import pictures
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise UserError("plot", "matplotlib is not installed", "pip install 'solo-bam[plots]'") from None
    if options.output is not None and options.output.suffix not in (".png", ".pdf", ".svg"):
        raise UserError("output", f"got {options.output}, must end in .png, .pdf or .svg", "correct it")
    if options.output is not None:
        writable(expanded(options.output).parent, "output")
    if kind == "curves":
        return pictures.plot_curves(paths, options)
    if kind in ("entropy", "confusion"):
        drawn: Drawn = getattr(pictures, f"plot_{kind}")(paths[0], options)
        return drawn
    drawn = getattr(pictures, f"plot_{kind}")(pictures.Subject.of(paths[0], options), options)
    return drawn
