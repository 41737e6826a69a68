"""Command-line options that the commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from solo_bam.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(self.prog, message, f"see {self.prog} --help")


def recipe_parser(command: str, description: str) -> Parser:
    """A parser with ``--config-path``, ``--config-name`` and overrides."""
    parser = Parser(prog=f"solo-bam {command}", description=description)
    parser.add_argument("--config-name", required=True, metavar="NAME", help="a recipe, e.g. digits/bam")
    parser.add_argument(
        "--config-path", metavar="FOLDER", help="folder of your own recipes, relative to where you stand"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the recipe, e.g. optimizer.lr=0.1"
    )
    return parser


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Options and overrides in any order."""
    return parser.parse_intermixed_args(list(arguments))


def split_settings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths and ``key=value`` settings; what is there is a path (``epoch=19.ckpt``)."""
    settings = [a for a in arguments if "=" in a and not Path(a).expanduser().exists()]
    return [a for a in arguments if a not in settings], settings
