"""The list of runs."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from solo_bam.cli import main
from solo_bam.core.files import locked
from solo_bam.runs import folder as runs
from solo_bam.runs.folder import RunFolder
from tests.recipes import tiny


def _run(root: Path, name: str, epochs: int, age: float) -> RunFolder:
    folder = RunFolder(root / "bam" / name)
    folder.start(tiny(root, "digits/bam", "max_epochs=10"), {})
    for epoch in range(epochs):
        folder.add_cost({"epoch": epoch, "seconds": 30.0})
    (folder.logs / "start_0.jsonl").write_text('{"step": 1, "knn_acc1": 50}\n{"step": 9, "knn_acc1": 61.234}\n')
    os.utime(folder.path / "run.json", (time.time() - age,) * 2)
    return folder


def test_each_run_is_a_line_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path, "going", 4, age=20)
    _run(tmp_path, "killed", 2, age=10)
    done = _run(tmp_path, "done", 10, age=0)
    done.finish({"knn_acc1": 97.0, "val_acc1": 96.04, "bam_loss": 5.0}, collapsed_in=3)
    monkeypatch.setattr(runs.RunFolder, "is_running", property(lambda self: self.path.name == "going"))
    assert main(["status", str(tmp_path)]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [[cell.strip() for cell in line if cell] for line in lines] == [
        ["run", "status", "epochs", "left", "metrics"],
        ["bam/done", "finished, collapsed in epoch 3", "10 of 10", "knn_acc1 97, val_acc1 96.04"],
        ["bam/killed", "broken off", "2 of 10", "knn_acc1 61.23"],
        ["bam/going", "running", "4 of 10", "0:03:00", "knn_acc1 61.23"],
    ]


def test_a_look_while_a_run_starts_does_not_make_it_broken_off(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    with (run.path / "running.lock").open("a") as look:
        assert locked(look)
        (ends := threading.Timer(0.2, look.close)).start()
        with run.running(tiny(tmp_path), "cpu"):
            ends.join()
            assert run.status == "running"


def test_a_folder_without_runs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, told in ((tmp_path, "has no runs below it"), (tmp_path / "absent", "there is no folder")):
        assert main(["status", str(place)]) == 2
        assert told in capsys.readouterr().err


def test_a_run_with_broken_files_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, "good", 2, age=5)
    _run(tmp_path, "two\nlines\x1b[31m", 2, age=6)
    for name, written in (
        ("deep", "[" * 100_000),
        ("words", '{"status": "finished", "results": {"knn_acc1": "high"}}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(written)
    assert main(["status", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "unreadable" in lines["deep"]
    assert "unreadable" in lines["words"]
    assert "61.23" in lines["bam/good"]
    assert r"bam/two\nlines\x1b[31m" in lines
