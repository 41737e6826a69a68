"""What the doctor says about the machine: each line where all is well, and where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from solo_bam import solo_learn
from solo_bam.cli import main
from solo_bam.core.errors import UserError
from solo_bam.core.hardware import GIB
from solo_bam.train.doctor import machine
from solo_bam.train.doctor.finding import Finding, page
from solo_bam.train.doctor.machine import disk, examine_machine

ROOT = Path(machine.__file__).parents[3]


def _only(findings: list[Finding], topic: str) -> Finding:
    found = [f for f in findings if f.topic == topic]
    assert len(found) == 1, findings
    return found[0]


def test_a_page_without_a_recipe(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "This machine"
    assert all(len(line) <= 100 or str(tmp_path) in line for line in lines)  # a path is not broken
    assert all(line[:9].strip() in ("ok", "warning", "") for line in lines[1:-2])
    assert lines[-1].startswith("solo-bam can run, ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("columns", [10, 60, 80, 100, 500])
def test_lines_fit(columns: int, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = page("Title", [Finding("failure", "topic", "word " * 60, "do " * 30)])
    assert max(map(len, text.splitlines())) <= max(60, min(columns, 100))
    assert all(line.startswith(" " * 21) for line in text.splitlines()[2:])


def test_a_users_error_becomes_a_failure_with_its_remedy() -> None:
    found = Finding.of("data", UserError("data.train_path", "there is no folder x", "give one"))
    assert found == Finding("failure", "data", "data.train_path: there is no folder x", "give one")


def test_the_tested_versions_are_those_of_the_constraints(monkeypatch: Any, tmp_path: Path) -> None:
    tested = machine.tested_versions()
    assert tested["timm"] in (ROOT / "constraints.txt").read_text()
    assert all(version[0].isdigit() for version in tested.values())
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))
    assert machine.tested_versions() == {}


def test_an_installed_package_carries_the_tested_versions(tmp_path: Path) -> None:
    """What setup.py adds to a wheel."""
    pytest.importorskip("setuptools")
    pytest.importorskip("packaging.licenses", reason="setuptools builds with packaging 24.2")
    build = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "build", "-b", str(tmp_path / "build")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    shipped = next((tmp_path / "build").rglob("solo_bam/constraints.txt"))
    assert shipped.read_text() == (ROOT / "constraints.txt").read_text()


def test_versions(monkeypatch: Any) -> None:
    installed = {name: metadata.version(name) for name in machine._RUNS_ON}
    assert [f.status for f in machine._versions(installed)] == ["ok"]
    other = machine._versions({**installed, "timm": "0.1"})
    assert _only(other, "timm").status == "warning"
    assert f"{installed['timm']}, the tests run on 0.1" in _only(other, "timm").text
    nothing_known = _only(machine._versions({}), "versions")
    assert nothing_known.text.endswith("not known here")
    assert "as tested" not in nothing_known.text
    unpinned = machine._versions({name: version for name, version in installed.items() if name != "torch"})
    assert [f"torch {installed['torch']}" in f.text for f in unpinned] == [False, True]

    def version(name: str) -> str:
        if name == "timm":
            raise metadata.PackageNotFoundError(name)
        return f"{installed[name]}+cu128"  # a build of its own is the same version

    monkeypatch.setattr(metadata, "version", version)
    missing = machine._versions(installed)
    assert _only(missing, "timm") == Finding("failure", "timm", "is not installed", "pip install timm")
    assert _only(missing, "versions").status == "ok"


def test_without_solo_learn_the_page_says_what_to_install(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(solo_learn, "problem", lambda: solo_learn.MISSING)
    assert main(["doctor"]) == 1
    page = " ".join(capsys.readouterr().out.split())
    assert "failure solo-learn solo-bam " in page
    assert solo_learn.INSTALL in page
    assert "1 failure(s): mend them first" in page


def test_a_clone_of_the_head_needs_no_installed_release(monkeypatch: Any) -> None:
    monkeypatch.setattr(solo_learn, "version", lambda: {"solo-learn": "head 1234567"})
    monkeypatch.setattr(metadata, "version", lambda name: metadata.distribution(f"no {name}").version)
    assert machine._solo_learn().status == "ok"
    assert machine._solo_learn().text.startswith("head 1234567, ")


def test_accelerators(monkeypatch: Any) -> None:
    Gpu = namedtuple("Gpu", "name total_memory")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda p: False if str(p) == "/dev/nvidia0" else exists(p))
    assert machine._accelerator() == Finding("ok", "accelerator", "no GPU: runs go to the CPU")
    monkeypatch.setattr(Path, "exists", lambda p: True if str(p) == "/dev/nvidia0" else exists(p))
    assert machine._accelerator().status == "warning"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert machine._accelerator().text == "MPS"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: Gpu("Big", 80 * GIB))
    assert "2 GPU(s): Big (80 GiB), Big (80 GiB); CUDA" in machine._accelerator().text


def test_memory(monkeypatch: Any, tmp_path: Path) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**30 // 4096}
    monkeypatch.setattr(os, "sysconf", lambda name: pages[name])
    assert machine._cores().status == "warning"
    pages["SC_PHYS_PAGES"] *= 16
    assert machine._cores() == Finding("ok", "machine", machine._cores().text)
    assert "16 GiB of memory" in machine._cores().text
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    assert machine._shared_memory() == []
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path)
    Usage = namedtuple("Usage", "free")
    for free, status in ((2**26, "warning"), (2**33, "ok")):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, free=free: Usage(free))
        assert machine._shared_memory()[0].status == status


def test_extras_and_fonts(monkeypatch: Any) -> None:
    assert machine._extra("h5py") == Finding("ok", "h5", "installed (data.format=h5)")
    assert machine._fonts()[0].status == "ok"
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "font.family", ["No Such Font"])
    assert machine._fonts()[0].status == "warning"
    assert "No Such Font" in machine._fonts()[0].text
    monkeypatch.setattr(machine, "_is_installed", lambda module: False)
    assert machine._fonts() == []
    assert "pip install 'solo-bam[dali]'" in machine._extra("nvidia.dali").text


def test_disk(tmp_path: Path, monkeypatch: Any) -> None:
    runs = tmp_path / "not" / "yet"
    assert disk(runs, needed=1).status == "ok"
    assert str(runs) in disk(runs, needed=1).text
    assert disk(runs, needed=2.0**70) == Finding(
        "warning", "disk", disk(runs, 1).text, "make room or set checkpoint.dir to another disk"
    )
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert disk(runs).status == "failure"
    assert "cannot be written to" in disk(runs).text


def test_examined_once_each(tmp_path: Path) -> None:
    topics = [finding.topic for finding in examine_machine(tmp_path)]
    assert {
        "solo-bam",
        "versions",
        "solo-learn",
        "accelerator",
        "machine",
        "h5",
        "plots",
        "dali",
        "fonts",
        "disk",
    } <= set(topics)
    assert len(topics) == len(set(topics))
