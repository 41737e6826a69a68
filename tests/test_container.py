"""The Dockerfile, as far as it can be looked at without building it."""

from __future__ import annotations

import re

import pytest

from tests.zygote import ROOT

DOCKERFILE = (ROOT / "scripts" / "cluster" / "Dockerfile").read_text()
INSTRUCTIONS = [line for line in re.sub(r"\\\n", " ", DOCKERFILE).splitlines() if line and not line.startswith("#")]


def _all(name: str) -> list[list[str]]:
    return [words[1:] for line in INSTRUCTIONS if (words := line.split())[0] == name]


def test_everything_that_the_package_is_made_of_is_copied() -> None:
    copied = {source for *sources, _ in _all("COPY") for source in sources}
    for source in copied:
        assert (ROOT / source).exists()
    setup = (ROOT / "setup.py").read_text()
    folders = set(re.findall(r'"solo_bam[\w.]*": "(\w+)"', setup))  # package_dir
    assert {"solo_bam", "scripts", "zoo"} == folders
    assert folders | {"setup.py", "pyproject.toml", "constraints.txt", "README.md"} <= copied


def test_its_python_is_one_that_is_tested_and_its_extras_exist() -> None:
    [[image]] = _all("FROM")
    marked = (ROOT / "constraints.txt").read_text().splitlines()[0]
    assert re.fullmatch(r"python:3\.11-slim", image)
    assert "3.11" in marked
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [extras] = re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "--no-deps solo-learn==1.0.2" in (ROOT / "Makefile").read_text()
    assert "--no-deps solo-learn==1.0.2" in DOCKERFILE
