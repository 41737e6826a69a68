"""Backbones out of checkpoints: exactly, or not at all."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from solo_bam.config.resolve import resolve
from solo_bam.core.errors import UserError
from solo_bam.runs.checkpoints.read import (
    backbone_of,
    backbone_state,
    hash_weights,
    load_pretrained,
    load_weights,
    network_in,
    untrained_backbone,
)
from solo_bam.train.pretrain import build_model, find_devices, seed_everything
from tests.recipes import tiny


def _saved(folder, recipe, prefix="backbone."):
    backbone = backbone_of(recipe)
    state = {prefix + name: value for name, value in backbone.state_dict().items()}
    content = {"state_dict": {**state, "classifier.weight": torch.zeros(1)}, "epoch": 3}
    content["solo_bam"] = {"method": recipe.method, "recipe": recipe.model_dump(mode="json")}
    torch.save(content, folder / "last.ckpt")
    return backbone, folder / "last.ckpt"


def test_a_backbone_comes_back_exactly(tmp_path):
    recipe = tiny(tmp_path)
    backbone, path = _saved(tmp_path, recipe)
    loaded = load_pretrained(path)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded.backbone(images), backbone(images), rtol=0, atol=0)
    assert (loaded.recipe, loaded.epoch, loaded.weights) == (recipe, 4, hash_weights(backbone))


@pytest.mark.parametrize(
    ("name", "branch"),
    [
        ("backbone", "student"),
        ("encoder", "student"),
        ("momentum_backbone", "teacher"),
        ("momentum_encoder", "teacher"),
    ],
)
def test_both_editions_names_and_branches(name, branch):
    wanted = {f"{name}.layer.weight": torch.ones(1), "projector.weight": torch.zeros(1)}
    assert backbone_state(wanted, branch, "checkpoint") == {"layer.weight": torch.ones(1)}


@pytest.mark.parametrize("method", ["bam", "bam_momentum", "byol", "simclr", "dino"])
def test_every_method_starts_from_the_untrained_network(tmp_path, method):
    recipe = tiny(tmp_path, f"digits/{method}")
    devices = find_devices(recipe)[0]
    seed_everything(recipe.seed)
    model = build_model(recipe, resolve(recipe, num_classes=10, has_val=True, world_size=1), devices)
    assert hash_weights(model.backbone) == hash_weights(untrained_backbone(recipe))


def test_the_untrained_network_of_a_run(tmp_path):
    recipe = tiny(tmp_path)
    _, path = _saved(tmp_path, recipe)
    found = load_pretrained(path, "untrained")
    assert (found.branch, found.epoch) == ("untrained", 0)
    assert found.weights == hash_weights(untrained_backbone(recipe)) != load_pretrained(path).weights
    with pytest.raises(UserError, match="allowed: student, teacher, untrained"):
        load_pretrained(path, "pupil")


def test_where_the_seed_is_not_known_there_is_no_untrained_network(tmp_path):
    """Of solo-learn's runs the recipe is filled in with defaults, the seed among them."""
    recipe = tiny(tmp_path)
    content = {"state_dict": {}, "solo_bam": {"method": "bam", "recipe": {}, "own_recipe": False}}
    with pytest.raises(UserError, match="branch: got 'untrained', the run's seed is not known; set branch=student"):
        network_in(content, recipe, "untrained", "checkpoint")
    content["solo_bam"]["own_recipe"] = True
    found = network_in(content, recipe, "untrained", "checkpoint")
    assert hash_weights(found) == hash_weights(untrained_backbone(recipe))


def test_a_method_without_teacher_says_so(tmp_path):
    _, path = _saved(tmp_path, tiny(tmp_path))
    with pytest.raises(UserError, match="^branch: got 'teacher'"):
        load_pretrained(path, "teacher")


def test_keys_at_fault_are_listed(tmp_path):
    backbone = backbone_of(tiny(tmp_path))
    state = dict(backbone.state_dict())
    state["stray.bias"] = state.pop("bn1.bias")
    state["bn1.weight"] = torch.zeros(3)
    before = hash_weights(backbone)
    with pytest.raises(
        UserError, match=r"missing: bn1.bias; unexpected: stray.bias; of another shape: bn1.weight \(3,"
    ):
        load_weights(backbone, state, "checkpoint")
    assert hash_weights(backbone) == before


def test_the_hash_knows_every_value(tmp_path):
    backbone = backbone_of(tiny(tmp_path))
    before = hash_weights(backbone)
    backbone.bn1.running_mean[0] += 1e-7
    assert hash_weights(backbone) != before


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_code_is_refused(tmp_path, capsys):
    path = tmp_path / "bad.ckpt"
    with path.open("wb") as out:
        pickle.dump({"state_dict": _Payload()}, out)
    with pytest.raises(UserError, match="cannot be read safely"):
        load_pretrained(path)
    assert "executed" not in capsys.readouterr().out


def test_what_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    for path, problem in [
        (tmp_path / "none.ckpt", "there is no file"),
        (tmp_path, "there is no checkpoint in"),
        (tmp_path / "tensor.ckpt", "holds no checkpoint"),
    ]:
        with pytest.raises(UserError, match=problem):
            load_pretrained(path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"state_dict": None}, "has no state_dict"),
        ({"state_dict": {0: torch.zeros(1)}}, "has no state_dict"),
        ({"state_dict": {"backbone.conv1.weight": "text"}}, "has no backbone"),
        ({"epoch": "three"}, "says nothing readable of its training"),
        ({"solo_bam": "text"}, "says nothing readable of its training"),
        ({"solo_bam": {"recipe": {}}}, "says nothing readable of its training"),
        ({"solo_bam": {"method": "bam"}}, "says nothing readable of its training"),
        ({"solo_bam": {"method": "bam", "recipe": {}}}, "has a recipe that this version does not read"),
    ],
)
def test_odd_content_is_said_in_a_line(tmp_path, changes, problem):
    _, path = _saved(tmp_path, tiny(tmp_path))
    torch.save({**torch.load(path, weights_only=True), **changes}, path)
    with pytest.raises(UserError, match=f"^asked: .*{problem}"):
        load_pretrained(path, key="asked")


@pytest.mark.parametrize(
    "about",
    [
        "{", "[]", "3", "{}", '{"branch": "student", "epoch": 1}', '{"branch": [], "epoch": 1, "recipe": {}}',
        '{"branch": "other", "epoch": 1, "recipe": {"method": "bam"}}',
        '{"branch": "student", "epoch": null, "recipe": {"method": "bam"}}',
        '{"branch": "student", "epoch": 1, "recipe": {}}', '{"branch": "student", "epoch": 1, "recipe": "text"}',
    ],
)  # fmt: skip
def test_odd_metadata_of_an_exported_file(tmp_path, about):
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "odd.safetensors", {"solo_bam": about})
    with pytest.raises(UserError, match="^asked: .*no branch, epoch and recipe in its metadata"):
        load_pretrained(tmp_path / "odd.safetensors", key="asked")
