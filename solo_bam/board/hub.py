"""What the requests share: runs and comparisons as they were read last, and who is to be told of changes."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tornado.locks import Condition

from solo_bam.board.comparisons import Comparisons
from solo_bam.board.store import COLUMNS, Store, format_size

POLL = 2.0  # seconds between two looks at the files, while a page is open
MOST = 40  # runs that are shown in detail
PAGE = Path(__file__).with_name("page")


class Hub:
    """One board.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path):
        self.store = Store(root)
        self.comparisons = Comparisons(self.store.root)
        self.compared = 0  # version of the store since which the comparisons are as they are
        self.token = secrets.token_urlsafe(24)
        self.changed = Condition()
        self._listeners, self._wanted, self._reading = 0, asyncio.Event(), asyncio.Lock()
        loader = FileSystemLoader(PAGE)
        self.templates = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self.templates.globals.update(quote=quote, columns=COLUMNS, most=MOST, hub=self)

    def listen(self, change: int) -> None:
        """Count the pages that are open: files are looked at again and again only while there is one."""
        self._listeners += change
        (self._wanted.set if self._listeners else self._wanted.clear)()

    async def refresh(self) -> None:
        """Read what is new of the runs."""
        async with self._reading:
            if await asyncio.to_thread(self.store.refresh):
                self.changed.notify_all()

    async def watch(self) -> None:
        """Read all of it once; then look again and again, while a page is open."""
        await self.refresh()
        await asyncio.gather(self._again(self.refresh), self._again(self._compare))

    async def _again(self, look: Callable[[], Awaitable[None]]) -> None:
        """For a fifth of the time at most."""
        while True:
            await self._wanted.wait()
            began = time.monotonic()
            await look()
            await asyncio.sleep(max(POLL, 4 * (time.monotonic() - began)))

    async def _compare(self) -> None:
        running = [row.run for row in self.store.rows.values() if row.running]
        if await asyncio.to_thread(self.comparisons.refresh, running):
            async with self._reading:
                self.store.version += 1
                self.compared = self.store.version
            self.changed.notify_all()

    def news(self, seen: int) -> dict[str, Any] | None:
        """What has changed since a version, for the page; None: nothing."""
        store, row = self.store, self.templates.get_template("row.html")
        if seen >= store.version:
            return None
        return {
            "rows": {one.run: row.render(row=one) for one in store.rows.values() if one.version > seen},
            "gone": [run for run, version in store.gone.items() if version > seen],
            "summary": self.summary,
            "comparisons": self.templates.get_template("comparisons.html").render() if self.compared > seen else None,
        }

    @property
    def summary(self) -> str:
        """How many runs there are, how many run, and how large they are."""
        rows = self.store.rows.values()
        count = f"{len(rows):,} run" + ("" if len(rows) == 1 else "s")
        return f"{count}, {sum(row.running for row in rows):,} running, {format_size(sum(row.size for row in rows))}"
