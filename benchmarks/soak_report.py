"""What a soak found, for docs/reliability.md: a table, and a figure of memory and open files over time."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.style import context
from scipy import stats

from benchmarks.soak import KINDS, surprises
from benchmarks.timing import markdown
from solo_bam.plots.style import COLOURS, STYLE, Picture

WARM, BLOCKS = 120.0, 12  # seconds of the long run that its slope leaves out; parts of the rest
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
    disk += f"\n\nNote: {result['note']}." if "note" in result else ""
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
    lines = []
    for column, unit, what in ((5, "MB", "resident memory"), (6, "files", "open files")):
        points = [(row[0], row[column]) for row in result["samples"] if row[2] == "long" and row[4] > WARM]
        told = [f"{_interval(slope(_blocks(points)), unit)} in the long run, from {_range(points)} {unit}"]
        for kind in KINDS:
            over = _interval(slope(_over_starts(result, kind, column)), unit)
            told.append(f"{over} from start to start of disturbed runs of {kind}")
        lines.append(f"- {what}, an hour: {'; '.join(told)}")
    how = f"Slopes by least squares with 95 % intervals; the long run in {BLOCKS} means of its time after {WARM:.0f} s"
    return f"{how}:\n\n" + "\n".join(lines)


def slope(points: Points) -> tuple[float, float] | None:
    """Per hour, and half of its 95 % interval; None of fewer than four points."""
    if len(points) < 4 or len({x for x, _ in points}) < 4:
        return None
    found = stats.linregress(*zip(*points))
    return 3600 * float(found.slope), 3600 * float(found.stderr * stats.t.ppf(0.975, len(points) - 2))


def _blocks(points: Points) -> Points:
    """Means of so many parts: neighbouring looks tell the same."""
    parts = [part for part in np.array_split(np.array(points), BLOCKS) if len(part)] if points else []
    return [(float(x), float(y)) for x, y in (part.mean(0) for part in parts)]


def _interval(found: tuple[float, float] | None, unit: str) -> str:
    return "not measured" if found is None else f"{found[0]:+.2g} ± {found[1]:.2g} {unit}"


def _range(points: Points) -> str:
    values = [y for _, y in points]
    return f"{values[0]:.0f} to {values[-1]:.0f}" if values else "?"


def _over_starts(result: dict[str, Any], kind: str, column: int) -> Points:
    """The last look at each start that had lived for some seconds, with all its processes; less its round's mean."""
    last: dict[tuple[int, int], list[Any]] = {}
    for row in result["samples"]:
        if row[2] == "disturbed" and row[4] > 5 and result["rounds"][row[1]]["processes"] == kind == str(row[7]):
            last[row[1], row[3]] = row
    by_round: dict[int, Points] = defaultdict(list)
    for row in last.values():
        by_round[row[1]].append((row[0], row[column]))
    points = []
    for one in by_round.values():
        x, y = (statistics.mean(values) for values in zip(*one))
        points += [(a - x, b - y) for a, b in one]
    return points


def draw(result: dict[str, Any], path: Path) -> None:
    """Memory above, open files below, events as ticks."""
    with context(STYLE):
        figure = Picture(figsize=(9, 5))
        panels = figure.subplots(2, 1, sharex=True)
        for colour, name in zip(COLOURS, ("long", "undisturbed", "disturbed")):
            rows = [row for row in result["samples"] if row[2] == name]
            for panel, column in zip(panels, (5, 6)):
                panel.plot(
                    [row[0] / 60 for row in rows], [row[column] for row in rows], ".", ms=2, color=colour, label=name
                )
        for colour, name in zip(COLOURS[1:], dict.fromkeys(event["event"] for event in result["events"])):
            at = [event["seconds"] / 60 for event in result["events"] if event["event"] == name]
            panels[1].plot(at, [0.0] * len(at), "|", color=colour, ms=8, label=name)
        panels[0].set(ylabel="resident memory, MB", ylim=(0, None))
        panels[1].set(ylabel="open files", xlabel="minutes")
        for panel in panels:
            panel.legend(ncols=7, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), markerscale=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=80)
