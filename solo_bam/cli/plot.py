"""``solo-bam plot``: pictures of runs and checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from solo_bam.api.plot import KINDS, draw
from solo_bam.cli.options import Parser, parse, split_settings
from solo_bam.core.errors import UserError

_HELP = (
    "what:\n"
    + "".join(f"  {what} {takes:<{22 - len(what)}}{text}\n" for what, (takes, text) in KINDS.items())
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
    parser.add_argument("what", choices=KINDS, metavar="WHAT", help=", ".join(KINDS))
    parser.add_argument("of", nargs="+", metavar="RUN|CHECKPOINT", help="a run's folder, or a checkpoint")
    asked = parse(parser, arguments)
    given, settings = split_settings(asked.of)

    from solo_bam.config.options import parse_options
    from solo_bam.config.plotting import PlotOptions

    options = parse_options(PlotOptions, settings)
    if not given or (len(given) > 1 and asked.what != "curves"):
        raise UserError(asked.what, f"got {len(given)} paths, takes {KINDS[asked.what][0]}", "see solo-bam plot --help")
    print(f"Picture: {draw(asked.what, [Path(path) for path in given], options).path}")
    return 0
