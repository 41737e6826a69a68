"""Similarities of rows and columns in tiles, and the memory for what is made of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from solo_bam.losses._problem import Hidden, Problem
from solo_bam.losses._rows import Rows, Workspace

# Entries of a tile of similarities: few enough for a CPU's caches, enough for all its threads (8 MiB in float32).
_CPU_TILE_ENTRIES = 2**21
_GPU_TILE_ENTRIES = 2**24
# At least so many rows has a tile, however wide: matrix products of fewer rows are slow.
_TILE_ROWS = 256
# Entries of all tiles together, up to which they are kept between the passes.
_CPU_KEPT_ENTRIES = 2**24
_GPU_KEPT_ENTRIES = 2**28


class Kernel:
    """The log-kernel ``rows @ columns.T / reg`` or its exponential, in tiles of images, some entries hidden.

    Attributes:
        positives: of the tiles that were computed, by their first image: the log-kernel of an image's views with one
            another, (V, T, images), also where it is hidden.
    """

    def __init__(
        self, p: Problem, rows: Rows, columns: Tensor, hides: Hidden, exponentiated: bool, several_passes: bool
    ):
        self.p, self.rows, self.columns, self.work = p, rows, columns, Workspace(columns)
        self.hides, self.exponentiated = hides, exponentiated
        most = _CPU_KEPT_ENTRIES if columns.device.type == "cpu" else _GPU_KEPT_ENTRIES
        self.keep = several_passes and most >= p.V * p.B * p.C
        self.kept: list[tuple[slice, Tensor]] = []
        self.positives: dict[int, Tensor] = {}

    def tiles(self) -> Iterator[tuple[slice, Tensor]]:
        """Images and their part, (V, images, C); where parts are not kept, the next one takes its place."""
        if self.kept:
            yield from self.kept
            return
        p, step = self.p, _images_of_a_tile(self.p, self.columns)
        memory: Tensor | None = None
        for start in range(0, p.B, step):
            images = slice(start, min(start + step, p.B))
            rows = p.V * (images.stop - start)
            if memory is None or self.keep:
                memory = self.columns.new_empty(rows, p.C)
            tile = self._fill(memory[:rows], images)
            if self.keep:
                self.kept.append((images, tile))
            yield images, tile

    def _fill(self, tile: Tensor, images: slice) -> Tensor:
        p = self.p
        S = self.rows.by_columns(self.columns, images, 1 / p.reg, self.work, out=tile).view(p.V, -1, p.C)
        if images.start not in self.positives:
            self.positives[images.start] = p.positives(S, images.start).clone()
        p.hide(S, self.hides, images.start, p.masked_value(S.dtype))
        return S.exp_() if self.exponentiated else S

    def logits(self, tile: Tensor, first: int) -> Tensor:
        """The log-kernel of a tile (crops, images, C) whose first image is ``first``; finite."""
        if not self.exponentiated:
            return tile
        S = torch.log(tile, out=self.work("S", tile.shape))
        return self.p.hide(S, self.hides, first, self.p.masked_value(S.dtype))

    def hide_as_source(self, S: Tensor, first: int) -> Tensor:
        """The log-kernel of a tile, changed in place to hide what the source attention leaves out."""
        p = self.p
        if self.hides != p.source_hides:
            p.positives(S, first).copy_(self.positives[first])
            p.hide(S, p.source_hides, first, p.masked_value(S.dtype))
        return S


def _images_of_a_tile(p: Problem, columns: Tensor) -> int:
    """How many images' rows of all crops make a tile of similarities to the columns (C, D), or of features."""
    return max(1, min(p.B, max(_tile_entries(columns) // p.C, _TILE_ROWS) // p.V))


def _tile_entries(like: Tensor) -> int:
    return _CPU_TILE_ENTRIES if like.device.type == "cpu" else _GPU_TILE_ENTRIES
