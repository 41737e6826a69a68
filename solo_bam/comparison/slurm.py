"""SLURM as a comparison's launcher: Hydra's submitit, which by itself ends with the first job that SLURM ends."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from solo_bam.core.errors import UserError

_SUBMITIT = "hydra_plugins.hydra_submitit_launcher"
_ASK_EVERY = 30  # seconds
_RESTARTS = 1000  # of a job whose time is up; it goes on where it was


def launcher_words(asked: Sequence[str], folder: Path, jobs: int | None) -> list[str]:
    """Hydra's overrides.

    Args:
        asked: by the user.
        folder: of the comparison.
        jobs: at once.

    Raises:
        UserError: there is no launcher, or no SLURM.
    """
    if importlib.util.find_spec("hydra_plugins") is None or not importlib.util.find_spec(_SUBMITIT):
        problem = "got slurm, hydra-submitit-launcher is not installed"
        raise UserError("launcher", problem, "pip install 'solo-bam[slurm]'")
    if not shutil.which("sbatch"):
        raise UserError("launcher", "got slurm, there is no sbatch here", "start it where SLURM's jobs are submitted")
    words = [f"hydra.launcher.name={_name(folder)}", f"hydra.launcher.max_num_timeout={_RESTARTS}"]
    return [*words, *([f"hydra.launcher.array_parallelism={jobs}"] if jobs else []), *asked]


def _name(folder: Path) -> str:
    """Of a comparison's jobs, for SLURM."""
    return f"solo-bam-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"


def cancel_jobs(folder: Path, patience: float = 60) -> None:
    """Cancel what is queued or runs, and wait while trainings save themselves."""
    name = f"--name={_name(folder)}"
    end = time.monotonic() + patience
    while time.monotonic() < end and subprocess.run(["squeue", "--noheader", name], capture_output=True).stdout:
        subprocess.run(["scancel", name], check=False)
        time.sleep(1)


def go_on_without_ended_jobs(note: Callable[[Path, int, str], None]) -> None:
    """Let Hydra's launcher take a job that SLURM has ended for one that is done.

    Args:
        note: called with the launcher's folder, the job's number and what to tell.
    """
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # at which trainings save themselves and submitit requeues the job
    from hydra.core.utils import JobReturn, JobStatus
    from submitit import SlurmJob
    from submitit.core.utils import UncompletedJobError
    from submitit.slurm.slurm import SlurmInfoWatcher

    results, command = SlurmJob.results, SlurmInfoWatcher._make_command

    def results_or_none(job: SlurmJob[Any]) -> list[Any]:
        try:
            return results(job)
        except UncompletedJobError:
            sent = job.submission()
            error = f"SLURM's job {job.job_id} has ended ({job.state.lower()})"
            note(Path(sent.function.config.hydra.sweep.dir), sent.args[2], error)  # type: ignore[attr-defined]
            return [JobReturn(status=JobStatus.COMPLETED)]

    def command_or_queue(watcher: SlurmInfoWatcher) -> list[str] | None:
        """Where SLURM keeps no accounts, its queue knows a job for some minutes after its end."""
        words = command(watcher)
        if words is None:
            return None
        queue = f"squeue --noheader --states=all --format='%i|%T|%N' --jobs={','.join(words[5::2])}"
        return ["sh", "-c", f"{' '.join(words)} 2>/dev/null || {{ echo 'JobID|State|NodeList' && {queue}; }}"]

    SlurmJob.results = results_or_none  # type: ignore[method-assign, assignment]
    SlurmInfoWatcher._make_command = command_or_queue  # type: ignore[method-assign, assignment]
    SlurmJob.watcher = SlurmInfoWatcher(delay_s=_ASK_EVERY)
