"""``solo-bam show``: a recipe as it is resolved, each value with the file that it comes from."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import Parser, parse
from solo_bam.config.find import KINDS, kind_of


def main(arguments: Sequence[str]) -> int:
    """Print YAML that is the same recipe."""
    parser = Parser(
        prog="solo-bam show",
        description="Print a recipe as it is resolved, each value with the file that it comes from. "
        "What it prints is the same recipe: solo-bam show RECIPE > mine.yaml",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="of pretraining, linear evaluation or comparison")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it, e.g. optimizer.lr=0.1")
    parser.add_argument("--config-path", metavar="FOLDER", help="folder of your own recipes")
    parser.add_argument("--kind", choices=KINDS, help="of recipe; default: the first that has one of this name")
    options = parse(parser, arguments)
    kind = options.kind or ("pretrain" if options.config_path else kind_of(options.recipe))

    from solo_bam.config.show import show

    print(show(kind, options.recipe, options.overrides, options.config_path))
    return 0
