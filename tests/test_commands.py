"""Every command line of the README and the pages is one: command, recipe, keys and values are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from solo_bam.cli import COMMANDS
from solo_bam.cli.list import WHAT
from solo_bam.config import load_recipe
from solo_bam.config.comparison import load_comparison
from solo_bam.config.find import kind_of
from solo_bam.config.linear import load_linear_recipe
from solo_bam.config.show import show
from tests import house

PAGES = [house.ROOT / "README.md", *sorted((house.ROOT / "docs").glob("*.md")), *house.ROOT.glob("scripts/*/README.md")]
_BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def _lines(page: Path) -> list[list[str]]:
    """The words of each ``solo-bam`` line, without what a shell's comment says and without options for the reader."""
    blocks = "\n".join(_BLOCK.findall(page.read_text())).replace("\\\n", " ")
    lines = [line for line in blocks.splitlines() if line.strip().startswith("solo-bam ") and "…" not in line]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize(
    ("page", "words"),
    [(page, words) for page in PAGES for words in _lines(page)],
    ids=lambda one: one.stem if isinstance(one, Path) else " ".join(one[1:]),
)
def test_a_line_of_the_documentation(page: Path, words: list[str]) -> None:
    _, command, *rest = words
    assert command in COMMANDS
    overrides = [word for word in rest if "=" in word and not word.startswith(("-", "device="))]  # doctor's own key
    if {"--config-path", "--import"} & {*rest}:
        return  # the reader's own files and methods
    if command in ("pretrain", "doctor"):
        name = rest[rest.index("--config-name") + 1] if "--config-name" in rest else next(iter(rest), "digits/bam")
        load_recipe(rest[1] if name.startswith("--") else name, overrides)
    elif command == "linear" and "--config-name" in rest:
        load_linear_recipe(rest[rest.index("--config-name") + 1], overrides)
    elif command == "show":
        show(kind_of(rest[0]), rest[0], overrides)
    elif command == "list" and rest:
        assert rest[0] in WHAT
    elif command == "compare":
        load_comparison(rest[0], [word for word in overrides if not word.startswith("hydra")])


def test_there_are_lines_to_check() -> None:
    assert sum(len(_lines(page)) for page in PAGES) > 30
