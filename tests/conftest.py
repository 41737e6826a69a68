"""What the tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.zygote import Zygote

# Two cores serve several test processes; more threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every machine and every time.
settings.register_profile(
    "same",
    derandomize=True,
    database=None,
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("same")

GOLDEN = Path(__file__).parent / "golden"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes an hour runs where it is asked for: ``make test-nightly``."""
    if "nightly" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which solo-learn all of this was about."""
    from solo_bam import solo_learn

    said = solo_learn.version().get("solo-learn") or solo_learn.edition() or "none"
    terminalreporter.write_line(f"solo-learn: {said}")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The digits are written into a folder of the tests' own."""
    os.environ["SOLO_BAM_CACHE"] = str(tmp_path_factory.getbasetemp().parent / "solo-bam-cache")


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts ``solo-bam`` in milliseconds."""
    with Zygote() as warm:
        yield warm


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """A distributed run leaves its group, and in the environment its address, to the tests after it."""
    before = dict(os.environ)
    yield
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _few_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's pictures are drawn where a test looks at them: they cost as much as a small run itself."""
    command = sys.modules.get("solo_bam.train.run")
    if command is not None and "pictures" not in request.keywords:
        monkeypatch.setattr(command, "_draw", lambda *_: None)
