"""Pretraining from pretrained weights: of a file, a run or timm, for student and teacher alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from solo_bam.cli import main
from solo_bam.comparison.plan import make_plan
from solo_bam.config import Recipe, load_recipe
from solo_bam.config.comparison import parse_comparison
from solo_bam.config.resolve import resolve
from solo_bam.core.errors import UserError
from solo_bam.runs.checkpoints.read import hash_weights, load_pretrained, start_backbone, untrained_backbone
from solo_bam.runs.identity import recipe_hash
from solo_bam.train.pretrain import build_model, find_devices, seed_everything
from solo_bam.train.run import pretrain
from tests.recipes import tiny, tiny_overrides
from tests.saved import random_backbone, save_run

VIT = ["backbone.name=vit_tiny_patch16_224", "backbone.kwargs={depth: 3, patch_size: 8}"]


def built(recipe: Recipe) -> Any:
    seed_everything(recipe.seed)
    return build_model(recipe, resolve(recipe, num_classes=10, has_val=True, world_size=1), find_devices(recipe)[0])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file as timm writes it: bare names, and a classifier."""
    state = random_backbone(tiny(tmp_path)).state_dict()
    path = tmp_path / "weights.safetensors"
    save_file({**state, "fc.weight": torch.zeros(10, 3)}, path)
    return path


@pytest.mark.parametrize("method", ["bam", "bam_momentum", "byol", "simclr", "dino"])
def test_every_method_and_its_teacher_begin_with_them(tmp_path: Path, weights: Path, method: str) -> None:
    recipe = tiny(tmp_path, f"digits/{method}", f"backbone.pretrained={weights}")
    model, plain = built(recipe), built(tiny(tmp_path, f"digits/{method}"))
    wanted = hash_weights(random_backbone(tiny(tmp_path)))
    assert hash_weights(model.backbone) == wanted != hash_weights(untrained_backbone(recipe))
    if hasattr(model, "momentum_backbone"):
        assert hash_weights(model.momentum_backbone) == wanted
    for name, value in plain.state_dict().items():  # heads are those of the seed
        if "backbone" not in name and "encoder" not in name:
            assert torch.equal(value, model.state_dict()[name]), name


def test_a_run_goes_on_from_a_run(tmp_path: Path) -> None:
    student, _ = save_run(tmp_path / "first", tiny(tmp_path), teacher=True)
    recipe = tiny(tmp_path, "digits/bam", f"backbone.pretrained={tmp_path / 'first'}", "pictures=False")
    run = pretrain(recipe).folder.path
    started, trained = load_pretrained(run, "start"), load_pretrained(run)
    assert started.weights == hash_weights(student) != trained.weights
    assert (started.branch, started.epoch, trained.epoch) == ("start", 0, 1)
    (tmp_path / "first" / "checkpoints" / "last.ckpt").write_bytes(b"another")
    with pytest.raises(UserError, match=r"backbone.pretrained_sha256: got \w+, .* has \w+: it is another file now"):
        load_pretrained(run, "start")


def test_without_pretrained_weights_the_start_is_untrained(tmp_path: Path) -> None:
    recipe = tiny(tmp_path)
    assert hash_weights(start_backbone(recipe)) == hash_weights(untrained_backbone(recipe))


def _timm(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    ordinary = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, **keys: answer(ordinary, name) if keys.get("pretrained") else ordinary(name, **keys),
    )


def test_timms_weights_fit_other_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions and patches are resized, as timm does it; the classifier is left out."""
    theirs = {}

    def download(create: Any, name: str) -> Any:
        theirs["model"] = create(name.partition(".")[0], pretrained=False, depth=3)
        return theirs["model"]

    _timm(monkeypatch, download)
    name = "vit_tiny_patch16_224.augreg_in21k"
    model = built(tiny(tmp_path, "digits/bam_momentum", f"backbone.pretrained={name}", *VIT))
    for network in (model.backbone, model.momentum_backbone):
        assert torch.equal(network.blocks[1].mlp.fc1.weight, theirs["model"].blocks[1].mlp.fc1.weight)
        assert network.pos_embed.shape[1] == 5
    assert hash_weights(model.backbone) == hash_weights(model.momentum_backbone)


def test_a_refused_download_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no connection\nsecond line")

    _timm(monkeypatch, refuse)
    words = tiny_overrides(tmp_path, *VIT, "backbone.pretrained=vit_tiny_patch16_224.augreg_in21k")
    assert main(["pretrain", "--config-name", "digits/bam", *words]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert told == [
        (
            "solo-bam: error: backbone.pretrained: the weights of vit_tiny_patch16_224.augreg_in21k cannot be had "
            "(no connection); where there is no network, download the weights elsewhere and give their file, or fill $HF_HOME"
        )
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "backbone.pretrained=vit_tiny_patch16_225",
            r"neither a file, a run nor one of timm.list_pretrained\(\) \(did",
        ),
        (
            "backbone.name=resnet10t",
            r"^backbone.pretrained: the weights are not this backbone's \(.*of another shape: conv1.0.weight",
        ),
        ("backbone.name=vit_tiny", r"^backbone.pretrained: the weights are not this backbone's \(missing: cls_token"),
        ("+backbone.pretrained_sha256=0123", "got 0?123, .* has [0-9a-f]{16}: it is another file now"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, weights: Path, change: str, told: str) -> None:
    changes = [] if "pretrained=" in change else [f"backbone.pretrained={weights}"]
    with pytest.raises(UserError, match=told):
        built(tiny(tmp_path, "digits/bam", *changes, change))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    torch.save({"state_dict": Path("x")}, path)
    with pytest.raises(UserError, match=r"^backbone.pretrained: the weights of .*bad.pth cannot be had \("):
        built(tiny(tmp_path, "digits/bam", f"backbone.pretrained={path}"))


def test_another_start_is_another_run_and_unfair(tmp_path: Path, weights: Path) -> None:
    one = tiny(tmp_path, "digits/bam", f"backbone.pretrained={weights}")
    save_file({name: value + 1 for name, value in random_backbone(tiny(tmp_path)).state_dict().items()}, weights)
    other = tiny(tmp_path, "digits/bam", f"backbone.pretrained={weights}")
    assert len({recipe_hash(recipe) for recipe in (one, other, tiny(tmp_path))}) == 3
    rows = ["bam", {"name": "other", "recipe": "bam", "keys": {"backbone": {"pretrained": str(weights)}}}]
    raw = {"name": "test", "recipes": "digits", "methods": rows, "output": tmp_path / "out"}
    with pytest.raises(UserError, match=r"^backbone.pretrained: the comparison would be unfair: .* - \(bam\)"):
        make_plan(parse_comparison(raw))


# ------------------------------------------------------------------------ layer decay and frozen blocks


@pytest.mark.parametrize("method", ["bam", "byol"])
def test_a_layers_rate_is_the_next_ones_times_the_decay(tmp_path: Path, method: str) -> None:
    model = built(tiny(tmp_path, f"digits/{method}", "optimizer.layer_decay=0.5", "optimizer.name=adamw", *VIT))
    model.trainer = type("Trainer", (), {"estimated_stepping_batches": 4})()
    optimizer = model.configure_optimizers()[0][0]
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    blocks = [rates[id(model.backbone.blocks[i].mlp.fc1.weight)] / model.lr for i in range(3)]
    assert blocks == pytest.approx([0.125, 0.25, 0.5])
    assert rates[id(model.projector[0].weight if method == "byol" else next(model.projector.parameters()))] == model.lr
    assert {id(p) for p in model.parameters() if p.requires_grad} <= rates.keys()


def test_frozen_blocks_stay_as_they_were(tmp_path: Path) -> None:
    recipe = tiny(
        tmp_path, "digits/bam", "backbone.frozen_blocks=1", "optimizer.layer_decay=0.5", "pictures=False", *VIT
    )
    run = pretrain(recipe)
    first, last = start_backbone(recipe).state_dict(), load_pretrained(run.folder.path).backbone.state_dict()
    same = {name for name in first if torch.equal(first[name], last[name])}
    assert {name for name in first if name.startswith(("blocks.0.", "patch_embed.", "cls_token", "pos_embed"))} <= same
    assert not {name for name in same if name.startswith(("blocks.1.", "blocks.2."))}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            ["backbone.name=resnet18", "backbone.frozen_blocks=1"],
            "frozen_blocks: got 1, resnet18 does not say which blocks",
        ),
        (
            ["backbone.name=resnet18", "optimizer.layer_decay=0.5"],
            "layer_decay: got 0.5, resnet18 does not say which layer",
        ),
        (
            ["backbone.frozen_blocks=9"],
            "frozen_blocks: got 9, test_resnet has 4 blocks behind its first layer; lower it",
        ),
    ],
)
def test_networks_without_known_layers(tmp_path: Path, changes: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        built(load_recipe("digits/bam", tiny_overrides(tmp_path, *changes)))
