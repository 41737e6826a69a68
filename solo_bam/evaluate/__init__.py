"""How good the features are: extraction, k-NN and a linear probe on frozen features."""

from solo_bam.evaluate.features import Features, extract_features, pixel_features
from solo_bam.evaluate.probes import few_shot_knn, knn, linear

__all__ = ["Features", "extract_features", "few_shot_knn", "knn", "linear", "pixel_features"]
