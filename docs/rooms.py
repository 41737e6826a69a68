"""Draw ``rooms.svg``, the rooms of the package and three data paths through them: ``python docs/rooms.py``.

The order of the rooms is that of the import contract in pyproject.toml.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
WHAT = {
    "cli": "a command per file: parse, call, print",
    "api": "what import solo_bam offers: runs, comparisons",
    "board": "runs and comparisons in a browser",
    "comparison": "plan, tuning, launching, results, report/",
    "train": "pretraining, linear heads, callbacks/, doctor/",
    "evaluate": "k-NN, linear, health, video segmentation",
    "plots": "a file per figure",
    "runs": "a run's folder, log, records, checkpoints/",
    "data": "datasets/, transforms/, loaders/",
    "methods": "a file per method",
    "config": "recipes: composed by Hydra, checked by pydantic",
    "backbones": "networks by name",
    "solo_learn": "the only room that imports solo; patches",
    "losses": "BAM's loss in pure torch",
    "core": "collectives, errors, files, hardware, neighbors",
}
# (what goes that way, its color, the rooms in the order in which it visits them)
PATHS = [
    ("a recipe key", "#b35900", ["cli", "config", "train"]),
    ("a batch", "#0a6ebd", ["train", "data", "methods", "backbones", "losses"]),
    ("a number", "#3d7a2a", ["evaluate", "runs", "comparison", "cli"]),
]
ROW, TOP, WIDTH, LANES = 44, 40, 470, 500


def rooms() -> list[str]:
    """From top to bottom."""
    text = (HERE.parent / "pyproject.toml").read_text()
    layers = re.search(r"^layers = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    assert layers is not None
    return re.findall(r'"(\w+)"', layers[1])


def middle(room: str, order: list[str]) -> int:
    """Height of a room's middle."""
    return TOP + order.index(room) * ROW + ROW // 2


def box(room: str, order: list[str]) -> str:
    """A room with what is in it."""
    y = middle(room, order) - 18
    return (
        f'<rect x="10" y="{y}" width="{WIDTH}" height="36" rx="4" fill="#f4f4f4" stroke="#888"/>\n'
        f'<text x="22" y="{y + 23}" font-weight="bold">{room}/</text>\n'
        f'<text x="132" y="{y + 23}">{escape(WHAT[room])}</text>\n'
    )


def lane(number: int, order: list[str]) -> str:
    """One path: a dot, numbered, at each room that it visits."""
    name, color, visited = PATHS[number]
    x = LANES + number * 110 + 40
    heights = [middle(room, order) for room in visited]
    parts = [f'<text x="{x}" y="24" text-anchor="middle" fill="{color}" font-weight="bold">{name}</text>']
    parts.append(f'<path d="M{x} {min(heights)}V{max(heights)}" stroke="{color}" stroke-width="3"/>')
    for i, y in enumerate(heights, start=1):
        parts.append(f'<path d="M{WIDTH + 10} {y}H{x}" stroke="{color}" stroke-width="1" stroke-dasharray="2 4"/>')
        parts.append(f'<circle cx="{x}" cy="{y}" r="11" fill="{color}"/>')
        parts.append(f'<text x="{x}" y="{y + 5}" text-anchor="middle" fill="#fff">{i}</text>')
    return "\n".join(parts) + "\n"


def svg() -> str:
    """The drawing."""
    order = rooms()
    width, height = LANES + 110 * len(PATHS) + 10, TOP + ROW * len(order) + 34
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="14">\n'
        "<title>The rooms of solo_bam, top to bottom, and three data paths</title>\n"
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n'
        f"{''.join(box(room, order) for room in order)}"
        f"{''.join(lane(number, order) for number in range(len(PATHS)))}"
        f'<text x="10" y="{height - 12}" fill="#555">A room imports from the rooms below it only. '
        "Numbers: the order in which a path visits the rooms.</text>\n"
        "</svg>\n"
    )


if __name__ == "__main__":
    (HERE / "rooms.svg").write_text(svg())
