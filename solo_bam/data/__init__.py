"""Data sets, crops, loaders, and the data modules made of them: ``module.py`` for pretraining, ``labelled.py`` for
classifiers. ``sampling.py`` says which image is seen when."""

from solo_bam.data.datasets.sources import Source, find_source
from solo_bam.data.module import PretrainData

__all__ = ["PretrainData", "Source", "find_source"]
