"""``solo-bam status``: the runs below a folder, how far they are and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from solo_bam.cli.options import Parser, parse
from solo_bam.core.errors import UserError, printable


def main(arguments: Sequence[str]) -> int:
    """Print a line for each run, the newest first."""
    parser = Parser(prog="solo-bam status", description="List the runs below a folder, the newest first.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="by default this one")
    root: Path = parse(parser, arguments).folder
    if not root.is_dir():
        raise UserError("FOLDER", f"there is no folder {root}", "give one that has runs below it")

    from solo_bam.runs.status import Status, statuses

    rows = [Status._fields, *(tuple(map(printable, row)) for row in statuses(root))]
    if len(rows) == 1:
        raise UserError("FOLDER", f"{root} has no runs below it (run.json)", "give one that has, as trained_models")
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return 0
