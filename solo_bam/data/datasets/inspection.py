"""Every image of a recipe's dataset, read once: what is there, and which images cannot be read."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from solo_bam.config import Recipe
from solo_bam.core.hardware import cores
from solo_bam.core.progress import Bar
from solo_bam.data.datasets.images import Reader, Split, in_rgb, reason
from solo_bam.data.datasets.sources import count_classes, find_source

_BATCH = 64  # images that a process reads at once


class Finding(NamedTuple):
    """What one image is: its size in pixels and PIL's mode, or why it cannot be read."""

    width: int
    height: int
    mode: str
    problem: str | None = None


@dataclass(frozen=True)
class Inspection:
    """A split and what was found of each of its images, in their order."""

    split: Split
    findings: Sequence[Finding]

    @property
    def bad(self) -> list[tuple[str, str]]:
        """Name and reason of each image that cannot be read."""
        return [(self.split.reader.name(i), f.problem) for i, f in enumerate(self.findings) if f.problem is not None]


def scan(recipe: Recipe) -> int:
    """Read all training and validation images and print what they are.

    Returns:
        0 when all can be read, 1 when some cannot.

    Raises:
        UserError: the dataset is not there.
    """
    source = find_source(recipe.data)
    found = [inspect_split(split) for split in (source.train, source.val) if split is not None]
    for inspection in found:
        print(describe(inspection))
    if source.val is None:
        print("no labelled validation images")
    bad = sum(len(inspection.bad) for inspection in found)
    advice = "replace them or set data.on_error=skip" if bad else "all images can be read"
    print(f"{bad} unreadable: {advice}" if bad else advice)
    return 1 if bad else 0


def inspect_split(split: Split) -> Inspection:
    """Read every image, on all cores."""
    workers = min(cores(), -(-len(split) // _BATCH))
    loader = DataLoader(_Findings(split.reader), batch_size=_BATCH, num_workers=workers, collate_fn=list)
    findings: list[Finding] = []
    with Bar(total=len(split), desc=_name(split), unit="images") as bar:
        for batch in loader:
            findings += batch
            bar.update(len(batch))
    return Inspection(split, findings)


class _Findings(Dataset[Finding]):
    """A finding per image."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, position: int) -> Finding:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's remarks on metadata; training ignores them too
            try:
                image = self.reader.open(position)
                in_rgb(image)
            except Exception as error:
                return Finding(0, 0, "", reason(error))
        return Finding(*image.size, image.mode)


def _name(split: Split) -> str:
    return "training" if split.key == "data.train_path" else "validation"


def describe(inspection: Inspection) -> str:
    """A few lines about a split."""
    split, bad = inspection.split, inspection.bad
    good = [finding for finding in inspection.findings if finding.problem is None]
    lines = [f"{_name(split)}: {len(split):,} images in {split.place}", f"  classes     {_classes(split)}"]
    if good:
        modes = Counter(finding.mode for finding in good).most_common()
        lines += [
            f"  width       {_spread([finding.width for finding in good])}",
            f"  height      {_spread([finding.height for finding in good])}",
            f"  modes       {', '.join(f'{mode} {count:,}' for mode, count in modes)}",
        ]
    lines.append(f"  unreadable  {len(bad):,}")
    return "\n".join([*lines, *(f"    {name}: {problem}" for name, problem in bad)])


def _classes(split: Split) -> str:
    counts = count_classes(split)
    if not counts:
        return "none (no labels)"
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    unlabelled = int((split.targets == -1).sum())
    text = f"{len(counts)}, {counts[least]:,} ({least}) to {counts[most]:,} ({most}) images each"
    return text + (f", {unlabelled:,} images without a label" if unlabelled else "")


def _spread(values: Sequence[int]) -> str:
    return f"{min(values):,} / {int(np.median(values)):,} / {max(values):,} px (min / median / max)"
