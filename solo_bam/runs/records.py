"""Numbers with the protocol that they were measured by: one type for every command, kept as JSON beside the run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from solo_bam.core.files import written_whole
from solo_bam.runs.protocols import AnyProtocol


class Record(BaseModel):
    """One reported number.

    Attributes:
        metric: ``accuracy``, ``accuracy@5``, ``J&F mean``, ….
        value: in ``unit``.
        unit: ``%`` for accuracies.
        interval: 95 % confidence interval over the test images; None where it was not computed.
        images: test images.
        data: dataset and split that it was measured on, e.g. ``cifar10 val``.
        protocol: everything that would change the number for the same weights.
        method: that trained the weights.
        branch: ``student``, ``teacher`` or ``untrained``.
        epoch: epochs that the weights were trained for.
        weights: :func:`solo_bam.runs.checkpoints.read.hash_weights` of the backbone.
        checkpoint: the file.
        made: when, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    value: float
    unit: str = "%"
    interval: tuple[float, float] | None = None
    images: int | None = None
    data: str
    protocol: AnyProtocol
    method: str | None = None
    branch: str | None = None
    epoch: int | None = None
    weights: str | None = None
    checkpoint: str | None = None
    made: str = Field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))

    @property
    def protocol_key(self) -> str:
        """Eight hexadecimal digits of metric, data and protocol: numbers may share a column where it is equal."""
        return self.protocol.key(self.metric, self.unit, self.data)

    @property
    def same(self) -> tuple[str, str | None, str | None]:
        """What a number and a later one that takes its place have in common: protocol, branch and weights."""
        return self.protocol_key, self.branch, self.weights

    @property
    def stated(self) -> str:
        """The protocol in one line, for a table's footnote."""
        return self.protocol.stated(self.data)


def accuracies(values: Mapping[str, float], images: int, **about: Any) -> list[Record]:
    """Records of metrics that are shares (%) of so many test images, with their intervals."""
    intervals = {metric: wilson_interval(value / 100, images) for metric, value in values.items()}
    return [Record(metric=m, value=values[m], interval=intervals[m], images=images, **about) for m in values]


def records_folder(checkpoint: Path) -> Path:
    """Where records of a checkpoint belong: ``evaluation/`` of its run, or beside a file that lies in no run."""
    run = checkpoint.absolute().parent.parent
    return run / "evaluation" if (run / "run.json").exists() else checkpoint.absolute().parent / "evaluation"


def write_records(folder: Path, name: str, records: Sequence[Record]) -> Path:
    """Add to ``<folder>/<name>.json``, whole or not at all.

    A number of the same protocol, branch and weights takes an earlier one's place; a file that holds something else is
    set aside (``.broken``).
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    fresh = {record.same for record in records}
    all_of_them = [*(record for record in _earlier(path) if record.same not in fresh), *records]
    with written_whole(path) as part:
        part.write_text(json.dumps([r.model_dump(mode="json") for r in all_of_them], indent=2) + "\n")
    return path


def _earlier(path: Path) -> list[Record]:
    if not path.exists():
        return []
    try:
        return _read(path)
    except ValueError:
        path.replace(path.with_name(f"{path.name}.broken"))
        return []


def _read(path: Path) -> list[Record]:
    return [Record.model_validate(record) for record in json.loads(path.read_text())]


def read_records(folder: Path) -> list[Record]:
    """All records of a folder: those of fewer epochs first, else in the order of the files' names.

    Raises:
        pydantic.ValidationError: a file that holds something else.
    """
    found = [record for path in sorted(folder.glob("*.json")) for record in _read(path)]
    return sorted(found, key=lambda record: record.epoch or 0)


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % confidence interval of a share (0 to 1) of ``count`` independent trials (Wilson, 1927), in percent."""
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)
