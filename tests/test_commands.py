"""Every command line of the README and the pages is one: command, options, recipe, keys and values are there."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from solo_bam.cli import COMMANDS, main
from solo_bam.cli.completers import _SETTINGS
from solo_bam.cli.list import WHAT
from solo_bam.config import load_recipe
from solo_bam.config.comparison import load_comparison, split_launcher
from solo_bam.config.find import kind_of
from solo_bam.config.linear import load_linear_recipe
from solo_bam.config.options import parse_options
from solo_bam.config.show import show
from tests import house

PAGES = [house.ROOT / "README.md", *sorted((house.ROOT / "docs").glob("*.md")), *house.ROOT.glob("scripts/*/README.md")]
_BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
_INLINE = re.compile(r"`(solo-bam [a-z][^`]*)`")


def _lines(page: Path) -> list[list[str]]:
    """The words of each ``solo-bam`` line and of each within the text, without what a shell's comment says.

    Those with an ellipsis, or without what the text names after them, are left out.
    """
    blocks = "\n".join(_BLOCK.findall(page.read_text())).replace("\\\n", " ")
    within = [" ".join(line.split()) for line in _INLINE.findall(_BLOCK.sub("", page.read_text()))]
    lines = [line for line in blocks.splitlines() if line.strip().startswith("solo-bam ")] + within
    return [shlex.split(line, comments=True) for line in lines if not re.search("…|--config-name$", line)]


@pytest.mark.parametrize(
    ("page", "words"),
    [(page, words) for page in PAGES for words in _lines(page)],
    ids=lambda one: one.stem if isinstance(one, Path) else " ".join(one[1:]),
)
def test_a_line_of_the_documentation(page: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    _, command, *rest = words
    assert command in COMMANDS
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert {word for word in rest if word.startswith("--")} <= {*re.findall(r"--[a-z-]+", capsys.readouterr().out)}
    meant = ("-", "device=", "key=value")  # options, doctor's own key, the reader's keys
    overrides = [word for word in rest if "=" in word and not word.startswith(meant)]
    if {"--config-path", "--import"} & {*rest}:
        return  # the reader's own files and methods
    if command in ("pretrain", "doctor"):
        name = rest[rest.index("--config-name") + 1] if "--config-name" in rest else next(iter(rest), "digits/bam")
        name = rest[1] if name.startswith("--") else name
        if "=" not in name and not name.isupper():  # RECIPE: the reader's
            load_recipe(name, overrides)
    elif command == "linear":
        name = rest[rest.index("--config-name") + 1] if "--config-name" in rest else "digits/linear"
        load_linear_recipe("digits/linear" if name.isupper() else name, overrides)
    elif command == "show":
        show(kind_of(rest[0]), rest[0], overrides)
    elif command == "list" and rest:
        assert rest[0] in WHAT
    elif command in _SETTINGS and overrides:
        module, name = _SETTINGS[command].split(".")
        parse_options(getattr(importlib.import_module(f"solo_bam.config.{module}"), name), overrides)
    elif command == "compare" and rest:
        load_comparison(rest[0], split_launcher(overrides)[1])


def test_there_are_lines_to_check() -> None:
    assert sum(len(_lines(page)) for page in PAGES) > 80
