"""What the files around the package say agrees with the package."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import solo_bam
from tests import house

# Where a module's name is not its distribution's.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "hydra": "hydra-core",
    "nvidia": "nvidia-dali-cuda120",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
}
NOT_DECLARED = {"solo_bam", "solo"}  # solo-learn is installed with --no-deps: its pins cannot be met


def declared() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for: the package itself (``""``) and each extra."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((house.ROOT / "pyproject.toml").read_text())["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: list(map(Requirement, lines)) for extra, lines in lists.items()}


def imported(source: str) -> set[str]:
    """Top-level names of the modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


def test_every_import_is_declared() -> None:
    used = {name for _, text in house.sources() for name in imported(text)}
    needed = {DISTRIBUTIONS.get(name, name) for name in used - set(sys.stdlib_module_names) - NOT_DECLARED}
    offered = {
        each.name for extra, all_of_it in declared().items() if extra not in ("dev", "docs") for each in all_of_it
    }
    assert sorted(needed - offered) == []


def test_every_module_of_a_file_is_found() -> None:
    assert imported("import a.b as c, d\ndef f():\n    from e.f import g\n    from . import h\n") == {"a", "d", "e"}


def test_the_tested_versions_are_allowed() -> None:
    asked = {each.name.lower(): each.specifier for lists in declared().values() for each in lists}
    for line in (house.ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            tested = Requirement(line)
            (version,) = [pin.version for pin in tested.specifier]
            assert asked[tested.name].contains(version), line


def test_the_lower_bounds_are_the_versions_of_make_test_oldest() -> None:
    lines = (house.ROOT / "constraints-oldest.txt").read_text().splitlines()[1:]
    pinned = {each.name: {spec.version for spec in each.specifier} for each in map(Requirement, lines)}
    users = [each for extra, lists in declared().items() if extra not in ("dev", "docs") for each in lists]
    assert {each.name for each in users} == {*pinned}
    for each in users:
        ((bound, version),) = ((spec.operator, spec.version) for spec in each.specifier)
        assert bound == ">="
        assert {Version(pin) for pin in pinned[each.name]} == {Version(version)}, each


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((house.ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+) \((.+)\)$", (house.ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.groups() == (solo_bam.__version__, citation["date-released"])
    assert citation["version"] == solo_bam.__version__


@pytest.mark.parametrize("page", sorted(path.relative_to(house.ROOT).as_posix() for path in house.ROOT.glob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (house.ROOT / page).read_text())
    assert [link for link in links if not Path(house.ROOT, link).exists()] == []


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_the_forms_of_issues_are_complete(name: str) -> None:
    form = yaml.safe_load((house.ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)


def test_the_hooks_are_tools_that_make_lint_runs() -> None:
    hooks = yaml.safe_load((house.ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    makefile = (house.ROOT / "Makefile").read_text()
    for hook in hooks:
        assert hook["entry"].replace(".venv/bin/", "$(BIN)/").split(" --")[0] in makefile


def test_the_drawing_is_of_the_rooms_as_they_are() -> None:
    """``python docs/rooms.py`` draws it anew."""
    drawn = runpy.run_path(str(house.ROOT / "docs" / "rooms.py"))
    assert (house.ROOT / "docs" / "rooms.svg").read_text() == drawn["svg"]()
    assert set(drawn["rooms"]()) == {path.parent.name for path in house.PACKAGE.glob("*/__init__.py")}


def test_reliability_names_files_and_tests_that_exist() -> None:
    """A promise with a test that has moved is a promise without one."""
    text = (house.ROOT / "docs/reliability.md").read_text()
    for name in re.findall(r"`([\w/]+\.py)", text):
        places = [house.ROOT / name, house.ROOT / "solo_bam" / name, house.ROOT / "tests/cli" / name]
        assert any(place.exists() for place in places), name
    tests = {
        found
        for path in (house.ROOT / "tests").rglob("*.py")
        for found in re.findall(r"def (test_\w+)", path.read_text())
    }
    for name in re.findall(r"(?<![\w/])(test_\w+)(?![\w./])", text):
        assert any(one.startswith(name) for one in tests), name
