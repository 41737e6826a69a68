"""What the model of :mod:`benchmarks.costs` says of the published recipe on many GPUs: told, not measured.

Operations and memory are those of the code itself: a step without data (the doctor's), in a process group that pretends
to have as many processes. Their time is the doctor's roofline on the device's data sheet. Links and delays are assumed:
:class:`Fabric`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.costs import of_loss, of_network
from benchmarks.timing import machine, markdown, write
from solo_bam.config import Recipe, load_recipe
from solo_bam.config.resolve import resolve
from solo_bam.core import collectives, hardware
from solo_bam.losses import BAMLoss
from solo_bam.train.doctor.backward import Parts
from solo_bam.train.doctor.devices import BESIDE, LAUNCH, Device, device_named, seconds_by_part
from solo_bam.train.doctor.work import LOSS, NETWORK, OPTIMIZER, Recorder, Work, work_of
from solo_bam.train.pretrain import build_model

CONTEXT = 0.6e9  # bytes of CUDA's own
GPUS = (8, 64, 256, 1024)
BATCH = 256  # a GPU's, as published on 16


@dataclass(frozen=True)
class Fabric:
    """Assumed: GPUs a node, bytes/s of a GPU out of its node, the share of any link that is reached, delays in s."""

    node: int = 8
    between: float = 50e9  # 400 Gb/s for each GPU
    reached: float = 0.8
    start: float = 20e-6  # of a collective on GPUs
    hop: float = 5e-6  # of one level of a tree
    message: float = 30e-6  # of one message between two hosts (TCP), in a ring


@contextmanager
def pretended(processes: int) -> Iterator[None]:
    """A process group of so many processes whose collectives do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if processes == 1:
        yield
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        with mock.patch.object(collectives, "gather_number", lambda value: [value]):
            yield
    finally:
        dist.destroy_process_group()


@functools.cache
def alone(name: str, batch: int = BATCH) -> tuple[Recipe, Work]:
    """A recipe's step on one GPU; changes of it may stand behind its name."""
    name, *changes = name.split()
    recipe = load_recipe(name, [f"optimizer.batch_size={batch}", "accelerator=cpu", "scheduler.min_lr=0", *changes])
    model = build_model(recipe, resolve(recipe, 1000, True, 1), hardware.Devices("cpu", 1, 1))
    return recipe, work_of(model, recipe, "cuda")


def loss_of(recipe: Recipe, batch: int, processes: int) -> Recorder:
    """Operations and memory of the loss alone, in one of so many processes, in half precision."""
    settings, V, L = recipe.method_kwargs, recipe.num_large_crops + recipe.num_small_crops, recipe.num_large_crops
    recorder, shape = Recorder(), (V * batch, int(settings["proj_output_dim"]))
    with pretended(processes), FakeTensorMode():
        loss_fn = BAMLoss(V, L, top_k_sink=min(int(settings.get("top_k_sink", 0)), batch * processes))
        z, teacher = (torch.empty(shape, dtype=torch.float16, device="cuda") for _ in range(2))
        with recorder:
            parts = Parts(recorder)
            parts.begin(LOSS)
            parts.backward(loss_fn(z.requires_grad_(), teacher))
    return recorder


def tell(name: str, batch: int, processes: int, device: Device, fabric: Fabric) -> dict[str, float]:
    """Milliseconds of a step's parts, its memory in GB, and images per second of one GPU.

    The network's time is taken to go with the batch, the optimizer's not.
    """
    recipe, found = alone(name)
    share, W = batch / recipe.optimizer.batch_size, processes
    parts, matching = seconds_by_part(found.operations, device), loss_of(recipe, batch, W)
    network = share * parts[NETWORK] + parts[OPTIMIZER]
    loss = seconds_by_part(matching.operations, device)[LOSS]
    link = fabric.reached * (device.link if fabric.node >= W else fabric.between)
    delay = fabric.start + 2 * math.log2(W) * fabric.hop if W > 1 else 0.0
    columns, sums = of_loss(batch * W, int(recipe.method_kwargs["proj_output_dim"]), teacher=True, gloo=False)
    gather = columns.sent(W) / 2 / link + delay  # in half precision
    iterations = sums.sent(W) / link + sums.rounds / 2 * delay
    backward = share * parts[NETWORK] / 2  # of two forwards and a backward; the gradients go beside it
    gradients = max(0.0, of_network(found.weights).sent(W) / link + delay - backward)
    on_device = network + loss + gather + iterations + gradients
    host = LAUNCH * len(found.operations) + BESIDE + (W - 1) * fabric.message
    step = max(on_device, host)
    shares = {"network": network, "loss": loss, "gather": gather, "column sums": iterations, "gradients": gradients}
    shares |= {"host": max(0.0, host - on_device)}
    held = found.lasting_memory + share * (found.peak_memory - found.lasting_memory) + CONTEXT
    held += max(0, matching.peak - loss_of(recipe, batch, 1).peak) + (4 * found.weights if W > 1 else 0)
    told = {**shares, "sizes": (W - 1) * fabric.message, "host's work": host, "step": step}
    return {**{key: 1e3 * value for key, value in told.items()}, "GB": held / 1e9, "images/s": batch / step}


def table(name: str, in_all: int | None = None, device: str = "h100") -> list[dict[str, str]]:
    """A line for each number of GPUs; efficiency beside one GPU with 256 images.

    Args:
        name: of the recipe.
        in_all: images of the global batch; None: 256 a GPU.
        device: of the doctor's table.
    """
    gpu, fabric = device_named(device), Fabric()
    best = tell(name, BATCH, 1, gpu, fabric)["images/s"]
    lines = []
    for W in GPUS:
        batch = BATCH if in_all is None else in_all // W
        found = tell(name, batch, W, gpu, fabric)
        limits = ("network", "loss", "gather", "column sums", "gradients", "host")
        worst = max(limits[1:], key=lambda key: found[key])
        line = {"GPUs": f"{W:,}", "images a GPU": f"{batch}", "step, ms": f"{found['step']:.3g}"}
        line |= {key: f"{found[key]:.3g}" for key in limits} | {"GB a GPU": f"{found['GB']:.0f}"}
        lines.append(line | {"efficiency": f"{found['images/s'] / best:.0%}", "lost most to": worst})
    return lines


def gpus_main(out: Path | None) -> None:
    """Print the tables, and keep them."""
    tables = {}
    small, base = "imagenet/bam_vit_small", "imagenet/bam_vit_base"
    narrow = f"{small} method_kwargs.proj_output_dim=256"
    for name, in_all in ((small, None), (small, 4096), (base, None), (narrow, None)):
        title = f"{name}, H100, {f'{BATCH} images a GPU' if in_all is None else f'{in_all} images in all'}"
        tables[title] = table(name, in_all)
        print(f"\n{title}\n\n{markdown(tables[title])}", flush=True)
    write(out, {"machine": machine(), "told": tables})
