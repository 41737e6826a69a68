"""Devices by their data sheets, and the time that a step's work takes on one: a roofline, operation by operation."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from solo_bam.core.errors import UserError, nearest
from solo_bam.train.doctor.work import Operation

# What training reaches of a data sheet's figures, assumed. How far that leads from published speeds of a ResNet-50
# (NVIDIA, DeepLearningExamples) is what PUBLISHED says, and tests/train/doctor/test_estimate.py holds it to.
PRODUCTS, MEMORY = 0.6, 0.7
PUBLISHED = "published speeds on A100 and V100 are 0.6 to 1.3 times the model's"
# Seconds of the processor for one operation of an eager step, forward, backward and optimizer together.
LAUNCH = 12e-6
# Of a step beside network, loss and optimizer: loops, callbacks, logging (benchmarks.step, the empty network).
BESIDE = 2e-3


@dataclass(frozen=True)
class Device:
    """Peak figures: FLOP/s of dense products, bytes/s of memory and of the link to other GPUs (each way), bytes."""

    name: str
    half: float
    tf32: float  # float32's where there is none
    single: float
    bandwidth: float
    memory: float
    link: float
    products: float = PRODUCTS
    reached: float = MEMORY

    @property
    def is_cpu(self) -> bool:
        """Whether the processor itself is meant, whose figures were measured here."""
        return self.name == "cpu"

    def seconds(self, operation: Operation) -> float:
        """Of one operation: its products or its memory, whichever takes longer."""
        if operation.dtype in (torch.float16, torch.bfloat16):
            rate = self.half
        else:
            rate = self.tf32 if operation.tf32 else self.single
        return max(operation.flops / (rate * self.products), operation.moved / (self.bandwidth * self.reached))


_GB, _T = 1e9, 1e12
_GPUS = (
    # name, bfloat16 (V100, T4: float16), TF32 (else float32), float32, bytes/s, bytes, link; SXM where there is one
    Device("H200", 989 * _T, 494 * _T, 67 * _T, 4800 * _GB, 141 * _GB, 450 * _GB),
    Device("H100", 989 * _T, 494 * _T, 67 * _T, 3350 * _GB, 80 * _GB, 450 * _GB),
    Device("A100", 312 * _T, 156 * _T, 19.5 * _T, 2039 * _GB, 80 * _GB, 300 * _GB),
    Device("L40S", 362 * _T, 183 * _T, 91.6 * _T, 864 * _GB, 48 * _GB, 32 * _GB),
    Device("V100", 125 * _T, 15.7 * _T, 15.7 * _T, 900 * _GB, 32 * _GB, 150 * _GB),
    Device("T4", 65 * _T, 8.1 * _T, 8.1 * _T, 320 * _GB, 16 * _GB, 16 * _GB),
)
NAMES = (*(gpu.name.lower() for gpu in _GPUS), "cpu")


def device_named(name: str) -> Device:
    """A device of the table; ``cpu``: this machine's, measured.

    Raises:
        UserError: there is none of that name.
    """
    if name.lower() == "cpu":
        return this_cpu()
    for gpu in _GPUS:
        if gpu.name.lower() == name.lower():
            return gpu
    raise UserError("device", f"got {name!r}{nearest(name, NAMES)}, allowed: {', '.join(NAMES)}", "correct it")


def device_like(name: str) -> Device | None:
    """That of the table whose name a GPU's own name holds, such as «NVIDIA H100 80GB HBM3»."""
    return next((gpu for gpu in _GPUS if gpu.name in name.upper().replace("-", " ").split()), None)


def device_here(accelerator: str) -> Device | None:
    """What this machine has; None where the table has no such GPU."""
    if accelerator == "cpu":
        return this_cpu()
    return device_like(torch.cuda.get_device_name()) if accelerator == "cuda" else None


def this_cpu() -> Device:
    """Products and copies of one process with its threads, timed now."""
    half, single = (_products(dtype) for dtype in (torch.bfloat16, torch.float32))
    source, target = torch.ones(2**22), torch.ones(2**22)
    copied = 2 * 4 * 2**22 / _shortest(lambda: target.copy_(source))
    return Device("cpu", half, single, single, copied, float("inf"), float("inf"), products=1.0, reached=1.0)


def _products(dtype: torch.dtype) -> float:
    a = torch.ones(512, 512, dtype=dtype)
    return 2 * 512**3 / _shortest(lambda: a @ a)


def _shortest(call: object, rounds: int = 15) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()  # type: ignore[operator]
        times.append(time.perf_counter() - start)
    return min(times)


def seconds_by_part(operations: Iterable[Operation], device: Device) -> dict[str, float]:
    """A step's time on the device, by what asks for it."""
    found: dict[str, float] = {}
    for operation in operations:
        found[operation.part] = found.get(operation.part, 0.0) + device.seconds(operation)
    return found
