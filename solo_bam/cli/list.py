"""``solo-bam list``: what there is, one line each."""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from solo_bam.api import plot
from solo_bam.cli import health
from solo_bam.cli.options import Parser, parse
from solo_bam.config import listing
from solo_bam.config.known import kept
from solo_bam.core.errors import UserError, nearest

WHAT: dict[str, tuple[str, Callable[[], listing.Lines]]] = {
    "recipes": ("solo-bam pretrain --config-name NAME", lambda: listing.recipes("pretrain")),
    "linear": (
        "solo-bam linear RUN --config-name NAME",
        lambda: listing.recipes("linear"),
    ),
    "comparisons": ("solo-bam compare NAME", lambda: listing.recipes("compare")),
    "methods": ("method=NAME", listing.methods),
    "backbones": ("backbone.name=NAME, solo-learn's and timm's", listing.backbones),
    "datasets": ("data.dataset=NAME", listing.DATASETS.items),
    "metrics": ("that runs log, and those of solo-bam health", lambda: [*listing.metrics(), *health.MEASURES.items()]),
    "figures": ("solo-bam plot NAME", lambda: [(name, text) for name, (_, text) in plot.KINDS.items()]),
}


def main(arguments: Sequence[str]) -> int:
    """Print names and a few words, in two columns."""
    told = "\n".join(f"  {name:<13}{text}" for name, (text, _) in WHAT.items())
    parser = Parser(
        prog="solo-bam list",
        description="Name what there is, one line each.",
        epilog=f"what:\n{told}",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=WHAT, metavar="WHAT", help=", ".join(WHAT))
    parser.add_argument("pattern", nargs="?", metavar="PATTERN", help="part of a name, or with wildcards: vit_*_224")
    options = parse(parser, arguments)
    if options.what is None:
        print(told)
        return 0
    if options.what in ("methods", "backbones", "metrics") and kept() is None:
        print("Finding what there is, once for each version …", file=sys.stderr)
    there = dict(WHAT[options.what][1]())
    fit = {name: text for name, text in there.items() if fits(name, options.pattern or "*")}
    if not fit:
        shown = ", ".join([*there][:20]) + (", …" if len(there) > 20 else "")
        problem = f"none of the {options.what} fits {options.pattern!r}{nearest(options.pattern, there)}"
        raise UserError("PATTERN", f"{problem}, there are: {shown}", "give a part of a name, or wildcards")
    width = max(map(len, fit))
    for name, text in fit.items():
        print(f"{name:<{width}}  {text}".rstrip())
    return 0


def fits(name: str, pattern: str) -> bool:
    """Whether a name holds the pattern or, where that has wildcards, is matched by it."""
    return fnmatchcase(name, pattern if set("*?[") & set(pattern) else f"*{pattern}*")
