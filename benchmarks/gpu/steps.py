"""The steps of ``python -m benchmarks.gpu``: each yields names and plain values, as they are measured."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import loaders as loaders_benchmark
from benchmarks import loss as loss_benchmark
from benchmarks import speedrun as speedrun_benchmark
from benchmarks import step as step_benchmark
from benchmarks.gpu.clocks import PartClock, clocked
from benchmarks.timing import machine, synchronise
from solo_bam.config import Recipe
from solo_bam.train.doctor.backward import Parts
from solo_bam.train.doctor.devices import Device, device_here
from solo_bam.train.doctor.estimate import Estimate, Loader, estimate
from solo_bam.train.doctor.work import LOSS, separate_loss, step_of, work_of

METHODS = step_benchmark.METHODS
Rows = Iterator[tuple[str, Any]]


class Where(NamedTuple):
    """What every step is told: the device, whether sizes are tiny, CIFAR-10 as JPEG files, the results' folder."""

    device: str
    tiny: bool
    data: Path | None
    out: Path


def environment(where: Where) -> Rows:
    """What this is."""
    yield from machine(where.device).items()
    yield "cores", len(os.sched_getaffinity(0))
    if where.device == "cuda":
        free, whole = torch.cuda.mem_get_info()
        yield "memory, GB", {"free": free / 1e9, "all": whole / 1e9}
        yield "CUDA", torch.version.cuda
        yield "cuDNN", torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        yield "GPUs", torch.cuda.device_count()
    for name in ("torchvision", "lightning", "timm", "solo-learn", "triton", "nvidia-dali-cuda120"):
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not here"


def tests(where: Where) -> Rows:
    """The tests that need a GPU, each as it ends."""
    # Without the project's own options, whose -q takes the -v back.
    words = [sys.executable, "-m", "pytest", "-o", "addopts=", "-v"]
    words += ["-m", "cuda", "-p", "no:cacheprovider", "tests/cuda"]
    # Those of two processes are skipped on one GPU; without a GPU all are.
    piped: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, cwd=Path(__file__).parents[2], **piped) as process:  # from wherever it is asked for
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.match(r"(?:.*::)?(\S.*) (PASSED|FAILED|ERROR|SKIPPED)", line):
                yield found[1], found[2].lower()
    yield "last", said[-1].strip()
    if process.returncode:
        print("".join(said), flush=True)
        sys.exit(process.returncode)


def loss(where: Where) -> Rows:
    """Accuracy of the loss; its speed and memory beside the published form's and the products' alone."""
    yield "relative errors", _errors(where)
    sizes = [(16, 2, 8)] if where.tiny else [(2048, 2, 256), (4096, 2, 256), (256, 8, 4096), (16_384, 8, 256)]
    for size in sizes:
        case = loss_benchmark.Case(*size)
        large = case.B * case.V * 2 * case.B > 2**28
        for name in ("solo-bam", "floor") if large else loss_benchmark.IMPLEMENTATIONS:
            call = loss_benchmark.make(name, case, where.device)
            result = clocked(call, where.device, 2 if large or where.tiny else 10, 1)
            if where.device == "cuda":
                result["peak_MB"] = loss_benchmark.peak_memory(name, case, where.device) / 1e6
            yield f"{case}, {name}", result


def _errors(where: Where) -> dict[str, list[float]]:
    """Relative errors of value and gradient against float64 on the CPU, by precision of the features."""
    from solo_bam.losses import bam_loss

    generator, errors = torch.Generator().manual_seed(0), {}
    images = torch.randn(1, 64 if where.tiny else 2048, 128, generator=generator)
    z = (images + torch.randn(2, *images.shape[1:], generator=generator)).flatten(0, 1).double()
    several: list[dict[str, Any]] = [{}, {"positive_weight": 0.5, "reg": 0.1}, {"reg": 0.01}]
    for settings in several:
        exact = z.clone().requires_grad_()
        value = bam_loss(exact, num_crops=2, num_large_crops=2, **settings)[0]
        torch.autograd.backward(value)
        assert exact.grad is not None
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            rounded = z.to(where.device, dtype).requires_grad_()
            found = bam_loss(rounded, num_crops=2, num_large_crops=2, **settings)[0]
            torch.autograd.backward(found * 2**16)
            assert rounded.grad is not None
            gradient = rounded.grad.double().cpu() / 2**16
            error = (gradient - exact.grad).norm() / exact.grad.norm()
            errors[f"{settings} {dtype}"] = [abs(found.item() / value.item() - 1), error.item()]
    return errors


def _crops(where: Where, batch: int, recipe: str = "cifar/bam") -> Callable[[], Any]:
    """A batch of crops of images in memory, another epoch's at each call."""
    from types import SimpleNamespace

    from solo_bam.config import load_recipe
    from solo_bam.data.loaders.tensor import TensorLoader
    from solo_bam.data.transforms.augmentations import Crops

    asked = load_recipe(recipe)
    low = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.functional.interpolate(low, size=(32, 32), mode="bicubic").clamp(0, 1)
    images = SimpleNamespace(pixels=(255 * pixels).byte().to(where.device), labels=torch.zeros(batch, dtype=torch.long))
    pipelines = Crops(asked.data.dataset, asked.augmentations).pipelines
    loader = TensorLoader(images, pipelines, range(batch), 0, batch)  # type: ignore[arg-type]
    epochs = iter(range(10**6))
    return lambda: loader.crops(next(epochs), range(batch))


def loader(where: Where) -> Rows:
    """Crops of images in memory, by batch size; whole epochs of each loader that is here."""
    for batch in (16,) if where.tiny else (256, 512, 1024):
        yield f"crops, batch {batch}", clocked(_crops(where, batch), where.device, 2 if where.tiny else 20)
    case = loaders_benchmark.CASES["CIFAR, 2 x 32"]
    case = replace(case, images=32, batch_size=16) if where.tiny else replace(case, images=10_240, batch_size=256)
    with tempfile.TemporaryDirectory() as folder:
        files = where.data / "train" if where.data else loaders_benchmark.pictures(Path(folder), case.images, (32, 32))
        for name in reversed(loaders_benchmark.available(case)):  # the slowest last
            epoch = loaders_benchmark.epoch_of(loaders_benchmark.data_of(case, name, files, where.device))
            epoch()  # starts the loader's processes
            synchronise(where.device)
            start = time.perf_counter()
            images = epoch()
            synchronise(where.device)
            yield name, {"images_per_s": images / (time.perf_counter() - start)}


def _asked(where: Where, method: str, batch: int, compiled: bool = False) -> tuple[Recipe, step_benchmark.Setting]:
    precision = "32" if where.tiny else "bf16-mixed"
    setting = step_benchmark.Setting(batch, where.device, precision, compiled)
    case = step_benchmark.TINY["tiny"] if where.tiny else step_benchmark.CASES["ResNet-18"]
    recipe = step_benchmark.recipe_of(case, method, 0, setting)
    recipe.precision = precision
    return recipe, setting


def _model_step(where: Where, method: str, batch: int, compiled: bool = False) -> Callable[[], None]:
    recipe, setting = _asked(where, method, batch, compiled)
    model = step_benchmark.model_of(recipe, setting)
    return step_benchmark.step_of(model, step_benchmark.batch_of(recipe, setting), setting)


def _modelled(where: Where, method: str, batch: int, device: Device) -> Estimate:
    """A step by the model that ``solo-bam doctor`` tells; its batch is in the device's memory."""
    recipe, setting = _asked(where, method, batch)
    model = step_benchmark.model_of(recipe, setting._replace(device="cpu"))
    return estimate(recipe, work_of(model, recipe, where.device), device, 1, Loader(None, 0))


def _parts(where: Where, method: str, batch: int) -> dict[str, float]:
    """Milliseconds of a step's parts, backward included; loss: all between the networks' own operations."""
    recipe, setting = _asked(where, method, batch)
    model, clock = step_benchmark.model_of(recipe, setting), PartClock(where.device)
    crops = step_benchmark.batch_of(recipe, setting)
    parts = Parts(clock)
    with separate_loss(model, parts):
        call = step_of(model, crops, setting.autocast, parts)
        call()
        call()
        clock.part = LOSS
        clock.milliseconds = dict.fromkeys(clock.milliseconds, 0.0)
        repeats = 1 if where.tiny else 5
        for _ in range(repeats):
            call()
        clock.part = LOSS
    return {part: milliseconds / repeats for part, milliseconds in clock.milliseconds.items()}


def step(where: Where) -> Rows:
    """Whole training steps: milliseconds, images per second, the model's milliseconds, both by part."""
    device = device_here(where.device)
    for batch in (8,) if where.tiny else (256, 512, 1024):
        for method in METHODS:
            result: dict[str, Any] = dict(_timed_step(where, method, batch))
            result["parts_ms"] = _parts(where, method, batch)
            if device is not None:
                modelled = _modelled(where, method, batch, device)
                result["modelled_ms"] = 1e3 * modelled.step
                result["modelled_parts_ms"] = {part: 1e3 * seconds for part, seconds in modelled.parts.items()}
            yield f"{method}, batch {batch}", result


def compile_(where: Where) -> Rows:
    """The same steps compiled, the most telling first."""
    for batch in (8,) if where.tiny else (512, 256, 1024):
        for method in ("simclr",) if where.tiny else ("bam", "simclr", "bam_momentum", "byol", "dino"):
            yield f"{method}, batch {batch}", _timed_step(where, method, batch, compiled=True)


def _timed_step(where: Where, method: str, batch: int, compiled: bool = False) -> dict[str, float]:
    start = time.perf_counter()
    call = _model_step(where, method, batch, compiled)
    call()
    synchronise(where.device)
    first = time.perf_counter() - start
    result = clocked(call, where.device, 2 if where.tiny else 15)
    return {**result, "first_s": first, "images_per_s": 1e3 * batch / result["pipelined_ms"]}


def waits(where: Where) -> Rows:
    """Where the host waits for the device: torch's own warnings, with the lines that cause them."""
    batch = 16 if where.tiny else 256
    calls = {"crops": _crops(where, batch)} | {m: _model_step(where, m, batch) for m in METHODS}
    for name, call in calls.items():
        call()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if where.device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            call()
            if where.device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        yield name, [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchron" in str(w.message)]


def profile_(where: Where) -> Rows:
    """Kernels of a batch of crops and of a step: how many, how long, which take longest; a trace of the step."""
    on_gpu = where.device == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    batch = 8 if where.tiny else 256
    for name, call in {"crops": _crops(where, batch), "step": _model_step(where, "bam", batch)}.items():
        call()
        with profile(activities=activities) as measured:
            call()
            synchronise(where.device)
        kernels = [event for event in measured.events() if str(event.device_type).endswith("CUDA")]
        averages = [event for event in measured.key_averages() if event.key.startswith("aten::")]
        times = {e.key: (e.self_device_time_total if on_gpu else e.self_cpu_time_total) / 1e3 for e in averages}
        yield (
            name,
            {
                "kernels": len(kernels),
                "kernel_ms": sum(event.device_time for event in kernels) / 1e3,
                "aten calls": sum(event.count for event in averages),
                "longest_ms": dict(sorted(times.items(), key=lambda pair: -pair[1])[:8]),
            },
        )
        measured.export_chrome_trace(str(where.out / "trace.json"))


def fit(where: Where) -> Rows:
    """``solo-bam pretrain`` itself for two short epochs: images per second of the run's own record."""
    for method in ("bam",) if where.tiny else ("simclr", "bam"):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            _command(*_pretrain(where, method, folder))
            costs = [json.loads(line) for p in Path(folder).rglob("cost.jsonl") for line in p.read_text().splitlines()]
            yield (
                method,
                {
                    "wall_s": time.perf_counter() - start,
                    "images_per_s": [cost["images"] / cost["seconds"] for cost in costs],
                    "peak_MB": [cost["peak_memory"] / 1e6 for cost in costs],
                },
            )


def _command(*words: str) -> None:
    """Run a module of the project; where it fails, say what it said and end the step."""
    done = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout[-2500:], flush=True)
        sys.exit(done.returncode)


def _pretrain(where: Where, method: str, folder: str) -> list[str]:
    accelerator = "gpu" if where.device == "cuda" else "cpu"
    words = ["solo_bam", "pretrain", "--config-name", f"{'digits' if where.tiny else 'cifar'}/{method}"]
    words += [f"checkpoint.dir={folder}", f"accelerator={accelerator}", "devices=1", "enable_progress_bar=False"]
    words += ["max_epochs=2", "scheduler.warmup_epochs=0", "data.format=tensor", "pictures=False"]
    if where.tiny:
        tiny = ["backbone.name=test_resnet", "knn_eval.freq=null", "limit_train_batches=2", "limit_val_batches=1"]
        return words + tiny
    words += ["precision=bf16-mixed", "optimizer.batch_size=512", "data.num_workers=8", "limit_train_batches=60"]
    return words + _images(where)


def _images(where: Where) -> list[str]:
    """CIFAR-10 as JPEG files, where they are here; the recipes download it otherwise."""
    if where.data is None:
        return []
    return ["data.dataset=custom", f"data.train_path={where.data}/train", f"data.val_path={where.data}/test"]


def knn(where: Where) -> Rows:
    """The search for neighbors: CIFAR's size, and ImageNet's."""
    from solo_bam.core import neighbors

    sizes = {"CIFAR": (50_000, 10_000, 512), "ImageNet": (1_281_167, 50_000, 384)}
    for name, (bank, queries, width) in ({"tiny": (600, 100, 16)} if where.tiny else sizes).items():
        tiles = list(neighbors.in_tiles(torch.randn(bank, width, device=where.device)))
        asked = torch.randn(queries, width, device=where.device)
        for k in (20, 200):
            search = partial(neighbors.find_neighbours, tiles, asked, k)
            yield f"{name}, k {k}", clocked(search, where.device, 1, 1)


def speedrun(where: Where) -> Rows:
    """A speedrun's recipe, short of its epochs."""
    words = ["speedrun/simclr", "--runs", "1", "--device", where.device]
    words += ["--tiny"] if where.tiny else ["max_epochs=15", *_images(where)]
    speedrun_benchmark.main([*words, "--out", str(where.out / "speedrun.json")])
    yield from json.loads((where.out / "speedrun.json").read_text()).items()


STEPS: dict[str, Callable[[Where], Rows]] = {
    "environment": environment, "tests": tests, "loss": loss, "loader": loader, "step": step, "waits": waits,
    "profile": profile_, "fit": fit, "knn": knn, "compile": compile_, "speedrun": speedrun,
}  # fmt: skip
