"""solo-learn as the project touches it: each attribute and hook, and each mend.

``SOLO_BAM_TEST_UNMENDED=knn pytest tests/solo_learn/test_mends.py -m knn`` shows the tests of one mend fail on
solo-learn as it is; ``test_mends_are_needed.py`` does that for every mend of the installed edition.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from solo_bam import solo_learn
from solo_bam.backbones import backbone_factory
from solo_bam.config.resolve import resolve
from solo_bam.solo_learn.schedule import build_optimizer
from solo_bam.train.run import pretrain
from tests import processes
from tests.recipes import batch, small_head, tiny
from tests.solo_learn.editions import release_only


def build(tmp_path: Path, name: str = "digits/simclr", *overrides: str) -> Any:
    recipe = tiny(tmp_path, name, "backbone.name=resnet18", *overrides)
    return solo_learn.build_method(resolve(recipe, num_classes=10, has_val=True, world_size=1))


class Batches(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The same few batches each epoch, already collated."""

    def __init__(self, batches: list[Any]):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


def fit(method: Any, tmp_path: Path, steps: int = 1, labels: Any = None, **kwargs: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=kwargs.pop("max_epochs", 1), default_root_dir=tmp_path, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **kwargs,
    )  # fmt: skip
    data = Batches([batch(np.arange(16) % 10 if labels is None else labels)] * steps)
    trainer.fit(method, torch.utils.data.DataLoader(data, batch_size=None))
    return trainer


# ------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize("name", ["byol", "simclr", "dino", "bam", "bam_momentum"])
def test_what_the_project_touches_is_there(name: str, tmp_path: Path) -> None:
    method = build(tmp_path, f"digits/{name}")
    assert isinstance(method, pl.LightningModule)
    assert isinstance(method.classifier, torch.nn.Linear)
    assert method.features_dim == 512
    assert method.num_large_crops == 2
    assert method.num_small_crops == 0
    assert method.num_crops == 2
    assert not method.multicrop
    assert method.knn_eval
    names = [group.get("name") for group in method.learnable_params]
    assert names[:2] == ["backbone", "classifier"]
    assert {"logits", "feats"} <= set(method(batch([0, 1])[1][0]))
    if name in ("byol", "dino", "bam_momentum"):
        assert len(method.momentum_pairs) == 2
        assert method.momentum_updater.cur_tau == pytest.approx(0.99)
        for online, momentum in method.momentum_pairs:
            for a, b in zip(online.parameters(), momentum.parameters()):
                assert torch.equal(a, b)
                assert not b.requires_grad


def test_learning_rates_and_optimizer_reach_the_method(tmp_path: Path) -> None:
    method = build(
        tmp_path, "digits/simclr", "optimizer.lr=0.5", "optimizer.classifier_lr=0.25", "accumulate_grad_batches=2"
    )
    assert method.lr == pytest.approx(0.5 * 16 / 256 * 2)
    assert method.classifier_lr == pytest.approx(0.25 * 16 / 256 * 2)


def test_options_are_those_that_the_method_reads() -> None:
    assert set(solo_learn.own_options("byol")) == {"proj_output_dim", "proj_hidden_dim", "pred_hidden_dim"}
    assert solo_learn.own_options("barlow_twins")["lamb"] == 0.0051


def test_what_has_no_default_is_required() -> None:
    """On the release edition nothing is: its command line has defaults for all."""
    required = solo_learn.own_options("byol")["proj_output_dim"]
    assert required == {"release": 256, "head": inspect.Parameter.empty}[solo_learn.edition() or ""]


def test_method_kwargs_reach_the_method(tmp_path: Path) -> None:
    assert build(tmp_path, "digits/simclr", "method_kwargs.temperature=0.3").temperature == 0.3


@pytest.mark.parametrize("crop", [16, 65])
def test_stem_for_small_images(crop: int, tmp_path: Path) -> None:
    recipe = tiny(
        tmp_path,
        "digits/simclr",
        "backbone.name=resnet18",
        f"augmentations.0.crop_size={crop}",
        "backbone.cifar_stem=null",
    )
    cfg = resolve(recipe, num_classes=10, has_val=True, world_size=1)
    method: Any = solo_learn.build_method(cfg, backbone_factory(cfg.backbone))
    small = crop <= 64
    assert method.backbone.conv1.kernel_size == ((3, 3) if small else (7, 7))
    assert isinstance(method.backbone.maxpool, torch.nn.Identity) == small


def test_a_method_written_for_the_head_edition_trains(tmp_path: Path) -> None:
    """Its base training step calls ``self(X)`` and hands everything on as lists, small crops included."""

    class Alignment(solo_learn.BaseMethod):  # type: ignore[name-defined, misc]
        seen: dict[str, Any]

        def __init__(self, cfg: Any):
            super().__init__(cfg)
            self.projector = torch.nn.Linear(self.features_dim, 8)

        @property
        def learnable_params(self) -> Any:
            return [*super().learnable_params, {"name": "projector", "params": self.projector.parameters()}]

        def forward(self, X: torch.Tensor) -> Any:
            out = super().forward(X)
            return {**out, "z": self.projector(out["feats"])}

        def multicrop_forward(self, X: torch.Tensor) -> Any:
            out = super().multicrop_forward(X)
            return {**out, "z": self.projector(out["feats"])}

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            out = super().training_step(batch, batch_idx)
            self.seen = {key: len(value) for key, value in out.items() if isinstance(value, list)}
            loss: torch.Tensor = out["loss"] + (out["z"][0] - out["z"][1]).pow(2).mean()
            return loss

    recipe = tiny(tmp_path, "digits/bam", "backbone.name=resnet18", "augmentations.0.num_crops=2")
    cfg = resolve(recipe, 10, True, 1)
    cfg.data.num_small_crops = 1
    solo_learn.METHODS["alignment"] = Alignment
    try:
        cfg.method = "alignment"
        method: Any = solo_learn.build_method(cfg)
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(method, torch.utils.data.DataLoader(Batches([batch(np.arange(16) % 10, crops=3)]), batch_size=None))
    finally:
        del solo_learn.METHODS["alignment"]
    assert method.seen == {"logits": 2, "feats": 3, "z": 3}
    assert {"train_class_loss_epoch", "train_acc1_epoch"} <= set(trainer.callback_metrics)


# ------------------------------------------------------------------------------------------ the mends


@pytest.mark.knn
def test_knn_forward_only_updates(tmp_path: Path) -> None:
    knn = build(tmp_path).knn
    assert knn(train_features=torch.randn(4, 2), train_targets=torch.arange(4)) is None


@pytest.mark.knn
def test_knn_survives_a_class_that_the_validation_set_lacks(tmp_path: Path) -> None:
    knn = _metric(k=1)
    knn.update(train_features=torch.eye(3), train_targets=torch.arange(3))
    knn.update(test_features=torch.eye(3)[:2], test_targets=torch.tensor([0, 1]))
    assert knn.compute() == (100.0, 100.0)


@pytest.mark.knn
def test_knn_cosine_ignores_the_features_length() -> None:
    knn = _metric(k=1, distance_fx="cosine")
    knn.update(train_features=torch.tensor([[100.0, 80.0], [0.1, 0.0]]), train_targets=torch.tensor([0, 1]))
    knn.update(test_features=torch.tensor([[1.0, 0.0], [1.0, 0.8]]), test_targets=torch.tensor([1, 0]))
    assert knn.compute()[0] == 100.0


@pytest.mark.knn
def test_knn_leaves_unlabelled_images_out() -> None:
    knn = _metric(k=2)
    knn.update(train_features=torch.tensor([[1.0, 0], [0, 1.0], [1.0, 0.1]]), train_targets=torch.tensor([0, 1, -1]))
    knn.update(test_features=torch.tensor([[1.0, 0.1], [0.5, 0.5]]), test_targets=torch.tensor([0, -1]))
    assert knn.compute()[0] == 100.0


def _knn_over_processes() -> tuple[float, float, int]:
    import torch.distributed as dist

    rank, knn = dist.get_rank(), solo_learn.METHODS and _metric(k=1)
    knn.update(
        train_features=torch.eye(4)[2 * rank : 2 * rank + 2], train_targets=torch.tensor([2 * rank, 2 * rank + 1])
    )
    knn.update(test_features=torch.eye(4)[[3, rank]], test_targets=torch.tensor([3, 2]))
    acc1, acc5 = knn.compute()
    knn.reset()
    return acc1, acc5, len(knn.train_features)


@pytest.mark.knn
def test_knn_shares_bank_and_queries_over_processes() -> None:
    """Each process holds half of the bank: 3 is on the second; 2 is nobody's nearest."""
    assert processes.run(2, _knn_over_processes) == [(50.0, 100.0, 0)] * 2


def _metric(**kwargs: Any) -> Any:
    import solo.methods.base

    # As the methods get it; the unmended class takes an argument that torchmetrics refuses.
    return solo.methods.base.WeightedKNNClassifier(**kwargs)


@pytest.mark.labels
def test_without_labels_the_classification_loss_is_zero(tmp_path: Path) -> None:
    method = build(tmp_path)
    out = method._base_shared_step(batch([0] * 4)[1][0], torch.full((4,), -1))
    assert out["loss"].item() == 0
    assert out["acc1"].item() == 0


def test_with_labels_the_classification_loss_is_the_usual_one(tmp_path: Path) -> None:
    method = build(tmp_path).eval()
    images, labels = batch([0, 1, 2, 3])[1][0], torch.tensor([0, 1, -1, 3])
    out = method._base_shared_step(images, labels)
    expected = torch.nn.functional.cross_entropy(out["logits"], labels, ignore_index=-1)
    torch.testing.assert_close(out["loss"], expected)


@release_only
@pytest.mark.validation
@pytest.mark.parametrize("name", ["simclr", "byol"])
def test_validation_reports_its_metrics(name: str, tmp_path: Path) -> None:
    overrides = ["momentum.classifier=True"] if name == "byol" else []
    metrics = pretrain(tiny(tmp_path, f"digits/{name}", *overrides)).metrics
    expected = {"val_loss", "val_acc1", "val_acc5", "val_knn_acc1", "val_knn_acc5"}
    if name == "byol":
        expected |= {"momentum_val_loss", "momentum_val_acc1", "momentum_val_acc5"}
    assert expected <= set(metrics)
    assert 0 <= metrics["val_knn_acc1"] <= metrics["val_knn_acc5"] <= 100


@pytest.mark.report
def test_a_validation_within_an_epoch_empties_the_bank(tmp_path: Path) -> None:
    method = build(tmp_path)
    sizes = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            sizes.append((len(pl_module.knn.train_features), len(pl_module.knn.test_features)))

    _, (images, _), labels = batch(np.arange(16) % 10)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Watch()], val_check_interval=1,
        num_sanity_val_steps=0,
    )  # fmt: skip
    train, val = [batch(labels)] * 2, [[images, labels]]
    trainer.fit(method, *(torch.utils.data.DataLoader(Batches(data), batch_size=None) for data in (train, val)))
    assert sizes == [(0, 0), (0, 0)]
    assert 0 <= trainer.callback_metrics["val_knn_acc1"] <= 100


@pytest.mark.momentum
def test_the_teacher_follows_and_tau_rises(tmp_path: Path) -> None:
    method = build(tmp_path, "digits/byol", "momentum.base_tau=0.5", "max_epochs=2")
    before = method.momentum_backbone.conv1.weight.detach().clone()
    fit(method, tmp_path, steps=2, max_epochs=2)
    assert not torch.equal(before, method.momentum_backbone.conv1.weight)
    assert method.momentum_updater.cur_tau == pytest.approx(1.0)


@pytest.mark.momentum
def test_tau_goes_on_where_it_was(tmp_path: Path) -> None:
    """solo-learn starts a resumed run with the base value for one step."""
    method = build(tmp_path, "digits/byol", "momentum.base_tau=0.5")
    taus = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            taus.append(pl_module.momentum_updater.cur_tau)

    trainer = fit(method, tmp_path, steps=2, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = build(tmp_path, "digits/byol", "momentum.base_tau=0.5")
    again = pl.Trainer(
        accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Watch()],
    )  # fmt: skip
    data = torch.utils.data.DataLoader(Batches([batch(np.arange(16) % 10)] * 2), batch_size=None)
    again.fit(resumed, data, ckpt_path=tmp_path / "half.ckpt")
    assert taus == pytest.approx([0.75, 1 - 0.25 * (1 + np.cos(np.pi * 3 / 4))])


@pytest.mark.optimizer
def test_lars_moves_weights_by_its_trust_ratio(tmp_path: Path) -> None:
    """As it is, two steps move conv1 by several times its norm: the trust ratio never reaches the gradient."""
    method = build(
        tmp_path, "digits/simclr", "optimizer.name=lars", "optimizer.lr=1.6", "optimizer.kwargs.eta=0.02",
        "optimizer.weight_decay=1e-4", "scheduler.name=none",
    )  # fmt: skip
    before = method.backbone.conv1.weight.detach().clone()
    fit(method, tmp_path, steps=1)
    moved = (method.backbone.conv1.weight.detach() - before).norm() / before.norm()
    # One step: lr * eta * |g + wd w| / (|g| + wd |w|), and the decay is small beside the gradient.
    assert moved.item() == pytest.approx(0.1 * 0.02, rel=2e-2)


@pytest.mark.optimizer
def test_lars_leaves_bias_and_norm_alone_where_asked(tmp_path: Path) -> None:
    method = build(
        tmp_path, "digits/simclr", "optimizer.name=lars", "optimizer.kwargs.exclude_bias_n_norm=True",
        "optimizer.weight_decay=0.5", "scheduler.name=none",
    )  # fmt: skip
    groups = fit(method, tmp_path).optimizers[0].param_groups
    flat = [g for g in groups if all(p.ndim <= 1 for p in g["params"])]
    deep = [g for g in groups if all(p.ndim > 1 for p in g["params"])]
    assert len(flat) + len(deep) == len(groups) > len(deep) > 0
    assert all(g["weight_decay"] == 0 and not g["always_adapt"] for g in flat)
    assert all(g["always_adapt"] for g in deep)
    assert {g["weight_decay"] for g in deep} == {0, 0.5}  # 0: the online classifier


@pytest.mark.optimizer
def test_schedule_is_by_step_and_warms_up(tmp_path: Path) -> None:
    method = build(tmp_path, "digits/simclr", "max_epochs=4", "scheduler.warmup_epochs=1", "optimizer.lr=1")
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    fit(method, tmp_path, steps=5, max_epochs=4, callbacks=[Watch()])
    full = [16 / 256, 0.02 * 16 / 256]
    assert rates[0] == [3e-5, 3e-5, 3e-5]
    assert rates[4][:2] == pytest.approx(full)
    assert rates[5][:2] == pytest.approx(full)
    half = 5 + 7.5
    assert rates[12][0] == pytest.approx(full[0] * 0.5 * (1 + np.cos(np.pi * (12 - 5) / 15)))
    assert rates[-1][0] < rates[int(half)][0] < full[0]


@pytest.mark.optimizer
def test_without_warm_up_every_group_starts_at_its_own_rate(tmp_path: Path) -> None:
    method = build(tmp_path, "digits/simclr", "scheduler.warmup_epochs=0", "optimizer.lr=1")
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    fit(method, tmp_path, callbacks=[Watch()])
    assert rates[0] == pytest.approx([16 / 256, 0.02 * 16 / 256, 16 / 256])


def _gathered_gradient() -> np.ndarray:
    import solo.utils.misc
    import torch.distributed as dist

    solo_learn.METHODS  # noqa: B018  imports and mends solo-learn
    x = torch.full((2, 1), float(dist.get_rank() + 1), requires_grad=True)
    weight = torch.arange(4.0).view(4, 1) * (dist.get_rank() + 1)
    (solo.utils.misc.gather(x) * weight).sum().backward()
    assert x.grad is not None
    return x.grad.numpy()


@release_only
@pytest.mark.gather
def test_gather_passes_every_process_gradient() -> None:
    first, second = processes.run(2, _gathered_gradient)
    assert first.ravel().tolist() == [0.0 + 0.0, 1.0 + 2.0]
    assert second.ravel().tolist() == [2.0 + 4.0, 3.0 + 6.0]


def _simclr_gradient(multi_crop: bool) -> tuple[float, np.ndarray]:
    import solo.methods.simclr
    import torch.distributed as dist

    solo_learn.METHODS  # noqa: B018
    z = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if dist.is_initialized():
        z = z.view(3, dist.get_world_size(), -1, 5)[:, dist.get_rank()]
    z = z.clone().requires_grad_()
    if multi_crop:
        n = z.shape[1]
        index = torch.arange(n).repeat(3)
        pos = (index[:, None] == index).fill_diagonal_(False)
        neg = (~pos).fill_diagonal_(False)
        loss = solo.methods.simclr.manual_simclr_loss_func(z.flatten(0, 1), pos_mask=pos, neg_mask=neg, temperature=0.2)
    else:
        loss = solo.methods.simclr.simclr_loss_func(z[0], z[1], temperature=0.2)
    loss.backward()
    assert z.grad is not None
    return loss.item(), z.grad.numpy()


@release_only
@pytest.mark.simclr
@pytest.mark.parametrize("multi_crop", [False, True])
def test_simclr_on_two_processes_is_simclr_on_one(multi_crop: bool) -> None:
    loss, grad = _simclr_gradient(multi_crop)
    results = processes.run(2, _simclr_gradient, multi_crop)
    assert np.mean([part for part, _ in results]) == pytest.approx(loss, rel=1e-9)
    for rank, (_, part_grad) in enumerate(results):
        # DDP divides the sum over processes by their number.
        np.testing.assert_allclose(part_grad / 2, grad.reshape(3, 2, 4, 5)[:, rank], rtol=1e-9, atol=1e-12)


@release_only
@pytest.mark.simclr
def test_simclr_adds_an_images_positives_up() -> None:
    """The head edition's loss; the release's took the mean of the positives' log-probabilities."""
    import solo.methods.simclr

    solo_learn.METHODS  # noqa: B018
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # 3 views of 2 images
    same = (torch.arange(6)[:, None] % 2 == torch.arange(6) % 2).fill_diagonal_(False)
    loss = solo.methods.simclr.manual_simclr_loss_func(z, pos_mask=same, neg_mask=~same, temperature=0.2)
    weights = (torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=-1) / 0.2).exp().fill_diagonal_(0)
    expected = -(weights[:, 0::2].sum(1) / weights.sum(1))[0::2].log().sum() / 6
    expected = expected - (weights[:, 1::2].sum(1) / weights.sum(1))[1::2].log().sum() / 6
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("kwargs", "momentum"), [({}, 0.9), ({"momentum": 0.5}, 0.5)])
def test_sgd_has_solo_learns_momentum(kwargs: dict[str, float], momentum: float) -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]}]
    optimizer = build_optimizer(groups, "sgd", 0.1, 0.0, kwargs, exclude_bias_n_norm_wd=False)
    assert optimizer.defaults["momentum"] == momentum


@pytest.mark.clipping
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_labels_do_not_scale_the_clipped_gradient(algorithm: str, tmp_path: Path) -> None:
    """A step of plain SGD, clipped hard: the backbone moves alike, whatever the labels are."""
    moved = []
    for labels in ([0] * 16, list(np.arange(16) % 10)):
        torch.manual_seed(0)
        method = build(tmp_path, "digits/simclr", "optimizer.name=sgd", "scheduler.name=none", "optimizer.lr=16")
        before = method.backbone.conv1.weight.detach().clone()
        fit(method, tmp_path, labels=labels, gradient_clip_val=1e-2, gradient_clip_algorithm=algorithm)
        moved.append(method.backbone.conv1.weight.detach() - before)
    assert moved[0].abs().sum() > 0
    torch.testing.assert_close(*moved)


@pytest.mark.clipping
def test_clipping_limits_the_gradients_norm(tmp_path: Path) -> None:
    plain = ["optimizer.name=sgd", "scheduler.name=none", "optimizer.lr=16", "optimizer.weight_decay=0"]
    method = build(tmp_path, "digits/simclr", *plain)
    before = [p.detach().clone() for p in [*method.backbone.parameters(), *method.projector.parameters()]]
    fit(method, tmp_path, gradient_clip_val=1e-2)
    after = [*method.backbone.parameters(), *method.projector.parameters()]
    moved = torch.cat([(a.detach() - b).flatten() for a, b in zip(after, before)])
    assert moved.norm().item() == pytest.approx(1e-2, rel=1e-2)  # lr 16 x 16 / 256 = 1


@pytest.mark.clipping
def test_dino_clips_gradients_both_ways(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, "digits/dino", "gradient_clip_val=0.5", "method_kwargs.clip_grad=0.3")
    assert "dino_loss_epoch" in pretrain(recipe).metrics


@release_only
@pytest.mark.wmse
def test_wmse_whitens(tmp_path: Path) -> None:
    from solo.utils.whitening import Whitening2d

    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.tensor([1.0, 5.0, 0.2, 2.0]))
    white = Whitening2d(4, eps=0)(x)
    torch.testing.assert_close(white.T @ white / 63, torch.eye(4), atol=1e-4, rtol=0)


@release_only
@pytest.mark.waits
def test_no_number_of_a_gpu_is_waited_for() -> None:
    """Masks and queues' places; tests/test_fake_gpu.py has whole steps."""
    import solo.losses.vicreg
    import solo.methods as methods
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        z = torch.empty(8, 4, device="cuda")
        queue: Any = SimpleNamespace(
            queue=torch.empty(16, 4, device="cuda"),
            queue_y=torch.empty(16, dtype=torch.long, device="cuda"),
            queue_ptr=torch.zeros(1, dtype=torch.long, device="cuda"),
            queue_size=16,
        )
        solo.losses.vicreg.covariance_loss(z, z)
        methods.barlow_twins.barlow_loss_func(z, z)
        methods.NNCLR.dequeue_and_enqueue(queue, z, torch.zeros(8, dtype=torch.long, device="cuda"))


@release_only
@pytest.mark.waits
def test_losses_without_masks_are_the_masked_ones() -> None:
    import solo.losses.vicreg
    import solo.methods.barlow_twins

    z1, z2 = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    others = ~torch.eye(6, dtype=torch.bool)
    expected = sum(torch.cov(z.T)[others].pow(2).sum() / 6 for z in (z1, z2))
    torch.testing.assert_close(solo.losses.vicreg.covariance_loss(z1, z2), expected)
    unit = [(z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (z1, z2)]
    correlation = unit[0].T @ unit[1] / 16
    expected = 0.025 * ((correlation.diagonal() - 1).pow(2).sum() + 5e-3 * correlation[others].pow(2).sum())
    found = solo.methods.barlow_twins.barlow_loss_func(z1, z2)
    torch.testing.assert_close(found, expected)


@release_only
@pytest.mark.waits
@pytest.mark.parametrize("method", ["mocov2plus", "nnclr", "ressl"])
def test_a_queue_takes_the_oldest_place(method: str, tmp_path: Path) -> None:
    model = build(tmp_path, f"digits/{method}", "method_kwargs.queue_size=48", "optimizer.batch_size=16")
    width = model.queue.shape[1]
    before = model.queue.clone()
    for step in range(4):  # the fourth takes the first one's place
        keys = torch.full((16, width), float(step))
        if method == "mocov2plus":
            model._dequeue_and_enqueue(torch.stack([keys, keys]))
        else:
            model.dequeue_and_enqueue(*(keys, torch.full((16,), step))[: 1 + (method == "nnclr")])
        found = model.queue[0].T if method == "mocov2plus" else model.queue
        if step == 0:
            assert torch.equal(model.queue.flatten()[-3:], before.flatten()[-3:])
    assert [part.unique().tolist() for part in found.split(16)] == [[3.0], [1.0], [2.0]]
    assert model.queue_ptr.tolist() == [16]
    if method == "nnclr":
        assert model.queue_y[::16].tolist() == [3, 1, 2]


@pytest.mark.deepcluster
def test_deepcluster_has_a_loss_before_it_has_clusters() -> None:
    import solo.methods.deepclusterv2 as module

    outputs = torch.randn(2, 2, 4, 3, requires_grad=True)
    assert module.deepclusterv2_loss_func(outputs, -torch.ones(2, 4).long()).item() == 0
    assigned = module.deepclusterv2_loss_func(outputs, torch.zeros(2, 4).long(), 0.5)
    expected = torch.nn.functional.cross_entropy(outputs.reshape(-1, 3) / 0.5, torch.zeros(16).long())
    torch.testing.assert_close(assigned, expected)


@pytest.mark.buffers
def test_a_resumed_swav_has_its_queue(tmp_path: Path) -> None:
    stopped, resumed = (build(tmp_path, "digits/swav", *small_head("swav")) for _ in range(2))
    stopped._trainer = resumed._trainer = SimpleNamespace(world_size=1)
    stopped.on_train_start()
    stopped.queue.fill_(1)
    resumed.on_load_checkpoint({"state_dict": stopped.state_dict()})
    resumed.load_state_dict(stopped.state_dict())
    resumed.on_train_start()
    assert (resumed.queue == 1).all()
