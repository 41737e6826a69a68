"""Measure a checkpoint's features without labels, and keep the records."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from solo_bam.config.options import evaluation_data
from solo_bam.config.plotting import NetworkOptions
from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.core.files import writable
from solo_bam.evaluate.health import FIT_FIRST, FIT_LAST, alignment, alpha_req, effective_rank, spread, uniformity
from solo_bam.evaluate.views import Sample
from solo_bam.runs.checkpoints.read import load_pretrained
from solo_bam.runs.records import Record, evaluation_name, of_weights, records_folder, write_records

_IMAGES = 4096


def measure(checkpoint: Path, options: NetworkOptions) -> tuple[list[Record], Path]:
    """A checkpoint's records, and the file that they were written to.

    Raises:
        UserError: checkpoint, data or device are missing, there is only one image, or the folder cannot be written.
    """
    trained = load_pretrained(checkpoint, options.branch)
    data = evaluation_data(trained.recipe, options.data)
    images = Sample.of(trained.recipe, data, options.batch_size, options.num_workers)
    sample = images.take(options.num_images or _IMAGES)
    if len(sample.split) < 2:
        raise UserError("num_images", f"got {len(sample.split)} image, must be at least 2", "use more images")
    folder = writable(records_folder(trained.path), "checkpoint", "copy it to a folder that can be written")
    backbone = trained.backbone.to(hardware.find_devices(options.accelerator, 1).accelerator)
    clean, views = sample.features(backbone).values, sample.views(backbone)
    of_all = {"unit": "", "images": len(clean), "data": sample.name, **of_weights(trained)}
    records = []
    for metric, value, settings in _values(clean, views):
        protocol = {"kind": metric, "online": False, "images": len(clean), **settings}
        records.append(Record.model_validate({**of_all, "metric": metric, "value": value, "protocol": protocol}))
    return records, write_records(folder, evaluation_name("health", sample.name, trained), records)


def _values(clean: Tensor, views: Tensor) -> list[tuple[str, float, dict[str, str | int]]]:
    """Metric, value and what else would change it."""
    plain, random = {"view": "plain"}, {"view": "two random crops by the recipe's first augmentation"}
    return [
        ("RankMe", effective_rank(clean), {**plain}),
        ("alpha-ReQ", alpha_req(clean), {**plain, "fit from rank": FIT_FIRST, "to rank": FIT_LAST}),
        ("alignment", alignment(views[0], views[1]), {**random, "power": 2}),
        ("uniformity", uniformity(clean), {**plain, "t": 2}),
        ("spread", spread(clean), {**plain}),
    ]
