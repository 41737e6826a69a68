"""``solo-bam explore``: a page to look at a checkpoint's features with."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import checkpoint_parser, parse

_KEYS = """keys (and their defaults):
  k=20  temperature=0.07    of the k-NN (cosine) whose errors are shown
  num_images=2000           drawn at random from the validation images, else from the training images
  reduction=[pca,umap]      UMAP where umap-learn is installed
  branch=student            or teacher; shown beside the network as the run started
  data.train_path=, data.val_path=, data.dataset=, ...
                            changes to the recipe's section data
  precision=32              or bf16-mixed: of the frozen network
  batch_size=256  num_workers=  accelerator=auto
  output=                   the page, .html; default: plots/explore.html of the run
"""


def main(arguments: Sequence[str]) -> int:
    """Write the page and say where it is."""
    description = (
        "A page to look at features with, in a browser, without a network: validation images in the plane before and "
        "after training, each with its nearest neighbours; confused classes; images that the network finds alike."
    )
    asked = parse(checkpoint_parser("explore", description, "settings, e.g. num_images=500", _KEYS), arguments)

    from solo_bam.config.options import parse_options
    from solo_bam.config.plotting import ExploreOptions

    options = parse_options(ExploreOptions, asked.settings)

    from solo_bam.evaluate.explore import explore

    answer, path = explore(asked.checkpoint, options)
    print(f"{answer}\nPage: {path}")
    return 0
