"""``solo-bam doctor``: what this machine and installation can do, and whether a recipe can run on them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from solo_bam.cli.options import Parser, add_import, import_modules, parse
from solo_bam.core.errors import UserError

if TYPE_CHECKING:
    from solo_bam.config import Recipe


def main(arguments: Sequence[str]) -> int:
    """Print what was found; 0 where nothing is in the way, 1 where something is."""
    options = _parse(arguments)
    import_modules(options.modules)
    device = _device(options)
    recipe = _recipe(options)
    if options.data and recipe:
        from solo_bam.data.datasets.inspection import scan

        return scan(recipe)
    if options.loaders and recipe:
        from solo_bam.data.loaders.parity import compare_loaders

        return compare_loaders(recipe)
    return _examine(recipe, device)


def _device(options: Namespace) -> str | None:
    """The device that a run is planned for, taken out of the words: it is no key of a recipe."""
    named = [word for word in options.words if word.startswith("device=")]
    options.words = [word for word in options.words if word not in named]
    if named and (options.data or options.loaders or not options.words):
        raise UserError("device", "is asked about with a recipe alone", "solo-bam doctor RECIPE device=h100")
    return named[-1].removeprefix("device=") if named else None


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = Parser(
        prog="solo-bam doctor",
        usage="solo-bam doctor [RECIPE [device=NAME] | --data RECIPE | --loaders RECIPE] [--config-path FOLDER] "
        "[key=value ...]",
        description="Say what this machine can do, whether a recipe can run on it, and what it would take there or on "
        "another device.",
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--data", metavar="RECIPE", help="read every image of the recipe's dataset and name the bad ones"
    )
    asked.add_argument(
        "--loaders",
        metavar="RECIPE",
        help="compare DALI's crops (with data.format=tensor that loader's) with torchvision's over the same images",
    )
    parser.add_argument("--config-path", metavar="FOLDER", help="folder of your own recipes")
    add_import(parser)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE key=value",
        help="a recipe, and changes to it; device=h100: estimate its speed and memory on one, a model",
    )
    return parse(parser, arguments)


def _recipe(options: Namespace) -> Recipe | None:
    """The recipe that is asked about, if any."""
    name, changes = options.data or options.loaders, options.words
    if name is None and changes and "=" not in changes[0]:
        name, changes = changes[0], changes[1:]
    if name is None:
        if changes or options.config_path:
            raise UserError("solo-bam doctor", "got changes without a recipe", "see solo-bam doctor --help")
        return None

    from solo_bam.config import load_recipe

    return load_recipe(name, changes, options.config_path)


def _examine(recipe: Recipe | None, device: str | None) -> int:
    from solo_bam.train.doctor.finding import page
    from solo_bam.train.doctor.machine import examine_machine

    findings = examine_machine(Path("trained_models") if recipe is None else recipe.checkpoint.dir)
    print(page("This machine", findings))
    if recipe is not None:
        from solo_bam.train.doctor.recipe import examine_recipe

        about = examine_recipe(recipe, device)
        print("\n" + page(f"This recipe{'' if recipe.name is None else f': {recipe.name}'}", about))
        findings += about
    failures = sum(finding.status == "failure" for finding in findings)
    warnings = sum(finding.status == "warning" for finding in findings)
    what = "the recipe can run" if recipe else "solo-bam can run"
    print(f"\n{f'{failures} failure(s): mend them first' if failures else what}, {warnings} warning(s)")
    return 1 if failures else 0
