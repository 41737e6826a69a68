"""Measure a checkpoint's features without labels, and keep the records."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from solo_bam.config.options import evaluation_data
from solo_bam.config.plotting import NetworkOptions
from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.core.files import writable
from solo_bam.evaluate.health import (
    FIT_FIRST,
    FIT_LAST,
    alignment,
    alpha_req,
    effective_rank,
    lidar,
    spread,
    uniformity,
)
from solo_bam.evaluate.views import Sample
from solo_bam.runs.checkpoints.read import Pretrained, load_pretrained
from solo_bam.runs.protocols import Health
from solo_bam.runs.records import Record, records_folder, write_records

IMAGES, LIDAR_IMAGES = 4096, 1000


def measure(checkpoint: Path, options: NetworkOptions) -> tuple[list[Record], Path]:
    """A checkpoint's records, and the file that they were written to.

    Raises:
        UserError: checkpoint, data or device are missing, there is only one image, or the folder cannot be written.
    """
    trained = load_pretrained(checkpoint, options.branch)
    data = evaluation_data(trained.recipe, options.data)
    images = Sample.of(trained.recipe, data, options.batch_size, options.num_workers)
    sample = images.take(options.num_images or IMAGES)
    if len(sample.split) < 2:
        raise UserError("num_images", f"got {len(sample.split)} image, must be at least 2", "use more images")
    folder = writable(records_folder(trained.path), "checkpoint", "copy it to a folder that can be written")
    backbone = trained.backbone.to(hardware.find_devices(options.accelerator, 1).accelerator)
    records = health_records(sample, backbone, sample.features(backbone).values, trained)
    return records, write_records(folder, trained.evaluation_name("health", sample.name), records)


def health_records(sample: Sample, backbone: nn.Module, clean: Tensor, trained: Pretrained) -> list[Record]:
    """All measures.

    Args:
        sample: images.
        backbone: on its device.
        clean: its features of them, ``(N, D)``.
        trained: which weights these are.
    """
    few = sample.take(LIDAR_IMAGES)
    values = _values(clean, sample.views(backbone))
    if len(few.split) > 2:
        how = Health(kind="LiDAR", images=len(few.split), view="10 random crops by the recipe's first augmentation")
        values.append((how, lidar(few.views(backbone, 10))))
    about: dict[str, Any] = {"unit": "", "data": sample.name, **trained.about}
    return [Record(metric=how.kind, value=value, protocol=how, images=how.images, **about) for how, value in values]


def _values(clean: Tensor, views: Tensor) -> list[tuple[Health, float]]:
    plain = partial(Health, images=len(clean), view="plain")
    aligned = Health(
        kind="alignment", images=len(clean), view="two random crops by the recipe's first augmentation", power=2
    )
    return [
        (plain(kind="RankMe"), effective_rank(clean)),
        (plain(kind="alpha-ReQ", fit_from_rank=FIT_FIRST, to_rank=FIT_LAST), alpha_req(clean)),
        (aligned, alignment(views[0], views[1])),
        (plain(kind="uniformity", t=2), uniformity(clean)),
        (plain(kind="spread"), spread(clean)),
    ]
