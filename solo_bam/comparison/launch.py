"""Training and measuring the runs of a comparison: Hydra's multirun carries them, by whichever launcher."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from solo_bam.comparison.command import PRELOAD, run_command
from solo_bam.comparison.plan import PlannedRun
from solo_bam.comparison.slurm import cancel_jobs
from solo_bam.config.comparison import SLURM
from solo_bam.config.overrides import quoted
from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.core.files import locked, writable, written_whole
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.identity import recipe_hash

RUNNING, FINISHED, FAILED = "running", "finished", "failed"
SUBMITTED = "SUBMITIT_EXECUTOR"  # in the environment of a SLURM job that a comparison has submitted
_TOLD_TO_STOP = (128 + signal.SIGTERM, 128 + signal.SIGUSR1, -signal.SIGTERM, -signal.SIGUSR1)


class Job(BaseModel):
    """One run with its evaluations.

    Attributes:
        run: to train, unless it is there already.
        evaluations: arguments of the ``solo-bam`` commands that measure it, unless they have done so; ``{run}``
            stands for its folder.
        folder: of the comparison.
        environment: of its processes, beside this one's.
    """

    run: PlannedRun
    evaluations: list[list[str]]
    folder: Path
    environment: dict[str, str] = {}

    @classmethod
    def queued(cls, queue: Path, number: int) -> Job:
        """One of those that :func:`launch` has written down."""
        return cls.model_validate(json.loads(queue.read_text())[number])

    @property
    def name(self) -> str:
        """Of its files."""
        recipe = self.run.recipe
        return f"{self.run.entry}-{recipe.seed}-{recipe_hash(recipe)}".replace("/", "_").replace("\0", "_")

    @property
    def place(self) -> Path:
        """Of the states and logs of all jobs."""
        return self.folder / "jobs"

    @property
    def log(self) -> Path:
        """What its commands print."""
        return self.place / f"{self.name}.log"

    def trained(self) -> RunFolder | None:
        """The finished run."""
        return self.run.find(self.folder)

    def state(self) -> dict[str, Any]:
        """``status``, ``error``, ``started``, ``trained`` and ``done`` (evaluations); empty before its first start."""
        try:
            content = json.loads((self.place / f"{self.name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def tell(self, **news: Any) -> None:
        """Write down what is known of it."""
        with written_whole(self.place / f"{self.name}.json") as part:
            part.write_text(json.dumps({"label": self.run.label, **self.state(), **news}, indent=2) + "\n")

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        done = self.state().get("done", [])
        return all(arguments in done for arguments in self.evaluations) and self.trained() is not None

    def epochs_done(self) -> int:
        """Epochs of the unfinished run."""
        folder = RunFolder.unfinished(self.run.recipe)
        return 0 if folder is None else len(folder.costs())

    def work(self) -> None:
        """Train and evaluate; a failure is written down, never raised, so that the other jobs go on."""
        self.place.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log, one_gpu(self.place) as gpu:
            error = self._train_and_evaluate(log, {**os.environ, **self.environment, **gpu})
        self.tell(status=FINISHED if error is None else FAILED, error=error)

    def _train_and_evaluate(self, log: IO[str], environment: Mapping[str, str]) -> str | None:
        """What went wrong; None when all went well."""
        trained = self.trained()
        done = self.state().get("done", []) if trained else []
        self.tell(status=RUNNING, error=None, done=done, trained=trained is not None, started=time.time())
        if trained is None:
            error = self._call(["pretrain", *self.run.arguments, "enable_progress_bar=False"], log, environment)
            trained = self.trained()
            if error is not None or trained is None:
                return error or "it ended well, and left no finished run of its recipe"
            self.tell(trained=True)
        for arguments in self.evaluations:
            if arguments not in done:
                error = self._call([a.replace("{run}", str(trained.path)) for a in arguments], log, environment)
                if error is not None:
                    return error
                done = [*done, arguments]
                self.tell(done=done)
        return None

    def _call(self, arguments: Sequence[str], log: IO[str], environment: Mapping[str, str]) -> str | None:
        # A signal to a SLURM job is for all of its processes: no server would outlive it.
        fork = self.run.recipe.devices in (1, "1") and SUBMITTED not in environment
        # Lightning starts a run's processes, SLURM only the job.
        return _call(arguments, log, {**environment, "SLURM_JOB_NAME": "interactive"}, fork)


def _call(arguments: Sequence[str], log: IO[str], environment: Mapping[str, str], fork: bool) -> str | None:
    """Run a ``solo-bam`` command in a process of its own; None when all went well, else what it said last.

    Args:
        arguments: of the command.
        log: what it prints.
        environment: of its process.
        fork: from a server that has imported torch and Lightning once for all commands, which saves each some seconds;
            not for a command that starts processes itself, since they are made like the first.
    """
    log.write(f"$ {shlex.join(['solo-bam', *arguments])}\n")
    log.flush()
    start = os.fstat(log.fileno()).st_size
    code = (_forked if fork else _started)(arguments, log.name, environment)
    if code == 0:
        return None
    if code < 0:
        return f"killed by signal {-code}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    with open(log.name, errors="replace") as written:
        written.seek(start)
        said = [line.strip() for line in written if line.strip()]
    return said[-1].removeprefix("solo-bam: error: ") if said else f"exit code {code}"


def _started(arguments: Sequence[str], log: str, environment: Mapping[str, str]) -> int:
    words = [sys.executable, "-m", "solo_bam", *arguments]
    with (
        open(log, "a") as out,
        subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        code = process.wait()  # and so does Popen's end, so that a training saves itself whatever is raised meanwhile
    if SUBMITTED in environment and code in _TOLD_TO_STOP:
        raise SystemExit(code)  # without a result: whether the job is cancelled or queued again is SLURM's to say
    return code


def _forked(arguments: Sequence[str], log: str, environment: Mapping[str, str]) -> int:
    os.environ.update(environment)  # the server's, too: libraries read some of it once, when they are imported
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("forkserver", force=True)  # joblib's own, which its children do not know
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOAD)
    process = server.Process(target=run_command, args=(list(arguments), log, dict(environment)))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@contextmanager
def one_gpu(folder: Path) -> Iterator[dict[str, str]]:
    """The environment that gives a job a GPU which no other job of the comparison holds on this machine.

    It changes nothing where there is no choice of GPUs, or where more jobs run than there are.
    """
    for gpu in _gpus():
        with (folder / f"gpu-{socket.gethostname()}-{gpu}.lock").open("a") as lock:
            if locked(lock):
                yield {"CUDA_VISIBLE_DEVICES": gpu}
                return
    yield {}


def _gpus() -> list[str]:
    """GPUs that a job may choose from; none where there is no choice."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(hardware.gpus())] if visible is None else visible.split(",")
    return names if len(names) > 1 else []


# ------------------------------------------------------------------------------------------- multirun


@contextmanager
def alone(folder: Path) -> Iterator[IO[str]]:
    """Hold a comparison's folder, so that it is not run twice at a time; the lock goes to whoever is handed the file.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    writable(folder, "output")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "comparison.lock").open("a") as lock:
        if not locked(lock):
            problem = f"{folder} is in use: this comparison is running already, or runs of a killed start still are"
            raise UserError("output", problem, "wait for it, stop it, or give another folder")
        yield lock


def launch(
    jobs: Sequence[Job], folder: Path, launcher: Sequence[str], lock: IO[str], watch: Callable[[], None]
) -> None:
    """Work through jobs; returns when all have ended, well or not.

    Args:
        jobs: in order.
        folder: of the comparison.
        launcher: Hydra's overrides, e.g. ``hydra/launcher=joblib``; none: one job after another.
        lock: of :func:`alone`.
        watch: called about once a second meanwhile.

    Raises:
        UserError: Hydra could not launch them.
    """
    queue = folder / "jobs" / "queue.json"
    queue.parent.mkdir(parents=True, exist_ok=True)
    queue.write_text(json.dumps([job.model_dump(mode="json") for job in jobs]))
    words = [sys.executable, "-m", "solo_bam.comparison.multirun", "--multirun", *launcher]
    words += ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    words += [f"hydra.sweep.dir={quoted(str(folder / 'jobs' / 'hydra'))}", f"+queue={quoted(str(queue))}"]
    words += ["+job=" + ",".join(str(i) for i in range(len(jobs)))]
    log = folder / "jobs" / "multirun.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            words, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=[lock.fileno()]
        )
        try:
            with _termination_as_interrupt():
                while process.poll() is None:
                    watch()
                    time.sleep(1)
        except KeyboardInterrupt:
            raise UserError("solo-bam", "interrupted", "the same command goes on where it stopped") from None
        finally:
            _stop(process, folder, on_slurm=SLURM in launcher)
    watch()
    if process.returncode != 0:
        said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise UserError("hydra/launcher", said[0] if said else f"exit code {process.returncode}", f"see {log}")


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM, a scheduler's word, ends the runs as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(process: subprocess.Popen[bytes], folder: Path, on_slurm: bool, patience: float = 60) -> None:
    """End what still runs: SIGTERM lets a training save itself, which may take a step."""
    end = time.monotonic() + patience
    if on_slurm and process.poll() != 0:
        cancel_jobs(folder, patience)
    with suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < end:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.2)
