"""``solo-bam plot``: pictures of runs and checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from solo_bam.cli.options import Parser, parse, split_settings
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded, writable

if TYPE_CHECKING:
    from solo_bam.config.plotting import PlotOptions

WHAT = {
    "curves": ("RUN…", "losses and accuracies; several runs in one picture"),
    "entropy": ("RUN", "entropy of BAM's attention over training"),
    "similarity": ("CHECKPOINT", "how alike views, classes and other images are, before training and after"),
    "features": ("CHECKPOINT", "features in the plane, coloured by class"),
    "attention": ("CHECKPOINT", "a ViT's [CLS] attention per head and on average; other networks' heat maps"),
    "confusion": ("FILE|RUN", "a confusion matrix"),
}
_HELP = (
    "what:\n"
    + "".join(f"  {what} {takes:<{22 - len(what)}}{text}\n" for what, (takes, text) in WHAT.items())
    + """
keys (and their defaults):
  output=                   the picture's file; default: plots/ of the run
  format=png                or pdf, svg
  images=[a.jpg,b.jpg]      for attention; default: some of the data set's
  num_images=               for similarity (256), features (1000) and attention (6)
  reduction=pca             or umap, for features
  branch=student            or teacher
  data.train_path=, data.val_path=, data.dataset=, ...
                            changes to the recipe's section data
  batch_size=64  num_workers=  accelerator=auto
"""
)


def main(arguments: Sequence[str]) -> int:
    """Draw one picture and say where it is."""
    parser = Parser(
        prog="solo-bam plot",
        description="Pictures of runs and checkpoints.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=WHAT, metavar="WHAT", help=", ".join(WHAT))
    parser.add_argument("of", nargs="+", metavar="RUN|CHECKPOINT", help="a run's folder, or a checkpoint")
    asked = parse(parser, arguments)
    given, settings = split_settings(asked.of)

    from solo_bam.config.options import parse_options
    from solo_bam.config.plotting import PlotOptions

    options = parse_options(PlotOptions, settings)
    if not given or (len(given) > 1 and asked.what != "curves"):
        raise UserError(asked.what, f"got {len(given)} paths, takes {WHAT[asked.what][0]}", "see solo-bam plot --help")
    print(f"Picture: {draw(asked.what, [Path(path) for path in given], options)}")
    return 0


def draw(what: str, paths: Sequence[Path], options: PlotOptions) -> Path:
    """Draw one of :data:`WHAT`.

    Raises:
        UserError: matplotlib or what is to be drawn is missing.
    """
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
    if what == "curves":
        return pictures.plot_curves(paths, options)
    if what in ("entropy", "confusion"):
        return getattr(pictures, f"plot_{what}")(paths[0], options)
    return getattr(pictures, f"plot_{what}")(pictures.Subject.of(paths[0], options), options)
