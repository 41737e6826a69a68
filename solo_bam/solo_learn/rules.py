"""What a method says about itself: its settings and the crops that it takes."""

from __future__ import annotations

from typing import NamedTuple

# In solo-learn's own recipes, and read by neither edition: at the top level, and in method_kwargs.
UNREAD_KEYS = ("augmentations_cfg", "wandb_cfg")
UNREAD_OPTIONS = {
    "ressl": ("base_tau_momentum", "final_tau_momentum", "momentum_classifier"),
    "simsiam": ("temperature",),
}


def own_vit_heads(method: str, backbone: str) -> int | None:
    """Attention heads of the small ViTs that MAE and MoCo v3 have of their own; the shapes of weights do not tell.

    Returns:
        None for the other methods and backbones, which have timm's number.
    """
    return 12 if method in ("mae", "mocov3") and backbone in ("vit_tiny", "vit_small") else None


class CropRule(NamedTuple):
    """Which crops a method takes.

    A method class may have one as its attribute ``crops``.

    Attributes:
        large: how many large crops, None for any number.
        small: whether its loss uses small crops.
    """

    large: int | None
    small: bool
