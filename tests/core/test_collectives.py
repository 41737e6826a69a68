"""What is taken for an operation that gloo lacks."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from solo_bam.core import collectives


@pytest.mark.parametrize(
    ("backend", "said", "lacks"),
    [
        ("gloo", "Backend gloo does not support reduce_scatter", True),
        ("gloo", "Connection closed by peer", False),
        ("nccl", "Unsupported: NCCL watchdog", False),
    ],
)
def test_only_a_missing_operation_of_gloo_is_made_up_for(
    backend: str, said: str, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(collectives, "is_distributed", lambda: True)

    def fail(*_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(dist, "reduce_scatter_tensor", fail)
    monkeypatch.setattr(collectives, "all_sum", lambda x: x + 1)
    x = torch.zeros(2, 3)
    if lacks:
        assert collectives.own_sum(x).tolist() == [1, 1, 1]
    else:
        with pytest.raises(RuntimeError, match=said):
            collectives.own_sum(x)
