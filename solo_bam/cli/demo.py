"""``solo-bam demo``: pretrain BAM on handwritten digits and show what it learned."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import Parser, parse


def main(arguments: Sequence[str]) -> int:
    """Train, evaluate, print a table and say where everything is."""
    parser = Parser(
        prog="solo-bam demo", description="Pretrain on handwritten digits for a few minutes and show what was learned."
    )
    parser.add_argument("--config-name", default="digits/bam", metavar="NAME", help="a recipe on the digits")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe, e.g. seed=1")
    options = parse(parser, arguments)

    from solo_bam.config import load_recipe

    recipe = load_recipe(options.config_name, ["checkpoint.dir=demo", "seed=0", *options.overrides])

    from solo_bam.train.demo import demo

    demo(recipe)
    return 0
