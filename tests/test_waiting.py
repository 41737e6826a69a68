"""No training step makes the host wait for the device: with the accelerators' way forced, nothing is read on the CPU."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from solo_bam.core import hardware
from solo_bam.train import run as command
from tests.recipes import tiny

# On a GPU each of them waits for the device: a number or a size is read from it, or data are copied to it.
_READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_unique2", "equal")
_COPIES = ("lift_fresh",)  # torch.tensor(…), of numbers or lists on the host


class Waits(TorchDispatchMode):
    """Where a step would wait: the innermost lines of each such operation, while ``on``."""

    def __init__(self) -> None:
        super().__init__()
        self.on, self.found = False, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _waits(func.overloadpacket.__name__, args):
            self.note(str(func))
        return func(*args, **(kwargs or {}))

    def note(self, what: str) -> None:
        """Remember where ``what`` is done now, but for what is on the host anyway: loader and counters of optimisers."""
        frames = [f for f in traceback.extract_stack()[:-2] if "/torch/_" not in f.filename]
        in_loader = any("/torch/utils/data/" in frame.filename for frame in frames)
        if self.on and not in_loader and "/torch/optim/" not in frames[-1].filename:
            lines = [f"{f.filename.split('site-packages/')[-1]}:{f.lineno} {f.line}" for f in frames[-6:]]
            self.found.append(f"{what}: " + " <- ".join(reversed(lines)))


def _waits(name: str, args: Any) -> bool:
    if name in ("index", "index_put", "index_put_"):  # rows chosen by a mask, whose count is read
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return name in _READS or name in _COPIES


def _noted(waits: Waits, method: str) -> Any:
    ordinary = getattr(torch.Tensor, method)

    def noted(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        waits.note(method)
        return ordinary(self, *args, **kwargs)

    return noted


class BetweenSteps(pl.Callback):
    """Switches the counting on from the second step on; the last step of an epoch is left out."""

    def __init__(self, waits: Waits):
        self.waits, self.steps = waits, 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.steps += self.waits.on
        self.waits.on = 1 <= batch_idx < trainer.num_training_batches - 1


@pytest.fixture
def _as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "reading_waits", lambda device: True)


def waits_of(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, *overrides: str) -> list[str]:
    """What two steps of a training would wait for."""
    waits = Waits()
    for method in ("tolist", "cpu", "numpy"):  # on the CPU no operation shows them
        monkeypatch.setattr(torch.Tensor, method, _noted(waits, method))
    between, ordinary = BetweenSteps(waits), command._callbacks
    monkeypatch.setattr(command, "_callbacks", lambda *args: [between, *ordinary(*args)])
    given = ["log_every_n_steps=10", "enable_progress_bar=True", "limit_val_batches=0", *overrides]
    with waits:
        command.pretrain(tiny(folder, name, *given))
    assert between.steps == 2
    return waits.found


# What solo-learn's own steps do: an empty loss made on the host (SimCLR, release), labelled rows of the k-NN (head).
_SOLO_LEARNS = ("solo/methods/simclr.py", "solo/methods/base.py")
_HEAD = ("method_kwargs.proj_hidden_dim=32", "method_kwargs.proj_output_dim=16", "backbone.name=test_resnet")


@pytest.mark.usefixtures("_as_on_an_accelerator")
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("bam", [*_HEAD, "method_kwargs.top_k_sink=4"]),
        ("bam_momentum", [*_HEAD, "optimizer.weight_decay=0.1", "optimizer.weight_decay_end=0.2"]),
        ("simclr", _HEAD),
        ("byol", _HEAD),
        ("dino", ["backbone.name=test_resnet", "method_kwargs.proj_hidden_dim=32", "method_kwargs.num_prototypes=16"]),
    ],
    ids=["bam", "bam_momentum", "simclr", "byol", "dino"],
)
def test_no_step_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, overrides: list[str]) -> None:
    found = waits_of(monkeypatch, tmp_path, f"digits/{name}", *overrides)
    found = [line for line in found if not any(known in line.partition(" <- ")[0] for known in _SOLO_LEARNS)]
    assert not found, "\n".join(found)


def test_a_reading_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = waits_of(monkeypatch, tmp_path, "digits/bam", *_HEAD)  # the loss is read on the CPU
    assert any("guards.py" in line for line in found)
