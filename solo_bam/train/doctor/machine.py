"""What this machine and installation can do."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from solo_bam import __version__, solo_learn
from solo_bam.core import hardware
from solo_bam.core.files import expanded
from solo_bam.core.hardware import GIB
from solo_bam.train.doctor.finding import Finding

SHARED_MEMORY = Path("/dev/shm")
_RUNS_ON = (
    "torch", "torchvision", "lightning", "torchmetrics", "timm", "omegaconf", "hydra-core", "pydantic", "scikit-learn",
    "tensorboard", "pillow", "einops", "scipy", "numpy",
)  # fmt: skip
_EXTRAS = {  # module, extra, what for
    "h5py": ("h5", "data.format=h5"),
    "matplotlib": ("plots", "pictures"),
    "bokeh": ("explore", "solo-bam explore"),
    "nvidia.dali": ("dali", "data.format=dali"),
    "wandb": ("wandb", "wandb.enabled=True"),
    "umap": ("umap", "UMAP plots"),
}


def examine_machine(runs: Path) -> list[Finding]:
    """Versions, solo-learn, devices, memory, extras, fonts and disk.

    Args:
        runs: the folder that runs go to; it need not exist.
    """
    return [
        Finding("ok", "solo-bam", f"{__version__}, Python {platform.python_version()} on {platform.platform()}"),
        *_versions(tested_versions()),
        _solo_learn(),
        _accelerator(),
        _cores(),
        *_shared_memory(),
        *(_extra(module) for module in _EXTRAS),
        *_fonts(),
        disk(runs),
    ]


def tested_versions() -> dict[str, str]:
    """The versions that the tests run on, by package, where they apply to this Python; empty where nobody says."""
    package = Path(__file__).parents[2]
    for path in (package / "constraints.txt", package.parent / "constraints.txt"):
        if path.is_file():
            return dict(_parse(path.read_text()))
    return {}


def _parse(constraints: str) -> Iterator[tuple[str, str]]:
    for line in constraints.splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement.name, str(requirement.specifier).removeprefix("==")


def _versions(tested: dict[str, str]) -> list[Finding]:
    """One line for all that are as tested, one for each that is not, one for those of which nobody knows."""
    same, other, unknown = [], [], []
    for name in _RUNS_ON:
        try:
            # torch's builds for one CUDA version add it after a plus.
            installed = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            other.append(Finding("failure", name, "is not installed", f"pip install {name}"))
            continue
        if name not in tested:
            unknown.append(f"{name} {installed}")
        elif installed == tested[name]:
            same.append(f"{name} {installed}")
        else:
            text = f"{installed}, the tests run on {tested[name]}"
            remedy = f"pip install {name}=={tested[name]} should something go wrong"
            other.append(Finding("warning", name, text, remedy))
    if unknown:
        other.append(Finding("ok", "versions", f"{', '.join(unknown)}: which ones are tested is not known here"))
    return ([Finding("ok", "versions", f"{', '.join(same)}: as tested")] if same else []) + other


def _solo_learn() -> Finding:
    if found := solo_learn.problem():
        text, _, remedy = found.partition("; ")
        return Finding("failure", "solo-learn", text, remedy)
    version = solo_learn.version().get("solo-learn") or metadata.version("solo-learn")
    return Finding("ok", "solo-learn", f"{version}, its {solo_learn.edition()} edition, mended in memory")


def _accelerator() -> Finding:
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        gpus = ", ".join(f"{gpu.name} ({gpu.total_memory / GIB:.0f} GiB)" for gpu in found)
        return Finding("ok", "accelerator", f"{len(found)} GPU(s): {gpus}; CUDA {torch.version.cuda}")
    if torch.backends.mps.is_available():
        return Finding("ok", "accelerator", "MPS")
    if Path("/dev/nvidia0").exists():
        text = f"there is an NVIDIA GPU, which torch {torch.__version__} cannot use"
        return Finding("warning", "accelerator", text, "install a torch for your driver's CUDA")
    return Finding("ok", "accelerator", "no GPU: runs go to the CPU")


def _cores() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB if hasattr(os, "sysconf") else 0.0
    text = f"{hardware.cores()} CPU cores, {memory:.0f} GiB of memory"
    return Finding("ok", "machine", text) if memory >= 4 else Finding("warning", "machine", text, "use small batches")


def _shared_memory() -> list[Finding]:
    """Loader processes hand batches over in it; containers often have 64 MiB."""
    if not SHARED_MEMORY.is_dir():
        return []
    free = shutil.disk_usage(SHARED_MEMORY).free
    text = f"{free / GIB:.1f} GiB free in {SHARED_MEMORY}"
    if free >= GIB:
        return [Finding("ok", "shared mem.", text)]
    remedy = "give the container more (--shm-size=8g) or set data.num_workers=0"
    return [Finding("warning", "shared mem.", text, remedy)]


def _extra(module: str) -> Finding:
    extra, purpose = _EXTRAS[module]
    if _is_installed(module):
        return Finding("ok", extra, f"installed ({purpose})")
    return Finding("ok", extra, f"not installed, needed for {purpose} alone: pip install 'solo-bam[{extra}]'")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent that is missing
        return False


def _fonts() -> list[Finding]:
    if not _is_installed("matplotlib"):
        return []
    from matplotlib import font_manager, rcParams

    family = rcParams["font.family"]
    try:
        path = font_manager.findfont(font_manager.FontProperties(family=family), fallback_to_default=False)
    except ValueError:
        text = f"matplotlib finds none of {', '.join(family)}"
        return [Finding("warning", "fonts", text, "install one, or set font.family in your matplotlibrc")]
    return [Finding("ok", "fonts", f"plots are written in {Path(path).stem}")]


def disk(folder: Path, needed: float = 2 * GIB) -> Finding:
    """Free space where runs go.

    Args:
        folder: of the runs; it need not exist.
        needed: bytes below which it is a failure for a recipe, or a warning without one.
    """
    folder = expanded(folder).resolve()
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    text = f"{free / GIB:.1f} GiB free for runs in {folder}"
    if not os.access(there, os.W_OK):
        return Finding("failure", "disk", f"{there} cannot be written to", "set checkpoint.dir to another folder")
    if free < needed:
        return Finding("warning", "disk", text, "make room or set checkpoint.dir to another disk")
    return Finding("ok", "disk", text)
