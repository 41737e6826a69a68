"""Features that are extracted once per weights, images and view."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from torch import nn

from solo_bam.core.files import written_whole
from solo_bam.data.datasets.images import Split, Transform
from solo_bam.evaluate.features import Features, extract_features

_FORM = 1  # of the files; another number makes them anew


def cached_features(
    folder: Path,
    name: str,
    backbone: nn.Module,
    weights: str,
    split: Split,
    view: Transform,
    batch_size: int = 256,
    workers: int = 0,
    bf16: bool = False,
) -> Features:
    """A split's features out of ``folder``, or extracted and put there.

    Args:
        folder: of the cache; created.
        name: what the file's name begins with, and the bar's.
        backbone: on its device.
        weights: its :func:`solo_bam.runs.checkpoints.read.hash_weights`.
        split: the images; where one was changed since (by size or date), they are read again.
        view: how they are seen, without randomness; its ``str`` tells views apart.
        batch_size: images at once.
        workers: loader processes.
        bf16: the backbone runs in bfloat16 autocast.
    """
    key = _digest([str(_FORM), weights, str(view), split.on_error, identity(split), *(["bf16"] if bf16 else [])])
    path = folder / f"{name}-{key}.pt"
    if (found := _read(path)) is not None:
        return found
    features = extract_features(backbone, split(view), batch_size, workers, progress=name, bf16=bf16)
    _write(path, features)
    return features


def identity(split: Split) -> str:
    """What changes when an image, a label or their order does."""
    return _digest([f"{split.reader.stamp(i)} {label}" for i, label in enumerate(split.targets.tolist())])


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _sum(features: Features) -> str:
    digest = hashlib.sha256()
    for tensor in features:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> Features | None:
    """The features of a whole file; None where there is none."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        features = Features(content["values"], content["labels"])
        if content["sum"] == _sum(features):
            return features
    except Exception:  # a damaged file fails with whatever comes first
        pass
    logging.getLogger("solo_bam").warning("%s is damaged; its features are extracted again", path)
    return None


def _write(path: Path, features: Features) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        torch.save({**features._asdict(), "sum": _sum(features)}, part)
