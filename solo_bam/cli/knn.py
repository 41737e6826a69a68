"""``solo-bam knn``: k-NN accuracy of a checkpoint's features."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import checkpoint_parser, parse
from solo_bam.config.options import KNNOptions, parse_options, transferred_from
from solo_bam.evaluate.offline_knn import OfflineKNN, evaluate_knn
from solo_bam.runs.records import wilson_interval

_KEYS = """keys (and their defaults):
  k=[1,5,10,20,50,100,200]  temperature=[0.07]  distance=[cosine,euclidean]
                            one value or a list; all are combined
  branch=student            or teacher, or untrained: as the run started
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
    result = evaluate_knn(asked.checkpoint, parse_options(KNNOptions, asked.settings))
    print(format_table(result))
    print(f"Records: {result.path}")
    return 0


def format_table(result: OfflineKNN) -> str:
    """Accuracies as plain text, a row per setting, the best marked."""
    about, best = result.pretrained, max(setting.hits[0] for setting in result.settings)
    origin = transferred_from(about.recipe.data, result.data)
    lines = [
        "",
        f"k-NN accuracy (%) on {result.images} images of {result.name}",
        f"Bank: {result.bank} clean training images",
        f"{about.recipe.method}, {about.branch}, epoch {about.epoch}, weights {about.weights}",
        *([f"The weights were trained on {origin}: this is transfer."] if origin else []),
        "",
        f"  {'distance':<10} {'temperature':>11} {'k':>5} {'@1':>7} {'@5':>7}   95 % interval of @1",
    ]
    for s in result.settings:
        first, five = (100.0 * hits / result.images for hits in s.hits)
        low, high = wilson_interval(s.hits[0] / result.images, result.images)
        temperature = "" if s.temperature is None else f"{s.temperature:g}"
        mark = "*" if s.hits[0] == best and len(result.settings) > 1 else " "
        lines.append(
            f"{mark} {s.distance:<10} {temperature:>11} {s.k:>5} {first:>7.2f} {five:>7.2f}   {low:.2f} to {high:.2f}"
        )
    if len(result.settings) > 1:
        lines += [
            "",
            "* the best; chosen on the test images, it is optimistic: report a setting fixed beforehand.",
        ]
    return "\n".join([*lines, ""])
