"""``solo-bam davis``: segment DAVIS-2017's videos with frozen features, and score the masks."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import checkpoint_parser, parse
from solo_bam.config.options import DavisOptions, parse_options
from solo_bam.core.errors import UserError

_SHOWN = ("short_side", "n_last_frames", "size_mask_neighborhood", "topk", "temperature")


def main(arguments: Sequence[str]) -> int:
    """Write masks, a table and records, and print the table."""
    description = "Video object segmentation by label propagation on DAVIS-2017."
    defaults = [f"{name}={DavisOptions.model_fields[name].default}" for name in _SHOWN]
    words = ", ".join(["data.path=DAVIS, data.split=val, branch=teacher", *defaults, "layer=NAME, output=FOLDER"])
    asked = parse(checkpoint_parser("davis", description, words), arguments)
    if not any(word.startswith("data.path=") for word in asked.settings):
        raise UserError("data.path", "is missing", "give the folder of DAVIS-2017: data.path=…")
    options = parse_options(DavisOptions, asked.settings)

    from solo_bam.evaluate.video_segmentation import davis

    davis(asked.checkpoint, options)
    return 0
