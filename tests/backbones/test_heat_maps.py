"""Where networks look: attention against timm's own unfused weights, feature maps against the stages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from solo_bam.backbones import check_heat_map, cls_attention, create_backbone, heat_map
from solo_bam.core.errors import UserError

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _unfused(backbone: nn.Module, images: Tensor) -> Tensor:
    """All attention weights of the last block, as timm's slow path hands them to its dropout."""
    attention = backbone.blocks[-1].attn  # type: ignore[index, union-attr]
    attention.fused_attn = False  # type: ignore[union-attr]
    seen = []
    handle = attention.attn_drop.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    with torch.no_grad():
        backbone(images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("vit_tiny", 1), ("vit_tiny_patch16_224", 1), ("deit_tiny_distilled_patch16_224", 2), ("vit_pwee_patch16_reg1_gap_256", 0)],
)  # fmt: skip
def test_attention_of_the_cls_token(name: str, prefix: int) -> None:
    backbone = create_backbone(name, {"patch_size": 8}, crop_sizes=(32, 16)).eval()
    if prefix == 0:
        with pytest.raises(UserError, match=rf"data.contrastive_crop.enabled: got True, {name} has no \[CLS\] token"):
            check_heat_map(backbone, name, 32)
        return
    for images in (IMAGES, IMAGES[:, :, :16], IMAGES[..., :16]):
        attention = cls_attention(backbone, images)
        expected = _unfused(backbone, images)[:, :, 0, prefix:]
        torch.testing.assert_close(attention.flatten(2), expected)
        assert attention.shape == (2, 3, images.shape[2] // 8, images.shape[3] // 8)
        torch.testing.assert_close(heat_map(backbone, images), attention.sum(1))


def test_attention_by_hand() -> None:
    """Two tokens' worth of arithmetic: softmax over (q_cls . k / sqrt(head width)) in each head."""
    torch.manual_seed(0)
    backbone = create_backbone("vit_tiny", {"patch_size": 16}, crop_sizes=(32,)).eval()
    tokens = []
    handle = backbone.blocks[-1].norm1.register_forward_hook(lambda m, i, o: tokens.append(o))  # type: ignore[index, union-attr]
    got = cls_attention(backbone, IMAGES)
    handle.remove()
    weight, bias = backbone.blocks[-1].attn.qkv.weight, backbone.blocks[-1].attn.qkv.bias  # type: ignore[index, union-attr]
    for image in range(2):
        for head in range(3):
            rows = slice(64 * head, 64 * head + 64)
            q = weight[:192][rows] @ tokens[0][image, 0] + bias[:192][rows]
            scores = [(weight[192:384][rows] @ t + bias[192:384][rows]) @ q / 8 for t in tokens[0][image]]
            torch.testing.assert_close(got[image, head].flatten(), torch.stack(scores).softmax(0)[1:].detach())


@pytest.mark.parametrize("name", ["resnet18", "resnet10t", "caformer_s18", "regnetx_002"])
def test_feature_map_of_the_last_stage(name: str) -> None:
    backbone = create_backbone(name, crop_sizes=(64,)).eval()
    seen: list[Tensor] = []
    last = {"resnet18": "layer4", "resnet10t": "layer4", "caformer_s18": "stages.3", "regnetx_002": "s4"}[name]
    backbone.get_submodule(last).register_forward_hook(lambda m, i, o: seen.append(o))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(heat_map(backbone, images), seen[0].sum(1).detach())
    assert heat_map(backbone, images).shape == (2, 2, 2)


def test_swins_map_is_taken_before_its_norm() -> None:
    """After it, the sum over channels is the same everywhere."""
    backbone = create_backbone("swin_tiny", crop_sizes=(64,)).eval()
    heat = heat_map(backbone, torch.randn(2, 3, 64, 64))
    assert heat.shape == (2, 2, 2)
    assert heat.flatten(1).std(1).min() > 1e-2


def test_a_single_point_is_refused() -> None:
    with pytest.raises(UserError, match=r"resnet18's heat map of an image of 32 px is a single point; set backbone"):
        check_heat_map(create_backbone("resnet18"), "resnet18", 32)


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18", "caformer_s18"])
def test_nothing_is_left_behind(name: str) -> None:
    backbone = create_backbone(name, crop_sizes=(64,))
    check_heat_map(backbone, name, 64)
    assert backbone.training
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in backbone.modules())
