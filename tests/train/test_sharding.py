"""``strategy=fsdp2``: in shares, the same training as DDP's and as that of one process; checkpoints for any number."""

from __future__ import annotations

import json
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from solo_bam.cli import main
from solo_bam.core import collectives
from solo_bam.core.errors import UserError
from solo_bam.core.hardware import GIB
from solo_bam.runs.checkpoints.read import load_pretrained
from solo_bam.runs.folder import RunFolder
from solo_bam.train.batch_norm import synchronise
from solo_bam.train.doctor.devices import device_named
from solo_bam.train.doctor.estimate import Loader, tell
from solo_bam.train.doctor.work import Work, _optimizer_of
from solo_bam.train.sharding import check_shardable, shard, whole_state
from tests import processes
from tests.recipes import small, tiny, tiny_overrides
from tests.train.test_chunked_batch import ALONE, CROPS, WITH_TRAINER, Step, build, images
from tests.zygote import Zygote

BATCH = 16
TOLERANCE = 1e-6  # of weights in float64
VIT = ["backbone.name=test_vit", "+backbone.kwargs.patch_size=4", "backbone.cifar_stem=null"]
# Compared with one process: method and changes, at rates at which a wrong gradient shows.
CASES: dict[str, tuple[str, list[str]]] = {
    "bam, checkpointed blocks": ("bam", [*VIT, "performance.gradient_checkpointing=True"]),
    "bam, in chunks": ("bam", [*VIT, "performance.chunked_batch=6", "method_kwargs.proj_use_bn=False"]),
    "bam, multi-crop": ("bam", [CROPS]),
    "bam_momentum, ViT": ("bam_momentum", VIT),
    "bam_momentum, LARS": ("bam_momentum", ["optimizer.name=lars", "optimizer.lr=10"]),
    "simclr": ("simclr", ["optimizer.name=sgd", "optimizer.lr=1"]),
    "byol": ("byol", []),
}


def trained(model: Any, sharded: bool, steps: int = 2) -> dict[str, Any]:
    """Weights and buffers after some steps in float64 on this process's share of a batch; on the first process."""
    world, rank = collectives.world_size(), collectives.rank()
    step: Callable[[list[Any]], Tensor] = Step(model)
    if sharded:
        shard(model, init_device_mesh("cpu", (world,)))
    elif world > 1:
        step = DistributedDataParallel(step)  # type: ignore[arg-type]
    optimizer = _optimizer_of(model, None)
    mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    index, crops, labels = images(model, BATCH)
    for number in range(steps):
        torch.manual_seed(number)
        optimizer.zero_grad()
        step([index[mine], [crop[mine] for crop in crops], labels[mine]]).backward()
        model.on_after_backward()
        model.configure_gradient_clipping(optimizer, 0.5, "norm")
        optimizer.step()
        for online, momentum in getattr(model, "momentum_pairs", ()):
            model.momentum_updater.update(online, momentum)
    state = whole_state(model) if sharded else model.state_dict()
    return {key: value.numpy() for key, value in state.items()}


def attempted(name: str, overrides: list[str], *ways: bool, steps: int = 2) -> list[dict[str, Any]] | str:
    """What :func:`trained` gives in each way, or its traceback."""
    try:
        return [trained(synchronise(build(name, *overrides)), way, steps) for way in ways]
    except Exception:
        return traceback.format_exc()


def everything() -> dict[str, Any]:
    """What one start of two processes is worth."""
    warnings.simplefilter("ignore")
    return {case: attempted(*arguments, True) for case, arguments in CASES.items()} | {"held": held()}


def every_method() -> dict[str, Any]:
    """A step of each in shares, and as with DDP."""
    warnings.simplefilter("ignore")
    return {
        name: attempted(name, [], True, False, steps=1) for name in ALONE if name != "wmse"
    }  # whose step wants the recipe's batch


@pytest.fixture(scope="module")
def of_two() -> dict[str, Any]:
    return processes.run(2, everything, timeout=600)[0]


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert len(found) > 10
    for name in expected:
        a, b = torch.as_tensor(found[name]), torch.as_tensor(expected[name])
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_what_one_gives(case: str, of_two: dict[str, Any]) -> None:
    assert isinstance(of_two[case], list), of_two[case]
    name, overrides = CASES[case]
    assert_same(*of_two[case], trained(synchronise(build(name, *overrides)), False))


@pytest.mark.nightly
def test_every_method_trains_as_with_ddp() -> None:
    for name, found in processes.run(2, every_method, timeout=600)[0].items():
        assert isinstance(found, list), f"{name}: {found}"
        assert_same(*found)


# ------------------------------------------------------------------------------------------ memory


def held() -> list[tuple[str, int, int]]:
    """Bytes of a training's weights, gradients and optimizer's states: in this process, and of all together."""
    model: Any = synchronise(build("bam_momentum", *VIT))
    shard(model, init_device_mesh("cpu", (collectives.world_size(),)))
    optimizer = _optimizer_of(model, None)
    Step(model)(images(model, BATCH)).backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    found = {"weights": [*model.parameters()], "gradients": gradients, "states": states}
    return [(what, local_bytes(held), sum(t.numel() * t.element_size() for t in held)) for what, held in found.items()]


def local_bytes(tensors: list[Any]) -> int:
    """Of the storages, which shares of several tensors may be views of."""
    assert all(isinstance(tensor, DTensor) for tensor in tensors)
    storages = [tensor.to_local().untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_a_process_holds_its_share(of_two: dict[str, Any]) -> None:
    """Half of all weights, the teacher's too, of gradients and states; and what rounding up a tensor's rows adds."""
    for what, own, whole in of_two["held"]:
        assert 0.5 <= own / whole < 0.51, what


def test_the_doctor_counts_shares() -> None:
    work = Work([], peak_memory=20 * GIB, lasting_memory=16 * GIB, weights=0)
    for strategy, told in (
        ("fsdp2", "about 6.6 GiB a process, 2.0 of it weights"),
        ("ddp", "about 20.6 GiB a process, 16.0"),
    ):
        recipe = tiny(Path("unused"), "digits/bam", f"strategy={strategy}")
        found = tell(recipe, work, device_named("h100"), 8, Loader(None, 0), None)
        assert told in next(each.text for each in found if each.topic == "memory")


# ------------------------------------------------------------------------------------------ whole runs

RUN = [
    *VIT, "strategy=fsdp2", "sync_batchnorm=True", "checkpoint.keep_prev=True", "knn_eval.enabled=False", "pictures=False",
    "method_kwargs.proj_hidden_dim=32", "method_kwargs.proj_output_dim=16", "data.fraction=0.03", "limit_val_batches=0", "knn_eval.freq=null",
]  # fmt: skip
ON = {1: ["devices=1", "optimizer.batch_size=16"], 2: ["devices=2", "optimizer.batch_size=8"]}


def pretrain(zygote: Zygote, folder: Path, method: str, *overrides: str, code: int = 0, before: str = "") -> str:
    """What ``solo-bam pretrain`` prints."""
    folder.mkdir(exist_ok=True)
    arguments = ["pretrain", "--config-name", f"digits/{method}", *tiny_overrides(folder, *overrides)]
    start = zygote.start(arguments, folder / f"output_{len(list(folder.glob('output_*')))}", before=before)
    assert start.wait(300) == code, start.output.read_text()[-5000:]
    return start.output.read_text()


def run_in(folder: Path) -> RunFolder:
    """The newest run below a folder."""
    return RunFolder(max(folder.glob("*/*/run.json"), key=lambda path: path.stat().st_mtime).parent)


def checkpoint(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.slow
def test_a_checkpoint_goes_on_with_another_number_of_processes(zygote: Zygote, tmp_path: Path) -> None:
    """Three epochs on two processes, and the second of them on one, the third on two again."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    # Adam's first steps are as long for a gradient of rounding errors as for any other.
    overrides = [*RUN, "optimizer.name=sgd", "optimizer.lr=1", "max_epochs=3"]
    pretrain(zygote, whole, "bam_momentum", *overrides, *ON[2])
    last = run_in(whole)
    for processes_now in (1, 2):
        begun = last.checkpoints / f"epoch={0 if processes_now == 1 else 1}.ckpt"
        pretrain(zygote, parts, "bam_momentum", *overrides, *ON[processes_now], f"resume_from_checkpoint='{begun}'")
        last = run_in(parts)
    a, b = (checkpoint(run.last_checkpoint) for run in (run_in(whole), last))
    assert a["epoch"] == b["epoch"] == 2
    assert a["global_step"] == b["global_step"]
    differences = [compared(a[part], b[part]) for part in ("state_dict", "optimizer_states", "lr_schedulers")]
    assert max(differences) < 5e-5, differences  # in float32; weights alone 1e-5


def compared(a: Any, b: Any) -> float:
    """The largest difference between numbers in two nested structures of the same form."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max([compared(a[key], b[key]) for key in a], default=0.0)
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        return max([compared(x, y) for x, y in zip(a, b)], default=0.0)
    if isinstance(a, Tensor):
        return float((a - b).abs().max()) if a.numel() else 0.0
    if isinstance(a, float):
        return abs(a - b)
    assert a == b
    return 0.0


STOP = """
import os, signal
from solo_bam.methods.bam import BAM
ordinary = BAM.training_step
def training_step(self, batch, batch_idx):
    if os.environ.get("LOCAL_RANK", "0") == "0" and self.trainer.global_step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return ordinary(self, batch, batch_idx)
BAM.training_step = training_step
"""


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_bits(zygote: Zygote, tmp_path: Path, capsys: Any) -> None:
    """In mid-epoch, and there on as many processes alone."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    overrides = [*RUN, "max_epochs=2"]
    pretrain(zygote, whole, "bam", *overrides, *ON[2])
    pretrain(zygote, parts, "bam", *overrides, *ON[2], code=128 + signal.SIGTERM, before=STOP)
    (kept,) = parts.glob("bam/*/checkpoints/epoch=1-step=3.ckpt")
    for changes, told in (
        (ON[1], "devices: got 1 process(es), the checkpoint is of the middle of an epoch on 2; continue it on 2"),
        (ON[2][:1] + ON[1][1:], "the recipe has changed: optimizer.batch_size 8 -> 16"),
        (
            ON[1][:1] + ON[2][1:],
            "got 8 on 1 process(es), the run was started with 8 on 2: other batches; set it so that",
        ),
    ):
        arguments = tiny_overrides(parts, *overrides, *changes, f"resume_from_checkpoint='{kept}'")
        assert main(["pretrain", "--config-name", "digits/bam", *arguments]) == 2
        assert told in capsys.readouterr().err.splitlines()[-1]
    pretrain(zygote, parts, "bam", *overrides, *ON[2], "auto_resume.enabled=True")
    a, b = (checkpoint(run_in(folder).last_checkpoint) for folder in (whole, parts))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert compared(a[part], b[part]) == 0, part


@pytest.mark.slow
@pytest.mark.pictures
def test_what_each_process_does_by_itself_finds_the_whole_network(zygote: Zygote, tmp_path: Path) -> None:
    """k-NN, ContrastiveCrop's boxes and the pictures; the checkpoint is read as any other."""
    crop = [
        "data.contrastive_crop.enabled=True",
        "data.contrastive_crop.interval=1",
        "augmentations.0.rrc.enabled=True",
    ]
    more = [
        "knn_eval.enabled=True",
        "knn_eval.freq=1",
        "limit_val_batches=1",
        "pictures=True",
        "max_epochs=3",
        "gradient_clip_val=0.3",
    ]
    pretrain(zygote, tmp_path, "bam_momentum", *RUN, *ON[2], *crop, *more)
    run = run_in(tmp_path)
    content = checkpoint(run.last_checkpoint)
    assert len(content["callbacks"]["ContrastiveCropBoxes"]["boxes"])
    assert run.record()["results"]["momentum_knn_acc1"] > 0
    assert (run.path / "plots" / "attention.png").exists()
    told = json.loads((run.path / "evaluation" / "online_knn.json").read_text())
    found = {one["branch"]: one["weights"] for one in told}
    for branch in ("student", "teacher"):
        assert load_pretrained(run.path, branch).weights == found[branch]


@pytest.mark.nightly
@pytest.mark.parametrize("name", WITH_TRAINER)
def test_the_other_methods_train(name: str, zygote: Zygote, tmp_path: Path) -> None:
    quick = [each for each in RUN if each not in VIT and "proj_" not in each] + ["max_epochs=2", *small(name)]
    quick += ["optimizer.name=sgd", "optimizer.lr=0.1"]
    runs = {}
    for strategy in ("fsdp2", "ddp"):
        folder = tmp_path / strategy
        pretrain(zygote, folder, "byol", *quick, *ON[2], f"strategy={strategy}")
        runs[strategy] = checkpoint(run_in(folder).last_checkpoint)
    assert compared(runs["fsdp2"]["state_dict"], runs["ddp"]["state_dict"]) < 1e-5


# ------------------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["performance.compile=True"], "performance.compile: got True, strategy=fsdp2 cannot; set it to False"),
        (["devices=2"], "sync_batchnorm: got False, batch norm's running statistics would differ between processes"),
    ],
)
def test_what_cannot_be_is_one_line(overrides: list[str], told: str, tmp_path: Path, capsys: Any) -> None:
    arguments = tiny_overrides(tmp_path / "runs", "strategy=fsdp2", *overrides)
    assert main(["pretrain", "--config-name", "digits/bam", *arguments]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_weights_between_the_networks_are_refused() -> None:
    """Nobody would average their gradients."""
    model = build("bam")
    check_shardable(model, synchronised=True)
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(UserError, match=r"^strategy: got 'fsdp2', the method has weights of its own \(scale\)"):
        check_shardable(model, synchronised=True)
