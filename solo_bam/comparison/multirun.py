"""The program that Hydra's multirun runs: ``python -m solo_bam.comparison.multirun -m +queue=FILE +job=0,1,…``."""

from __future__ import annotations

import json
from pathlib import Path

import hydra
from omegaconf import DictConfig

from solo_bam.comparison.launch import Job


@hydra.main(version_base="1.2", config_path=None)
def main(cfg: DictConfig) -> None:
    """One job of the queue."""
    content = json.loads(Path(cfg.queue).read_text())[int(cfg.job)]
    Job.model_validate(content).work()


if __name__ == "__main__":
    main()
