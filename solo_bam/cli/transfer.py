"""``solo-bam transfer``: what a checkpoint's features are good for, in one table and one figure."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import checkpoint_parser, parse

_KEYS = """keys (and their defaults):
  on=[]                     names of data sets, or folders that hold train and val (or test); default: the run's data
  k=20  temperature=0.07    of the k-NN (cosine)
  labels=[0.01,0.1,1]       shares of the training images, for logistic regression with its C searched
  shots=[1,5,10]  draws=20  images of a class, and how often they are drawn
  corrupted=1000            test images that take the corruptions of CIFAR-10-C but frost; 0: none
  untrained=True            measure the network before training, too
  branch=student            or teacher
  data.train_path=, data.val_path=, data.dataset=, ...
                            changes to the recipe's section data
  precision=32              or bf16-mixed: of the frozen network
  batch_size=256  num_workers=4  accelerator=auto
  output=                   folder of records, picture and cached features; default: evaluation/ of the run
"""


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table, draw the figure."""
    description = (
        "k-NN, logistic regression by all, some and few labels, calibration, corruptions, measures without labels, of "
        "a checkpoint and of the network before training; features are extracted once."
    )
    asked = parse(checkpoint_parser("transfer", description, "settings, e.g. on=[digits,flowers]", _KEYS), arguments)

    from solo_bam.config.options import TransferOptions, parse_options

    options = parse_options(TransferOptions, asked.settings)

    from solo_bam.evaluate.transfer import draw_transferred, format_transfer, transfer

    found = transfer(asked.checkpoint, options)
    print(format_transfer(found))
    print(f"Records: {found.path}\nPicture: {draw_transferred(found)}")
    return 0
