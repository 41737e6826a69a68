"""``solo-bam pretrain``: train a method from a recipe."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import import_modules, parse, recipe_parser
from solo_bam.core.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Parse the command line, train, and say where everything is."""
    parser = recipe_parser("pretrain", "Train a self-supervised method from a recipe.")
    parser.add_argument("--resume", action="store_true", help="continue the newest unfinished run of this recipe")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run; nothing is written")
    options = parse(parser, arguments)
    if options.config_name is None:
        named = next((word for word in options.overrides if "=" not in word), None)
        problem = "is missing" if named is None else f"is missing (did you mean --config-name {named}?)"
        raise UserError("--config-name", problem, "give a recipe, solo-bam list recipes names them")
    import_modules(options.modules)

    from solo_bam.config import load_recipe

    recipe = load_recipe(options.config_name, options.overrides, options.config_path)
    if options.dry_run:
        from solo_bam.train.doctor.recipe import dry_run

        return dry_run(recipe, options.resume)

    from solo_bam.train.run import pretrain, report_pretrained

    report_pretrained(pretrain(recipe, resume=options.resume))
    return 0
