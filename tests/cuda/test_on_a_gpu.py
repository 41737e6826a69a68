"""What only a GPU can show; collected everywhere, skipped without one. ``python -m benchmarks.gpu`` runs these first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from solo_bam.config import Recipe, load_recipe
from solo_bam.core import collectives
from solo_bam.core.errors import Stopped
from solo_bam.core.neighbors import find_neighbours, in_tiles
from solo_bam.losses import bam_loss
from solo_bam.runs.checkpoints.read import read_checkpoint
from solo_bam.runs.folder import RunFolder
from solo_bam.train.callbacks import EpochSeed
from solo_bam.train.run import pretrain
from tests import processes
from tests.data.loaders import epoch_of, loader_of, same
from tests.recipes import tiny_overrides

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch reads it at the first product of all
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
SETTINGS: list[dict[str, Any]] = [
    {"num_crops": 2, "num_large_crops": 2},
    {"num_crops": 8, "num_large_crops": 2, "top_k_sink": 16},
    {"num_crops": 2, "num_large_crops": 2, "positive_weight": 0.5, "reg": 0.1},
    {"num_crops": 4, "num_large_crops": 2, "positive_masking": "self", "reg": 0.01},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_the_loss_is_that_of_float64(
    settings: dict[str, Any], teacher: bool, dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (settings["num_crops"], 256, 64)
    images = torch.randn(1, *shape[1:], generator=generator)
    z, other = ((images + torch.randn(shape, generator=generator)).flatten(0, 1).to(dtype) for _ in range(2))
    exact = z.double().requires_grad_()
    expected = bam_loss(exact, other.double() if teacher else None, **settings)[0]
    expected.backward()
    assert exact.grad is not None
    on_gpu = z.cuda().requires_grad_()
    loss = bam_loss(on_gpu, other.cuda() if teacher else None, **settings)[0]
    (loss * 2**16).backward()
    assert on_gpu.grad is not None
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    error = (on_gpu.grad.double().cpu() / 2**16 - exact.grad).norm() / exact.grad.norm()
    assert error < tolerance


def test_the_neighbors_are_those_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 64, generator=generator) for n in (5000, 300))
    on_cpu = find_neighbours(in_tiles(bank), queries, 20).positions
    on_gpu = find_neighbours(in_tiles(bank.cuda()), queries.cuda(), 20).positions.cpu()
    assert (on_cpu == on_gpu).float().mean() > 0.999


def _recipe(folder: Path, *more: str, method: str = "bam") -> Recipe:
    overrides = [line for line in tiny_overrides(folder) if not line.startswith("accelerator=")]
    return load_recipe(f"digits/{method}", [*overrides, "accelerator=gpu", "devices=1", *more])


@pytest.mark.parametrize("loader", ["image_folder", "tensor"])
@pytest.mark.parametrize("method", ["bam", "bam_momentum", "simclr", "byol", "dino"])
def test_an_epoch(method: str, loader: str, tmp_path: Path) -> None:
    trained = pretrain(_recipe(tmp_path, "precision=bf16-mixed", f"data.format={loader}", method=method))
    assert trained.metrics["val_knn_acc1"] > 10
    assert trained.folder.record()["status"] == "finished"


def _weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder.last_checkpoint, "checkpoint")["state_dict"]


@pytest.mark.parametrize("loader", ["image_folder", "tensor"])
@pytest.mark.parametrize("method", ["bam", "bam_momentum"])
def test_a_run_has_the_same_bits_after_a_stop(
    method: str, loader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of its second epoch, and gone on with; and run again without a stop."""
    own = ["deterministic=True", "max_epochs=2", f"data.format={loader}"]
    whole, again = (pretrain(_recipe(tmp_path / name, *own, method=method)).folder for name in ("whole", "again"))
    stopped, ordinary = _recipe(tmp_path / "stopped", *own, method=method), EpochSeed.on_train_batch_start

    def told(self: Any, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 1):
            signal.raise_signal(signal.SIGTERM)
        ordinary(self, trainer, pl_module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(EpochSeed, "on_train_batch_start", told)
        with pytest.raises(Stopped):
            pretrain(stopped)
    resumed = pretrain(stopped, resume=True).folder
    for folder in (again, resumed):
        assert all(torch.equal(value, _weights(folder)[name]) for name, value in _weights(whole).items())
        assert folder.metrics() == whole.metrics()


def test_dali_gives_torchvisions_crops(tmp_path: Path) -> None:
    """On the GPU, in the order and with the decisions of the torchvision loader: 6 of 255 levels apart at most."""
    pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 'solo-bam[dali]'")
    ours = loader_of(_recipe(tmp_path, "data.format=dali", "dali.device=gpu"))
    theirs = loader_of(_recipe(tmp_path))
    for epoch in range(2):
        batches = epoch_of(ours, epoch)
        assert len(batches) == 4
        assert all(crop.is_cuda for _, crops, _ in batches for crop in crops)
        on_cpu = [(i.cpu(), [crop.cpu() for crop in crops], labels.cpu()) for i, crops, labels in batches]
        assert same(on_cpu, epoch_of(theirs, epoch), tolerance=0.06)


# --------------------------------------------------------------------------------------- several GPUs

two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def _share_of_the_loss(features: Any) -> tuple[float, Any]:
    """Loss and gradient of this process's images, ``(crops, images, D)`` of all."""
    device = torch.device("cuda", collectives.rank())
    share = torch.from_numpy(features).chunk(collectives.world_size(), 1)[collectives.rank()]
    z = share.flatten(0, 1).to(device).requires_grad_()
    loss = bam_loss(z, num_crops=4, num_large_crops=2, positive_weight=0.5)[0]
    loss.backward()
    assert z.grad is not None
    return collectives.mean(loss.detach()).item(), z.grad.view_as(share).cpu().numpy()


@two_gpus
def test_two_processes_give_the_loss_of_one() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 32, 16, generator=generator)
    features = images + torch.randn(4, 32, 16, generator=generator)
    z = features.double().flatten(0, 1).requires_grad_()
    expected = bam_loss(z, num_crops=4, num_large_crops=2, positive_weight=0.5)[0]
    expected.backward()
    assert z.grad is not None
    answers = processes.run(2, _share_of_the_loss, features.numpy(), backend="nccl")
    assert [loss for loss, _ in answers] == pytest.approx([expected.item()] * 2, rel=2e-5)
    # DistributedDataParallel takes the mean of the processes' gradients.
    gradient = torch.cat([torch.from_numpy(part) for _, part in answers], 1).double() / 2
    exact = z.grad.view_as(gradient)
    assert (gradient - exact).norm() < 2e-5 * exact.norm()


@two_gpus
def test_an_epoch_on_two_gpus(tmp_path: Path) -> None:
    overrides = [line for line in tiny_overrides(tmp_path) if not line.startswith("accelerator=")]
    words = [sys.executable, "-m", "solo_bam", "pretrain", "--config-name", "digits/bam", *overrides]
    subprocess.run([*words, "accelerator=gpu", "devices=2"], check=True, timeout=300)
    (record,) = tmp_path.glob("*/*/run.json")
    found = RunFolder(record.parent).record()
    assert found["status"] == "finished"
    assert found["results"]["val_knn_acc1"] > 10
