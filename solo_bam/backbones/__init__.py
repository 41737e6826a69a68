"""Networks by name: solo-learn's own, CAFormer, and every model of timm."""

from solo_bam.backbones.factory import (
    backbone_factory,
    check_backbone_name,
    check_crop_sizes,
    create_backbone,
    freeze_blocks,
    is_resnet,
    timm_call,
)
from solo_bam.backbones.heat_maps import check_heat_map, cls_attention, heat_map

__all__ = [
    "backbone_factory",
    "check_backbone_name",
    "check_crop_sizes",
    "check_heat_map",
    "cls_attention",
    "create_backbone",
    "freeze_blocks",
    "heat_map",
    "is_resnet",
    "timm_call",
]
