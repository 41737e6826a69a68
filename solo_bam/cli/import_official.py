"""``solo-bam import-official``: make a run out of a published BAM checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from solo_bam.cli.options import Parser, parse


def main(arguments: Sequence[str]) -> int:
    """Write the run and say what was taken and what was left out."""
    description = "Read a checkpoint of the published BAM code, without running code from it, into a run of solo-bam."
    parser = Parser(prog="solo-bam import-official", description=description)
    parser.add_argument("file", type=Path, metavar="FILE", help="the published checkpoint")
    names = "vit_small_patch16_224|vit_base_patch16_224|caformer_m36"
    words = f"backbone.name={names}, head=FILE, branch=student|teacher, output=FOLDER"
    parser.add_argument("settings", nargs="*", metavar="key=value", help=words)
    asked = parse(parser, arguments)

    from solo_bam.config.options import ImportOptions, parse_options

    options = parse_options(ImportOptions, asked.settings)

    from solo_bam.runs.checkpoints.import_published import import_official

    import_official(asked.file, options)
    return 0
