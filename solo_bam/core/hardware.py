"""What the machine offers, held against ``accelerator`` and ``devices`` of a recipe.

Torch is imported when a device is asked for: what only plans work starts at once.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from solo_bam.core.errors import UserError, nearest

if TYPE_CHECKING:
    import torch

READ_EVERY = 50  # steps between two readings of a device's numbers, where each makes the host wait
GIB = 2**30  # bytes
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


@dataclass(frozen=True)
class Devices:
    """Arguments for Lightning's Trainer, and how many processes they make on this node."""

    accelerator: str
    devices: int | list[int]
    count: int


def find_devices(accelerator: str, devices: int | str | list[int]) -> Devices:
    """Resolve ``auto`` and check that the devices are there.

    Args:
        accelerator: ``auto``, ``cpu``, ``gpu``, ``cuda`` or ``mps``.
        devices: ``auto``, a number (-1 for all), or indexes as a list or as ``"0,1"``; on the CPU, where
            devices are processes, a list counts for its length.

    Raises:
        UserError: an accelerator or more devices than there are.
    """
    if accelerator not in ACCELERATORS:
        problem = f"got {accelerator!r}{nearest(accelerator, ACCELERATORS)}, allowed: {', '.join(ACCELERATORS)}"
        raise UserError("accelerator", problem, "correct it")
    import torch

    cuda = gpus()
    mps = int(torch.backends.mps.is_available())
    kind = {"gpu": "cuda" if cuda or not mps else "mps"}.get(accelerator, accelerator)
    if kind == "auto":
        kind = "cuda" if cuda else "mps" if mps else "cpu"
    there = {"cuda": cuda, "mps": mps, "cpu": cores()}[kind]
    if not there:
        raise UserError("accelerator", f"got {accelerator!r}, this machine has none", "use accelerator=auto or cpu")
    chosen = _parse(devices, 1 if kind == "cpu" else there, there)
    indexes = chosen if isinstance(chosen, list) else list(range(chosen))
    unit = {"cuda": "GPUs", "mps": "MPS device", "cpu": "CPU cores"}[kind]
    if not indexes or len(indexes) > there or (kind != "cpu" and max(indexes) >= there):
        raise UserError("devices", f"got {devices!r}, this machine has {there} {unit}", "use fewer, or devices=auto")
    if kind == "cpu":
        return Devices("cpu", len(indexes), len(indexes))
    return Devices(kind, chosen, len(indexes))


def launcher() -> Literal["torchrun", "slurm"] | None:
    """What has started this process, and perhaps others of its run; Lightning's own look at it warns of srun."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # perhaps from a batch script of one task
        return "torchrun"
    by_hand = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "slurm" if "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_NTASKS") and not by_hand else None


def check_launcher(devices: int, num_nodes: int) -> None:
    """Whether SLURM or torchrun has started as many processes as there are to be.

    Args:
        devices: processes on each node.
        num_nodes: nodes.

    Raises:
        UserError: it has started others, each of which would train alone or wait for the rest.
    """
    by = launcher()
    if by is None:
        return
    if by == "torchrun":
        started = os.environ.get("WORLD_SIZE", "")
        told = f"torchrun has started {started} (WORLD_SIZE={started})"
        options = "--nproc-per-node and --nnodes of torchrun say"
    else:
        started = os.environ["SLURM_NTASKS"]
        told = f"SLURM has SLURM_NTASKS={started} tasks"
        options = "--ntasks-per-node and --nodes say, and start with srun"
    if started.isdigit() and int(started) != devices * num_nodes:
        problem = f"got {devices} on {num_nodes} node(s), {told}"
        raise UserError("devices", problem, f"set devices and num_nodes to what {options}")
    if by == "slurm" and started != "1" and "SLURM_STEP_ID" not in os.environ:
        raise UserError("devices", f"{told}, and only one of them was started", "start with srun")


def is_first_process() -> bool:
    """Whether this process is the first, or the only one, of those that torchrun or SLURM has started."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def asked_for(devices: int | str | list[int]) -> int:
    """How many devices a recipe asks for on another machine; one for «all» and ``auto``."""
    chosen = _parse(devices, 1, 1)
    return len(chosen) if isinstance(chosen, list) else chosen


def reading_waits(device: torch.device) -> bool:
    """Whether to read a number from a tensor there is to wait until the device has done all that it was told."""
    return device.type != "cpu"


def precision_as_run(precision: int | str, accelerator: str) -> str:
    """The precision that networks compute in, for the record of a number: what was asked for is not always what runs.

    Lightning takes bfloat16 for ``16-mixed`` on the CPU, which has no gradient scaler; cuDNN's convolutions of float32
    run use TF32 on GPUs that have it, unless ``torch.backends.cudnn.allow_tf32`` is off.

    Args:
        precision: of a recipe.
        accelerator: as resolved, ``cpu``, ``cuda`` or ``mps``.
    """
    asked = {"16": "16-mixed", "bf16": "bf16-mixed", "32-true": "32"}.get(str(precision), str(precision))
    if accelerator == "cpu" and asked == "16-mixed":
        return "bf16-mixed"
    if accelerator == "cuda" and asked == "32" and _has_tf32() and _allows_tf32():
        return "32, convolutions TF32"
    return asked


def has_slow_bfloat16(precision: int | str, accelerator: str) -> bool:
    """Whether networks run several times slower in this half precision than in float32.

    A processor without AVX-512 has no kernels for bfloat16: a ResNet takes about eight times as long (AMD EPYC, Zen 3).
    """
    import torch

    on_cpu = accelerator == "cpu" and precision_as_run(precision, accelerator) == "bf16-mixed"
    return on_cpu and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


def _has_tf32() -> bool:
    import torch

    return torch.cuda.get_device_capability() >= (8, 0)


def _allows_tf32() -> bool:
    import torch

    return torch.backends.cudnn.allow_tf32


def has_tf32_products() -> bool:
    """Whether matrix products of float32 tensors on a GPU are to be computed in TF32 now."""
    import torch

    products = torch.backends.cuda.matmul
    return products.fp32_precision == "tf32" if hasattr(products, "fp32_precision") else products.allow_tf32


def gpus() -> int:
    """CUDA devices that this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes of memory that are free, in a container with a limit what is left of that; None where nobody says."""
    free = [_number(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable")]
    group = "/sys/fs/cgroup/memory"
    limits = [_number(line) for name in ("max", "current") for line in _lines(f"{group}.{name}")]
    if len(limits) == 2 and limits[0]:
        free.append(max(0, limits[0] - limits[1]))
    return min(free, default=None)


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.readlines()
    except OSError:
        return []


def _number(text: str) -> int:
    """0 for «max»."""
    return int(text) if text.strip().isdigit() else 0


def _parse(devices: int | str | list[int], auto: int, all_of_them: int) -> int | list[int]:
    if devices == "auto":
        return auto
    if devices in (-1, "-1"):
        return all_of_them
    if isinstance(devices, list):
        return devices
    try:
        numbers = [int(part) for part in str(devices).split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise UserError(
            "devices", f"got {devices!r}, allowed: auto, -1, a number of devices or a list of indexes", "correct it"
        )
    return numbers[0] if len(numbers) == 1 and "," not in str(devices) else numbers


def describe(precision: int | str, accelerator: str) -> dict[str, object]:
    """Processor, cores, GPUs, operating system and precision as it runs, for the record of a run."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(gpus())]
    machine = {"platform": platform.platform(), "processor": _processor(), "cores": os.cpu_count(), "gpus": names}
    return {**machine, "precision": precision_as_run(precision, accelerator)}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
