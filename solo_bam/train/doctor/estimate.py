"""Speed, memory and hours of a run, told before it: a model of a training step, not a measurement.

The operations of one step (:mod:`.work`) take the time that a roofline gives them (:mod:`.devices`); beside the device
run the processor that launches them, the loader, and the link to other processes. The slowest of these sets the pace.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from solo_bam.config import Recipe
from solo_bam.config.resolve import SHARDED
from solo_bam.core import hardware
from solo_bam.core.hardware import GIB
from solo_bam.data import PretrainData
from solo_bam.data.loaders.tensor import TensorImages, TensorLoader
from solo_bam.train.doctor.devices import BESIDE, LAUNCH, PUBLISHED, Device, seconds_by_part
from solo_bam.train.doctor.finding import Finding
from solo_bam.train.doctor.work import CROPS, LOSS, Operation, Recorder, Work

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
_CONTEXT = 0.6 * GIB  # CUDA's own, with its libraries
_LOADER_SECONDS = 1.0  # that timing it may take


@dataclass(frozen=True)
class Loader:
    """Processor seconds of one image with all its crops, timed here, and how many processes; None: not timed."""

    seconds: float | None
    workers: int


@dataclass(frozen=True)
class Estimate:
    """Seconds of one step: of the device by part, and of what runs beside it."""

    parts: dict[str, float]
    beside: dict[str, float]
    step: float
    memory: float  # bytes

    @property
    def device(self) -> float:
        """Of all parts."""
        return sum(self.parts.values())


def gradient_bytes(weights: float, processes: int) -> float:
    """That a process sends for the gradients of float32 weights: a ring's all-reduce."""
    return 2 * (processes - 1) / processes * 4 * weights


def estimate(recipe: Recipe, work: Work, device: Device, processes: int, loader: Loader) -> Estimate:
    """A step of one process; the loss's part grows with the columns of all processes."""
    parts = seconds_by_part(work.operations, device)
    parts[LOSS] = parts.get(LOSS, 0.0) * processes
    beside: dict[str, float] = {}
    if loader.seconds is not None:
        workers = min(max(loader.workers, 1), hardware.cores())
        beside["the loader"] = recipe.optimizer.batch_size * loader.seconds / workers
    if not device.is_cpu:
        beside["launching operations"] = LAUNCH * len(work.operations) + BESIDE
        beside["gradients between GPUs"] = gradient_bytes(work.weights, processes) / device.link
    own = sum(parts.values())
    # Loader processes take a CPU's cores from the training; without any, the process that trains loads.
    in_turn = own + beside.get("the loader", 0.0) if device.is_cpu or loader.workers == 0 else own
    buckets = 4 * work.weights if processes > 1 and recipe.strategy != SHARDED else 0
    memory = work.peak_memory + (0 if device.is_cpu else _CONTEXT) + buckets
    return Estimate(parts, beside, max(in_turn, *beside.values(), 0.0), memory)


def tell(
    recipe: Recipe, work: Work, device: Device, processes: int, loader: Loader, images: int | None
) -> list[Finding]:
    """Lines of the doctor's page.

    Args:
        recipe: a checked one.
        work: of a step.
        device: each process's.
        processes: on all nodes.
        loader: as timed.
        images: of the training set; None where it is not here.
    """
    if recipe.strategy == SHARDED:  # beside a process's share it holds a block at a time, which the model leaves out
        spared = work.lasting_memory * (processes - 1) // processes
        lasting, peak = work.lasting_memory - spared, work.peak_memory - spared
        work = replace(work, lasting_memory=lasting, peak_memory=peak)
    found = estimate(recipe, work, device, processes, loader)
    ratios = measured_over_modelled(device)
    rate = recipe.optimizer.batch_size * processes / found.step
    bar = f" ({_number(rate / max(ratios))} to {_number(rate / min(ratios))})" if ratios else ""
    if images:
        steps = images // (recipe.optimizer.batch_size * processes) * recipe.max_epochs
        length = f"{_hours(steps * found.step)} for {recipe.max_epochs} epochs"
    else:
        length = "how long that is depends on the training images, which are not here"
    on = "this CPU" if device.is_cpu else f"{processes} x {device.name}"
    told = f"about {_number(rate)} images/s{bar} on {on}; {length}, without validation, k-NN and checkpoints"
    text = f"by a model, not measured: {told}"
    return [
        Finding("ok", "speed", text),
        _pace(found, loader),
        _memory(work, found, device),
        _grounds(recipe, work, device, ratios),
    ]


def _pace(found: Estimate, loader: Loader) -> Finding:
    name = max(found.beside, key=lambda key: found.beside[key], default="")
    first = (
        name if found.beside.get(name, 0.0) > found.device else f"the {max(found.parts, key=lambda k: found.parts[k])}"
    )
    parts = ", ".join(f"{part} {1e3 * seconds:.3g}" for part, seconds in found.parts.items())
    beside = "".join(f", {what} {1e3 * seconds:.3g}" for what, seconds in found.beside.items())
    untimed = "; the loader is not timed" if loader.seconds is None else ""
    text = f"{first} sets it: of a step's {1e3 * found.step:.3g} ms {parts}{beside} (ms, side by side){untimed}"
    return Finding("ok", "pace", text)


def _memory(work: Work, found: Estimate, device: Device) -> Finding:
    lasting, all_of_it = work.lasting_memory / GIB, found.memory / GIB
    text = f"about {all_of_it:.1f} GiB a process, {lasting:.1f} of it weights, gradients and the optimizer's states"
    if found.memory > device.memory:
        remedy = "set performance.chunked_batch, which forwards so many images at once, or lower optimizer.batch_size"
        return Finding("warning", "memory", f"{text}: more than {device.name}'s {device.memory / GIB:.0f} GiB", remedy)
    return Finding("ok", "memory", text)


def _grounds(recipe: Recipe, work: Work, device: Device, ratios: Sequence[float]) -> Finding:
    images = recipe.optimizer.batch_size
    flops, moved = (sum(getattr(o, what) for o in work.operations) / images for what in ("flops", "moved"))
    step = f"{flops / 1e9:.3g} GFLOP and {moved / 1e6:.3g} MB an image, {len(work.operations)} operations a step"
    half, single = device.half / 1e12, device.single / 1e12
    figures = f"{half:.3g} TFLOP/s in half precision, {single:.3g} in float32, {device.bandwidth / 1e9:.4g} GB/s"
    compiled = "; as without performance.compile" if recipe.performance.compile else ""
    if device.is_cpu:
        return Finding("ok", "rests on", f"{step}; {figures}, timed here{compiled}")
    taken = f"{device.products:.0%} and {device.reached:.0%} are taken as reached"
    where = f"by its data sheet, of which {taken}; {1e6 * LAUNCH:.0f} us to launch an operation"
    if ratios:
        known = f"{len(ratios)} in benchmarks/results"
        error = f"measured steps took {min(ratios):.2f} to {max(ratios):.2f} times the model's ({known})"
    else:
        error = f"its error is not known here: of a ResNet-50, {PUBLISHED}"
    return Finding("ok", "rests on", f"{step}; {figures}, {where}{compiled}; {error}")


def time_loader(data: PretrainData) -> Loader:
    """Processor time of an image: some of them made here, for a second at most."""
    recipe = data.recipe
    if recipe.data.format in ("dali", "tensor"):
        return Loader(None, recipe.data.num_workers)
    train_set: Any = data.train_set
    train_set[(0, 0)]  # libraries load at the first one
    start, made = time.process_time(), 0
    while made < len(train_set) and time.process_time() - start < _LOADER_SECONDS:
        train_set[(0, made)]
        made += 1
    return Loader((time.process_time() - start) / made, recipe.data.num_workers)


def crops_work(data: PretrainData, device: str) -> list[Operation]:
    """What ``data.format: tensor`` does for a batch on the device that trains, ``cpu`` or ``cuda``; else nothing."""
    if not isinstance(data.train_set, TensorImages):
        return []
    size, recorder, there = data.recipe.optimizer.batch_size, Recorder(), data.train_set
    recorder.part = CROPS
    with FakeTensorMode():
        pixels = torch.empty(there.pixels.shape, dtype=torch.uint8, device=device)
        images: Any = SimpleNamespace(pixels=pixels, labels=there.labels)
        loader = TensorLoader(images, data.crops.pipelines, None, data.recipe.seed, size)
        with recorder:
            loader.crops(0, [i % len(there) for i in range(size)])
    return recorder.operations


def measured_over_modelled(device: Device) -> list[float]:
    """How many times the model's the measured steps of ``benchmarks.gpu`` took on such a device; empty without any."""
    ratios = []
    for path in sorted(RESULTS.glob("**/gpu.json")):
        result = json.loads(path.read_text())
        if device.name in str(result.get("environment", {}).get("device", "")).upper():
            steps = [step for step in result.get("step", {}).values() if isinstance(step, dict)]
            ratios += [step["pipelined_ms"] / step["modelled_ms"] for step in steps if "modelled_ms" in step]
    return ratios


def _number(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2g} hours" if seconds >= 3600 else f"{seconds / 60:.2g} minutes"
