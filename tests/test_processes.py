"""The harness itself: what goes wrong in a process must fail the test."""

from __future__ import annotations

import os
import time

import pytest
import torch.distributed as dist

from tests import processes


def _ranks() -> tuple[int, int]:
    return dist.get_rank(), dist.get_world_size()


def _raise_in_one() -> None:
    if dist.get_rank() == 1:
        raise RuntimeError("on purpose")
    dist.barrier()


def _die_in_one() -> None:
    if dist.get_rank() == 1:
        os._exit(7)
    dist.barrier()


def _hang_in_one() -> None:
    if dist.get_rank() == 1:
        time.sleep(600)


def test_results_come_by_rank() -> None:
    assert processes.run(2, _ranks) == [(0, 2), (1, 2)]


def test_a_failure_is_reported() -> None:
    with pytest.raises(AssertionError, match=r"process \d failed"):
        processes.run(2, _raise_in_one)


def test_a_death_is_reported() -> None:
    with pytest.raises(AssertionError, match="died with|failed"):
        processes.run(2, _die_in_one)


def test_a_hang_is_reported() -> None:
    with pytest.raises(AssertionError, match="only processes .* answered"):
        processes.run(2, _hang_in_one, timeout=3)
