"""Processor time of a training step beside network, loss and optimiser: Lightning's loop, callbacks, logging.

A run of Lightning's Trainer with all that ``solo-bam pretrain`` gives it, on a network without layers, less the same
steps without a Trainer. The steps alone have the online classifier, a teacher's update and the optimizer; *beside* are
Lightning's loop and hooks, the rate's schedule, callbacks, and logging, of which every 50th step has the most. Means
over steps, so that these count; the median is one of the others. *Lightning alone* is the floor: its own mode for that
(``barebones``), without callbacks, schedules' logs and loggers.
"""

from __future__ import annotations

import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from solo_bam import solo_learn
from solo_bam.config import Recipe, load_recipe
from solo_bam.config.resolve import resolve
from solo_bam.data import PretrainData, find_source
from solo_bam.runs.folder import RunFolder
from solo_bam.train import run
from solo_bam.train.callbacks import EpochMeans
from solo_bam.train.pretrain import build_trainer, find_devices, without_known_warnings
from solo_bam.train.resume import describe_images

WARM_UP = 20  # steps
# Of what the run has: nothing of solo-bam's; all but the sums on the device in the place of Lightning's log; all.
ALONE, LIGHTNINGS_LOG, AS_IT_IS = "Lightning alone", "beside it, Lightning's log", "beside it"
_MEDIAN = "beside it, median"
_NARROW = ("proj_hidden_dim", "proj_output_dim", "pred_hidden_dim", "num_prototypes")


class Empty(nn.Module):
    """Four of an image's pixels times four weights."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(4))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :4] * self.weights


class _Marks(pl.Callback):
    """Processor time at each step's start."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.seconds.append(time.process_time())


def recipe_of(method: str, device: str, folder: str) -> Recipe:
    """The digits' recipe with heads of 8."""
    recipe = load_recipe(f"digits/{method}", [f"accelerator={device}", f"checkpoint.dir={folder}", "max_epochs=1"])
    recipe.method_kwargs |= {key: 8 for key in _NARROW if key in recipe.method_kwargs}
    recipe.knn_eval.freq, recipe.scheduler.warmup_epochs = None, 0
    return recipe


def model_of(recipe: Recipe) -> pl.LightningModule:
    """The method on the empty network."""
    torch.manual_seed(0)
    return solo_learn.build_method(resolve(recipe, num_classes=10, has_val=True, world_size=1), Empty)


def batch_of(device: str) -> list[Any]:
    """Two crops of 2 pixels a side of 8 images."""
    crops = [torch.randn(8, 3, 2, 2, device=device) for _ in range(2)]
    return [torch.arange(8, device=device), crops, torch.arange(8, device=device)]


@contextmanager
def quiet() -> Iterator[None]:
    """Barebones tells at length what it is."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def trained(recipe: Recipe, batch: list[Any], steps: int, kind: str) -> list[float]:
    """Milliseconds of each step of a run of a kind, warmed up."""
    marks = _Marks()
    with quiet(), without_known_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        trainer = _bare_trainer(recipe, marks) if kind == ALONE else _trainer(recipe, marks, steps, kind)
        trainer.fit(model_of(recipe), DataLoader([batch] * (WARM_UP + steps), batch_size=None))  # type: ignore[arg-type]
    return _milliseconds(marks.seconds)


def _bare_trainer(recipe: Recipe, marks: _Marks) -> pl.Trainer:
    return pl.Trainer(accelerator=recipe.accelerator, devices=1, max_epochs=1, barebones=True, callbacks=[marks])


def _trainer(recipe: Recipe, marks: _Marks, steps: int, kind: str) -> pl.Trainer:
    source = find_source(recipe.data)
    data = PretrainData(recipe, source)
    folder, (devices, _) = RunFolder.new(recipe), find_devices(recipe)
    callbacks = run._callbacks(recipe, folder, data, describe_images(data.plain_images().split, source.val))
    chosen = [one for one in callbacks if kind == AS_IT_IS or not isinstance(one, EpochMeans)]
    return build_trainer(recipe, devices, folder, [marks, *chosen], steps)


def alone(step: Callable[[], None], steps: int) -> list[float]:
    """Milliseconds of each step without a Trainer, warmed up."""
    seconds = []
    for _ in range(WARM_UP + steps):
        seconds.append(time.process_time())
        step()
    return _milliseconds(seconds)


def _milliseconds(marks: Sequence[float]) -> list[float]:
    return [1e3 * (after - before) for before, after in zip(marks[WARM_UP:], marks[WARM_UP + 1 :])]


def beside(
    method: str, device: str, step_of: Callable[[Any, list[Any]], Callable[[], None]], rounds: int, steps: int = 150
) -> dict[str, list[float]]:
    """Milliseconds, means over steps, of rounds in turns: of a step alone, and of what each kind of run adds."""
    found: dict[str, list[float]] = {name: [] for name in ("step alone", ALONE, LIGHTNINGS_LOG, AS_IT_IS, _MEDIAN)}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            recipe, batch = recipe_of(method, device, str(Path(folder))), batch_of(device)
            bare = alone(step_of(model_of(recipe).to(device), batch), steps)
            found["step alone"].append(statistics.mean(bare))
            for kind in (ALONE, LIGHTNINGS_LOG, AS_IT_IS):
                times = trained(recipe, batch, steps, kind)
                found[kind].append(statistics.mean(times) - statistics.mean(bare))
            found[_MEDIAN].append(statistics.median(times) - statistics.median(bare))
    return found
