"""Online k-NN: what it says, that it says the same on several processes, and that the training does not notice."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import solo_bam.train.callbacks.knn as module
from solo_bam.config.options import KNNOptions
from solo_bam.core.errors import UserError
from solo_bam.core.neighbors import find_neighbours
from solo_bam.data import PretrainData, find_source
from solo_bam.evaluate.features import chunks_of
from solo_bam.evaluate.offline_knn import evaluate_knn
from solo_bam.runs.records import Record
from solo_bam.train.callbacks import OnlineKNN
from solo_bam.train.run import Trained, pretrain
from tests import processes
from tests.recipes import tiny

SETTINGS = ["max_epochs=3", "data.fraction=0.03", "knn_eval.k=5", "knn_eval.enabled=False"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return pretrain(tiny(tmp_path_factory.mktemp("run"), "digits/bam_momentum", *SETTINGS, "knn_eval.freq=2"))


def test_every_freq_epochs_and_after_the_last(run: Trained) -> None:
    rows = [row for row in run.folder.metrics() if "knn_acc1" in row]
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert 0 < row["knn_acc1"] <= row["knn_acc5"] <= 100
        assert 0 < row["momentum_knn_acc1"] <= row["momentum_knn_acc5"] <= 100
    assert not [key for key in run.metrics if key.startswith("val_knn")]  # solo-learn's own


def test_the_training_does_not_notice(run: Trained, tmp_path: Path) -> None:
    """Modes, batch-norm statistics and random numbers are put back: the weights are the same to the last bit."""
    without = pretrain(tiny(tmp_path, "digits/bam_momentum", *SETTINGS, "knn_eval.freq=null"))
    a, b = (torch.load(r.folder.last_checkpoint, weights_only=True)["state_dict"] for r in (run, without))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not (without.folder.path / "evaluation" / "online_knn.json").exists()


def test_offline_k_nn_by_the_same_protocol_says_the_same(run: Trained) -> None:
    written = json.loads((run.folder.path / "evaluation" / "online_knn.json").read_text())
    online = [Record.model_validate(record) for record in written]
    assert len(online) == 4
    for branch in ("student", "teacher"):
        options = {"k": 5, "distance": "cosine", "branch": branch, "num_workers": 0, "data": {"fraction": 0.03}}
        offline = evaluate_knn(run.folder.path, KNNOptions.model_validate(options)).path
        mine = [r for r in online if r.branch == branch]
        for a, b in zip(mine, json.loads(offline.read_text()), strict=True):
            assert a.value == b["value"]
            assert a.protocol.settings == {**b["protocol"], "online": True, "bank": a.protocol.bank}
            assert a.protocol.bank == "3 % of train, clean, all (43 images)"


class _Signs(nn.Module):
    """Features of few values, so that many images are equally close; draws random numbers as no network should."""

    def __init__(self, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3 * 16 * 16, 6, generator=generator))
        self.norm = nn.BatchNorm1d(6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        torch.rand(1), random.random(), np.random.rand()
        return self.norm(images.flatten(1) @ self.weight).sign()


def _callback() -> tuple[OnlineKNN, Any]:
    recipe = tiny(Path("unused"), "digits/bam", "knn_eval.freq=1", "knn_eval.eval_fraction=0.3")
    method = SimpleNamespace(backbone=_Signs(0), momentum_backbone=_Signs(1))
    return OnlineKNN.of(PretrainData(recipe, find_source(recipe.data))), method


def _hits_and_neighbours() -> tuple[Any, ...]:
    """In tiles of 16 images: shares of 39 and 32 images on two processes, 32, 23 and 16 on three."""
    module._BANK_CHUNK = 16
    callback, method = _callback()
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 33, generator=generator) for n in (71, 40))
    bank[::3] = bank[0]
    tiles = [(c.start, bank[c.start : c.stop]) for c in chunks_of(71, 16, shared=True)]
    near = find_neighbours(tiles, queries, 30, "euclidean", shared=True)
    return callback.evaluate(method), near.positions.numpy(), near.closeness.numpy(), sum(len(t) for _, t in tiles)


def _on_three_processes_then_on_two(store: str) -> list[Any]:
    found = [_hits_and_neighbours()]
    rank = dist.get_rank()
    dist.destroy_process_group()
    if rank < 2:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
        found.append(_hits_and_neighbours())
    return found


def test_several_processes_say_what_one_does(tmp_path: Path) -> None:
    usual = module._BANK_CHUNK
    try:
        hits, positions, closeness, images = _hits_and_neighbours()
    finally:
        module._BANK_CHUNK = usual
    assert images == 71
    assert hits["student"] != hits["teacher"]
    found = processes.run(3, _on_three_processes_then_on_two, str(tmp_path / "store"))
    assert [f[0][3] for f in found] == [32, 23, 16]
    assert [f[1][3] for f in found[:2]] == [39, 32]
    for other in (one for of_rank in found for one in of_rank):
        assert other[0] == hits
        assert (other[1] == positions).all()
        assert (other[2] == closeness).all()


def test_modes_and_random_numbers_are_put_back() -> None:
    callback, method = _callback()
    method.momentum_backbone.norm.eval()  # frozen inside a network that trains
    callback.evaluate(method)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    callback.evaluate(method)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert method.backbone.training
    assert method.backbone.norm.training
    assert method.momentum_backbone.training
    assert not method.momentum_backbone.norm.training
    assert method.backbone.norm.num_batches_tracked == 0


def test_each_image_is_read_once_for_both_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    callback, method = _callback()
    opened = []
    ordinary = type(callback.bank).__getitem__

    def counted(self: Any, index: int) -> Any:
        opened.append((id(self), index))
        return ordinary(self, index)

    monkeypatch.setattr(type(callback.bank), "__getitem__", counted)
    callback.evaluate(method)
    assert len(opened) == len(set(opened)) == 71 + len(callback.queries) == 71 + 110


def test_more_neighbours_than_images_in_the_bank(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, "digits/bam", "knn_eval.freq=1", "knn_eval.train_fraction=0.2")
    with pytest.raises(UserError, match=r"^knn_eval.k: got 20, the bank has 1\d images; lower it or raise"):
        pretrain(recipe)
    assert not list(tmp_path.iterdir())
