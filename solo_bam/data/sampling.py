"""Which image is seen when and with which random crops: a function of seed, epoch and image alone.

Neither the number of loader workers nor a restart changes what is trained on.
"""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
import random
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

# More workers than cores: the recipe says how many, and `solo-bam doctor RECIPE` how long they take.
warnings.filterwarnings("ignore", "This DataLoader will create")


class EpochSampler(DistributedSampler[Any]):
    """Shuffles by seed and epoch and yields ``(epoch, index)``, so that workers know the epoch too.

    Attributes:
        start: images of this process that the next pass leaves out, for a run that goes on in mid-epoch.
    """

    start = 0

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        return ((self.epoch, index) for index in islice(super().__iter__(), start, None))


class LateLoader(DataLoader[Any]):
    """A loader that asks its sampler for the order when the first batch is wanted, not before.

    Lightning makes the iterator before it restores a checkpoint; loader processes would read ahead in
    another epoch's order.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


def ignore_termination(worker: int) -> None:
    """Loader processes outlive a signal to the whole group; the process that they serve stops them."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _kill_loaders() -> None:
    """At this process's end, where multiprocessing would send SIGTERM and wait for ever."""
    loaders = [child for child in multiprocessing.active_children() if child.daemon]
    if loaders:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes their end for an error
    for loader in loaders:
        loader.kill()


atexit.register(_kill_loaders)  # runs before multiprocessing's own, which was registered earlier


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Random numbers of ``random`` and torch that depend on ``key`` alone; the streams outside go on untouched."""
    # The generator itself, not torch.manual_seed: that would also queue a seed for CUDA, for every image.
    generator = torch.default_generator
    python_state, torch_state = random.getstate(), generator.get_state()
    words = np.random.SeedSequence(key).generate_state(2, np.uint64)
    random.seed(int(words[0]))
    generator.manual_seed(int(words[1]) >> 1)
    try:
        yield
    finally:
        random.setstate(python_state)
        generator.set_state(torch_state)


class Seeded(Dataset[tuple[int, list[torch.Tensor], int]]):
    """Images as solo-learn's methods want them, ``(index, crops, label)``, with crops drawn by :func:`seeded`.

    Args:
        dataset: gives ``(crops, label)``.
        seed: of the run.
    """

    def __init__(self, dataset: Dataset[Any], seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int] | int) -> tuple[int, list[torch.Tensor], int]:
        epoch, index = key if isinstance(key, tuple) else (0, key)  # Lightning's overfit_batches: always the same
        with seeded(self.seed, epoch, index):
            return index, *self._drawn(epoch, index)

    def _drawn(self, epoch: int, index: int) -> tuple[list[torch.Tensor], int]:
        """Crops of an image, and its label."""
        return self.dataset[index]
