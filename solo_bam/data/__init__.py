"""Datasets, crops and loaders."""

from solo_bam.data.datasets.sources import Source, find_source
from solo_bam.data.module import PretrainData

__all__ = ["PretrainData", "Source", "find_source"]
