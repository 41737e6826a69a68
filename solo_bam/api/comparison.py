"""A comparison as an object."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solo_bam.api.run import override_all, pandas, recipe_place
from solo_bam.config.comparison import load_comparison, split_launcher
from solo_bam.core.files import expanded, writable

if TYPE_CHECKING:
    import pandas as pd

    from solo_bam.comparison.results import Results


@dataclass(frozen=True, repr=False)
class Comparison:
    """A comparison that has run.

    Attributes:
        results: everything that its runs on disk tell.
        report: the page that shows it, which needs no network.
    """

    results: Results
    report: Path

    @property
    def answer(self) -> str:
        """Who is ahead, by how much, and of whom it cannot be told; empty without two rows that have numbers."""
        from solo_bam.comparison.report.answer import answer

        return answer(self.results)

    @property
    def table(self) -> pd.DataFrame:
        """A row per method; for each protocol the mean (%) over the seeds, its 95 % interval and the number of seeds.

        Raises:
            UserError: pandas is not installed.
        """
        from solo_bam.comparison.results import with_untrained

        shown = [column for column in self.results.columns if not column.online]
        cells: dict[tuple[str, str], dict[str, Any]] = {}
        rows = with_untrained(self.results.entries, shown)
        for column in shown:
            title = column.title if (column.title, "mean") not in cells else f"{column.title}, {column.key}"
            for entry in rows:
                if found := column.estimate(entry):
                    low, high = found.interval or (None, None)
                    for name, value in {"mean": found.mean, "low": low, "high": high, "seeds": found.n}.items():
                        cells.setdefault((title, name), {})[entry] = value
        return pandas().DataFrame(cells, index=rows)

    def __repr__(self) -> str:
        return f"Comparison({self.results.name!r}: {self.answer or 'no numbers'} {self.report})"

    def _repr_html_(self) -> str:
        told = [self.answer, *(f"UNFAIR: {line}" for line in self.results.unfair)]
        told += [f"FAILED: {one.entry}, seed {one.seed}: {one.error}" for one in self.results.failed]
        lines = "".join(f"<p>{escape(line)}</p>" for line in told if line)
        return f"{self.table.to_html(float_format='{:.1f}'.format, na_rep='')}{lines}<p>{escape(str(self.report))}</p>"


def compare(comparison: str | Path, *changes: str, **keys: Any) -> Comparison:
    """Train methods under shared recipes, measure them alike and report it; what ``solo-bam compare`` does.

    ``solo_bam.compare("digits", methods=["bam", "simclr"], seeds=[0, 1, 2], epochs=20)``; started again, it goes on
    where it stopped.

    Args:
        comparison: a shipped one's name, or a YAML file.
        changes: to it, as on the command line; Hydra's launchers, too.
        keys: changes as keywords; dictionaries are sections.

    Raises:
        UserError: a recipe, data or devices that do not fit, an unfair comparison, or it is running already.
    """
    path, name = recipe_place(comparison)
    launcher, lines = split_launcher(override_all(changes, keys))
    asked = load_comparison(name, lines, path)

    from solo_bam.comparison import run
    from solo_bam.comparison.plan import make_plan

    plan = make_plan(asked)
    writable(expanded(plan.comparison.folder), "output")
    run.announce(plan)
    return Comparison(*run.compare(plan, launcher))
