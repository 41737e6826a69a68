"""Networks by name: solo-learn's own, CAFormer, and every model of timm."""

from solo_bam.backbones.factory import (
    backbone_factory,
    check_backbone_name,
    check_crop_sizes,
    create_backbone,
    is_resnet,
)

__all__ = ["backbone_factory", "check_backbone_name", "check_crop_sizes", "create_backbone", "is_resnet"]
