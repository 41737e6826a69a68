"""What ran: versions of the packages, state of the checkout."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

from solo_bam import solo_learn

_PACKAGES = (
    "solo-bam", "solo-learn", "torch", "torchvision", "lightning", "timm", "torchmetrics", "omegaconf", "hydra-core",
    "pydantic", "numpy", "nvidia-dali-cuda120",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Of the packages that a run depends on, as far as they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | solo_learn.version()


def git_state() -> dict[str, object] | None:
    """Commit and cleanliness of the checkout that solo-bam runs from; None where it is no checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        answer = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
        return answer.stdout.strip()

    try:
        if git("ls-files", Path(__file__).name) == "":
            return None  # installed inside some other project's checkout
        return {"commit": git("rev-parse", "HEAD"), "changed_files": len(git("status", "--porcelain").splitlines())}
    except (OSError, subprocess.CalledProcessError):
        return None
