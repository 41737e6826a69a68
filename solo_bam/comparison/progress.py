"""What a comparison shows while it runs: which run of how many, time left, the table and the page so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tqdm import tqdm

from solo_bam.comparison.launch import FAILED, FINISHED, RUNNING, Job
from solo_bam.comparison.results import Column, Results, with_untrained


class Progress:
    """A bar over the epochs of all runs, and a line for each run that ends.

    Args:
        stage: what is run, e.g. ``Tuning``.
        jobs: all of them.
        show: called with what runs now, whenever that changes; gives the table so far.
    """

    def __init__(self, stage: str, jobs: Sequence[Job], show: Callable[[str], str]):
        self.stage, self.show = stage, show
        self.shown: list[str] | None = None  # what ran when it was last shown
        self.waiting = [job for job in jobs if not job.finished]
        self.count, self.ended = len(jobs), len(jobs) - len(self.waiting)
        self.before = {job.name: _epochs(job) if job.trained() else job.epochs_done() for job in self.waiting}
        self.started: dict[str, float] = {}
        self.stale = {job.name: job.state() for job in self.waiting}  # of an earlier start
        self.epochs = sum(_epochs(job) - self.before[job.name] for job in self.waiting)
        self.began, self.done = time.monotonic(), 0  # the bar counts nothing where there is no terminal
        self.bar = tqdm(total=self.epochs, unit="epoch", disable=None, dynamic_ncols=True)

    def __call__(self) -> None:
        """Look at the runs' states."""
        running, done, ended = [], 0, self.ended
        for job in list(self.waiting):
            state = job.state()
            if state == self.stale.get(job.name):
                continue
            self.stale.pop(job.name, None)
            self.started.setdefault(job.name, time.monotonic())
            if state.get("status") == RUNNING:
                running.append(job.run.label)
                done += _epochs(job) if state.get("trained") else job.epochs_done()
                done -= self.before[job.name]
            elif state.get("status") in (FINISHED, FAILED):
                self._end(job, state)
        place = f"{self.stage} {min(self.ended + 1, self.count)} of {self.count}"
        self.bar.set_description(f"{place}: {'; '.join(running) or 'starting'}")
        self.bar.update(max(0, self._trained + done - self.bar.n))
        self.done = max(self.done, self._trained + done)
        if running != self.shown or self.ended > ended:
            self.shown = running
            table = self.show(self._now(place, running))
            if self.ended > ended and table:
                tqdm.write(table)
        if not self.waiting:
            self.bar.close()

    def _now(self, place: str, running: Sequence[str]) -> str:
        """A sentence for the page."""
        each = (time.monotonic() - self.began) / self.done if self.done else 0.0
        time_left = f"; about {tqdm.format_interval(each * (self.epochs - self.done))} left" if self.done else ""
        waits = next((job.run.label for job in self.waiting if job.run.label not in running), "")
        then = f"; then {waits}" if waits else ""
        return f"{place} at {time.strftime('%H:%M')}: {'; '.join(running) or 'starting'}{time_left}{then}."

    _trained = 0  # epochs of the runs that have ended

    def _end(self, job: Job, state: dict[str, object]) -> None:
        self.waiting.remove(job)
        self.ended += 1
        self._trained += _epochs(job) - self.before[job.name]
        minutes = (time.monotonic() - self.started[job.name]) / 60
        failed = state.get("status") == FAILED
        told = f"FAILED: {state.get('error')} (see {job.log})" if failed else f"{minutes:.1f} min"
        tqdm.write(f"{self.stage} {self.ended} of {self.count}: {job.run.label}: {told}")


def _epochs(job: Job) -> int:
    return job.run.recipe.max_epochs


def overview(results: Results) -> str:
    """The table as plain text: means ± half a 95 % interval (seeds), the student's numbers measured after training."""
    shown = [column for column in results.columns if column.branch == "student" and not column.online]
    if not shown:
        return ""
    rows = [["", *(column.title for column in shown)]]
    rows += [[entry, *(_cell(column, entry) for column in shown)] for entry in with_untrained(results.entries, shown)]
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    lines = [
        "  ".join([cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))])
        for cells in rows
    ]
    return "\n".join(["", *lines, *(f"UNFAIR: {line}" for line in results.unfair), ""])


def _cell(column: Column, entry: str) -> str:
    found = column.estimate(entry)
    if found is None:
        return "-"
    spread = "" if found.half_width is None else f" ± {found.half_width:.1f}"
    return f"{found.mean:.1f}{spread} ({found.n})"
