"""Command-line options that the commands share."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from solo_bam.core.errors import UserError, nearest
from solo_bam.core.files import expanded
from solo_bam.runs.checkpoints.find import find_checkpoint


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(self.prog, f"{message}{self._meant(message)}", f"see {self.prog} --help")

    def _meant(self, message: str) -> str:
        """The nearest of what argparse says that it allows."""
        if found := re.search(r"invalid choice: '?(.+?)'? \(choose from (.*)\)", message):
            return nearest(found[1], re.findall(r"[^\s',]+", found[2]))
        if found := re.search(r"unrecognized arguments: (-[^\s=]*)", message):
            return nearest(found[1], self._option_string_actions)
        return ""


def recipe_parser(command: str, description: str) -> Parser:
    """A parser with ``--config-path``, ``--config-name`` and overrides."""
    parser = Parser(prog=f"solo-bam {command}", description=description)
    parser.add_argument("--config-name", metavar="NAME", help="a recipe, e.g. digits/bam; solo-bam list recipes")
    parser.add_argument(
        "--config-path", metavar="FOLDER", help="folder of your own recipes, relative to where you stand"
    )
    add_import(parser)
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the recipe, e.g. optimizer.lr=0.1"
    )
    return parser


def checkpoint_parser(command: str, description: str, settings: str, keys: str = "") -> Parser:
    """A parser with ``checkpoint`` and ``settings``.

    Args:
        command: its name.
        description: what it does.
        settings: the ``key=value`` words in short.
        keys: all of them, for the end of the help.
    """
    parser = Parser(
        prog=f"solo-bam {command}",
        description=description,
        epilog=keys,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a run's folder, a checkpoint or an exported file"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help=settings)
    return parser


def add_import(parser: Parser) -> None:
    """The option ``--import``, for :func:`import_modules`."""
    parser.add_argument(
        "--import", dest="modules", action="append", default=[], metavar="MODULE",
        help="import a module of your own first, which registers a method (docs/adding-a-method.md)",
    )  # fmt: skip


def import_modules(names: Sequence[str]) -> None:
    """Import the user's own modules, from the Python path or from where the user stands.

    Only the command line names them: a recipe, which may come from somebody else, cannot run code.

    Raises:
        UserError: there is no such module.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            if not all(map(str.isidentifier, name.split("."))):
                raise ModuleNotFoundError(name=name)
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, and misses another
            problem = f"there is no module {name!r} on the Python path or in {os.getcwd()}"
            raise UserError("--import", problem, "correct its name, or set PYTHONPATH") from None


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Options and overrides in any order; a checkpoint that is not there is told before anything is imported.

    Raises:
        UserError: words that the command does not take, or no such checkpoint.
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may stand there
        from solo_bam.cli.completers import complete

        complete(parser)
    asked = parser.parse_intermixed_args(list(arguments))
    if "checkpoint" in asked:
        find_checkpoint(asked.checkpoint, "checkpoint")
    return asked


def split_settings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths and ``key=value`` settings; what is there is a path (``epoch=19.ckpt``)."""
    settings = [a for a in arguments if "=" in a and not expanded(Path(a)).exists()]
    return [a for a in arguments if a not in settings], settings
