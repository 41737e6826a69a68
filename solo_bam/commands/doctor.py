"""``solo-bam doctor``: check data and loaders before a run spends time on them."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.commands.options import Parser, parse
from solo_bam.config import load_recipe


def main(arguments: Sequence[str]) -> int:
    """Run the asked-for check; 0 when it found nothing wrong, 1 when it did."""
    parser = Parser(prog="solo-bam doctor", description="Check a recipe's data and loaders.")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--data", metavar="RECIPE", help="read every image of the recipe's dataset and name the bad ones"
    )
    asked.add_argument(
        "--loaders", metavar="RECIPE", help="compare DALI's crops with torchvision's over the same images"
    )
    parser.add_argument("--config-path", metavar="FOLDER", help="folder of your own recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    options = parse(parser, arguments)
    recipe = load_recipe(options.data or options.loaders, options.overrides, options.config_path)
    if options.data:
        from solo_bam.data.inspection import scan

        return scan(recipe)
    from solo_bam.data.parity import compare_loaders

    return compare_loaders(recipe)
