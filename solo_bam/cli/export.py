"""``solo-bam export``: write a backbone for timm or detectron2, with a model card."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import checkpoint_parser, parse


def main(arguments: Sequence[str]) -> int:
    """Write the weights and ``README.md``."""
    description = "Write a backbone for timm or detectron2, with a model card."
    words = "format=timm|detectron2, branch=student|teacher, half=True, output=FOLDER"
    asked = parse(checkpoint_parser("export", description, words), arguments)

    from solo_bam.config.options import ExportOptions, parse_options

    options = parse_options(ExportOptions, asked.settings)

    from solo_bam.runs.checkpoints.export.write import export

    path = export(asked.checkpoint, options)
    print(f"Weights: {path}\nModel card: {path.with_name('README.md')}")
    return 0
