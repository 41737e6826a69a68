"""What the runs themselves drew at their end, small enough to be carried by a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from solo_bam.comparison.results import Results, RunResult

KINDS = {  # files of a run's ``plots``, in order
    "similarity": "Similarities of images: of two views, of a class, of others",
    "entropy": "Entropy of the attention during the training",
    "attention": "Attention of the last block",
    "features": "Features in two dimensions, by class",
}
BUDGET = 1_400_000  # bytes of all pictures of a page, as text
_WIDTH = 760  # pixels


class RunPicture(NamedTuple):
    """A picture of a run.

    Attributes:
        data: the picture as a ``data:`` address.
        run: its row and seed.
        told: what it shows, of which run.
    """

    data: str
    run: str
    told: str


def run_pictures(results: Results, budget: int = BUDGET) -> dict[str, list[RunPicture]]:
    """By title, that of each row's first finished run; as many of the kinds, whole, as ``budget`` bytes hold."""
    first: dict[str, RunResult] = {}
    for outcome in results.outcomes:
        if outcome.status == "finished" and outcome.folder:
            first.setdefault(outcome.entry, outcome)
    drawn = {}
    for kind, title in KINDS.items():
        found = list(_of_kind(kind, title, list(first.values())))
        budget -= sum(len(one.data) for one in found)
        if found and budget >= 0:
            drawn[title] = found
    return drawn


def _of_kind(kind: str, title: str, runs: list[RunResult]) -> Iterator[RunPicture]:
    for run in runs:
        assert run.folder is not None
        path = run.folder / "plots" / f"{kind}.png"
        try:
            with Image.open(path, formats=["PNG"]) as image:
                small = image.convert("RGB")
        except OSError:  # not drawn, or broken
            continue
        small.thumbnail((_WIDTH, _WIDTH * 4))
        out = io.BytesIO()
        small.save(out, "WEBP", quality=75)
        data = f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
        name = f"{run.entry}, seed {run.seed}"
        yield RunPicture(data, name, f"{name}: {title[:1].lower()}{title[1:]}")
