"""A bar is drawn on a terminal; a log file has lines, a pipe nothing."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import sys
import termios
from pathlib import Path
from typing import TextIO

import pytest

from solo_bam.core import progress


def _work(stream: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress.Bar(iter(range(3)), total=3, desc="images", unit="batches")) == [0, 1, 2]


@pytest.mark.parametrize(("seconds", "numbers"), [(60.0, "03"), (0.0, "01233")])
def test_a_log_file_has_lines(seconds: float, numbers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS", seconds)
    with (tmp_path / "log").open("w") as log:
        _work(log, monkeypatch)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"images: {number} of 3 batches" for number in numbers]
    assert re.fullmatch(r"images: 3 of 3 batches, 00:00 passed, 00:00 left", lines[-1])


def test_a_terminal_has_a_bar_and_a_pipe_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    terminal = os.openpty()
    fcntl.ioctl(terminal[0], termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    for reading, writing in (terminal, os.pipe()):
        with os.fdopen(writing, "w") as stream:
            _work(stream, monkeypatch)
            told = b""
            while select.select([reading], [], [], 0.3)[0]:  # a terminal passes on what it got when it comes to it
                told += os.read(reading, 10_000)
            shown.append(told.decode())
    assert "100%" in shown[0]
    assert shown[1] == ""
