"""Sizes and settings of one call of the loss, checked; in the notation of :mod:`solo_bam.losses.bam`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from solo_bam.core import collectives

Masking = bool | Literal["self"]
Hidden = Literal["image", "own", "nothing"]

# Below, float32 can no longer tell similarities / reg apart.
_SMALLEST_SETTING = 1e-6


@dataclass(frozen=True)
class Problem:
    """V crops, of which the first L are targets and the first T columns; B images on each of W processes."""

    V: int
    L: int
    T: int
    B: int
    W: int
    rank: int
    reg: float
    temperature: float
    num_sink_iter: int
    top_k: int
    masking: Masking
    positive_weight: float

    @property
    def C(self) -> int:
        """Columns."""
        return self.T * self.W * self.B

    @property
    def target_hides(self) -> Hidden:
        """Columns that a row's target attention leaves out: of its image, or nothing."""
        return "image" if self.masking is True else "nothing"

    @property
    def source_hides(self) -> Hidden:
        """Columns that a row's source attention leaves out: of its image, the row's own, or nothing."""
        if self.positive_weight > 0 or self.masking == "self":
            return "own"
        return "image" if self.masking else "nothing"

    @property
    def scale(self) -> float:
        """Of the loss: one over target views, source views and images."""
        return 1.0 / (self.L * max(self.V - 1, 1) * self.B)

    @property
    def sharpness(self) -> float:
        """Of the source attention, compared with the log-kernel: its logits are the log-kernel times this."""
        return self.reg / self.temperature

    def masked_value(self, dtype: torch.dtype) -> float:
        """A logit whose exponential is 0, and which stays finite times ``sharpness``."""
        return torch.finfo(dtype).min / 4 * min(1.0, 1 / self.sharpness)

    def positives(self, S: Tensor, first: int = 0) -> Tensor:
        """View of the entries of ``S`` (crops, images, C) that pair an image with itself: (crops, T, images).

        Args:
            S: contiguous; of images from ``first`` of this process on.
            first: of them.
        """
        return S.view(*S.shape[:2], self.T, -1).diagonal(self.rank * self.B + first, dim1=1, dim2=3)

    def hide(self, S: Tensor, what: Hidden, first: int = 0, value: float = -math.inf) -> Tensor:
        """Fill the entries of ``S`` (crops, images, C) that an attention leaves out, in place."""
        if what == "image":
            self.positives(S, first).fill_(value)
        elif what == "own":
            own_view(self.positives(S, first)).fill_(value)
        return S


def own_view(pairs: Tensor) -> Tensor:
    """View of the entries of ``pairs`` (crops, T, images) that pair a view with itself: (images, crops or T)."""
    return pairs.diagonal(dim1=0, dim2=1)


def check_settings(p: Problem) -> None:
    """Refuse settings out of range, under the names of :class:`solo_bam.losses.BAMLoss`."""
    if p.V < 1:
        raise ValueError(f"num_crops must be at least 1, got {p.V}")
    if not 1 <= p.L <= p.V:
        raise ValueError(f"num_large_crops must be 1 to num_crops ({p.V}), got {p.L}")
    if not 1 <= p.T <= p.V:
        raise ValueError(f"target_crops_number must be 1 to num_crops ({p.V}), got {p.T}")
    check_sharpness("reg", p.reg)
    check_sharpness("temperature", p.temperature)
    if p.num_sink_iter < 0:
        raise ValueError(f"num_sink_iter must be at least 0, got {p.num_sink_iter}")
    if p.top_k < 0:
        raise ValueError(f"top_k_sink must be at least 0, got {p.top_k}")
    if p.masking not in (True, False, "self"):
        raise ValueError(f"positive_masking must be True, False or 'self', got {p.masking!r}")
    if not 0 <= p.positive_weight <= 1:
        raise ValueError(f"positive_weight must be 0 to 1, got {p.positive_weight}")
    if p.positive_weight > 0 and p.V < 2:
        raise ValueError(f"positive_weight must be 0 with 1 crop per image, got {p.positive_weight}")


def check_sharpness(name: str, value: float) -> None:
    """Refuse a setting that is not a positive, finite number."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")
    if not _SMALLEST_SETTING <= value < math.inf:
        raise ValueError(f"{name} must be finite and at least {_SMALLEST_SETTING:g}, got {value}")


def check_shapes(z: Tensor, z_teacher: Tensor | None, num_crops: int) -> None:
    """Refuse features of the wrong shape or type."""
    if z.ndim != 2 or z.numel() == 0 or z.shape[0] % num_crops:
        raise ValueError(f"z must be (num_crops * batch, dim) with num_crops {num_crops}, got shape {tuple(z.shape)}")
    if not z.is_floating_point():
        raise ValueError(f"z must be floating point, got {z.dtype}")
    if z_teacher is None:
        return
    if not z_teacher.is_floating_point():
        raise ValueError(f"z_teacher must be floating point, got {z_teacher.dtype}")
    if z_teacher.shape != z.shape:
        raise ValueError(f"z_teacher must have z's shape {tuple(z.shape)}, got {tuple(z_teacher.shape)}")


def check_columns(p: Problem) -> None:
    """Refuse a batch that leaves nothing to attend to."""
    if p.masking is True and p.W * p.B < 2:
        raise ValueError("positive_masking leaves no column for a global batch of 1 image; use at least 2 images")
    if p.source_hides == "own" and p.C < 2:
        raise ValueError("a view's own column is hidden and there is no other; use at least 2 images")
    unmasked = p.C - p.T if p.masking is True else p.C
    if p.top_k > unmasked:
        raise ValueError(f"top_k_sink must be at most the {unmasked} unmasked columns, got {p.top_k}")


def check_equal_batches(p: Problem) -> None:
    """Refuse unequal batches on every process, at any step: they would abort the collectives, or mix rows up unseen."""
    sizes = collectives.gather_number(p.B)
    if len(set(sizes)) > 1:
        raise ValueError(f"every process must have the same number of images, got {sizes}")
