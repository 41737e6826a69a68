"""What is known of solo-learn's own methods, whose classes do not say it."""

from __future__ import annotations

from solo_bam.solo_learn.rules import CropRule, OwnMethod

# Multi-crop: the release edition's other methods fail on small crops, which they do not unpack; the head edition's
# forward them and leave them out of their loss (all4one fails on them).
_SMALL_CROPS = {"release": ("byol", "simclr", "wmse"), "head": ("byol", "simclr", "supcon", "swav")}
_ANY_LARGE_CROPS = {"release": ("wmse",), "head": ("wmse", "mae")}

# In solo-learn's own recipes, and read by neither edition.
_UNREAD_OPTIONS = {
    "ressl": ("base_tau_momentum", "final_tau_momentum", "momentum_classifier"),
    "simsiam": ("temperature",),
}
_QUEUE = "also compares with {queue_size:,} images of earlier batches"
_NEIGHBORS = "takes its targets from {queue_size:,} images of earlier batches"
_QUEUES = {
    "all4one": _NEIGHBORS, "nnbyol": _NEIGHBORS, "nnclr": _NEIGHBORS, "nnsiam": _NEIGHBORS,
    "mocov2plus": _QUEUE, "ressl": _QUEUE, "swav": _QUEUE,
}  # fmt: skip
_NOTES = {
    **_QUEUES,
    "deepclusterv2": "clusters all training images before each epoch",
    "mae": "restores pixels of masked crops with a decoder, and trains no projector",
    "supcon": "is trained on the labels: a ceiling, not a competitor",
}
# Where the editions' defaults differ, the head's hold.
_DEFAULTS = {"dino": {"warmup_teacher_temperature_epochs": 0}, **{name: {"queue_size": 65536} for name in _QUEUES}}
# Without projections that a sound training spreads: DINO compares shares of prototypes, MAE pixels.
_NO_PROJECTOR = ("dino", "mae")
_SEVERAL_INPUTS = ("mae",)  # of its networks: shares to mask, masks
# Attention heads of the small ViTs that these have of their own; the shapes of weights do not tell.
_OWN_VITS = {"vit_tiny": 12, "vit_small": 12}
_VIT_HEADS = {"mae": _OWN_VITS, "mocov3": _OWN_VITS}


def own_method(name: str, edition: str) -> OwnMethod:
    """The facts about one of solo-learn's own methods in an edition (``release`` or ``head``)."""
    large = None if name in _ANY_LARGE_CROPS[edition] else 2
    return OwnMethod(
        crops=CropRule(large=large, small=name in _SMALL_CROPS[edition]),
        unread_options=_UNREAD_OPTIONS.get(name, ()),
        defaults=_DEFAULTS.get(name, {}),
        projector=None if name in _NO_PROJECTOR else "projector",
        by_row=name not in _SEVERAL_INPUTS,
        vit_heads=_VIT_HEADS.get(name, {}),
        labels=name == "supcon",
        note=_NOTES.get(name, ""),
    )
