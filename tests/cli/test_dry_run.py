"""``solo-bam pretrain --dry-run``: it says what the run would do, and does none of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from solo_bam.cli import main
from tests.recipes import tiny_overrides

SMALL = ["method_kwargs.proj_hidden_dim=16", "method_kwargs.proj_output_dim=16", "pictures=False"]


def told(tmp_path: Path, capsys: Any, *words: str, code: int = 0) -> str:
    """The page, its lines unwrapped."""
    before = sorted(tmp_path.rglob("*"))
    overrides = [*tiny_overrides(tmp_path / "runs", *SMALL), *(word for word in words if "=" in word)]
    flags = [word for word in words if "=" not in word]
    assert main(["pretrain", "--config-name", "digits/bam", "--dry-run", *flags, *overrides]) == code
    assert sorted(tmp_path.rglob("*")) == before
    return " ".join(capsys.readouterr().out.split())


def test_the_run_is_as_it_was_told(tmp_path: Path, capsys: Any) -> None:
    first = told(tmp_path, capsys)
    assert "1,437 training and 360 validation images of 10 classes, in " in first
    assert "16 images on 1 process(es)" in first
    assert "4 an epoch, 4 in all, of 71 images" in first
    assert all(word in first for word in ("million parameters: 0.4 the network's", "images/s", "GiB a process"))
    assert "it would run" in first
    assert main(["pretrain", "--config-name", "digits/bam", *tiny_overrides(tmp_path / "runs", *SMALL)]) == 0
    (folder,) = (tmp_path / "runs" / "bam").iterdir()
    capsys.readouterr()
    assert f"starts {folder} " in first

    again = told(tmp_path, capsys)
    assert f"starts {folder}-2 " in again
    assert "is finished" in told(tmp_path, capsys, "--resume", code=2)

    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "stopped"}))
    assert f"goes on with {folder}/checkpoints/epoch=0.ckpt" in told(tmp_path, capsys, "--resume")
    assert "seed 5 -> 6" in told(tmp_path, capsys, "--resume", "seed=6", code=2)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer.batch_size=1000", "optimizer.batch_size: got 1000"),
        ("precision=17", "precision: got 17"),
        ("devices=4096", "devices: got 4096"),
    ],
)
def test_what_would_be_refused(word: str, message: str, tmp_path: Path, capsys: Any) -> None:
    page = told(tmp_path, capsys, word, code=2)
    assert message in page
    assert "1 failure(s)" in page
    assert "it would run" not in page
