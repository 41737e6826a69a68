"""Datasets, crops and loaders."""

from solo_bam.data.module import PretrainData
from solo_bam.data.sources import Source, find_source

__all__ = ["PretrainData", "Source", "find_source"]
