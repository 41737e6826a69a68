"""``solo-bam board``: a page over all runs and comparisons below a folder, for a browser on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from solo_bam.cli.options import Parser, parse, split_settings
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C."""
    parser = Parser(
        prog="solo-bam board",
        description="Show the runs and comparisons below a folder in a browser: search, curves, recipes, pictures. "
        "It only reads, and answers this machine alone.",
    )
    parser.add_argument("arguments", nargs="*", metavar="FOLDER|port=N", help="by default this folder, and a free port")
    parser.add_argument(
        "--host", default="127.0.0.1", help="another address to answer at: other machines may then look"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser, too")
    asked = parse(parser, arguments)
    given, settings = split_settings(asked.arguments)
    root = _folder(given)
    if missing := [name for name in ("tornado", "bokeh") if find_spec(name) is None]:
        raise UserError("board", f"needs {' and '.join(missing)}, not installed", "pip install 'solo-bam[board]'")

    from solo_bam.config.options import BoardOptions, parse_options

    port = parse_options(BoardOptions, settings).port

    from solo_bam.board.server import LOCAL, serve

    def ready(address: str) -> None:
        print(f"Board of {root.resolve()}: {address}", flush=True)
        print("Whoever has this address can read it. Ctrl-C ends it.", flush=True)
        if asked.host not in LOCAL:
            told = "can be reached from other machines, whose users need the address alone; nothing is encrypted"
            print(f"Warning: {asked.host} {told}.", flush=True)
        if asked.open:
            webbrowser.open(address)

    signal.signal(signal.SIGINT, lambda *_: os._exit(0))  # at once: it only reads, and its threads may read for long
    asyncio.run(serve(root, asked.host, port, ready))
    return 0


def _folder(given: Sequence[str]) -> Path:
    root = expanded(given[0] if given else Path())
    if len(given) > 1:
        raise UserError("FOLDER", f"got {len(given)} folders, takes one", "give one that has the others below it")
    if not root.is_dir():
        raise UserError("FOLDER", f"there is no folder {root}", "give one that has runs below it")
    return root
