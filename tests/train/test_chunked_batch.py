"""Batches in chunks: the whole batch's gradients, from the memory of a chunk."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from solo_bam import solo_learn
from solo_bam.cli import main
from solo_bam.config.resolve import resolve
from solo_bam.core import collectives, hardware
from solo_bam.core.errors import UserError
from solo_bam.train import performance
from solo_bam.train.batch_norm import synchronise
from solo_bam.train.doctor.work import work_of
from solo_bam.train.performance import chunk_batches
from solo_bam.train.pretrain import build_model
from solo_bam.train.run import pretrain
from tests import processes
from tests.cli.test_pretrain import stop_after, weights
from tests.recipes import batch, small, tiny, tiny_overrides

IMAGES = 16  # in chunks of 6 at most: 6, 5 and 5 of one crop
CROPS = "augmentations=[{crop_size:16,num_crops:2},{crop_size:8,num_crops:2}]"
WITH_TRAINER = ["barlow_twins", "deepclusterv2", "swav"]  # or with a loss in float32
ALONE = [name for name in solo_learn.known_names() if name not in (*WITH_TRAINER, "mae")]


def build(name: str, *overrides: str, chunk: int | None = None) -> Any:
    """A method in float64, ready for a training step without a trainer."""
    torch.manual_seed(0)
    own = [] if name.startswith("bam") else small(name)
    chunked = f"performance.chunked_batch={'null' if chunk is None else chunk}"
    recipe = tiny(Path("unused"), f"digits/{name if not own else 'byol'}", *own, *overrides, chunked)
    model: Any = build_model(recipe, resolve(recipe, 10, True, 1), hardware.Devices("cpu", 1, 1)).double()
    model.log = model.log_dict = lambda *args, **kwargs: None
    model.knn_eval = False
    return model


def without_batch_norm(model: nn.Module) -> Any:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, nn.Identity())
    return model


def images(model: Any, count: int = IMAGES) -> list[Any]:
    """A batch of the model's crops."""
    labels = torch.arange(count) % 10
    index, large, _ = batch(labels, model.num_large_crops)
    return [index, [crop.double() for crop in large + batch(labels, model.num_small_crops, 8)[1]], labels]


def step(model: Any, seed: int = 1) -> dict[str, Tensor]:
    """Gradients of a training step, by the weights' names."""
    torch.manual_seed(seed)
    out = model.training_step(images(model), 0)
    (out["loss"] if isinstance(out, dict) else out).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_close(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    assert len(some) > 4
    for name in some:
        torch.testing.assert_close(some[name], others[name], rtol=1e-6, atol=1e-6, msg=name)


# -------------------------------------------------------------------------------------- the same training


@pytest.mark.parametrize(("name", "overrides"), [*((name, []) for name in ALONE), ("bam_momentum", [CROPS])])
def test_the_gradient_is_the_whole_batch_s(name: str, overrides: list[str]) -> None:
    whole, chunked = (without_batch_norm(build(name, *overrides, chunk=chunk)) for chunk in (None, 6))
    for model in (whole, chunked):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
    sizes: set[int] = set()
    next(m for m in chunked.backbone.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(
        lambda _, inputs, __: sizes.add(len(inputs[0]))
    )
    assert_close(step(chunked), step(whole))
    assert sizes <= {5, 6}


@pytest.mark.parametrize("name", WITH_TRAINER)
def test_the_others_train(name: str, tmp_path: Path) -> None:
    quick = ["limit_train_batches=1", "limit_val_batches=0", "knn_eval.enabled=False", "performance.chunked_batch=6"]
    trained = pretrain(tiny(tmp_path, "digits/byol", *small(name), *quick))
    assert trained.model.backbone.bn1.num_batches_tracked == 6


VIT = [
    "backbone.name=vit_tiny_patch16_224", "method_kwargs.proj_use_bn=False",
    "+backbone.kwargs={patch_size:4,depth:2,embed_dim:16,num_heads:1,drop_path_rate:0.5,proj_drop_rate:0.2}",
]  # fmt: skip


@pytest.mark.parametrize("overrides", [VIT, []], ids=["dropout", "batch norm"])
def test_computing_again_is_the_same_as_keeping(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Random masks are drawn again as they were; the running statistics count each chunk once."""
    again = build("bam", *overrides, chunk=6)
    kept = copy.deepcopy(again.state_dict())
    gradients = step(again)
    monkeypatch.setattr(performance, "checkpoint", lambda forward, x, **_: forward(x))
    keeping = build("bam", *overrides, chunk=6)
    keeping.load_state_dict(kept)
    assert_close(gradients, step(keeping))
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, keeping.state_dict()[name]), name
        assert "num_batches" not in name or tensor == 6
    other = step(keeping, seed=2)
    assert any(not torch.allclose(gradients[name], other[name]) for name in other)


def test_a_chunk_larger_than_the_batch_changes_nothing() -> None:
    some, others = step(build("bam", chunk=10**6)), step(build("bam"))
    assert all(torch.equal(some[name], others[name]) for name in others)


def test_a_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a teacher and batch norm; the same bits, and one count of each of 2 x 16 / 5 -> 7 chunks."""
    chunked = ["performance.chunked_batch=5", "max_epochs=2", "data.fraction=0.03"]
    whole = pretrain(tiny(tmp_path / "whole", "digits/bam_momentum", *chunked))
    recipe = tiny(tmp_path / "parts", "digits/bam_momentum", *chunked)
    stop_after(recipe, 1, monkeypatch)
    a, b = (weights(run.folder.last_checkpoint) for run in (whole, pretrain(recipe, resume=True)))
    steps = torch.load(whole.folder.last_checkpoint, weights_only=True)["global_step"]
    for name in a:
        assert torch.equal(a[name], b[name]), name
        assert "num_batches_tracked" not in name or a[name] == 7 * steps, name


# ---------------------------------------------------------------------------------------------- processes


class Step(nn.Module):
    """A training step as a forward, for DDP."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, data: list[Any]) -> Tensor:
        loss: Tensor = self.model.training_step(data, 0)
        return loss


def share_of_a_step(order: list[int], chunk: int | None) -> dict[str, Any]:
    """Gradients and running statistics of 12 images in that order, this process's share of them."""
    model = build("bam", CROPS, chunk=chunk)
    model = Step(synchronise(model))
    torch.manual_seed(1)
    world, rank = collectives.world_size(), collectives.rank()
    index, crops, labels = images(model.model, 12)
    mine = order[rank * 12 // world : (rank + 1) * 12 // world]
    wrapped = DistributedDataParallel(model) if world > 1 else model
    wrapped([index[mine], [crop[mine] for crop in crops], labels[mine]]).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | dict(model.named_buffers())
    return {name: tensor.numpy() for name, tensor in found.items()}


def test_two_processes_give_what_one_gives() -> None:
    """Batch norm over both: chunks of 3 images on each are chunks of 6 on one, which has the images in that order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = share_of_a_step([0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11], 6)
    torch.set_num_threads(threads)
    for found in processes.run(2, share_of_a_step, list(range(12)), 3):
        assert found.keys() == alone.keys()
        for name, values in alone.items():
            torch.testing.assert_close(
                torch.as_tensor(found[name]), torch.as_tensor(values), rtol=1e-6, atol=1e-6, msg=name
            )


# ------------------------------------------------------------------------------------------------- memory


def test_memory_is_that_of_a_chunk() -> None:
    """A step holds the layers' outputs of a chunk's 32 crops where it held those of 128; 0.33 with what it needs besides."""
    held = {}
    for chunk in ("null", "32"):
        overrides = ["optimizer.batch_size=64", "augmentations.0.crop_size=32", f"performance.chunked_batch={chunk}"]
        recipe = tiny(Path("unused"), "digits/bam", *overrides)
        model = build_model(recipe, resolve(recipe, 10, True, 1), hardware.Devices("cpu", 1, 1))
        work = work_of(model, recipe)
        held[chunk] = work.peak_memory - work.lasting_memory
    assert held["32"] / held["null"] < 0.4


# ------------------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["performance.chunked_batch=0"], "performance.chunked_batch: got 0, "),
        (["performance.chunked_batch=2"], "performance.chunked_batch: got 2, batch norm needs more of a chunk; "),
        (["method=mine", "performance.chunked_batch=8"], "got 8, the networks of mine take whole batches; set it to"),
    ],
)
def test_what_cannot_be_is_one_line(
    overrides: list[str], told: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = type("Mine", (solo_learn.METHODS["bam"],), {"by_row": solo_learn.BaseMethod.by_row})
    monkeypatch.setitem(solo_learn.METHODS, "mine", mine)
    assert main(["pretrain", "--config-name", "digits/bam", *tiny_overrides(tmp_path / "runs", *overrides)]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_networks_of_several_inputs_are_refused() -> None:
    if "mae" not in solo_learn.method_names():
        pytest.skip("a method of the head edition")
    with pytest.raises(UserError, match="^performance.chunked_batch: got 4, the networks of mae take whole batches"):
        build("mae", chunk=4)


def test_batch_norm_alone_asks_for_more() -> None:
    chunk_batches(nn.Sequential(nn.Linear(2, 2)), 1)
