"""The figures of the house, ``make house``: how large it is, and where it is not yet as ``CONTRIBUTING.md`` says.

What is beyond a limit today stands in ``house_exceptions.json``. ``test_house.py`` lets nothing be added there; what is
no longer beyond its limit has to leave it (``python -m tests.house --write`` does that, and adds nothing).
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "solo_bam"
EXCEPTIONS = Path(__file__).with_name("house_exceptions.json")
FILE_LINES, FUNCTION_LINES = 350, 40
GOALS = {"lines of Python in solo_bam": 15_000, "lines of Python in tests": 11_000}
NO_METHODS = {"base", "linear"}  # solo-learn lists them among its methods

Figures = dict[str, dict[str, int]]


def sources(folder: Path = PACKAGE) -> Iterator[tuple[str, str]]:
    """Each Python file's path from the folder's parent, and its text."""
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder.parent).as_posix(), path.read_text()


def lines(folder: Path = PACKAGE) -> int:
    """Lines of Python, comments and empty ones included."""
    return sum(len(text.splitlines()) for _, text in sources(folder))


def loose_modules(folder: Path = PACKAGE) -> dict[str, int]:
    """Modules in no room, with their lines."""
    loose = {path.name for path in folder.glob("*.py")} - {"__init__.py", "__main__.py"}
    return {name: len((folder / name).read_text().splitlines()) for name in sorted(loose)}


def long_files(folder: Path = PACKAGE) -> dict[str, int]:
    """Files over the limit, with their lines."""
    counts = {path: len(text.splitlines()) for path, text in sources(folder)}
    return {path: count for path, count in counts.items() if count > FILE_LINES}


def long_functions(folder: Path = PACKAGE) -> dict[str, int]:
    """Functions over the limit, with their lines, signature and docstring included."""
    found = {}
    for path, text in sources(folder):
        for name, node in _functions(ast.parse(text)):
            count = (node.end_lineno or 0) - node.lineno + 1
            if count > FUNCTION_LINES:
                found[f"{path}::{name}"] = count
    return found


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}.{node.name}".lstrip(".")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, node
        yield from _functions(node, name)


def naming_a_method(folder: Path = PACKAGE, methods: set[str] | None = None) -> dict[str, int]:
    """Files outside ``methods/`` and ``losses/`` with strings that name a method, and in how many places."""
    word = re.compile(rf"(?<!\w)(?<!solo-)({'|'.join(sorted(methods or method_names()))})(?!\w)")
    found = {}
    for path, text in sources(folder):
        if path.split("/")[1] not in ("methods", "losses"):
            found[path] = sum(bool(word.search(string)) for string in _strings(ast.parse(text)))
    return {path: count for path, count in found.items() if count}


def _strings(tree: ast.AST) -> Iterator[str]:
    """All strings but docstrings."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def method_names() -> set[str]:
    """Of the table of methods."""
    from solo_bam.methods import METHODS

    return set(METHODS) - NO_METHODS


def beyond() -> Figures:
    """What is beyond a limit today."""
    return {
        "loose modules": loose_modules(),
        f"files over {FILE_LINES} lines": long_files(),
        f"functions over {FUNCTION_LINES} lines": long_functions(),
        "files that name a method in a string": naming_a_method(),
    }


def exceptions() -> Figures:
    """What was beyond a limit when the limits were set, and still is."""
    known: Figures = json.loads(EXCEPTIONS.read_text())
    return known


def added(now: Figures, known: Figures) -> list[str]:
    """What is beyond a limit, and is not known or was less."""
    return [
        f"{what}: {where} ({count}, allowed {known.get(what, {}).get(where, 'none')})"
        for what, places in now.items()
        for where, count in places.items()
        if count > known.get(what, {}).get(where, 0)
    ]


def outdated(now: Figures, known: Figures) -> list[str]:
    """Exceptions that nothing needs any more."""
    return [f"{what}: {where}" for what, places in known.items() for where in places if where not in now.get(what, {})]


def shrunk(now: Figures, known: Figures) -> Figures:
    """The exceptions without what is no longer needed: never more, and none larger."""
    return {
        what: {where: min(count, now[what][where]) for where, count in places.items() if where in now.get(what, {})}
        for what, places in known.items()
    }


def main(arguments: list[str]) -> None:
    """Print the figures."""
    now = beyond()
    if "--write" in arguments:
        EXCEPTIONS.write_text(json.dumps(shrunk(now, exceptions()), indent=1) + "\n")
    sizes = {"lines of Python in solo_bam": lines(), "lines of Python in tests": lines(ROOT / "tests")}
    for what, count in sizes.items():
        print(f"{what}: {count:,} (goal: at most {GOALS[what]:,})")
    for what, places in now.items():
        print(f"{what}: {len(places)} (goal: none)")
        for where, count in sorted(places.items(), key=lambda place: -place[1]):
            print(f"    {count:4} {where}")
    for line in added(now, exceptions()):
        print(f"NEW, fails tests/test_house.py: {line}")


if __name__ == "__main__":
    main(sys.argv[1:])
