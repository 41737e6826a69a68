"""Every mend of solo-learn has tests, and they fail on solo-learn without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from solo_bam import solo_learn
from tests.solo_learn.unmended import mending

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "solo_bam" / "solo_learn" / f"{name}.py" for name in mending(solo_learn.edition())]
MENDS = sorted({name for file in FILES for name in re.findall(r"^def _mend_(\w+)", file.read_text(), re.MULTILINE)})


def test_mends_are_found() -> None:
    assert "optimizer" in MENDS
    assert len(MENDS) >= 9


@pytest.mark.parametrize("name", MENDS)
def test_fails_without(name: str) -> None:
    files = ["tests/solo_learn/test_mends.py", "tests/solo_learn/test_head.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *files, "-m", name, "-p", "no:cacheprovider", "-x"],
        cwd=ROOT, env={**os.environ, "SOLO_BAM_TEST_UNMENDED": name}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert re.search(r"\b1 failed", done.stdout), done.stdout
