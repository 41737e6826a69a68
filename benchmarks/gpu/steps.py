"""The steps of ``python -m benchmarks.gpu``: each returns what it measured, as plain values."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import loss as loss_benchmark
from benchmarks import step as step_benchmark
from benchmarks.timing import machine, synchronise
from solo_bam.config import Recipe
from solo_bam.train.doctor.devices import Device, device_here
from solo_bam.train.doctor.estimate import Loader, estimate
from solo_bam.train.doctor.work import work_of

METHODS = ("bam", "bam_momentum", "simclr", "byol", "dino")


class Where(NamedTuple):
    """What every step is told: the device, whether sizes are tiny, CIFAR-10 as JPEG files, the results' folder."""

    device: str
    tiny: bool
    data: Path | None
    out: Path


def clocked(call: Callable[[], Any], device: str, repeats: int, warm_up: int = 2) -> dict[str, float]:
    """Milliseconds of a call: alone (median), back to back, and of the host alone while the device runs behind."""
    for _ in range(warm_up):
        call()
    alone = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        alone.append(1e3 * (time.perf_counter() - start))
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    host = 1e3 * (time.perf_counter() - start) / repeats
    synchronise(device)
    pipelined = 1e3 * (time.perf_counter() - start) / repeats
    return {"median_ms": statistics.median(alone), "host_ms": host, "pipelined_ms": pipelined}


def environment(where: Where) -> dict[str, Any]:
    """What this is, and whether the crops and the loss are right on it."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "torchvision", "lightning", "timm", "solo-learn")}
    return {**machine(where.device), **packages, "bf16": where.device != "cuda" or torch.cuda.is_bf16_supported()}


def tests(where: Where) -> dict[str, Any]:
    """The tests that need a GPU."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(words, capture_output=True, text=True)
    return {"code": done.returncode, "last": done.stdout.strip().splitlines()[-1:], "said": done.stdout[-3000:]}


def loss(where: Where) -> dict[str, Any]:
    """Speed, memory and accuracy of the loss against the published form and the products alone."""
    sizes = [(16, 2, 8)] if where.tiny else [(2048, 2, 256), (4096, 2, 256), (256, 8, 4096), (16_384, 8, 256)]
    found: dict[str, Any] = {}
    for size in sizes:
        case = loss_benchmark.Case(*size)
        large = case.B * case.V * 2 * case.B > 2**28
        for name in ("solo-bam", "floor") if large else loss_benchmark.IMPLEMENTATIONS:
            call = loss_benchmark.make(name, case, where.device)
            result = clocked(call, where.device, 2 if large or where.tiny else 10, 1)
            if where.device == "cuda":
                result["peak_MB"] = loss_benchmark._peak(name, case, where.device) / 1e6
            found[f"{case}, {name}"] = result
    return {**found, "relative errors": _errors(where)}


def _errors(where: Where) -> dict[str, list[float]]:
    """Relative errors of value and gradient against float64 on the CPU, by precision of the features."""
    from solo_bam.losses import bam_loss

    generator, errors = torch.Generator().manual_seed(0), {}
    images = torch.randn(1, 64 if where.tiny else 2048, 128, generator=generator)
    z = (images + torch.randn(2, *images.shape[1:], generator=generator)).flatten(0, 1).double()
    for settings in ({}, {"positive_weight": 0.5, "reg": 0.1}, {"reg": 0.01}):
        exact = z.clone().requires_grad_()
        value = bam_loss(exact, num_crops=2, num_large_crops=2, **settings)[0]
        value.backward()
        assert exact.grad is not None
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            rounded = z.to(where.device, dtype).requires_grad_()
            found = bam_loss(rounded, num_crops=2, num_large_crops=2, **settings)[0]
            (found * 2**16).backward()
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


def loader(where: Where) -> dict[str, Any]:
    """Crops of images in memory, by batch size."""
    batches = (16,) if where.tiny else (256, 512, 1024)
    return {str(n): clocked(_crops(where, n), where.device, 2 if where.tiny else 20) for n in batches}


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


def _modelled(where: Where, method: str, batch: int, device: Device) -> float:
    """Seconds of a step by the model that ``solo-bam doctor`` tells; its batch is in the device's memory."""
    recipe, setting = _asked(where, method, batch)
    model = step_benchmark.model_of(recipe, setting._replace(device="cpu"))
    return estimate(recipe, work_of(model, recipe), device, 1, Loader(None, 0)).step


def step(where: Where, compiled: bool = False) -> dict[str, Any]:
    """Whole training steps of five methods: milliseconds, images per second, and the first call's seconds."""
    found: dict[str, Any] = {}
    device = device_here(where.device)
    for batch in (8,) if where.tiny else (256, 512) if compiled else (256, 512, 1024):
        for method in ("bam", "simclr") if compiled else METHODS:
            start = time.perf_counter()
            call = _model_step(where, method, batch, compiled)
            call()
            synchronise(where.device)
            first = time.perf_counter() - start
            result = clocked(call, where.device, 2 if where.tiny else 15)
            result |= {"first_s": first, "images_per_s": 1e3 * batch / result["pipelined_ms"]}
            if not compiled and device is not None:
                result["modelled_ms"] = 1e3 * _modelled(where, method, batch, device)
            found[f"{method}, batch {batch}"] = result
    return found


def compile_(where: Where) -> dict[str, Any]:
    """The same, compiled."""
    return step(where, compiled=True)


def waits(where: Where) -> dict[str, Any]:
    """Where the host waits for the device: torch's own warnings, with the lines that cause them."""
    batch = 16 if where.tiny else 256
    calls = {"crops": _crops(where, batch)} | {m: _model_step(where, m, batch) for m in METHODS}
    found = {}
    for name, call in calls.items():
        call()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if where.device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            call()
            if where.device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        found[name] = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchron" in str(w.message)]
    return found


def profile_(where: Where) -> dict[str, Any]:
    """Kernels of a batch of crops and of a step: how many, how long; a trace of the step."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if where.device == "cuda" else [])
    found = {}
    batch = 8 if where.tiny else 256
    for name, call in {"crops": _crops(where, batch), "step": _model_step(where, "bam", batch)}.items():
        call()
        with profile(activities=activities) as measured:
            call()
            synchronise(where.device)
        kernels = [event for event in measured.events() if str(event.device_type).endswith("CUDA")]
        operations = sum(event.count for event in measured.key_averages() if event.key.startswith("aten::"))
        milliseconds = sum(event.device_time for event in kernels) / 1e3
        found[name] = {"kernels": len(kernels), "kernel_ms": milliseconds, "aten calls": operations}
        measured.export_chrome_trace(str(where.out / "trace.json"))
    return found


def fit(where: Where) -> dict[str, Any]:
    """``solo-bam pretrain`` itself for two short epochs: images per second of the run's own record."""
    found = {}
    for method in ("bam",) if where.tiny else ("simclr", "bam"):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            done = subprocess.run(_pretrain(where, method, folder), capture_output=True, text=True)
            costs = [json.loads(line) for p in Path(folder).rglob("cost.jsonl") for line in p.read_text().splitlines()]
            found[method] = {
                "code": done.returncode,
                "wall_s": time.perf_counter() - start,
                "images_per_s": [cost["images"] / cost["seconds"] for cost in costs],
                "peak_MB": [cost["peak_memory"] / 1e6 for cost in costs],
            }
            if done.returncode:
                return {"failed": done.returncode, "said": (done.stdout + done.stderr)[-2000:]}
    return found


def _pretrain(where: Where, method: str, folder: str) -> list[str]:
    words = [
        sys.executable,
        "-m",
        "solo_bam",
        "pretrain",
        "--config-name",
        f"{'digits' if where.tiny else 'cifar'}/{method}",
    ]
    words += [
        f"checkpoint.dir={folder}",
        "max_epochs=2",
        "scheduler.warmup_epochs=0",
        "data.format=tensor",
        "devices=1",
    ]
    words += [f"accelerator={'gpu' if where.device == 'cuda' else 'cpu'}", "enable_progress_bar=False"]
    if where.tiny:
        return [
            *words,
            "backbone.name=test_resnet",
            "limit_train_batches=2",
            "limit_val_batches=1",
            "knn_eval.freq=null",
        ]
    if where.data is not None:
        words += ["data.dataset=custom", f"data.train_path={where.data}/train", f"data.val_path={where.data}/test"]
    return [*words, "precision=bf16-mixed", "optimizer.batch_size=512", "data.num_workers=8", "limit_train_batches=60"]


def knn(where: Where) -> dict[str, Any]:
    """The search for neighbors: CIFAR's size, and a tenth of ImageNet's queries against all of its bank."""
    from solo_bam.core import neighbors

    sizes = (
        {"tiny": (600, 100, 16)}
        if where.tiny
        else {"CIFAR": (50_000, 10_000, 512), "ImageNet/10": (1_281_167, 5_000, 384)}
    )
    found = {}
    for name, (bank, queries, width) in sizes.items():
        features = torch.randn(bank, width, device=where.device)
        asked = torch.randn(queries, width, device=where.device)
        for k in (20, 200):
            found[f"{name}, k {k}"] = clocked(
                lambda k=k, a=asked, b=features: neighbors.find_neighbours(neighbors.in_tiles(b), a, k),
                where.device,
                2,
                1,
            )
    return found


def speedrun(where: Where) -> dict[str, Any]:
    """A speedrun's recipe, short of its epochs."""
    words = [sys.executable, "-m", "benchmarks.speedrun", "speedrun/simclr", "--runs", "1", "--device", where.device]
    words += ["--tiny"] if where.tiny else ["max_epochs=15"]
    if where.data is not None and not where.tiny:
        words += ["data.dataset=custom", f"data.train_path={where.data}/train", f"data.val_path={where.data}/test"]
    done = subprocess.run([*words, "--out", str(where.out / "speedrun.json")], capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.returncode, "said": (done.stdout + done.stderr)[-2000:]}
    result: dict[str, Any] = json.loads((where.out / "speedrun.json").read_text())
    return result


STEPS: dict[str, Callable[[Where], dict[str, Any]]] = {
    "environment": environment, "tests": tests, "loss": loss, "loader": loader, "step": step, "waits": waits,
    "profile": profile_, "fit": fit, "knn": knn, "compile": compile_, "speedrun": speedrun,
}  # fmt: skip
