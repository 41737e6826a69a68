"""Linear classifiers on a backbone's features, many at once; each learns as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from solo_bam.config.linear import Probe
from solo_bam.core.errors import UserError
from solo_bam.solo_learn.schedule import by_layer


def probed_features(backbone: nn.Module, images: Tensor, probe: Probe) -> Tensor:
    """What a linear layer sees of the images.

    Args:
        backbone: maps images to features; for blocks and average-pooled tokens a ViT of timm with a [CLS] token.
        images: ``(N, 3, height, width)``, normalised.
        probe: of the recipe.

    Returns:
        ``(N, width)``: the backbone's features; or the [CLS] tokens of the last blocks after the closing norm, first
        to last, then the mean of the last patch tokens.
    """
    if probe.blocks == 1 and not probe.avgpool:
        features: Tensor = backbone(images)
        return features
    assert isinstance(backbone, VisionTransformer), "check_probe"
    layers = backbone.get_intermediate_layers(images, probe.blocks, return_prefix_tokens=True, norm=True)
    tokens = [prefix[:, 0] for _, prefix in layers]
    if probe.avgpool:
        tokens.append(layers[-1][0].mean(1))
    return torch.cat(tokens, dim=-1)


def probed_width(width: int, probe: Probe) -> int:
    """Width of :func:`probed_features` for a backbone of a width."""
    return width * (probe.blocks + probe.avgpool)


def check_probe(backbone: nn.Module, name: str, probe: Probe) -> None:
    """Refuse blocks and patch tokens of a network that has none.

    Raises:
        UserError: naming the key.
    """
    if probe.blocks == 1 and not probe.avgpool:
        return
    key, value = ("probe.blocks", probe.blocks) if probe.blocks > 1 else ("probe.avgpool", True)
    if not isinstance(backbone, VisionTransformer) or backbone.cls_token is None:
        problem = f"got {value}, {name} is no ViT with a [CLS] token"
        raise UserError(key, problem, "set probe.blocks=1 probe.avgpool=False")
    if probe.blocks > len(backbone.blocks):
        raise UserError(key, f"got {value}, {name} has {len(backbone.blocks)} blocks", "lower it")


class Heads(nn.Module):
    """Linear layers side by side on the same features, all with the same first weights (normal, deviation 0.01).

    Args:
        count: layers.
        width: of the features.
        num_classes: of the labels.
        batch_norm: normalise the features over the batch first, without affine parameters (epsilon 1e-6).
        seed: of the first weights.
    """

    def __init__(self, count: int, width: int, num_classes: int, batch_norm: bool = False, seed: int = 0):
        super().__init__()
        self.width = width
        # A normalisation without parameters is the same for every head.
        self.norm = nn.BatchNorm1d(width, eps=1e-6, affine=False) if batch_norm else nn.Identity()
        self.layers = nn.ModuleList(nn.Linear(width, num_classes) for _ in range(count))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=0.01, generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if count > 1:
            for parameter in self.parameters():
                parameter.register_hook(_finite)  # type: ignore[no-untyped-call]

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(heads, N, classes)`` of ``(N, width)`` features, in the heads' own precision."""
        with torch.autocast(features.device.type, enabled=False):
            first: nn.Linear = self.layers[0]  # type: ignore[assignment]
            normalised = self.norm(features.to(first.weight.dtype))
            return torch.stack([layer(normalised) for layer in self.layers])


def _finite(gradient: Tensor) -> Tensor:
    """A head that diverges stands still, so that a gradient scaler skips no step of the others."""
    return torch.where(gradient.isfinite().all(), gradient, torch.zeros_like(gradient))


def parameter_groups(
    heads: Heads,
    rates: Sequence[float],
    backbone: nn.Module | None = None,
    name: str = "",
    weight_decay: float = 0.0,
    layer_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Groups for the optimiser: a head each with its rate, and the backbone's where it is trained too.

    Args:
        heads: the classifiers.
        rates: a learning rate per head.
        backbone: to fine-tune; None: frozen.
        name: of the backbone, for the message.
        weight_decay: of the backbone, for ``layer_decay``.
        layer_decay: a layer's rate is the next one's times this, biases and norms are not decayed (timm); 0: no.

    Raises:
        UserError: timm does not know the backbone's layers.
    """
    groups: list[dict[str, Any]] = [
        {"name": "head" if len(rates) == 1 else f"head_{rate:g}", "params": list(layer.parameters()), "lr": rate}
        for rate, layer in zip(rates, heads.layers)
    ]
    if backbone is None:
        return groups
    if not layer_decay:
        return [{"name": "backbone", "params": list(backbone.parameters()), "lr": rates[0]}, *groups]
    return [*by_layer(backbone, name, rates[0], weight_decay, layer_decay), *groups]
