"""``solo-bam linear``: a linear classifier on frozen features, or a fine-tuned network, and how accurate it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from solo_bam.cli.options import Parser, parse, split_settings
from solo_bam.core.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Parse the command line, train, test, and say where everything is."""
    options = parse(_parser(), arguments)
    paths, overrides = split_settings(options.arguments)
    if len(paths) > 1:
        raise UserError("RUN", f"got {len(paths)} ({', '.join(paths)})", "give one run or checkpoint")
    checkpoint = Path(paths[0]) if paths else None

    from solo_bam.train.linear import find_recipe, linear, report_classified

    found = find_recipe(options.config_name, options.config_path, checkpoint, overrides)
    report_classified(linear(*found, resume=options.resume))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="solo-bam linear",
        description="Train a linear classifier on the frozen features of a pretrained backbone, or fine-tune it.",
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="RUN key=value",
        help="a pretraining run or checkpoint, evaluated on its own data; changes to the recipe, e.g. max_epochs=10",
    )
    parser.add_argument("--config-name", metavar="NAME", help="a recipe, e.g. cifar/linear; default: the data set's")
    parser.add_argument(
        "--config-path", metavar="FOLDER", help="folder of your own recipes, relative to where you stand"
    )
    parser.add_argument("--resume", action="store_true", help="continue the newest unfinished run of this recipe")
    return parser
