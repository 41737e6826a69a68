"""Published BAM checkpoints, by files in their layout: the weights themselves are not at hand."""

from __future__ import annotations

import argparse
import json
import pickle

import pytest
import torch
import torch.nn.functional as F

from solo_bam.backbones import cls_attention
from solo_bam.cli import main
from solo_bam.config import load_recipe
from solo_bam.runs.checkpoints.read import backbone_of, hash_weights, load_pretrained
from tests.saved import random_backbone

ARGUMENTS = argparse.Namespace(arch="vit_base", lr=0.0003, teacher=True, global_crops_scale=[0.25, 1.0])


def _network(prefix, backbone, width=8):
    """A network of the published code: backbone and projector under a prefix of its wrappers."""
    projector = {
        f"{prefix}proj_head.projector.{i}.{n}": torch.zeros(width) for i in (0, 2, 4) for n in ("weight", "bias")
    }
    return {f"{prefix}backbone.{name}": value for name, value in backbone.state_dict().items()} | projector


def _save(path, model, **more):
    content = {
        "model": model,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 400,
        "args": ARGUMENTS,
        "fp16_scaler": {"scale": 2.0},
    }
    torch.save({**content, **more}, path)
    return path


@pytest.fixture(scope="module")
def small():
    return random_backbone(load_recipe("imagenet/bam_vit_small"))


def _import(path, name, *settings, output):
    return main(["import-official", str(path), f"backbone.name={name}", f"output={output}", *settings])


def test_a_compiled_caformer_without_teacher(tmp_path):
    backbone = random_backbone(load_recipe("imagenet/bam_caformer_m36"))
    path = _save(tmp_path / "checkpoint.pth", _network("_orig_mod.module.", backbone))
    assert _import(path, "caformer_m36", output=tmp_path / "run") == 0
    loaded = load_pretrained(tmp_path / "run")
    assert (loaded.weights, loaded.epoch) == (hash_weights(backbone), 400)


def test_student_and_teacher(tmp_path, capsys, small):
    """As DistributedDataParallel, torch.compile and the wrapper of both name them."""
    teacher = random_backbone(load_recipe("imagenet/bam_vit_small"), seed=1)
    model = _network("student._orig_mod.module.", small) | _network("teacher.", teacher)
    path = _save(tmp_path / "checkpoint.pth", model)
    assert _import(path, "vit_small_patch16_224", output=tmp_path / "run") == 0
    student, other = (load_pretrained(tmp_path / "run", b) for b in ("student", "teacher"))
    assert (student.weights, other.weights) == (hash_weights(small), hash_weights(teacher))
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(other.backbone(images), teacher(images), rtol=0, atol=0)
    assert cls_attention(student.backbone, images).shape == (1, 12, 6, 6)
    told = capsys.readouterr().out
    assert "student and teacher (400 epochs)" in told
    assert told.count("proj_head.projector") == 12
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["imported_from"]["file"] == "checkpoint.pth"
    assert about["imported_from"]["left_out"][0] == "student._orig_mod.module.proj_head.projector.0.weight"
    assert _import(path, "vit_small_patch16_224", output=tmp_path / "run") == 2
    assert "run exists; remove it or give another folder" in capsys.readouterr().err


def test_one_branch_alone(tmp_path, capsys, small):
    model = _network("student.module.", small) | _network("teacher.", small)
    path = _save(tmp_path / "checkpoint.pth", model)
    assert _import(path, "vit_small_patch16_224", "branch=teacher", output=tmp_path / "run") == 0
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"momentum_backbone"}
    path = _save(tmp_path / "plain.pth", {f"base_encoder.{name}": v for name, v in small.state_dict().items()})
    assert _import(path, "vit_small_patch16_224", "branch=teacher", output=tmp_path / "other") == 2
    assert "branch: got 'teacher', the file holds student; correct it" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- linear head


def _head(path, width, classes=5, **more):
    """A head of the published evaluation on several GPUs."""
    torch.manual_seed(3)
    state = {
        "linear.weight": torch.randn(classes, width),
        "linear.bias": torch.randn(classes),
        "bn.running_mean": torch.randn(width),
    }
    state |= {"bn.running_var": torch.rand(width) + 0.5, "bn.num_batches_tracked": torch.tensor(9)} | more
    torch.save(
        {"epoch": 100, "state_dict": {f"module.{k}": v for k, v in state.items()}, "optimizer": {}, "best_acc": 78.125},
        path,
    )
    return state


def test_a_head_on_tokens_answers_as_published(tmp_path, capsys):
    """Theirs sees [CLS] and mean in turns, column by column; ours one after the other."""
    name, recipe = "vit_base_patch16_224", "imagenet/bam_vit_base"
    backbone = backbone_of(load_recipe(recipe))
    path = _save(tmp_path / "checkpoint.pth", _network("teacher.module.", backbone))
    state = _head(tmp_path / "linear.pth.tar", 2 * 768)
    assert _import(path, name, f"head={tmp_path / 'linear.pth.tar'}", output=tmp_path / "run") == 0
    assert "Linear head on [CLS] and mean of the patch tokens; the file states 78.1 %, not" in capsys.readouterr().out
    ours = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for key, value in backbone.state_dict().items():
        assert torch.equal(ours[f"momentum_backbone.{key}"], value)
    token, mean = torch.randn(4, 768), torch.randn(4, 768)

    def answers(features, state, norm, linear):
        normal = F.batch_norm(features, state[f"{norm}running_mean"], state[f"{norm}running_var"], eps=1e-6)
        return F.linear(normal, state[f"{linear}weight"], state[f"{linear}bias"])

    theirs = answers(torch.stack([token, mean], dim=-1).reshape(4, -1), state, "bn.", "linear.")
    found = answers(torch.cat([token, mean], dim=-1), ours, "heads.norm.", "heads.layers.0.")
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-4)  # sums in another order


def test_a_head_on_blocks_is_taken_as_it_is(tmp_path, small):
    path = _save(tmp_path / "checkpoint.pth", _network("module.", small))
    state = _head(tmp_path / "head.tar", 4 * 384)
    assert _import(path, "vit_small_patch16_224", f"head={tmp_path / 'head.tar'}", output=tmp_path / "run") == 0
    ours = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(ours["heads.layers.0.weight"], state["linear.weight"], rtol=0, atol=0)


# ------------------------------------------------------------------------------------------- bad input


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_what_cannot_be_imported(tmp_path, capsys, small):
    good = _save(tmp_path / "good.pth", _network("module.", small))
    state = _network("module.", small)
    odd = {**state, "module.backbone.stray.weight": torch.zeros(1)}
    del odd["module.backbone.cls_token"]
    with (tmp_path / "code.pth").open("wb") as out:
        pickle.dump({"model": _Payload()}, out)
    _head(tmp_path / "head.pth", 4 * 384)
    _head(tmp_path / "wide.pth", 100)
    _head(tmp_path / "odd_head.pth", 384, stray=torch.zeros(1))
    vit, base = "vit_small_patch16_224", "vit_base_patch16_224"
    cases = [
        (_save(tmp_path / "odd.pth", odd), vit, [], "FILE: the weights are not this backbone's (missing: cls_token; unexpected: stray.weight)"),
        (good, base, [], "of another shape: cls_token (1, 1, 384) for (1, 1, 768), pos_embed"),
        (tmp_path / "none.pth", vit, [], "FILE: there is no file"),
        (tmp_path / "code.pth", vit, [], "cannot be read safely"),
        (_save(tmp_path / "projector.pth", {k: v for k, v in state.items() if "proj_head" in k}), vit, [], "has no backbone (it has module.proj_head."),
        (_save(tmp_path / "empty.pth", {"a": 1}), vit, [], "has no weights (it has model, optimizer"),
        (tmp_path / "head.pth", vit, [], "is a linear head's; give the backbone's file, and this one as head="),
        (good, vit, [f"head={good}"], "good.pth is no linear head (missing: linear.weight, linear.bias; unexpected: cls_token"),
        (good, vit, [f"head={tmp_path / 'wide.pth'}"], "takes features of width 100, vit_small_patch16_224's heads take 384 or 1536"),
        (good, vit, [f"head={tmp_path / 'odd_head.pth'}"], "is no linear head (unexpected: stray)"),
        (good, "resnet50", [], "backbone.name: got 'resnet50', must be vit_small_patch16_224, vit_base_patch16_224 or caformer_m36"),
    ]  # fmt: skip
    for path, name, settings, message in cases:
        assert _import(path, name, *settings, output=tmp_path / "run") == 2, message
        told = capsys.readouterr()
        assert message in told.err
        assert told.err.count("\n") == 1
        assert "executed" not in told.out
        assert not (tmp_path / "run").exists()
    assert main(["import-official", str(good)]) == 2
    assert "backbone: is missing" in capsys.readouterr().err
