"""Features of frozen backbones over a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from solo_bam.core import collectives
from solo_bam.core.errors import UserError
from solo_bam.core.progress import Bar
from solo_bam.data.sampling import ignore_termination


class Features(NamedTuple):
    """``values`` (N, D) in float32 and ``labels`` (N,), on the CPU, in the dataset's order."""

    values: Tensor
    labels: Tensor


class Chunk(NamedTuple):
    """Features of some consecutive images.

    Attributes:
        positions: of the images in the dataset.
        values: ``(n, D)`` in float32 on the CPU, of each network.
        labels: ``(n,)`` on the CPU.
    """

    positions: range
    values: list[Tensor]
    labels: Tensor


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Networks in evaluation mode; every module's own mode is put back afterwards."""
    before = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def chunks_of(count: int, size: int, shared: bool = False) -> list[range]:
    """Positions 0 to count - 1 in chunks of ``size``, the last one shorter; ``shared``: this process's chunks."""
    own, processes = (collectives.rank(), collectives.world_size()) if shared else (0, 1)
    return [range(start, min(start + size, count)) for start in range(own * size, count, processes * size)]


@torch.no_grad()
def extract_chunks(
    networks: Sequence[nn.Module],
    dataset: Dataset[Any],
    chunks: Sequence[range],
    batch_size: int = 256,
    workers: int = 0,
    progress: str | None = None,
    bf16: bool = False,
) -> Iterator[Chunk]:
    """What frozen networks make of some images; each image is read once for all of them.

    A batch lies within a chunk, so a chunk's features do not depend on which others are asked for. No global
    random number is drawn.

    Args:
        networks: in evaluation mode, on one device; each maps images ``(n, 3, height, width)`` to ``(n, D)``.
        dataset: gives ``(image, label)``, transformed without randomness.
        chunks: positions of the images.
        batch_size: images at once.
        workers: loader processes.
        progress: shows a bar of this name.
        bf16: the networks run in bfloat16 autocast.
    """
    like, own = next(networks[0].parameters()), torch.Generator()
    batches = [list(chunk[i : i + batch_size]) for chunk in chunks for i in range(0, len(chunk), batch_size)]
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, generator=own, worker_init_fn=ignore_termination
    )
    source = iter(loader if progress is None else Bar(loader, desc=progress, unit="batches", leave=False))
    for chunk in chunks:
        values, labels = [list[Tensor]() for _ in networks], []
        for _ in range(0, len(chunk), batch_size):
            images, targets = next(source)
            images = images.to(like.device, like.dtype)
            for kept, network in zip(values, networks):
                with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
                    kept.append(network(images).float().cpu())
            labels.append(targets)
        yield Chunk(chunk, [torch.cat(kept) for kept in values], torch.cat(labels))
    next(source, None)  # the bar ends


def extract_features(
    backbone: nn.Module,
    dataset: Dataset[Any],
    batch_size: int = 256,
    workers: int = 0,
    progress: str | None = None,
    bf16: bool = False,
) -> Features:
    """What a backbone makes of each image, in evaluation mode; its mode is put back afterwards.

    Args:
        backbone: maps images ``(N, 3, height, width)`` to features ``(N, D)``.
        dataset: gives ``(image, label)``, transformed without randomness.
        batch_size: images at once.
        workers: loader processes.
        progress: shows a bar of this name.
        bf16: the backbone runs in bfloat16 autocast.

    Raises:
        UserError: a feature is NaN or infinite: no number may be made of it.
    """
    everything = [range(len(dataset))]  # type: ignore[arg-type]
    with evaluating(backbone):
        (chunk,) = extract_chunks([backbone], dataset, everything, batch_size, workers, progress, bf16)
    if not chunk.values[0].isfinite().all():
        problem = "its features of some images are NaN or infinite"
        raise UserError("checkpoint", problem, "use an earlier one, or precision=32")
    return Features(chunk.values[0], chunk.labels)


def pixel_features(dataset: Dataset[Any]) -> Features:
    """The images themselves as features: the baseline that no network may fall below unnoticed."""
    values, labels = zip(*((image.flatten(1), target) for image, target in DataLoader(dataset, batch_size=256)))
    return Features(torch.cat(values).float(), torch.cat(labels))
