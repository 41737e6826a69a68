"""Where a network looks: the last block's [CLS] attention of a ViT, the last feature map of any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.vision_transformer import Attention, VisionTransformer  # type: ignore[attr-defined]
from torch import Tensor, nn

from solo_bam.core.errors import UserError


@torch.no_grad()
def heat_map(backbone: nn.Module, images: Tensor) -> Tensor:
    """One map per image, larger where the network looks; its scale means nothing.

    Args:
        backbone: in evaluation mode.
        images: ``(N, 3, height, width)``, normalised.

    Returns:
        ``(N, h, w)`` in float32, in the resolution of the network's last stage.

    Raises:
        ValueError: the network has neither a [CLS] token nor a feature map.
    """
    if isinstance(backbone, VisionTransformer):
        return cls_attention(backbone, images).sum(1)
    return last_feature_map(backbone, images).sum(1)


@torch.no_grad()
def cls_attention(backbone: Any, images: Tensor) -> Tensor:
    """The last block's attention from the [CLS] token to each patch.

    Args:
        backbone: a ViT with a [CLS] token, in evaluation mode.
        images: ``(N, 3, height, width)``, normalised.

    Returns:
        ``(N, heads, h, w)`` in float32; the patches' share of the attention, so a head sums to less than 1.

    Raises:
        ValueError: no such ViT.
    """
    attention = _last_attention(backbone)
    with _recorded_input(attention) as seen:
        backbone.forward_features(images)
    weights = _cls_weights(attention, seen[0])[:, :, backbone.num_prefix_tokens :]
    patch = backbone.patch_embed.patch_size
    return weights.reshape(*weights.shape[:2], images.shape[-2] // patch[0], images.shape[-1] // patch[1])


def _last_attention(backbone: nn.Module) -> Attention:
    if isinstance(backbone, VisionTransformer) and backbone.cls_token is not None:
        attention = getattr(backbone.blocks[-1], "attn", None)
        if isinstance(attention, Attention):
            return attention
    raise ValueError("has no [CLS] token with ordinary attention")


def _cls_weights(attention: Attention, tokens: Tensor) -> Tensor:
    """Softmax of the [CLS] token's row, ``(N, heads, tokens)``: fused attention never shows it."""
    shape = (*tokens.shape[:2], 3, attention.num_heads, -1)
    q, k, _ = attention.qkv(tokens).reshape(shape).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q[:, :, :1]).float(), attention.k_norm(k).float()
    return (attention.scale * q @ k.transpose(-2, -1)).softmax(-1)[:, :, 0]


@torch.no_grad()
def last_feature_map(backbone: Any, images: Tensor) -> Tensor:
    """What a network's last stage gives, before a closing norm over channels: ``(N, channels, h, w)`` in float32.

    Args:
        backbone: torchvision's ResNet or a network of timm with feature maps, in evaluation mode.
        images: ``(N, 3, height, width)``, normalised.

    Raises:
        ValueError: it gives tokens, or nothing that could be found.
    """
    if not hasattr(backbone, "forward_features"):
        with _recorded_input(getattr(backbone, "avgpool", nn.Identity())) as seen:
            backbone(images)
        features = seen[0] if seen else images.new_zeros(0)
    else:
        # A norm over channels leaves nothing of their sum.
        norm = getattr(backbone, "norm", None)
        with _recorded_input(norm if isinstance(norm, nn.Module) else nn.Identity()) as seen:
            features = backbone.forward_features(images)
        features = seen[0] if seen else features
    if features.ndim != 4:
        raise ValueError("has no feature map")
    if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        features = features.permute(0, 3, 1, 2)
    return features.float()


@contextmanager
def _recorded_input(module: nn.Module) -> Iterator[list[Tensor]]:
    """What ``module`` is given meanwhile."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def check_heat_map(backbone: nn.Module, name: str, size: int) -> None:
    """Refuse a network that cannot say where it looks.

    Raises:
        UserError: for ``data.contrastive_crop``.
    """
    key = "data.contrastive_crop.enabled"
    training = backbone.training
    backbone.eval()
    try:
        shape = heat_map(backbone, torch.zeros(1, 3, size, size)).shape
    except ValueError as error:
        raise UserError(key, f"got True, {name} {error} to draw boxes from", "use another backbone") from None
    finally:
        backbone.train(training)
    if shape[1:] == (1, 1):
        problem = f"got True, {name}'s heat map of an image of {size} px is a single point"
        raise UserError(key, problem, "set backbone.cifar_stem=True, smaller patches or larger crops")
