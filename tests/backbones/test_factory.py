"""Backbones by name: solo-learn's, CAFormer and timm's, in every method and both branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from solo_bam import solo_learn
from solo_bam.backbones import backbone_factory, check_crop_sizes, create_backbone, is_resnet
from solo_bam.config.resolve import resolve
from solo_bam.core.errors import UserError
from solo_bam.runs.checkpoints.read import backbone_state
from solo_bam.train.run import pretrain
from tests.recipes import batch, small, tiny

# name, its kwargs, width of its features
KINDS: dict[str, tuple[str, dict[str, Any], int]] = {
    "solo's ResNet": ("resnet18", {}, 512),
    "solo's ViT": ("vit_tiny", {"patch_size": 4, "drop_path_rate": 0.1}, 192),
    "solo's Swin": ("swin_tiny", {}, 768),
    "CAFormer": ("caformer_s18", {"drop_path_rate": 0.1}, 512),
    "timm's ResNet": ("resnet10t", {}, 512),
    "timm's ViT": ("vit_tiny_patch16_224", {"patch_size": 4}, 192),
    "timm's convolutions": ("regnetx_002", {}, 368),
    "layers after the pooling": ("mobilenetv3_small_050", {}, 1024),
}
SIZES = (32, 16)


def build(kind: str, **more: Any) -> nn.Module:
    name, kwargs, _ = KINDS[kind]
    torch.manual_seed(0)
    return create_backbone(name, kwargs, crop_sizes=SIZES, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_large_and_small_crops(kind: str) -> None:
    backbone = build(kind)
    width = KINDS[kind][2]
    assert backbone.num_features == width
    for size in SIZES:
        assert backbone(torch.randn(2, 3, size, size)).shape == (2, width)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: str) -> None:
    """A parameter without a gradient stops training on several processes."""
    backbone = build(kind)
    backbone.eval()  # no path is dropped
    sum(backbone(torch.randn(2, 3, size, size)).square().sum() for size in SIZES).backward()  # type: ignore[union-attr]
    assert [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "resnet34", "resnet26d", "wide_resnet50_2", "resnext50_32x4d"]
)
def test_resnets_take_the_small_images_stem(name: str) -> None:
    assert is_resnet(name)
    backbone = create_backbone(name, cifar_stem=True)
    stem: Any = backbone.conv1
    assert (stem.kernel_size, stem.stride, stem.padding, stem.bias) == ((3, 3), (1, 1), (2, 2), None)
    assert isinstance(backbone.maxpool, nn.Identity)
    assert backbone.eval()(torch.randn(1, 3, 16, 16)).shape == (1, backbone.num_features)


@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny", "caformer_s18", "resnetv2_50", "convnext_atto"])
def test_what_is_no_resnet_is_refused_the_stem(name: str) -> None:
    assert not is_resnet(name)
    with pytest.raises(UserError, match=f"backbone.cifar_stem: got True, {name} is no ResNet; remove it"):
        create_backbone(name, cifar_stem=True)


def test_caformer_has_gelu_and_no_residual_scaling() -> None:
    kinds = {type(module).__name__ for module in build("CAFormer").modules()}
    assert "GELU" in kinds
    assert not {"StarReLU", "ReLU", "Scale"} & kinds


@pytest.mark.parametrize(
    ("name", "kwargs", "sizes", "positions"),
    [
        ("vit_tiny", {"patch_size": 4}, (32,), 65),
        ("vit_tiny", {"patch_size": 4, "img_size": 24}, (32,), 37),
        ("vit_tiny", {}, (), 197),
        ("vit_tiny_patch16_224", {}, (32,), 5),
    ],
)
def test_image_size_follows_the_large_crops(
    name: str, kwargs: dict[str, Any], sizes: tuple[int, ...], positions: int
) -> None:
    assert create_backbone(name, kwargs, crop_sizes=sizes).pos_embed.shape[1] == positions  # type: ignore[index, union-attr]


@pytest.mark.parametrize(("size", "window"), [(64, 4), (224, 7)])
def test_swin_has_small_windows_for_small_images(size: int, window: int) -> None:
    layers: Any = create_backbone("swin_tiny", crop_sizes=(size,)).layers
    assert layers[0].blocks[0].window_size == (window, window)


def test_a_vit_interpolates_positions_for_small_crops() -> None:
    """Without them the positions are used as they are, whichever way it was built."""
    images = torch.randn(2, 3, 32, 32)
    outputs = []
    for sizes in ((32,), (32, 16)):
        torch.manual_seed(0)
        outputs.append(create_backbone("vit_tiny", {"patch_size": 4}, crop_sizes=sizes).eval()(images))
    torch.testing.assert_close(*outputs)


def test_weights_are_random_and_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("socket.socket.connect", refuse)
    first, second = (create_backbone("resnet10t").state_dict()["layer1.0.conv1.weight"] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("resnet81", {}, r"backbone.name: got 'resnet81' \(did you mean resnet18\?\), allowed: resnet18, .*; correct"),
        ("vit_smal_patch16_224", {}, r"did you mean vit_small_patch16_224\?"),
        ("resnet34.a1_in1k", {}, r"backbone.name: got 'resnet34.a1_in1k' \(did you mean "),
        ("vit_tiny", {"img_sise": 32}, r"backbone.kwargs.img_sise: unknown key for vit_tiny \(value 32\) \(did you mean img_size\?\)"),
        ("resnet18", {"patch_size": 4}, r"backbone.kwargs.patch_size: unknown key for resnet18 \(value 4\), allowed: block, "),
        ("caformer_s18", {"drop_path": 0.1}, r"backbone.kwargs.drop_path: unknown key for caformer_s18 .*mean drop_path_rate\?"),
        ("convnext_atto", {"img_size": 32}, r"backbone.kwargs.img_size: unknown key for convnext_atto \(value 32\)"),
        ("vit_tiny", {"img_size": "big"}, r"backbone.kwargs: vit_tiny refuses \{'img_size': 'big'\} \(.*\); correct"),
        ("vit_tiny", {"embed_dim": 100}, r"backbone.kwargs: vit_tiny refuses \{'embed_dim': 100\} \(.*multiple values"),
        ("resnet34", {"pretrained": True}, r"backbone.kwargs.pretrained: got True, .*nothing is downloaded; remove it"),
        ("resnet18", {"weights": "DEFAULT"}, r"backbone.kwargs.weights: got 'DEFAULT', .*random weights"),
        ("resnet34", {"num_classes": 10}, r"backbone.kwargs.num_classes: got 10, is set by solo-bam itself"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        create_backbone(name, kwargs, crop_sizes=(32,))
    assert "\n" not in str(error.value)


def test_crops_that_do_not_fit_are_refused() -> None:
    vit = create_backbone("vit_tiny", {"patch_size": 8}, crop_sizes=(32, 12))
    with pytest.raises(UserError, match=r"backbone.name: vit_tiny takes no crops of 12 px \(.*divisible by patch size"):
        check_crop_sizes(vit, "vit_tiny", (32, 12), 192)
    with pytest.raises(UserError, match=r"gives features of shape \(1, 192\) for a crop of 32 px, must be \(1, 5\)"):
        check_crop_sizes(vit, "vit_tiny", (32,), 5)
    assert vit.training


def method(tmp_path: Path, name: str, kind: str, *overrides: str) -> Any:
    backbone, kwargs, _ = KINDS[kind]
    more = [f"backbone.kwargs.{key}={value}" for key, value in kwargs.items()]
    recipe = tiny(
        tmp_path, f"digits/{name}", f"backbone.name={backbone}", *more, "method_kwargs.proj_hidden_dim=32",
        "augmentations.0.crop_size=32", "backbone.cifar_stem=null", *overrides,
    )  # fmt: skip
    cfg = resolve(recipe, num_classes=10, has_val=True, world_size=1)
    return solo_learn.build_method(cfg, backbone_factory(cfg.backbone))


@pytest.mark.parametrize("name", ["bam_momentum", "byol", "dino", "simclr"])
@pytest.mark.parametrize("kind", ["solo's ResNet", "solo's ViT", "CAFormer", "timm's ResNet"])
def test_a_training_step_of_student_and_teacher(kind: str, name: str, tmp_path: Path) -> None:
    built = method(tmp_path, name, kind)
    built.log = built.log_dict = lambda *args, **kwargs: None  # no trainer here
    assert built.backbone_name == KINDS[kind][0]
    assert built.features_dim == KINDS[kind][2]
    assert backbone_state(built.state_dict(), "student", "checkpoint").keys() == built.backbone.state_dict().keys()
    if name != "simclr":
        pairs = zip(built.backbone.state_dict().items(), built.momentum_backbone.state_dict().items(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
        assert not any(p.requires_grad for p in built.momentum_backbone.parameters())
    if name == "dino":
        built.dino_loss_func.epoch = 0
    loss = built.training_step(batch([0, 1, 2, 3], size=32), 0)
    (loss["loss"] if isinstance(loss, dict) else loss).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in built.backbone.parameters())


@pytest.mark.parametrize("name", sorted(set(solo_learn.METHODS) - {"base", "linear"}))
def test_every_method_takes_any_backbone(name: str, tmp_path: Path) -> None:
    if name == "mae":
        pytest.skip("solo-learn's MAE takes its own ViTs alone")
    recipe = tiny(tmp_path, "digits/byol", *small(name), "backbone.name=regnetx_002")
    cfg = resolve(recipe, num_classes=10, has_val=True, world_size=1)
    built: Any = solo_learn.build_method(cfg, backbone_factory(cfg.backbone))
    assert type(built.backbone).__module__ == "timm.models.regnet"
    assert type(getattr(built, "momentum_backbone", built.backbone)) is type(built.backbone)
    assert (built.backbone_name, built.features_dim) == ("regnetx_002", 368)
    assert built.classifier.in_features == 368


@pytest.mark.parametrize("name", ["bam_momentum", "byol"])
@pytest.mark.parametrize("kind", ["solo's ResNet", "timm's ResNet"])
def test_both_branches_have_the_stem(name: str, kind: str, tmp_path: Path) -> None:
    built = method(tmp_path, name, kind)
    for network in (built.backbone, built.momentum_backbone):
        assert network.conv1.kernel_size == (3, 3)
        assert isinstance(network.maxpool, nn.Identity)


def test_teacher_has_the_students_stochastic_depth(tmp_path: Path) -> None:
    built = method(tmp_path, "byol", "solo's ViT")
    assert built.momentum_backbone.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)


def test_solo_learn_is_left_as_it_was(tmp_path: Path) -> None:
    def own() -> str:
        recipe = tiny(
            tmp_path, "digits/byol", "backbone.name=vit_tiny", "backbone.kwargs={img_size: 16, patch_size: 4}"
        )
        built: Any = solo_learn.build_method(resolve(recipe, num_classes=10, has_val=True, world_size=1))
        return f"{type(built.backbone).__name__} {type(built.momentum_backbone).__name__}"

    before = own()
    method(tmp_path, "byol", "CAFormer")
    assert own() == before
    with pytest.raises(UserError, match="refuses"):
        method(tmp_path, "byol", "solo's ViT", "backbone.kwargs.patch_size=0")
    assert own() == before


def test_a_section_with_a_name_alone_is_enough() -> None:
    assert backbone_factory(OmegaConf.create({"name": "resnet18"}))().num_features == 512


@pytest.mark.parametrize("name", ["bam", "byol"])
def test_trains_with_small_crops(name: str, tmp_path: Path) -> None:
    crops = "augmentations=[{crop_size: 32, num_crops: 2},{crop_size: 16, num_crops: 2}]"
    overrides = [crops, "backbone.name=vit_tiny", "backbone.kwargs.patch_size=8", "data.fraction=0.02"]
    metrics = pretrain(tiny(tmp_path, f"digits/{name}", *overrides)).metrics
    assert metrics["train_class_loss_epoch"] > 0


@pytest.mark.parametrize("name", ["vit_tiny", "vit_tiny_patch16_224"])
def test_fixed_positions_and_frozen_patches(name: str) -> None:
    vit: Any = create_backbone(name, {"patch_size": 8}, crop_sizes=(32,), fixed_positions=True, frozen_patches=True)
    untrained = {key for key, parameter in vit.named_parameters() if not parameter.requires_grad}
    assert untrained == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    positions = vit.pos_embed[0]
    assert (positions[0] == 0).all()  # [CLS]
    # By hand: 192 / 4 frequencies, 10000^(-k / 48); of patch (row 2, column 3) of 4 x 4.
    frequencies = 10_000 ** (-torch.arange(48) / 48)
    angles = (2 * frequencies, 3 * frequencies)
    expected = torch.cat([f(a) for f in (torch.sin, torch.cos) for a in angles])
    torch.testing.assert_close(positions[1 + 2 * 4 + 3].sort().values, expected.sort().values)


@pytest.mark.parametrize("key", ["fixed_positions", "frozen_patches"])
def test_only_vits_have_positions(key: str) -> None:
    with pytest.raises(UserError, match=f"backbone.{key}: got True, resnet18 is no ViT with positions; remove it"):
        create_backbone("resnet18", **{key: True})
