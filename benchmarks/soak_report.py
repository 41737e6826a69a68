"""What a soak found, for docs/reliability.md: a table, and a figure of memory and open files over time."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.style import context
from scipy import stats

from benchmarks.soak import KINDS, surprises
from benchmarks.timing import markdown
from solo_bam.plots.style import COLOURS, STYLE, Picture

WARM = 60.0  # seconds of a process that its slope leaves out
FIGURE = Path("results/soak.png")
PAGE, BEGIN, END = Path("reliability.md"), "<!-- soak -->", "<!-- /soak -->"
Points = list[tuple[float, float]]


def report(result: dict[str, Any], docs: Path) -> None:
    """Write the figure, and the table between the page's marks."""
    draw(result, docs / FIGURE)
    page = docs / PAGE
    text = page.read_text()
    between = re.compile(f"{BEGIN}.*{END}", re.DOTALL)
    if not between.search(text):
        raise SystemExit(f"{page} has no {BEGIN} … {END}")
    page.write_text(between.sub(lambda _: f"{BEGIN}\n{told(result)}\n{END}", text))


def told(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    machine, events = result["machine"], result["events"]
    head = (
        f"`python -m benchmarks.soak --hours {result['hours asked']:g} --epochs {result['epochs']}`, "
        f"{machine['date']}, {result['hours']:.2f} hours on {machine['device']}, Python {machine['python']}, "
        f"torch {machine['torch']}: {len(result['rounds'])} rounds, {len(events)} events, {kills(result)} of them "
        f"kills, {len(surprises(result))} not as promised; {len(_differing(result))} rounds with a bit that differs."
    )
    disk = "" if result.get("disk is small") else "\n\nWithout root no small disk could be mounted: none was filled."
    figure = f"![Memory and open files over time]({FIGURE})"
    return f"{head}{disk}\n\n{markdown(rounds(result))}\n\n{memory(result)}\n\n{figure}"


def kills(result: dict[str, Any]) -> int:
    """Processes killed."""
    return sum(event["event"].startswith("kill") for event in result["events"])


def _differing(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in result["rounds"] if one.get("different", ["it has not ended"])]


def rounds(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A line each."""
    lines = []
    for number, one in enumerate(result["rounds"]):
        count = Counter(event["event"] for event in result["events"] if event["round"] == number)
        minutes = (one.get("ended", 3600 * result["hours"]) - one["began"]) / 60
        same = {True: "yes"}.get(not one.get("different", ["?"]), "no" if "different" in one else "not ended")
        names = ("kill", "kill one", "signal", "full disk", "damaged image")
        lines.append(
            {"round": number + 1, "processes": one["processes"], "minutes": f"{minutes:.0f}"}
            | {name: count[name] for name in names}
            | {"starts": one.get("starts", ""), "same bits": same}
        )
    return lines


def memory(result: dict[str, Any]) -> str:
    """The slopes in words."""
    parts = []
    for kind in KINDS:
        for column, unit, what in ((5, "MB", "resident memory"), (6, "", "open files")):
            grown = [found for points in _undisturbed(result, kind, column) if (found := slope(points)) is not None]
            over = [found for points in _over_starts(result, kind, column) if (found := slope(points)) is not None]
            parts.append(
                f"{what}, {kind} process{'es' * (kind != '1')}: {_interval(grown, unit)} within an undisturbed run "
                f"after its first minute, {_interval(over, unit)} from start to start of a disturbed one"
            )
    return (
        "Slopes per hour (mean over the rounds with its 95 % t-interval; least squares in each):\n\n- "
        + "\n- ".join(parts)
    )


def slope(points: Points) -> float | None:
    """Per hour; None of fewer than three points."""
    if len(points) < 3 or len({x for x, _ in points}) < 2:
        return None
    return 3600 * float(stats.linregress(*zip(*points)).slope)


def _interval(values: list[float], unit: str) -> str:
    if not values:
        return "not measured"
    unit = f" {unit}".rstrip()
    if len(values) < 2:
        return f"{values[0]:+.2g}{unit} (one round)"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):+.2g} ± {half:.2g}{unit} (n = {len(values)})"


def _samples(result: dict[str, Any], kind: str, name: str) -> Iterable[list[Any]]:
    """Of runs with all their processes and no more, which leaves out starts and ends."""
    for row in result["samples"]:
        if row[2] == name and result["rounds"][row[1]]["processes"] == kind == str(row[7]):
            yield row


def _undisturbed(result: dict[str, Any], kind: str, column: int) -> list[Points]:
    found: dict[int, Points] = defaultdict(list)
    for row in _samples(result, kind, "undisturbed"):
        if row[4] > WARM:
            found[row[1]].append((row[4], row[column]))
    return [*found.values()]


def _over_starts(result: dict[str, Any], kind: str, column: int) -> list[Points]:
    """The last look at each start of the disturbed runs that had lived for some seconds."""
    last = {(row[1], row[3]): row for row in _samples(result, kind, "disturbed") if row[4] > 5}
    found: dict[int, Points] = defaultdict(list)
    for row in last.values():
        found[row[1]].append((row[0], row[column]))
    return [*found.values()]


def draw(result: dict[str, Any], path: Path) -> None:
    """Memory above, open files below, events as ticks."""
    with context(STYLE):
        figure = Picture(figsize=(9, 5))
        panels = figure.subplots(2, 1, sharex=True)
        for colour, name in zip(COLOURS, ("undisturbed", "disturbed")):
            rows = [row for row in result["samples"] if row[2] == name]
            for panel, column in zip(panels, (5, 6)):
                panel.plot(
                    [row[0] / 60 for row in rows], [row[column] for row in rows], ".", ms=2, color=colour, label=name
                )
        for colour, name in zip(COLOURS[2:], dict.fromkeys(event["event"] for event in result["events"])):
            at = [event["seconds"] / 60 for event in result["events"] if event["event"] == name]
            panels[1].plot(at, [0.0] * len(at), "|", color=colour, ms=8, label=name)
        panels[0].set(ylabel="resident memory, MB", ylim=(0, None))
        panels[1].set(ylabel="open files", xlabel="minutes")
        for panel in panels:
            panel.legend(ncols=7, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), markerscale=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=80)
