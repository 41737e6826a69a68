"""The program that Hydra's multirun runs: ``python -m solo_bam.comparison.multirun -m +queue=FILE +job=0,1,…``."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from solo_bam.comparison.launch import FAILED, Job
from solo_bam.comparison.slurm import go_on_without_ended_jobs
from solo_bam.config.comparison import SLURM


@hydra.main(version_base="1.2", config_path=None)
def main(cfg: DictConfig) -> None:
    """One job of the queue."""
    Job.queued(Path(cfg.queue), int(cfg.job)).work()


def _note(folder: Path, number: int, error: str) -> None:
    Job.queued(folder.with_name("queue.json"), number).tell(status=FAILED, error=error)


if __name__ == "__main__":
    if SLURM in sys.argv:
        go_on_without_ended_jobs(_note)
    main()
