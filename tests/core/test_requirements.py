"""What ``pip install --no-deps`` leaves out or too old is one line, whatever the command."""

from __future__ import annotations

from importlib import metadata

import pytest

from solo_bam import cli
from solo_bam.cli import main
from solo_bam.core import requirements

DECLARED = ["torch>=2.7", "pydantic>=2.7", "timm>=1.0.12", 'h5py>=3.8; extra == "h5"', 'tomli; python_version < "3"']


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions of an environment of one's own."""
    versions = {"torch": "2.7.1+cu118", "pydantic": "2.7.0", "timm": "1.0.12"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "requires", lambda name: DECLARED)
    monkeypatch.setattr(metadata, "version", version)
    return versions


def test_lower_bounds_of_what_is_needed_are_enough(installed: dict[str, str]) -> None:
    requirements.check_requirements()
    installed["torch"] = "2.8.0a0+git"  # a build of one's own
    requirements.check_requirements()


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_what_is_too_old_or_missing_is_one_line(
    command: str, installed: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    installed["torch"] = "1.13.1"
    del installed["pydantic"]
    assert main([command]) == 2
    assert capsys.readouterr().err == (
        "solo-bam: error: solo-bam: needs torch>=2.7 (1.13.1 is installed), pydantic>=2.7 (nothing is installed); "
        "pip install 'torch>=2.7' 'pydantic>=2.7'\n"
    )


def test_a_checkout_that_nobody_installed_declares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: metadata.Distribution.from_name("no such package"))
    assert requirements._declared() == []
    requirements.check_requirements()


def test_help_needs_nothing(installed: dict[str, str]) -> None:
    installed.clear()
    assert main(["--help"]) == 0
