"""The house stays in order: imports run downwards only, nothing is added beyond the limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import house


@pytest.fixture(scope="module")
def now() -> house.Figures:
    return house.beyond()


def test_imports_between_rooms_run_downwards_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(house.ROOT)
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)  # it would silence all others' messages
    code = cli.lint_imports(config_filename="pyproject.toml", no_cache=True, no_logo=True)
    assert code == 0, capsys.readouterr().out


def test_nothing_is_added_beyond_the_limits(now: house.Figures) -> None:
    assert house.added(now, house.exceptions()) == []


def test_an_exception_that_is_no_longer_needed_goes(now: house.Figures) -> None:
    """``python -m tests.house --write`` takes it out."""
    assert house.outdated(now, house.exceptions()) == []


def test_every_room_is_on_the_map() -> None:
    rooms = {path.parent.name for path in house.PACKAGE.glob("*/__init__.py")}
    text = (house.ROOT / "CONTRIBUTING.md").read_text()
    assert {room for room in rooms if f"\n    {room}/" not in text} == set()


def test_what_is_measured(tmp_path: Path) -> None:
    package = tmp_path / "package"
    for room in ("methods", "plots"):
        (package / room).mkdir(parents=True)
        (package / room / "a.py").write_text('"""A byol."""\nHELP = "digits/byol, solo-bam, byolette"\n')
    (package / "loose.py").write_text("x = 1\n" * house.FILE_LINES)
    body = "        pass\n" * (house.FUNCTION_LINES - 1)
    (package / "long.py").write_text(
        f"class A:\n    def fits(self):\n{body}\n    def long(self):\n{body}        pass\n"
    )
    (package / "larger.py").write_text("x = 1\n" * (house.FILE_LINES + 1))
    assert house.naming_a_method(package, {"byol", "bam"}) == {"package/plots/a.py": 1}
    assert set(house.loose_modules(package)) == {"loose.py", "long.py", "larger.py"}
    assert house.long_files(package) == {"package/larger.py": house.FILE_LINES + 1}
    assert house.long_functions(package) == {"package/long.py::A.long": house.FUNCTION_LINES + 1}


def test_exceptions_only_shrink() -> None:
    known = {"long": {"a": 50, "b": 60, "c": 70}}
    now = {"long": {"a": 45, "b": 65, "d": 80}}
    assert len(house.added(now, known)) == 2  # b grew, d is new
    assert house.outdated(now, known) == ["long: c"]
    assert house.shrunk(now, known) == {"long": {"a": 45, "b": 60}}
