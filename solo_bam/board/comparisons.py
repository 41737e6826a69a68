"""What the page shows of the comparisons: read once, and again where one has changed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from solo_bam.board.store import fingerprint
from solo_bam.comparison.collect import PLAN, collect
from solo_bam.comparison.plan import RUNS
from solo_bam.comparison.report.answer import answer
from solo_bam.core.errors import UserError
from solo_bam.runs.status import newest_first

_PAGE = "report.html"


@dataclass(frozen=True)
class Summary:
    """A comparison in a line.

    Attributes:
        folder: from the root.
        name: its own.
        answer: in a sentence; empty where there is none yet.
        unfair: why it is not fair.
        progress: how many of its runs have ended, and which run now.
        running: whether one does.
        report: link to its page; empty where there is none yet.
    """

    folder: str
    name: str
    answer: str
    unfair: tuple[str, ...]
    progress: str
    running: bool
    report: str


class Comparisons:
    """The comparisons below a folder.

    Args:
        root: the folder, resolved.

    Attributes:
        found: those that were touched last first.
        read: whether they have been looked for.
    """

    def __init__(self, root: Path):
        self.root = root
        self.found: list[Summary] = []
        self.read = False
        self._seen: dict[Path, tuple[object, Summary | None]] = {}

    def refresh(self, running: Collection[str]) -> bool:
        """Read what is new; whether there was anything.

        Args:
            running: folders of the runs that run, from the root.
        """
        before = (self.found, self.read)
        found = [self._summary(path.parent, running) for path in newest_first(self.root, PLAN)]
        self.found, self.read = [one for one in found if one is not None], True
        return (self.found, True) != before

    def _summary(self, folder: Path, running: Collection[str]) -> Summary | None:
        """None where it is no comparison, or not all within the root."""
        inside = folder.relative_to(self.root)
        now = sorted(run for run in running if Path(run).is_relative_to(inside))
        files = [str(folder / name) for name in (PLAN, "results.json", _PAGE, RUNS)]
        seen = fingerprint(files, self.root)
        old = self._seen.get(folder)
        if old is None or old[0] != (seen, now):
            self._seen[folder] = old = (seen, now), None if seen is None else _read(folder, inside, now)
        return old[1]


def _read(folder: Path, inside: Path, running: list[str]) -> Summary | None:
    try:
        results = collect(folder)
    except (UserError, OSError):
        return None
    failed = sum(one.status == "failed" for one in results.outcomes)
    progress = f"{len(results.outcomes) - len(results.failed)} of {len(results.outcomes)} runs"
    progress += f", {failed} failed" if failed else ""
    progress += f"; running: {', '.join(Path(run).name for run in running)}" if running else ""
    link = quote((inside / _PAGE).as_posix()) if (folder / _PAGE).is_file() else ""
    return Summary(
        inside.as_posix(), results.name, answer(results), tuple(results.unfair), progress, bool(running), link
    )
