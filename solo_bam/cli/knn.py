"""``solo-bam knn``: k-NN accuracy of a checkpoint's features."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import checkpoint_parser, parse

_KEYS = """keys (and their defaults):
  k=[1,5,10,20,50,100,200]  temperature=[0.07]  distance=[cosine,euclidean]
                            one value or a list; all are combined
  branch=student            or teacher; untrained: random weights; start: as the run started
  data.train_path=, data.val_path=, data.dataset=, ...
                            changes to the recipe's section data
  precision=32              or bf16-mixed: of the frozen network
  batch_size=256  num_workers=4  accelerator=auto
  output=                   folder of records and cached features; default: evaluation/ of the run
"""


def main(arguments: Sequence[str]) -> int:
    """Evaluate, print a table and say where the records are."""
    description = "k-NN accuracy of a checkpoint's frozen features on the validation images."
    asked = parse(checkpoint_parser("knn", description, "settings, e.g. k=20 branch=teacher", _KEYS), arguments)

    from solo_bam.config.options import KNNOptions, parse_options

    options = parse_options(KNNOptions, asked.settings)

    from solo_bam.core.hardware import is_first_process

    if not is_first_process():  # of those that torchrun has started: one evaluates
        return 0

    from solo_bam.evaluate.offline_knn import evaluate_knn, format_table

    result = evaluate_knn(asked.checkpoint, options)
    print(format_table(result))
    print(f"Records: {result.path}")
    return 0
