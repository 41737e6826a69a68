"""Exported backbones, loaded as their model cards say, give what they gave before."""

from __future__ import annotations

import pickle
import pickletools
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import solo_bam
from solo_bam.cli import main
from solo_bam.core.errors import UserError
from solo_bam.runs.checkpoints.read import hash_weights, load_pretrained
from solo_bam.runs.records import Record, write_records
from tests.recipes import tiny, tiny_overrides
from tests.saved import save_run

VIT = ["backbone.kwargs.patch_size=8", "augmentations.0.crop_size=32", "backbone.cifar_stem=null"]


def _export(run, *settings):
    assert main(["export", str(run), *settings]) == 0
    form = "detectron2" if "format=detectron2" in settings else "timm"
    branch = "teacher" if "branch=teacher" in settings else "student"
    return run / "export" / f"{branch}-{form}"


def _loaded_by_card(folder, monkeypatch, snippet=0):
    """What the n-th Python snippet of the card calls ``backbone``."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[snippet]
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(code, names)
    return names["backbone"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["backbone.cifar_stem=True"],
        ["backbone.cifar_stem=False"],
        ["backbone.name=resnet10t", "backbone.cifar_stem=True"],
        ["backbone.name=vit_tiny", *VIT],
        ["backbone.name=vit_tiny_patch16_224", *VIT, "backbone.kwargs.drop_path_rate=0.1"],
        ["backbone.name=caformer_s18", "augmentations.0.crop_size=32", "backbone.cifar_stem=null"],
    ],
    ids=["small stem", "resnet18", "timm, small stem", "solo-learn's vit", "timm's vit", "caformer"],
)
def test_timm_gives_our_outputs(tmp_path, monkeypatch, overrides):
    recipe = tiny(tmp_path, "digits/bam", *overrides)
    backbone, _ = save_run(tmp_path / "run", recipe)
    folder = _export(tmp_path / "run")
    size = recipe.crop_sizes[0]
    images = torch.randn(2, 3, size, size)
    for snippet in (0, 1):
        loaded = _loaded_by_card(folder, monkeypatch, snippet)
        torch.testing.assert_close(loaded(images), backbone(images), rtol=0, atol=0)


def test_small_crops_need_their_arguments_too(tmp_path, monkeypatch):
    recipe = tiny(tmp_path, "digits/bam", "backbone.name=vit_tiny", *VIT)
    recipe.augmentations.append(recipe.augmentations[0].model_copy(update={"crop_size": 16}))
    backbone, _ = save_run(tmp_path / "run", recipe)
    loaded = _loaded_by_card(_export(tmp_path / "run"), monkeypatch)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded(images), backbone(images), rtol=0, atol=0)


def test_the_teacher_is_exported_and_named(tmp_path, monkeypatch):
    student, teacher = save_run(tmp_path / "run", tiny(tmp_path, "digits/bam_momentum"), teacher=True)
    folder = _export(tmp_path / "run", "branch=teacher")
    loaded = load_pretrained(folder / "backbone.safetensors", "teacher")
    assert (loaded.branch, loaded.weights, loaded.epoch) == ("teacher", hash_weights(teacher), 4)
    assert loaded.weights != hash_weights(student)
    assert "| branch | teacher |" in (folder / "README.md").read_text()
    for snippet in (0, 1):
        assert hash_weights(_loaded_by_card(folder, monkeypatch, snippet)) == loaded.weights
    with pytest.raises(UserError, match="branch: got 'student', the checkpoint holds the teacher alone; set branch=t"):
        load_pretrained(folder / "backbone.safetensors")


def test_half_precision(tmp_path, monkeypatch):
    backbone, _ = save_run(tmp_path / "run", tiny(tmp_path, "digits/bam", "backbone.name=resnet18"))
    whole = (_export(tmp_path / "run") / "backbone.safetensors").stat().st_size
    folder = _export(tmp_path / "run", "half=True")
    assert (folder / "backbone.safetensors").stat().st_size < 0.51 * whole
    loaded = _loaded_by_card(folder, monkeypatch)
    for name, value in loaded.state_dict().items():
        expected = backbone.state_dict()[name]
        assert value.dtype == expected.dtype
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6)
    assert not torch.equal(loaded.conv1.weight, backbone.conv1.weight)


def test_values_beyond_16_bits_are_refused(tmp_path, capsys):
    recipe = tiny(tmp_path)
    save_run(tmp_path / "run", recipe)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["backbone.bn1.running_var"][3] = 1e6
    torch.save(content, path)
    assert main(["export", str(path), "half=True"]) == 2
    assert (
        "half: got True, bn1.running_var has values beyond 16 bits (1e+06); set half=False" in capsys.readouterr().err
    )
    assert not (tmp_path / "run" / "export").exists()


def test_the_file_says_what_it_is_and_not_where_it_was_made(tmp_path):
    recipe = tiny(tmp_path, "digits/bam", f"data.train_path={tmp_path}/images")
    save_run(tmp_path / "run", recipe)
    folder = _export(tmp_path / "run")
    with safe_open(folder / "backbone.safetensors", "pt") as file:
        metadata = file.metadata()
    assert '"name": "test_resnet"' in metadata["backbone"]
    assert f"| recipe | {metadata['recipe_hash']} |" in (folder / "README.md").read_text()
    assert str(tmp_path) not in str(metadata)
    assert str(tmp_path) not in (folder / "README.md").read_text()


def test_the_card_tells_these_weights_numbers_only(tmp_path):
    backbone, _ = save_run(tmp_path / "run", tiny(tmp_path))
    protocol = {"kind": "k-NN", "online": False, "k": 20}
    mine = Record(
        metric="accuracy",
        value=91.25,
        interval=(90.0, 92.5),
        data="digits val",
        protocol=protocol,
        weights=hash_weights(backbone),
    )
    write_records(
        tmp_path / "run" / "evaluation", "knn", [mine, mine.model_copy(update={"weights": "other", "value": 12.5})]
    )
    card = (_export(tmp_path / "run") / "README.md").read_text()
    assert "| accuracy | 91.2 % (90.0–92.5) | k-NN (offline) on digits val: k 20 |" in card
    assert "12.5" not in card
    assert "| seed | 7 |" in card
    assert "torch 9.9" in card


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["format=onnx"], "format: got 'onnx', must be timm or detectron2"),
        (
            ["form=timm"],
            "form: unknown key (value 'timm') (did you mean format?), allowed: format, branch, half, output",
        ),
        (["timm"], "timm: is not of the form key=value"),
        (["branch=teacher"], "branch: got 'teacher', the checkpoint's method has none"),
        (["format=detectron2", "half=True"], "half: got True, detectron2 reads 32-bit weights"),
        (["output={run}/run.json"], "run.json cannot be written (Not a directory)"),
    ],
)
def test_bad_settings(tmp_path, capsys, settings, message):
    save_run(tmp_path / "run", tiny(tmp_path))
    assert main(["export", str(tmp_path / "run"), *(s.format(run=tmp_path / "run") for s in settings)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run" / "export").exists()


def test_an_export_resumes_nothing(tmp_path, capsys):
    save_run(tmp_path / "run", tiny(tmp_path))
    exported = _export(tmp_path / "run") / "backbone.safetensors"
    words = tiny_overrides(tmp_path / "new", f"resume_from_checkpoint={exported}")
    assert main(["pretrain", "--config-name", "digits/bam", *words]) == 2
    assert "holds weights alone; give a checkpoint of solo-bam pretrain" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_files_that_are_no_exports(tmp_path):
    save_run(tmp_path / "run", tiny(tmp_path))
    exported = _export(tmp_path / "run") / "backbone.safetensors"
    (tmp_path / "garbage.safetensors").write_bytes(b"not a file of tensors")
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for path, branch, problem in [
        (tmp_path / "garbage.safetensors", "student", "checkpoint: .* cannot be read"),
        (tmp_path / "other.safetensors", "student", "was not exported by solo-bam"),
        (tmp_path / "none.safetensors", "student", "there is no file"),
        (exported, "teacher", "branch: got 'teacher', the checkpoint's method has none"),
        (exported, "both", "branch: got 'both', allowed: student, teacher"),
    ]:
        with pytest.raises(UserError, match=problem):
            print(solo_bam.load(path, branch).network)


# ----------------------------------------------------------------------------------------- detectron2


def _detectron2_names(blocks, convolutions, shortcuts):
    """Every weight of detectron2's ResNet with its place in torchvision's, from the architecture."""
    norm = ("weight", "bias", "running_mean", "running_var")
    pairs = [("stem.conv1.weight", "conv1.weight"), *((f"stem.conv1.norm.{n}", f"bn1.{n}") for n in norm)]
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            theirs, ours = f"res{stage + 1}.{block}", f"layer{stage}.{block}"
            layers = [(f"conv{c}", f"conv{c}", f"bn{c}") for c in range(1, convolutions + 1)]
            if block == 0 and stage in shortcuts:
                layers.append(("shortcut", "downsample.0", "downsample.1"))
            for their_layer, convolution, batch_norm in layers:
                pairs.append((f"{theirs}.{their_layer}.weight", f"{ours}.{convolution}.weight"))
                pairs += [(f"{theirs}.{their_layer}.norm.{n}", f"{ours}.{batch_norm}.{n}") for n in norm]
    return dict(pairs)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("resnet18", ((2, 2, 2, 2), 2, {2, 3, 4})), ("resnet50", ((3, 4, 6, 3), 3, {1, 2, 3, 4}))],
)
def test_detectron2_gets_every_weight_under_its_name(tmp_path, name, architecture):
    backbone, _ = save_run(tmp_path / "run", tiny(tmp_path, "digits/bam", f"backbone.name={name}"))
    folder = _export(tmp_path / "run", "format=detectron2")
    content = (folder / "backbone.pkl").read_bytes()
    loaded = pickle.loads(content)
    assert (loaded["__author__"], loaded["matching_heuristics"]) == ("solo-bam", True)
    state, names = backbone.state_dict(), _detectron2_names(*architecture)
    assert set(loaded["model"]) == set(names)
    assert set(names.values()) == {key for key in state if not key.endswith("num_batches_tracked")}
    for theirs, ours in names.items():
        assert loaded["model"][theirs].flags.writeable
        torch.testing.assert_close(torch.from_numpy(loaded["model"][theirs]), state[ours], rtol=0, atol=0)
    assert f"DEPTH: {name.removeprefix('resnet')}\n" in (folder / "README.md").read_text()


def test_its_file_names_nothing_but_arrays(tmp_path):
    """Older numpys read it too: newer ones pickle their arrays through a module that those lack."""
    save_run(tmp_path / "run", tiny(tmp_path, "digits/bam", "backbone.name=resnet18"))
    strings, named = [], set()
    for code, argument, _ in pickletools.genops(
        (_export(tmp_path / "run", "format=detectron2") / "backbone.pkl").read_bytes()
    ):
        if code.name == "STACK_GLOBAL":
            named.add(tuple(strings[-2:]))
        elif "UNICODE" in code.name:
            strings.append(argument)
    assert named == {("numpy", "ndarray"), ("builtins", "bytearray")}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.cifar_stem=True"], "format: got 'detectron2', whose ResNet has a 7x7 stem, this one's is 3x3"),
        (["backbone.name=vit_tiny", *VIT], "format: got 'detectron2', vit_tiny is no plain ResNet"),
        (["backbone.name=resnet10t"], "format: got 'detectron2', resnet10t is no plain ResNet"),
    ],
)
def test_networks_that_detectron2_lacks(tmp_path, capsys, overrides, message):
    save_run(tmp_path / "run", tiny(tmp_path, "digits/bam", *overrides))
    assert main(["export", str(tmp_path / "run"), "format=detectron2"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "export").exists()
