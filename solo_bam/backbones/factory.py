"""A backbone from its name: maps images ``(N, 3, height, width)`` to features ``(N, num_features)``.

solo-learn's names mean its own networks (torchvision's ResNets, its ViTs and Swins); any other name is timm's.
Weights are always random: nothing is downloaded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
from omegaconf import DictConfig, OmegaConf
from timm.layers import build_sincos2d_pos_embed  # type: ignore[attr-defined]
from timm.models import group_parameters
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from solo_bam import solo_learn
from solo_bam.core.errors import UserError, nearest

SMALL_WINDOW_UP_TO = 64  # pixels: Swin's windows of 7 patches are larger than the later stages of such an image
# What solo-bam decides: weights are random, images have three channels, there is no classifier.
_OURS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "weights", "checkpoint_path", "cache_dir")
_FIXED = ("num_classes", "in_chans", "features_only")
# The published code trains CAFormer with GELU in place of StarReLU, and without residual scaling.
_CAFORMER: dict[str, Any] = {"mlp_act": nn.GELU, "act1_layer": nn.GELU, "res_scale_init_values": (None,) * 4}
# The same networks under timm's own names.
_TIMM_NAMES = {
    **{name: name for name in ("resnet18", "resnet50")},
    **{f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")},
    **{f"swin_{size}": f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")},
}
_CORRECT = "correct it in the recipe or on the command line (key=value)"


def backbone_factory(backbone: DictConfig) -> Callable[[], nn.Module]:
    """What builds the network of a recipe's section ``backbone``, anew at each call.

    Student and teacher are both built by it, so the teacher has the student's stochastic depth: so it is in
    solo-learn and in the published code, where the teacher stays in training mode.
    """
    return partial(
        create_backbone,
        str(backbone.name),
        _plain(backbone.get("kwargs")),
        cifar_stem=int(backbone.get("cifar_stem") or 0),
        crop_sizes=tuple(backbone.get("crop_sizes") or ()),
        fixed_positions=bool(backbone.get("fixed_positions")),
        frozen_patches=bool(backbone.get("frozen_patches")),
        method=str(backbone.get("method") or ""),
    )


def _plain(kwargs: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(kwargs, resolve=True) if OmegaConf.is_config(kwargs) else kwargs
    return {str(key): value for key, value in (plain or {}).items()}  # type: ignore[union-attr]


def create_backbone(
    name: str,
    kwargs: Mapping[str, Any] | None = None,
    cifar_stem: int = False,
    crop_sizes: Sequence[int] = (),
    fixed_positions: bool = False,
    frozen_patches: bool = False,
    any_size: bool = False,
    method: str = "",
) -> nn.Module:
    """A network with random weights and ``num_features``, the width of what it gives.

    Args:
        name: solo-learn's (``resnet18``, ``vit_small``, …), ``caformer_…`` or any of ``timm.list_models()``.
        kwargs: for its constructor: ``img_size``, ``patch_size``, ``drop_path_rate``, ….
        cifar_stem: a ResNet's first convolution is 3x3 and nothing is max-pooled; 2: its stride is 2, not 1.
        crop_sizes: sides of the crops that it will see, the large ones first. A ViT's or Swin's ``img_size``
            is the first, and its position embedding is interpolated where there are others.
        fixed_positions: a ViT's positions are sines and cosines, and are not trained.
        frozen_patches: a ViT's patch projection keeps its initial weights.
        any_size: it will also see images of other sizes.
        method: that it is for; some of solo-learn's (MAE, MoCo v3) have ViTs of their own.

    Raises:
        UserError: an unknown name, or keys or values that the network does not take.
    """
    check_backbone_name(name)
    asked = dict(kwargs or {})
    _check_keys(name, asked)
    network = _built_or_refused(name, asked, method, _defaults(name, crop_sizes, any_size))
    if cifar_stem:
        _put_cifar_stem(name, network, stride=int(cifar_stem))
    if fixed_positions:
        _fix_positions(_as_vit(network, name, "fixed_positions"))
    if frozen_patches:
        _as_vit(network, name, "frozen_patches").patch_embed.requires_grad_(False)
    return network


def _built_or_refused(name: str, asked: dict[str, Any], method: str, defaults: dict[str, Any]) -> nn.Module:
    try:
        return _build(_constructor(name, method), asked, defaults)[0]
    except UserError:
        raise
    except Exception as error:  # networks refuse values with whatever exception comes first
        raise _refusal(name, asked, error) from None


def check_backbone_name(name: str) -> None:
    """Refuse a name that is neither solo-learn's nor timm's.

    Raises:
        UserError: with the closest name that there is.
    """
    solo = list(solo_learn.solo_backbones())
    # A tag («name.tag») chooses pretrained weights, which are not used.
    if name not in solo and ("." in name or not timm.is_model(name)):
        close = nearest(name, [*solo, *timm.list_models()])
        raise UserError(
            "backbone.name",
            f"got {name!r}{close}, allowed: {', '.join(solo)}, caformer_s18, caformer_m36 "
            "and the other names of timm.list_models()",
            _CORRECT,
        )


def freeze_blocks(backbone: nn.Module, name: str, count: int) -> None:
    """Train neither the first ``count`` blocks nor what lies before them; their batch norms still take statistics.

    Raises:
        UserError: timm does not know the network's blocks, or there are not so many.
    """
    if not hasattr(backbone, "group_matcher"):
        problem = f"got {count}, {name} does not say which blocks it has"
        raise UserError("backbone.frozen_blocks", problem, "set it to 0 or use a backbone of timm")
    layers = list(group_parameters(backbone, backbone.group_matcher(coarse=False)).values())  # type: ignore[operator]
    if count > len(layers) - 1:
        problem = f"got {count}, {name} has {len(layers) - 1} blocks behind its first layer"
        raise UserError("backbone.frozen_blocks", problem, "lower it")
    for parameter in (parameter for layer in layers[: count + 1] for parameter in layer):
        backbone.get_parameter(parameter).requires_grad_(False)


def is_resnet(name: str) -> bool:
    """Whether a known name is a ResNet's with the usual stem (torchvision's or of timm's module ``resnet``)."""
    return name in ("resnet18", "resnet50") or timm.models.is_model_in_modules(name, ["resnet"])


def _check_keys(name: str, asked: Mapping[str, Any]) -> None:
    for key, value in asked.items():
        if key in _OURS:
            problem = f"got {value!r}, backbones start from random weights and nothing is downloaded"
            raise UserError(f"backbone.kwargs.{key}", problem, "remove it")
        if key in _FIXED:
            raise UserError(f"backbone.kwargs.{key}", f"got {value!r}, is set by solo-bam itself", "remove it")
    if name.startswith("caformer"):
        # Older timm hands what its MetaFormer does not know down to the layers, which ignore it.
        allowed = list(inspect.signature(timm.models.MetaFormer.__init__).parameters)[1:]
        for key in asked:
            if key not in allowed:
                raise _unknown_key(name, key, asked, allowed)


def timm_call(
    name: str, kwargs: Mapping[str, Any], crop_sizes: Sequence[int], method: str = ""
) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments with which ``timm.create_model`` builds the network of :func:`create_backbone`.

    A ResNet's stem for small images is not among them: timm has no argument for it.

    Returns:
        None where timm has no such network.
    """
    known = _TIMM_NAMES.get(name, None if name in solo_learn.solo_backbones() else name)
    if known is None:
        return None
    _, arguments = _build(_constructor(name, method), dict(kwargs), _defaults(name, crop_sizes))
    ours = _CAFORMER if name.startswith("caformer") else {}
    if heads := solo_learn.own_method(method).vit_heads.get(name):
        ours = {"num_heads": heads}
    return known, {"num_classes": 0, **ours, **arguments}


def _defaults(name: str, crop_sizes: Sequence[int], any_size: bool = False) -> dict[str, Any]:
    """What follows from the recipe's crops; a network that knows no such argument goes without."""
    defaults: dict[str, Any] = {}
    if crop_sizes:
        defaults["img_size"] = crop_sizes[0]
        if "swin" in name and crop_sizes[0] <= SMALL_WINDOW_UP_TO:
            defaults["window_size"] = 4  # as solo-learn does on CIFAR
    if any_size or len(set(crop_sizes)) > 1:
        # ViTs take other sizes with the one, Swins with the other.
        defaults |= {"dynamic_img_size": True, "strict_img_size": False}
    return defaults


def _build(
    create: Callable[..., nn.Module], asked: Mapping[str, Any], defaults: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Build with the defaults that the network knows; the network and the arguments that it was built with."""
    while True:
        try:
            network = create(**{**defaults, **asked})
            break
        except TypeError as error:
            # Raised before any layer is built, so looking costs nothing.
            key = _unexpected(error)
            if key not in defaults or key in asked:
                raise
            del defaults[key]
    classifier = getattr(network, "fc", None)
    if isinstance(classifier, nn.Linear):  # torchvision's ResNet knows no num_classes=0
        network.num_features = classifier.in_features  # type: ignore[assignment]
        network.fc = nn.Identity()
    else:
        # Where a model has layers between pooling and classifier, num_features is the width before them.
        network.num_features = getattr(network, "head_hidden_size", None) or network.num_features
    return network, {**defaults, **asked}


def _constructor(name: str, method: str = "") -> Callable[..., nn.Module]:
    solo = solo_learn.solo_backbones(method)
    if name in solo:
        return solo[name]
    timms = partial(timm.create_model, name, pretrained=False, num_classes=0)
    if name.startswith("caformer"):
        return partial(timms, **_CAFORMER)
    return timms


def _put_cifar_stem(name: str, network: nn.Module, stride: int) -> None:
    """solo-learn's stem for small images, in torchvision's and timm's ResNets."""
    if not is_resnet(name):
        raise UserError("backbone.cifar_stem", f"got True, {name} is no ResNet", "remove it")
    width = network.bn1.num_features  # type: ignore[union-attr]
    network.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=stride, padding=2, bias=False)  # type: ignore[arg-type]
    network.maxpool = nn.Identity()


def _as_vit(network: nn.Module, name: str, key: str) -> Any:
    if not isinstance(network, VisionTransformer) or network.pos_embed is None:
        raise UserError(f"backbone.{key}", f"got True, {name} is no ViT with positions", "remove it")
    return network


def _fix_positions(vit: Any) -> None:
    """Sines and cosines of the patches' places (Chen et al., MoCo v3, ICCV 2021); zero for the [CLS] token."""
    positions = build_sincos2d_pos_embed(list(vit.patch_embed.grid_size), dim=vit.embed_dim)
    vit.pos_embed.requires_grad_(False)
    vit.pos_embed.zero_()
    vit.pos_embed[0, -len(positions) :] = positions


@torch.no_grad()
def check_crop_sizes(backbone: nn.Module, name: str, crop_sizes: Sequence[int], width: int) -> None:
    """Show a new backbone one image of each size, in evaluation mode.

    Args:
        backbone: on the CPU.
        name: of the backbone, for the message.
        crop_sizes: sides in pixels.
        width: of the features that it is to give.

    Raises:
        UserError: it does not take a size, or does not give one vector of ``width`` per image.
    """
    training = backbone.training
    backbone.eval()
    try:
        for size in crop_sizes:
            _check_crop_size(backbone, name, size, width)
    finally:
        backbone.train(training)


def _check_crop_size(backbone: nn.Module, name: str, size: int, width: int) -> None:
    remedy = "change backbone.kwargs, augmentations.*.crop_size or the backbone"
    try:
        shape = tuple(backbone(torch.zeros(1, 3, size, size)).shape)
    except Exception as error:  # networks refuse a size with whatever exception comes first
        reason = " ".join(str(error).split())
        raise UserError("backbone.name", f"{name} takes no crops of {size} px ({reason})", remedy) from None
    if shape != (1, width):
        problem = f"{name} gives features of shape {shape} for a crop of {size} px, must be (1, {width})"
        raise UserError("backbone.name", problem, "use another backbone")


def _unexpected(error: TypeError) -> str:
    """The key of «got an unexpected keyword argument 'key'», or the first of timm's «argument(s): ['key', …]»."""
    found = re.search(r"unexpected keyword argument(?:\(s\): \[)? ?'(\w+)'", str(error))
    return found.group(1) if found else ""


def _refusal(name: str, asked: Mapping[str, Any], error: Exception) -> UserError:
    key = _unexpected(error) if isinstance(error, TypeError) else ""
    if key in asked:
        network = type(_constructor(name)())
        return _unknown_key(name, key, asked, list(inspect.signature(network.__init__).parameters)[1:])
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError("backbone.kwargs", f"{name} refuses {dict(asked)} ({reason})", _CORRECT)


def _unknown_key(name: str, key: str, asked: Mapping[str, Any], known: Sequence[str]) -> UserError:
    allowed = [k for k in known if k not in {*_OURS, *_FIXED, "args", "kwargs", "device", "dtype"}]
    problem = f"unknown key for {name} (value {asked[key]!r}){nearest(key, allowed)}, allowed: {', '.join(allowed)}"
    return UserError(f"backbone.kwargs.{key}", problem, "remove it or correct its name")
