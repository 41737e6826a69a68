"""``solo-bam new``: write a recipe for a folder of images."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from solo_bam.cli.options import Parser, parse
from solo_bam.core.errors import UserError
from solo_bam.core.files import writable


def main(arguments: Sequence[str]) -> int:
    """Look at the images, write the recipe, and print what to do with it."""
    parser = Parser(prog="solo-bam new", description="Look at a folder of images and write a recipe for them.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="class folders, images, or train/ and val/ of them")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the recipe; FOLDER's name .yaml, here, by default")
    options = parse(parser, arguments)
    target = options.output or Path(f"{options.folder.absolute().name}.yaml")
    if target.suffix != ".yaml":
        raise UserError("--output", f"got {target}", "give a name that ends in .yaml")
    if target.exists():
        raise UserError("--output", f"{target} is there already", "give another name, or remove it")
    writable(target.absolute().parent, "--output")

    from solo_bam.data.datasets.suggest import suggest

    suggestion = suggest(options.folder)
    target.write_text(suggestion.recipe, encoding="utf-8")
    place = shlex.join(["--config-path", str(target.parent), "--config-name", target.stem])
    print(f"{options.folder}: {suggestion.found}\nRecipe: {target}\n")
    print(f"Pretrain:  solo-bam pretrain {place}")
    print("Evaluate:  solo-bam knn RUN    (RUN: the folder that it names at its end)")
    print("Export:    solo-bam export RUN")
    return 0
