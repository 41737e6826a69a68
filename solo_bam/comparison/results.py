"""What came out of a comparison, as its runs on disk tell it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from solo_bam.comparison.fairness import Difference
from solo_bam.config.comparison import START, UNTRAINED
from solo_bam.evaluate.statistics import Estimate, estimate, paired_difference
from solo_bam.runs.records import Record


class Point(NamedTuple):
    """A measurement during a training: after so much of it, evaluation left out; ``device_hours`` of :class:`Cost`."""

    epoch: float
    hours: float
    value: float
    images: float = math.nan
    device_hours: float = math.nan


@dataclass(frozen=True)
class Cost:
    """What a training took, evaluation left out.

    Attributes:
        images_per_second: training images (not crops), loading included.
        hours: wall-clock.
        device_hours: GPU-hours, or CPU-hours of processor time.
        device: ``GPU`` or ``CPU``, of ``device_hours`` and ``peak_memory``.
        peak_memory: bytes: allocated on the GPU, or resident in the main process.
    """

    images_per_second: float
    hours: float
    device_hours: float
    device: Literal["GPU", "CPU"]
    peak_memory: int


@dataclass(frozen=True)
class RunResult:
    """One run of a comparison.

    Attributes:
        entry: the row that it belongs to.
        method: of its recipe.
        seed: of its recipe.
        status: ``missing`` where it has not been started or not ended.
        error: why it failed.
        log: of its job, where it failed.
        folder: of the run; None where it is missing.
        command: the words of the command that makes it.
        records: numbers with their protocols.
        curves: ``k-NN`` and ``linear`` accuracy (%) during the training.
        health: the last epoch's signs of it (:data:`solo_bam.comparison.collect.HEALTH`), where they were logged.
        cost: None where it was not measured.
        about: versions, hardware, git state and start of ``run.json``.
    """

    entry: str
    method: str
    seed: int
    status: Literal["finished", "failed", "missing"]
    error: str | None = None
    log: Path | None = None
    folder: Path | None = None
    command: Sequence[str] = ()
    records: Sequence[Record] = ()
    curves: dict[str, list[Point]] = field(default_factory=dict)
    health: dict[str, float] = field(default_factory=dict)
    cost: Cost | None = None
    about: dict[str, object] = field(default_factory=dict)

    @property
    def collapsed_in(self) -> object:
        """The epoch since which the training had collapsed at its end; None for a sound run."""
        return self.about.get("collapsed_in")

    @property
    def precision(self) -> str | None:
        """That it ran in."""
        hardware = self.about.get("hardware")
        return hardware.get("precision") if isinstance(hardware, dict) else None


class Column(NamedTuple):
    """Numbers of one protocol, which alone may stand in one column.

    Attributes:
        key: of metric, data and protocol (:attr:`solo_bam.runs.records.Record.protocol_key`) and branch.
        title: short, e.g. ``k-NN (k 20), accuracy``.
        unit: of the numbers.
        stated: the whole protocol in a line.
        branch: ``student`` or ``teacher``.
        online: measured during the pretraining.
        values: ``{entry: {seed: value}}``; of :attr:`start`, the network that all start from.
        headline: whether the comparison's one sentence tells it.
    """

    key: str
    title: str
    unit: str
    stated: str
    branch: str
    online: bool
    values: dict[str, dict[int, float]]
    headline: bool = True

    @property
    def start(self) -> str:
        """The row of the network that all start from."""
        return START if START in self.values else UNTRAINED

    def estimate(self, entry: str) -> Estimate | None:
        """Mean over the entry's seeds; None without a number."""
        values = self.values.get(entry)
        return estimate(list(values.values())) if values else None

    def difference(self, entry: str, baseline: str) -> Estimate | None:
        """Paired by seed; None without a common seed."""
        return paired_difference(self.values.get(entry, {}), self.values.get(baseline, {}))


def with_untrained(entries: Sequence[str], columns: Sequence[Column]) -> list[str]:
    """Rows, and after them the network that all start from where a column has it."""
    return [*entries, *dict.fromkeys(column.start for column in columns if column.start in column.values)]


class Trial(NamedTuple):
    """A training of the search.

    Attributes:
        entry: the row.
        number: of the trial, from 0.
        values: ``{dotted key: value}`` that it tried.
        accuracy: (%), on held-out images; 0 where the loss diverged, None where it has not ended.
        chosen: whether the runs that count have its values.
    """

    entry: str
    number: int
    values: dict[str, object]
    accuracy: float | None
    chosen: bool


@dataclass(frozen=True)
class Results:
    """One comparison.

    Attributes:
        name: of the comparison.
        entries: its rows, in order.
        baseline: the row that differences are taken to.
        outcomes: of every planned run but the trials.
        trials: of the tuning; empty without one.
        tuning: the tuning in words.
        edges: each chosen value that lies at the end of what was searched, in words.
        differences: keys in which the recipes differ.
        unfair: what makes the comparison unfair, one line each; marked in every table and picture.
        columns: one per protocol.
        notes: what methods have by nature that others have not, a line each.
        stated: data, backbone, crops, epochs, batch and the like, which all rows share: ``{name: value}``.
        at_once: runs that shared the machine, which their times and speeds show.
        dataset: that all rows were trained on, as recipes name it.
    """

    name: str
    entries: Sequence[str]
    baseline: str
    outcomes: Sequence[RunResult]
    trials: Sequence[Trial]
    tuning: str
    differences: Sequence[Difference]
    unfair: Sequence[str]
    columns: Sequence[Column]
    stated: dict[str, str]
    at_once: int = 1
    dataset: str = ""
    edges: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def failed(self) -> list[RunResult]:
        """Runs that gave no number: stopped by an error, or not there."""
        return [one for one in self.outcomes if one.status != "finished"]
