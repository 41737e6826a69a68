"""BAM and BAM momentum as solo-learn methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from solo_bam import solo_learn
from solo_bam.config.resolve import resolve
from solo_bam.losses import BAMLoss
from solo_bam.methods.bam import BAM, BAMOptions, build_projector
from solo_bam.methods.views import by_size
from solo_bam.train.run import pretrain
from tests.recipes import batch, tiny

METHODS = ["bam", "bam_momentum"]


def build(tmp_path: Path, name: str = "bam", *overrides: str, large: int = 2, small: int = 0) -> Any:
    torch.manual_seed(0)
    cfg = resolve(
        tiny(tmp_path, f"digits/{name}", "backbone.name=resnet18", *overrides),
        num_classes=10,
        has_val=True,
        world_size=1,
    )
    cfg.data.num_large_crops, cfg.data.num_small_crops = large, small
    method = solo_learn.build_method(cfg)
    method.log = method.log_dict = lambda *args, **kwargs: None  # no trainer here
    return method


def record_batches(module: nn.Module) -> list[int]:
    sizes: list[int] = []
    module.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    return sizes


@pytest.mark.parametrize("name", METHODS)
def test_registered(name: str) -> None:
    assert solo_learn.METHODS[name].__name__ == {"bam": "BAM", "bam_momentum": "BAMMomentum"}[name]


@pytest.mark.parametrize("name", METHODS)
def test_crops_of_one_size_are_one_batch(name: str, tmp_path: Path) -> None:
    method = build(tmp_path, name, large=2, small=3)
    _, large, labels = batch([0, 1, 2, 3], crops=2)
    _, small, _ = batch([0, 1, 2, 3], crops=3, size=8)
    seen = [(record_batches(method.backbone), record_batches(method.projector))]
    if name == "bam_momentum":
        seen.append((record_batches(method.momentum_backbone), record_batches(method.momentum_projector)))
    method.training_step([torch.arange(4), large + small, labels], 0)
    for backbone, projector in seen:
        assert backbone == projector == [8, 12]


@pytest.mark.parametrize("name", METHODS)
def test_the_heads_batch_norm_cannot_tell_sizes_apart(name: str, tmp_path: Path) -> None:
    """Large crops are projected as if there were no small ones: with one batch of all sizes, training collapses."""
    method = build(tmp_path, name, large=2, small=2)
    seen: list[torch.Tensor] = []
    ordinary = method.loss_fn.with_statistics
    method.loss_fn.with_statistics = lambda z, teacher=None: seen.append(z[:8]) or ordinary(z, teacher)
    _, large, labels = batch([0, 1, 2, 3])
    for shift in (0.0, 5.0):
        small = [torch.zeros(4, 3, 8, 8) + shift + torch.randn(1) for _ in range(2)]
        method.training_step([torch.arange(4), large + small, labels], 0)
    torch.testing.assert_close(seen[0], seen[1])


def test_crops_are_grouped_in_order() -> None:
    crops = [torch.full((2, 3, size, size), float(i)) for i, size in enumerate([8, 8, 4, 4, 4])]
    groups = by_size(crops)
    assert [tuple(group.shape) for group in groups] == [(4, 3, 8, 8), (6, 3, 4, 4)]
    assert [group[0, 0, 0, 0].item() for group in groups] == [0, 2]
    assert groups[1][2, 0, 0, 0] == 3


def test_the_loss_is_bam_on_the_projections_and_the_online_head_apart(tmp_path: Path) -> None:
    method = build(tmp_path)
    data = batch([0, 1, 2, 3])
    total = method.training_step(data, 0)
    feats = method.backbone(torch.cat(data[1]))
    bam = method.loss_fn(method.projector(feats))
    head = nn.functional.cross_entropy(method.classifier(feats), data[2].repeat(2))
    torch.testing.assert_close(total, bam + head, rtol=2e-5, atol=0)


def test_the_online_head_leaves_the_backbone_alone(tmp_path: Path) -> None:
    """Labels must not reach the backbone: its gradient is the same whatever they are."""
    gradients = []
    for labels in ([0, 1, 2, 3], [3, 3, 9, 9]):
        torch.manual_seed(0)
        method = build(tmp_path)
        method.training_step(batch(labels), 0).backward()
        gradients.append(method.backbone.conv1.weight.grad)
        assert method.classifier.weight.grad.abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_without_labels_the_loss_is_bam_alone(tmp_path: Path) -> None:
    method = build(tmp_path)
    data = batch([-1, -1, -1, -1])
    total = method.training_step(data, 0)
    expected = method.loss_fn(method.projector(method.backbone(torch.cat(data[1]))))
    torch.testing.assert_close(total, expected, rtol=2e-5, atol=0)


def test_the_teacher_gets_no_gradient_and_gives_the_targets(tmp_path: Path) -> None:
    method = build(tmp_path, "bam_momentum")
    with torch.no_grad():
        for parameter in method.momentum_projector.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    data = batch([0, 1, 2, 3])
    total = method.training_step(data, 0)
    total.backward()
    frozen = [*method.momentum_backbone.parameters(), *method.momentum_projector.parameters()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)
    images = torch.cat(data[1])
    z, z_teacher = (
        method.projector(method.backbone(images)),
        method.momentum_projector(method.momentum_backbone(images)),
    )
    head = nn.functional.cross_entropy(method.classifier(method.backbone(images)), data[2].repeat(2))
    torch.testing.assert_close(total, method.loss_fn(z, z_teacher) + head, rtol=2e-5, atol=0)


def test_the_teachers_classifier_learns_where_asked(tmp_path: Path) -> None:
    method = build(tmp_path, "bam_momentum", "momentum.classifier=True")
    method.training_step(batch([0, 1, 2, 3]), 0).backward()
    assert method.momentum_classifier.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_is_trained(name: str, tmp_path: Path) -> None:
    method = build(tmp_path, name)
    grouped = {id(p) for group in method.learnable_params for p in group["params"]}
    assert grouped == {id(p) for p in method.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", METHODS)
def test_forward_gives_the_contract(name: str, tmp_path: Path) -> None:
    out = build(tmp_path, name).eval()(batch([0, 1])[1][0])
    assert {key: tuple(value.shape) for key, value in out.items()} == {
        "feats": (2, 512),
        "logits": (2, 10),
        "z": (2, 256),
    }


def test_further_forwards_give_projections_as_solo_learns_own_do(tmp_path: Path) -> None:
    method, crops = build(tmp_path, "bam_momentum"), batch([0, 1])[1][0]
    for out in (method.multicrop_forward(crops), method.momentum_forward(crops)):
        assert {key: tuple(value.shape) for key, value in out.items()} == {"feats": (2, 512), "z": (2, 256)}
    assert not method.momentum_forward(crops)["z"].requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_what_is_logged(name: str, tmp_path: Path) -> None:
    trained = pretrain(tiny(tmp_path, f"digits/{name}"))
    watched = {"bam_loss", "source_entropy", "target_entropy", "target_max", "positive_similarity", "z_std"}
    watched |= {"positive_mass"}
    solo = {"train_class_loss", "train_acc1", "train_acc5"}
    assert {f"{key}_{when}" for key in watched | solo for when in ("step", "epoch")} <= set(trained.metrics)
    assert {"val_loss", "val_acc1", "val_knn_acc1", "reg"} <= set(trained.metrics)
    assert ("tau" in trained.metrics) == (name == "bam_momentum")
    steps = [row for row in trained.folder.metrics() if "bam_loss_step" in row]
    assert len(steps) == 4
    assert 0 < trained.metrics["z_std_epoch"] < 1
    assert 0 < trained.metrics["target_max_epoch"] <= 1


@pytest.mark.parametrize("name", METHODS)
def test_multi_crop_trains(name: str, tmp_path: Path) -> None:
    small = "{crop_size: 8, num_crops: 3}"
    large = "{crop_size: 16, num_crops: 2, rrc: {enabled: True}}"
    recipe = tiny(tmp_path, f"digits/{name}", f"augmentations=[{large},{small}]")
    assert (recipe.num_large_crops, recipe.num_small_crops) == (2, 3)
    assert "bam_loss_epoch" in pretrain(recipe).metrics


@pytest.mark.parametrize("masking", [True, False, "self"])
@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("images", [1, 2])
def test_a_batch_is_refused_beforehand_where_the_loss_would_refuse_it(
    masking: Any, weight: float, targets: int, images: int, tmp_path: Path
) -> None:
    options = {"positive_masking": masking, "positive_weight": weight, "target_crops_number": targets}
    recipe = tiny(tmp_path, "digits/bam", f"optimizer.batch_size={images}")
    recipe.method_kwargs |= options
    try:
        BAMLoss(2, 2, **options)(torch.randn(2 * images, 4))
    except ValueError:
        with pytest.raises(ValueError, match=f"optimizer.batch_size: got {images}, must be at least 2 with"):
            BAM.check(recipe, images)
    else:
        BAM.check(recipe, images)


def test_reg_warms_up() -> None:
    options = BAMOptions(reg=0.1, reg_final=0.04, reg_warmup_epochs=4)
    assert [round(options.reg_at(epoch), 9) for epoch in range(6)] == [0.1, 0.08, 0.06, 0.04, 0.04, 0.04]
    assert BAMOptions(reg=0.1).reg_at(0) == BAMOptions(reg=0.1).reg_at(50) == 0.1
    assert BAMOptions(reg=0.1, reg_final=0.2, reg_warmup_epochs=0).reg_at(0) == 0.2


def test_reg_reaches_the_loss(tmp_path: Path) -> None:
    recipe = tiny(
        tmp_path, "digits/bam", "max_epochs=2", "method_kwargs.reg=0.2", "method_kwargs.reg_final=0.1",
        "method_kwargs.reg_warmup_epochs=2",
    )  # fmt: skip
    trained = pretrain(recipe)
    assert trained.metrics["reg"] == pytest.approx(0.1)
    assert next(row["reg"] for row in trained.folder.metrics() if "reg" in row) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, "Linear BatchNorm1d GELU Linear BatchNorm1d GELU Linear BatchNorm1d"),
        ({"proj_use_bn": False}, "Linear GELU Linear GELU Linear"),
        ({"proj_last_bn": False, "proj_act": "relu", "proj_num_layers": 2}, "Linear BatchNorm1d ReLU Linear"),
        ({"proj_num_layers": 1}, "Linear BatchNorm1d"),
    ],
)
def test_projector(options: dict[str, Any], kinds: str) -> None:
    head = build_projector(12, BAMOptions(proj_hidden_dim=7, proj_output_dim=5, **options))
    assert [type(layer).__name__ for layer in head] == kinds.split()
    assert head(torch.randn(4, 12)).shape == (4, 5)
    if kinds.endswith("BatchNorm1d"):
        assert not head[-1].affine
    assert all(layer.affine for layer in list(head)[:-1] if isinstance(layer, nn.BatchNorm1d))


def test_solo_learns_own_way_of_building_works() -> None:
    """``METHODS["bam"](cfg)`` with a cfg that names no method_kwargs gets the published defaults."""
    from omegaconf import OmegaConf
    from solo.methods import METHODS as registry

    cfg = OmegaConf.create(
        {
            "method": "bam", "max_epochs": 1, "accumulate_grad_batches": 1,
            "backbone": {"name": "resnet18", "kwargs": {}, "cifar_stem": True},
            "data": {"dataset": "custom", "num_classes": 10, "num_large_crops": 2, "num_small_crops": 0},
            "optimizer": {"name": "sgd", "batch_size": 4, "lr": 0.1, "classifier_lr": 0.1, "weight_decay": 0,
                          "exclude_bias_n_norm_wd": False, "kwargs": {}},
            "scheduler": {"name": "none", "min_lr": 0, "warmup_start_lr": 0, "warmup_epochs": 0, "lr_decay_steps": None,
                          "interval": "step"},
            "knn_eval": {"enabled": False, "k": 20}, "performance": {"disable_channel_last": True},
        }
    )  # fmt: skip
    method = registry["bam"](cfg)
    assert method.cfg.method_kwargs.proj_output_dim == 4096
    assert method.loss_fn.reg == 0.05
