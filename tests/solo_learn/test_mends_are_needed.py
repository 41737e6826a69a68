"""Every mend of solo-learn has tests, and they fail on solo-learn without it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from solo_bam import solo_learn
from tests.solo_learn.unmended import mending
from tests.zygote import ROOT, Zygote

FILES = [ROOT / "solo_bam" / "solo_learn" / f"{name}.py" for name in mending(solo_learn.edition())]
MENDS = sorted({name for file in FILES for name in re.findall(r"^def _mend_(\w+)", file.read_text(), re.MULTILINE)})
TESTS = """
import os, pytest
os.chdir({root!r})
code = pytest.main(["tests/solo_learn/test_mends.py", "tests/solo_learn/test_head.py", "-m", {mend!r}, "-x", "-p", "no:cacheprovider"])
os._exit(code)
"""


@pytest.fixture(scope="module")
def unmended() -> Iterator[Zygote]:
    """Has imported what takes long, but not solo-learn."""
    with Zygote("lightning.pytorch", "timm", "torchvision", "torchmetrics", "pytest", "sklearn.cluster") as warm:
        yield warm


def test_mends_are_found() -> None:
    assert "optimizer" in MENDS
    assert len(MENDS) >= 9


def has_cholesky() -> bool:
    """Whether this torch has the function still whose successor a mend calls: 2.7 has, 2.15 has not."""
    try:
        return bool(torch.cholesky(torch.eye(1)))
    except RuntimeError:
        return False


@pytest.mark.nightly
@pytest.mark.parametrize("name", MENDS)
def test_fails_without(name: str, unmended: Zygote, tmp_path: Path) -> None:
    if name == "wmse" and has_cholesky():
        pytest.skip("this torch has what solo-learn calls")
    tests = TESTS.format(root=str(ROOT), mend=name)
    start = unmended.start([], tmp_path / "output", before=tests, SOLO_BAM_TEST_UNMENDED=name)
    assert start.wait(300) == 1, start.output.read_text()
    assert re.search(r"\b1 failed", start.output.read_text()), start.output.read_text()
