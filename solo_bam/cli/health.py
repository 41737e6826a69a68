"""``solo-bam health``: measures of a checkpoint's features that need no labels."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import checkpoint_parser, parse

_KEYS = """keys (and their defaults):
  num_images=4096           drawn at random from the validation images, else from the training images
  branch=student            or teacher
  data.train_path=, data.val_path=, data.dataset=, ...
                            changes to the recipe's section data
  batch_size=64  num_workers=  accelerator=auto
"""
MEASURES = {
    "RankMe": "effective rank, 1 to the smaller of images and dimensions; higher uses more dimensions",
    "alpha-ReQ": "decay of the spectrum; near 1 is best according to its authors",
    "alignment": "squared distance between two views of an image, 0 to 4; lower is better",
    "uniformity": "0 to about -4; lower is better",
    "LiDAR": "effective rank of what tells images apart beside what their crops share; higher is better",
    "spread": "standard deviation of unit-length features, 0 (collapsed) to 1",
}


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write the records."""
    description = "Measures of a checkpoint's features that need no labels."
    asked = parse(checkpoint_parser("health", description, "settings, e.g. branch=teacher", _KEYS), arguments)

    from solo_bam.config.options import parse_options
    from solo_bam.config.plotting import NetworkOptions

    options = parse_options(NetworkOptions, asked.settings)

    from solo_bam.evaluate.offline_health import measure

    records, path = measure(asked.checkpoint, options)
    for record in records:
        print(f"{record.metric:<11}{record.value:>8.3f}   {MEASURES[record.metric]}")
    print(f"{records[0].images:,} images of {records[0].data}. Records: {path}")
    return 0
