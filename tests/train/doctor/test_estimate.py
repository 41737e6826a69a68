"""The model of speed and memory: what it counts against real steps, what it gives against published speeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from solo_bam.cli import main
from solo_bam.config import Recipe
from solo_bam.config.resolve import resolve
from solo_bam.core import hardware
from solo_bam.data import PretrainData, find_source
from solo_bam.train.doctor import estimate as module
from solo_bam.train.doctor import recipe as recipe_module
from solo_bam.train.doctor.backward import Parts
from solo_bam.train.doctor.devices import Device, device_like, device_named, seconds_by_part
from solo_bam.train.doctor.estimate import Loader, estimate, gradient_bytes, measured_over_modelled, tell
from solo_bam.train.doctor.finding import Finding
from solo_bam.train.doctor.work import (
    LOSS,
    NETWORK,
    OPTIMIZER,
    Operation,
    Recorder,
    Work,
    step_of,
    without_data,
    work_of,
)  # fmt: skip
from solo_bam.train.pretrain import build_model
from tests.recipes import batch, tiny, tiny_overrides

SMALL = ["backbone.name=test_resnet", "method_kwargs.proj_hidden_dim=16", "method_kwargs.proj_output_dim=16"]


def _model(recipe: Recipe) -> Any:
    torch.manual_seed(0)
    return build_model(recipe, resolve(recipe, 10, True, 1), hardware.Devices("cpu", 1, 1))


@pytest.mark.parametrize("method", ["bam", "simclr"])
def test_the_work_without_data_is_the_work_with_data(method: str, tmp_path: Path) -> None:
    """The same operations, and the same memory at its peak, but for copies of gradients that oneDNN saves."""
    recipe = tiny(tmp_path, f"digits/{method}", *SMALL, "optimizer.batch_size=64")
    told = work_of(_model(recipe), recipe)
    model, real = _model(recipe), Recorder()
    model.knn_eval = False
    data = batch(torch.zeros(64, dtype=torch.long))
    with real:
        for tensor in (*model.parameters(), *model.buffers(), *data[1]):
            real.hold(tensor)
        step = step_of(model, data, defaults={"foreach": True})
        step()
        real.operations.clear()
        step()
    assert len(told.operations) == pytest.approx(len(real.operations), rel=0.05)
    for what in ("flops", "moved"):
        expected = sum(getattr(o, what) for o in real.operations)
        assert sum(getattr(o, what) for o in told.operations) == pytest.approx(expected, rel=0.05)
    assert told.peak_memory == pytest.approx(real.peak, rel=0.1)
    assert told.lasting_memory > 4 * 4 * told.weights * 0.9  # weights, gradients, two of AdamW
    assert {o.part for o in told.operations} == {NETWORK, LOSS, OPTIMIZER}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("width", [16, 64], ids=["all products in the forward", "one in the backward"])
def test_the_network_and_the_loss_are_told_apart(width: int, device: str, tmp_path: Path) -> None:
    """Products of the loss: S, and two of the backward, of 32 rows and columns."""
    recipe = tiny(tmp_path, "digits/bam", *SMALL, f"method_kwargs.proj_output_dim={width}")
    operations = work_of(_model(recipe), recipe, device).operations
    flops = {part: sum(o.flops for o in operations if o.part == part) for part in (LOSS, NETWORK)}
    assert flops[LOSS] == 3 * 2 * 32 * 32 * width
    assert flops[NETWORK] > 50 * flops[LOSS]
    assert not [o for o in operations if o.part == LOSS and "batch_norm" in o.name]
    assert not [o for o in operations if o.part == NETWORK and "vecdot" in o.name]


@pytest.mark.parametrize("method", ["bam", "simclr", "dino", "bam_momentum"])
def test_gradients_node_by_node_are_those_of_the_engine(method: str, tmp_path: Path) -> None:
    """With weights that are used twice, up to what oneDNN's own kernels differ in from call to call."""
    found = []
    for parts in (None, Parts(Recorder())):
        model = _model(tiny(tmp_path, f"digits/{method}", *SMALL[:1]))
        model.knn_eval = False
        torch.manual_seed(1)
        step_of(model, batch(torch.zeros(16, dtype=torch.long)), parts=parts)()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        assert (gradient is None) == (found[1][name] is None), name
        if gradient is not None:
            assert (gradient - found[1][name]).norm() <= 1e-5 * gradient.norm(), name


def test_a_gpu_is_told_to_do_what_a_gpu_does(tmp_path: Path) -> None:
    """A CPU's code works in pieces that its caches hold: the larger the batch, the more operations."""
    counts = {}
    for device in ("cpu", "cuda"):
        for size in (64, 2048):
            recipe = tiny(tmp_path, "digits/bam", *SMALL, f"optimizer.batch_size={size}", "precision=bf16-mixed")
            counts[device, size] = len(work_of(_model(recipe), recipe, device).operations)
    assert counts["cuda", 64] == counts["cuda", 2048]
    assert counts["cpu", 2048] > counts["cpu", 64] + 30


@pytest.mark.parametrize(("precision", "fast"), [("bf16-mixed", True), ("16-mixed", False), ("32", False)])
def test_products_of_the_loss_are_as_fast_as_it_lets_them_be(precision: str, fast: bool, tmp_path: Path) -> None:
    recipe = tiny(tmp_path, "digits/bam", *SMALL, f"precision={precision}")
    products = [o for o in work_of(_model(recipe), recipe, "cuda").operations if o.part == LOSS and o.flops]
    assert len(products) == 3
    assert {(o.dtype, o.tf32) for o in products} == {(torch.float32, fast)}
    h100 = device_named("h100")
    assert (h100.seconds(replace(products[0], flops=494e12, moved=0)) < 2) == fast


def test_crops_of_a_gpu_are_made_at_once(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, "digits/bam", "data.format=tensor", "optimizer.batch_size=12000")
    data = PretrainData(recipe, find_source(recipe.data))
    counts = {device: len(module.crops_work(data, device)) for device in ("cpu", "cuda")}
    assert 0 < counts["cuda"] < 60
    assert counts["cpu"] > 1.5 * counts["cuda"]


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_attention_of_a_gpu_is_one_operation(precision: str, tmp_path: Path) -> None:
    vit = ["backbone.name=vit_tiny", "backbone.kwargs={img_size:16,patch_size:4}"]
    recipe = tiny(tmp_path, "digits/bam", *SMALL[1:], *vit, f"precision={precision}")
    names = [o.name for o in work_of(_model(recipe), recipe, "cuda").operations]
    assert sum("attention" in name for name in names) == 2 * 12  # forward and backward of each block
    assert not [name for name in names if name.endswith("softmax") and "log" not in name]


# ResNet-50, batch 256, one GPU, of NVIDIA's DeepLearningExamples (PyTorch, resnet50v1.5): images/s.
PUBLISHED = {("a100", True): 2470, ("a100", False): 938, ("v100", True): 1200, ("v100", False): 367}


def _resnet_50(half: bool) -> list[Operation]:
    model, mode, recorder = torchvision.models.resnet50(), FakeTensorMode(), Recorder()
    without_data(model, mode, "cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True)
    with mode, recorder:
        images, labels = torch.empty(256, 3, 224, 224), torch.zeros(256, dtype=torch.long)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    return recorder.operations


@pytest.mark.parametrize("half", [True, False])
def test_published_speeds_are_as_far_away_as_the_page_says(half: bool) -> None:
    operations = _resnet_50(half)
    assert sum(o.flops for o in operations) / 256 == pytest.approx(3 * 2 * 4.09e9, rel=0.02)  # published: 4.09 GMAC
    for (name, of_half), images in PUBLISHED.items():
        if of_half == half:
            modelled = 256 / sum(seconds_by_part(operations, device_named(name)).values())
            assert 0.6 < images / modelled < 1.3, (name, modelled)


def test_names() -> None:
    assert device_named("H100").name == "H100"
    assert device_named("cpu").is_cpu
    assert device_named("cpu").single > 1e9
    for found, name in (("NVIDIA H100 80GB HBM3", "H100"), ("Tesla T4", "T4"), ("NVIDIA A100-SXM4-80GB", "A100")):
        device = device_like(found)
        assert device is not None
        assert device.name == name
    assert device_like("NVIDIA GeForce GTX 1080") is None
    with pytest.raises(ValueError, match=r"device: got 'h10' \(did you mean h100\?\), allowed: h200, h100,"):
        device_named("h10")


SLOW = Device("H100", 1e12, 1e12, 1e12, 1e9, 1e9, 1e9, products=1.0, reached=1.0)


def _work(flops: float = 0.0, moved: float = 0.0, count: int = 1, weights: int = 0) -> Work:
    return Work([Operation(NETWORK, "mm", torch.float32, flops / count, moved / count)] * count, 2**20, 2**19, weights)


@pytest.mark.parametrize(
    ("work", "processes", "loader", "seconds", "pace"),
    [
        (_work(flops=3e12), 1, Loader(None, 4), 3.0, "the network sets it"),
        (_work(moved=5e9), 1, Loader(1e-4, 4), 5.0, "the network sets it"),
        (_work(flops=1e9), 1, Loader(1.0, 1), 16.0, "the loader sets it"),
        (_work(flops=3e12), 1, Loader(1.0, 0), 19.0, "the loader sets it"),  # in turn
        (_work(flops=1e3, count=10**6), 1, Loader(None, 4), 12.002, "launching operations sets it"),
        (_work(flops=1e9, weights=10**9), 2, Loader(None, 4), 4.0, "gradients between GPUs sets it"),
    ],
)
def test_what_sets_the_pace(
    work: Work, processes: int, loader: Loader, seconds: float, pace: str, tmp_path: Path
) -> None:
    recipe = tiny(tmp_path)  # a batch of 16
    assert estimate(recipe, work, SLOW, processes, loader).step == pytest.approx(seconds)
    speed, told, *_ = tell(recipe, work, SLOW, processes, loader, images=320)
    assert told.text.startswith(pace)
    assert "by a model, not measured" in speed.text


def test_several_processes(tmp_path: Path) -> None:
    """Columns of all processes, gradients of a ring, and their buckets."""
    recipe, work = tiny(tmp_path), Work([Operation(LOSS, "mm", torch.float32, 1e12, 0.0)], 0, 0, 1000)
    one, four = (estimate(recipe, work, SLOW, n, Loader(None, 1)) for n in (1, 4))
    assert (one.parts[LOSS], four.parts[LOSS]) == (1.0, 4.0)
    assert four.memory - one.memory == 4000
    assert gradient_bytes(1000, 1) == 0
    assert gradient_bytes(1000, 4) == 2 * 3 / 4 * 4000


def test_too_little_memory_is_told(tmp_path: Path) -> None:
    work = Work([], 2 * 10**9, 10**9, 1)
    found = tell(tiny(tmp_path), Work([*_work(1e9).operations], work.peak_memory, 0, 1), SLOW, 1, Loader(None, 1), None)
    assert found[2].status == "warning"
    assert "more than H100's 1 GiB" in found[2].text


def test_measured_steps_give_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    assert measured_over_modelled(SLOW) == []
    steps = {"bam": {"pipelined_ms": 30.0, "modelled_ms": 20.0}, "dino": {"pipelined_ms": 40.0, "modelled_ms": 50.0}}
    result = {"environment": {"device": "NVIDIA H100 80GB HBM3"}, "step": {**steps, "failed": 1}}
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "gpu.json").write_text(json.dumps(result))
    assert sorted(measured_over_modelled(SLOW)) == [0.8, 1.5]
    assert measured_over_modelled(device_named("a100")) == []
    speed, _, _, grounds = tell(tiny(tmp_path), _work(flops=1.6e12), SLOW, 1, Loader(None, 4), 320)
    assert "about 10 images/s (6.7 to 12) on 1 x H100" in speed.text
    assert grounds.text.endswith("measured steps took 0.80 to 1.50 times the model's (2 in benchmarks/results)")


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(recipe_module, "check_gradients", lambda: Finding("ok", "processes", "not asked"))
    words = tiny_overrides(tmp_path / "runs", *SMALL)
    assert main(["doctor", "digits/bam", *words, "device=h100", "devices=4", "performance.compile=True"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "ok devices 4 process(es) on H100, as planned" in page
    assert "images/s on 4 x H100" in page
    assert "as without performance.compile" in page
    assert main(["doctor", "digits/bam", *words]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "images/s on this CPU" in page
    assert "timed here" in page
    assert not (tmp_path / "runs").exists()


def test_data_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(recipe_module, "check_gradients", lambda: Finding("ok", "processes", "not asked"))
    words = tiny_overrides(tmp_path / "runs", *SMALL, "data.dataset=custom", "data.train_path=gone", "device=a100")
    assert main(["doctor", "digits/bam", *words]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "images/s on 1 x A100; how long that is depends on the training images" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits/bam", "device=h10"], "device: got 'h10' (did you mean h100?)"),
        (["device=h100"], "device: is asked about with a recipe alone"),
        (["--data", "digits/bam", "device=h100"], "device: is asked about with a recipe alone"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_method_that_reads_its_data_has_no_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_module, "check_gradients", lambda: Finding("ok", "processes", "not asked"))

    def reads(model: Any, recipe: Recipe, device: str) -> Work:
        raise RuntimeError("it reads\nnumbers")

    monkeypatch.setattr(recipe_module, "work_of", reads)
    found = {f.topic: f for f in recipe_module.examine_recipe(tiny(tmp_path / "runs", "digits/bam", *SMALL))}
    assert found["speed"].status == "ok"
    assert found["speed"].text.endswith("cannot be followed without data (RuntimeError: it reads)")
