"""``solo-bam zoo``: what checkpoints there are, what is known of one, and where its file lies."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import Parser, parse


def main(arguments: Sequence[str]) -> int:
    """List, show, or check and load."""
    parser = Parser(prog="solo-bam zoo", description="Checkpoints with everything that is known of them.")
    parser.add_argument(
        "what",
        choices=("list", "show", "load", "table"),
        help="list them; show what is known of one; check its file and say how to use it; Markdown for the README",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of an entry, for show and load")
    options = parse(parser, arguments)

    from omegaconf import OmegaConf

    from solo_bam.runs.zoo import entries, entry, table

    if options.what == "table":
        print(table(entries()))
    elif options.what == "list":
        for one in entries():
            print(f"{one.name}: {one.method}, {one.backbone}, {one.data}, {one.epochs} epochs; {one.told}")
    elif options.name is None:
        parser.error(f"{options.what} needs the NAME of an entry")
    elif options.what == "show":
        print(OmegaConf.to_yaml(OmegaConf.create(entry(options.name).model_dump(mode="json"))), end="")
    else:
        path = entry(options.name).path
        print(f"{path}\nsolo-bam knn {path}\nPython: solo_bam.load({str(path)!r}).network")
    return 0
