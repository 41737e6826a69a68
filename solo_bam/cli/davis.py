"""``solo-bam davis``: segment DAVIS-2017's videos with frozen features, and score the masks."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import checkpoint_parser, parse
from solo_bam.core.errors import UserError

_KEYS = """keys (and their defaults):
  data.path=DAVIS           folder that holds ImageSets, JPEGImages and Annotations
  data.split=val  branch=student  layer=NAME  output=FOLDER
  short_side=480  n_last_frames=7  size_mask_neighborhood=12  topk=5  temperature=0.1
"""


def main(arguments: Sequence[str]) -> int:
    """Write masks, a table and records, and print the table."""
    description = "Video object segmentation by label propagation on DAVIS-2017."
    asked = parse(checkpoint_parser("davis", description, "settings, e.g. data.path=DAVIS", _KEYS), arguments)
    if not any(word.startswith("data.path=") for word in asked.settings):
        raise UserError("data.path", "is missing", "give the folder of DAVIS-2017: data.path=…")

    from solo_bam.config.options import DavisOptions, parse_options

    options = parse_options(DavisOptions, asked.settings)

    from solo_bam.evaluate.video_segmentation import davis

    davis(asked.checkpoint, options)
    return 0
