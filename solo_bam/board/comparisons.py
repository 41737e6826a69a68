"""What the page shows of the comparisons: read once, and again where one has changed."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from solo_bam.board.store import fingerprint
from solo_bam.comparison.collect import PLAN, collect
from solo_bam.comparison.plan import RUNS
from solo_bam.comparison.report.answer import answer
from solo_bam.runs.status import newest_first

_PAGE = "report.html"


class Summary(NamedTuple):
    """A comparison in a line: ``unfair`` says why it is not fair, ``report`` links to its page, if there is one."""

    folder: str
    name: str
    answer: str
    unfair: list[str]
    progress: str
    running: bool
    report: str


class Comparisons:
    """The comparisons below a folder, ``found``; ``read``: whether they have been looked for."""

    def __init__(self, root: Path):
        self.root, self.read = root, False
        self.found: list[Summary] = []
        self._seen: dict[Path, tuple[object, Summary | None]] = {}

    def refresh(self, running: Collection[str]) -> bool:
        """Read what is new, those that were touched last first; whether there was anything.

        Args:
            running: folders of the runs that run, from the root.
        """
        before = (self.found, self.read)
        found = [self._summary(path.parent, running) for path in newest_first(self.root, PLAN)]
        self.found, self.read = [one for one in found if one is not None], True
        return (self.found, True) != before

    def _summary(self, folder: Path, running: Collection[str]) -> Summary | None:
        """None where it is no comparison, or not all within the root."""
        now = sorted(run for run in running if Path(run).is_relative_to(folder.relative_to(self.root)))
        seen = fingerprint([str(folder / name) for name in (PLAN, "results.json", _PAGE, RUNS)], self.root)
        old = self._seen.get(folder)
        if old is None or old[0] != (seen, now):
            summary = None if seen is None else _read(folder, folder.relative_to(self.root).as_posix(), now)
            self._seen[folder] = old = (seen, now), summary
        return old[1]


def _read(folder: Path, inside: str, running: list[str]) -> Summary | None:
    try:
        results = collect(folder)
    except Exception:  # a plan.json of something else, in whatever way
        return None
    failed = sum(one.status == "failed" for one in results.outcomes)
    progress = f"{len(results.outcomes) - len(results.failed)} of {len(results.outcomes)} runs"
    progress += f", {failed} failed" if failed else ""
    progress += f"; running: {', '.join(Path(run).name for run in running)}" if running else ""
    link = quote(os.fsencode(Path(inside, _PAGE))) if (folder / _PAGE).is_file() else ""
    return Summary(inside, results.name, answer(results), [*results.unfair], progress, bool(running), link)
