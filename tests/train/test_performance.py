"""Compiled networks, recomputed activations, fused optimisers: faster or smaller, and the same training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solo_bam.backbones import create_backbone
from solo_bam.cli import main
from solo_bam.config import Recipe, load_recipe
from solo_bam.core.errors import UserError
from solo_bam.train.performance import checkpoint_gradients, compile_networks, optimizer_kwargs
from solo_bam.train.run import pretrain
from tests.cli.test_pretrain import stop_after, weights
from tests.recipes import tiny, tiny_overrides

SMALL_HEAD = [
    "backbone.name=test_resnet", "method_kwargs.proj_hidden_dim=16", "method_kwargs.proj_output_dim=8",
]  # fmt: skip
# A ViT of one block with a teacher, two crops of 16 pixels and two of 8, bf16; validation has batches of 16 and of 8.
MULTI_CROP = [
    "backbone.name=vit_tiny_patch16_224", "+backbone.kwargs={patch_size:4,depth:1,embed_dim:16,num_heads:1}",
    "method_kwargs.proj_hidden_dim=16", "method_kwargs.proj_output_dim=8", "method_kwargs.proj_num_layers=2",
    "augmentations=[{crop_size:16,num_crops:2},{crop_size:8,num_crops:2,rrc:{crop_max_scale:0.5}}]",
    "precision=bf16-mixed", "max_epochs=2", "data.fraction=0.03",
]  # fmt: skip


# ------------------------------------------------------------------------------------------ compiling


def test_a_compiled_run_is_the_same_training_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoint fits a run that is not compiled; its weights are the same but for rounding, and resumed the same."""
    seen = count_graphs(monkeypatch)
    compiled = [*MULTI_CROP, "performance.compile=True"]
    whole = pretrain(tiny(tmp_path / "whole", "digits/bam_momentum", *compiled))
    # Student and teacher, network and head: a graph for each size of crops; torch 2.7 makes two fewer than 2.15.
    assert seen["graphs"] in (6, 8)
    recipe = tiny(tmp_path / "parts", "digits/bam_momentum", *compiled)
    stop_after(recipe, 1, monkeypatch)
    resumed = pretrain(recipe, resume=True)
    a, b = weights(whole.folder.last_checkpoint), weights(resumed.folder.last_checkpoint)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert resumed.folder.metrics() == whole.folder.metrics()

    plain = pretrain(tiny(tmp_path / "plain", "digits/bam_momentum", *MULTI_CROP))
    c = weights(plain.folder.last_checkpoint)
    assert a.keys() == c.keys()
    for name in a:
        torch.testing.assert_close(a[name], c[name], rtol=0, atol=5e-3, msg=name)


def count_graphs(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many graphs torch compiles from now on."""
    ordinary, seen = torch.compile, {"graphs": 0}
    torch._dynamo.reset()

    def backend(graph: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.debugging import aot_eager  # C++ for these graphs would take most of a minute

        seen["graphs"] += 1
        return aot_eager(graph, inputs)

    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: ordinary(function, backend=backend, **kwargs))
    return seen


def test_backbone_and_heads_are_compiled_and_run_plainly_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[nn.Module] = []

    def stub(function: Any, **_: Any) -> Any:
        def compiled(*args: Any) -> Any:
            called.append(function.__self__)
            return function(*args)

        return compiled

    monkeypatch.setattr(torch, "compile", stub)
    model = nn.Module()
    for name in ("backbone", "projector", "classifier", "momentum_backbone", "momentum_classifier"):
        model.add_module(name, nn.Linear(2, 2))
    model.add_module("knn", nn.Identity())
    keys = list(model.state_dict())
    assert compile_networks(model) == ["backbone", "projector", "momentum_backbone"]
    assert list(model.state_dict()) == keys
    heard: list[int] = []
    backbone: Any = model.backbone
    backbone.register_forward_hook(lambda *_: heard.append(1))
    backbone(torch.zeros(1, 2))
    assert called == [backbone]
    backbone.eval()(torch.zeros(1, 2))
    assert called == [backbone]
    assert len(heard) == 2


def test_no_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    overrides = tiny_overrides(tmp_path / "runs", *SMALL_HEAD, "performance.compile=True")
    assert main(["pretrain", "--config-name", "digits/bam", *overrides]) == 2
    message = "performance.compile: got True, no C++ compiler is found (no-such-compiler); install one"
    assert capsys.readouterr().err.splitlines()[-1] == f"solo-bam: error: {message}"
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_is_one_line(tmp_path: Path, capsys: Any) -> None:
    overrides = tiny_overrides(tmp_path / "runs", *SMALL_HEAD, "performance.gradient_checkpointing=True")
    assert main(["pretrain", "--config-name", "digits/bam", *overrides]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("solo-bam: error: performance.gradient_checkpointing: got True, test_resnet has batch norm")
    assert not (tmp_path / "runs").exists()


# --------------------------------------------------------------------------------- gradient checkpointing


def step_of(network: nn.Module, images: Tensor) -> tuple[list[Tensor], int]:
    """Gradients of a step, and the bytes that are kept for its backward."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    torch.manual_seed(0)  # stochastic depth
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(images).square().sum()
    loss.backward()
    return [p.grad for p in network.parameters() if p.grad is not None], kept


@pytest.mark.parametrize(
    ("name", "kwargs", "size"),
    [("vit_tiny_patch16_224", {"depth": 3, "drop_path_rate": 0.5}, 32), ("caformer_s18", {}, 64)],
)
def test_the_same_gradients_of_less_memory(name: str, kwargs: dict[str, Any], size: int) -> None:
    torch.manual_seed(0)
    plain = create_backbone(name, kwargs, crop_sizes=(size,))
    saving = create_backbone(name, kwargs, crop_sizes=(size,))
    saving.load_state_dict(plain.state_dict())
    checkpoint_gradients(saving, name)
    images = torch.randn(2, 3, size, size)
    gradients, kept = step_of(plain, images)
    same, less = step_of(saving, images)
    assert less < kept / 2
    assert len(gradients) == len(same) > 10
    for a, b in zip(gradients, same):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("resnet18", "resnet18 has batch norm, which would count each batch twice"),
        ("mobilenetv3_small_050", "mobilenetv3_small_050 has batch norm"),
        ("test_convnext", None),
        ("test_nfnet", None),
    ],
)
def test_networks_that_cannot_are_refused(name: str, problem: str | None) -> None:
    network = create_backbone(name)
    if problem is None:
        checkpoint_gradients(network, name)
        return
    with pytest.raises(UserError, match=f"^performance.gradient_checkpointing: got True, {problem}"):
        checkpoint_gradients(network, name)


def test_a_network_without_it_is_refused() -> None:
    with pytest.raises(UserError, match="^performance.gradient_checkpointing: got True, mine has none; "):
        checkpoint_gradients(nn.Linear(2, 2), "mine")


# ----------------------------------------------------------------------------------- fused optimisers


def recipe_with(*overrides: str) -> Recipe:
    return load_recipe("digits/bam", list(overrides))


@pytest.mark.parametrize(
    ("name", "kwargs", "accelerator", "overrides", "fused"),
    [
        ("adamw", {}, "cuda", [], True),
        ("adam", {"betas": [0.9, 0.95]}, "cuda", [], True),
        ("sgd", {}, "cuda", ["gradient_clip_val=0.3"], True),
        ("adamw", {}, "cuda", ["precision=16-mixed"], True),
        ("adamw", {}, "cuda", ["precision=bf16-mixed", "gradient_clip_val=0.3"], True),
        ("adamw", {}, "cuda", ["precision=16-mixed", "gradient_clip_val=0.3"], None),
        ("adamw", {}, "cuda", ["precision=16", "gradient_clip_val=0.3"], None),
        ("adamw", {"fused": False}, "cuda", [], False),
        ("adamw", {"foreach": True}, "cuda", [], None),
        ("lars", {}, "cuda", [], None),
        ("adamw", {}, "cpu", [], None),
        ("adamw", {}, "mps", [], None),
    ],
)
def test_fused_where_it_can_be(
    name: str, kwargs: dict[str, Any], accelerator: str, overrides: list[str], fused: bool | None
) -> None:
    found = optimizer_kwargs(recipe_with(*overrides), name, kwargs, accelerator)
    assert found.get("fused") is fused
    assert {key: value for key, value in found.items() if key != "fused"}.items() <= kwargs.items()
    assert "fused" not in kwargs or kwargs["fused"] is fused


def test_fused_that_cannot_clip_is_refused() -> None:
    recipe = recipe_with("precision=16-mixed", "gradient_clip_val=0.3")
    with pytest.raises(UserError, match="^optimizer.kwargs.fused: got True, which cannot clip gradients"):
        optimizer_kwargs(recipe, "adamw", {"fused": True}, "cuda")


def test_the_optimiser_is_fused_and_the_recipe_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solo_bam.train import pretrain as training

    monkeypatch.setattr(training, "optimizer_kwargs", lambda r, n, k, _: optimizer_kwargs(r, n, k, "cuda"))
    trained = pretrain(tiny(tmp_path, "digits/bam", *SMALL_HEAD, "limit_train_batches=1", "limit_val_batches=0"))
    (group, *_) = trained.model.optimizers().param_groups  # type: ignore[union-attr]
    assert group["fused"] is True
    content = torch.load(trained.folder.last_checkpoint, weights_only=True)
    assert "fused" not in content["solo_bam"]["recipe"]["optimizer"]["kwargs"]
    assert "fused:" not in (trained.folder.path / "recipe.yaml").read_text()
