"""What a run says of its precision is what it computed in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from solo_bam.comparison.collect import _stated
from solo_bam.comparison.results import RunResult
from solo_bam.config.comparison import Tune
from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.train.run import pretrain
from tests.recipes import tiny


@pytest.mark.parametrize(
    ("asked", "accelerator", "runs"),
    [
        ("16-mixed", "cpu", "bf16-mixed"),
        (16, "cpu", "bf16-mixed"),
        ("16-mixed", "cuda", "16-mixed"),
        ("bf16-mixed", "cuda", "bf16-mixed"),
        (32, "cpu", "32"),
        (32, "cuda", "32, convolutions TF32"),
        ("32-true", "cuda", "32, convolutions TF32"),
    ],
)
def test_the_precision_as_it_runs(
    asked: int | str, accelerator: str, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_has_tf32", lambda: True)
    assert hardware.precision_as_run(asked, accelerator) == runs


def test_float32_without_tf32_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_has_tf32", lambda: False)
    assert hardware.precision_as_run(32, "cuda") == "32"
    monkeypatch.setattr(hardware, "_has_tf32", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert hardware.precision_as_run(32, "cuda") == "32"


@pytest.mark.parametrize(
    ("precision", "accelerator", "capability", "slow"),
    [
        ("bf16-mixed", "cpu", "AVX2", True),
        ("16-mixed", "cpu", "DEFAULT", True),
        ("bf16-mixed", "cpu", "AVX512", False),
        (32, "cpu", "AVX2", False),
        ("bf16-mixed", "cuda", "AVX2", False),
    ],
)
def test_half_precision_that_is_slower_than_float32_is_told(
    precision: int | str, accelerator: str, capability: str, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert hardware.has_slow_bfloat16(precision, accelerator) is slow


def test_a_run_on_the_cpu_says_bfloat16(tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()
    ordinary = torch.nn.functional.linear

    def watched(x: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        out = ordinary(x, *args)
        seen.add(out.dtype)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", watched)
        trained = pretrain(tiny(tmp_path, "digits/bam", "precision=16-mixed", "backbone.name=test_resnet"))
    assert torch.bfloat16 in seen
    assert torch.float16 not in seen
    assert trained.folder.record()["hardware"]["precision"] == "bf16-mixed"


def test_a_comparison_states_the_precision_of_its_runs(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, "digits/bam", "precision=16-mixed")
    row = {"entry": "bam", "method": "bam", "seed": 5, "command": [], "status": "finished"}
    ran = RunResult(**row, about={"hardware": {"precision": "bf16-mixed"}})
    assert _stated(recipe, Tune(), [ran, ran])["precision"] == "bf16-mixed"
    assert _stated(recipe, Tune(), [RunResult(**row)])["precision"] == "16-mixed"


SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train"}


@pytest.mark.parametrize(
    ("environment", "devices", "refused"),
    [
        ({**SLURM, "SLURM_NTASKS": "2"}, 1, True),  # sbatch --ntasks=2, and no srun
        ({**SLURM, "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, 1, True),  # each would train alone
        ({**SLURM, "SLURM_NTASKS": "4"}, 4, True),  # sbatch, and no srun: it would wait for the other three
        ({**SLURM, "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}, 4, False),
        ({**SLURM, "SLURM_NTASKS": "1"}, 1, False),
        ({**SLURM, "SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "2"}, 1, False),
        ({"SLURM_NTASKS": "2"}, 1, False),
        (SLURM, 2, False),
    ],
)
def test_slurms_tasks_are_the_processes(
    environment: dict[str, str], devices: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if refused:
        with pytest.raises(UserError, match=r"devices: .*SLURM has SLURM_NTASKS=\d tasks.*srun"):
            hardware.check_launcher(devices, 1)
    else:
        hardware.check_launcher(devices, 1)
