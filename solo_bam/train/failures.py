"""When one of several processes fails: one line for all of them, soon.

A process that fails leaves word in the run's folder before it lets go of the others. They find their
collectives broken, look for the word, and say nothing of their own. The first process prints what the failed
one has left; where nobody has left word, a process was killed from outside.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback

import lightning.pytorch as pl
import torch.distributed as dist

from solo_bam.core.errors import UserError
from solo_bam.runs.folder import RunFolder
from solo_bam.train.lightning_state import started_processes

_WAIT_FOR_WORD = 3.0  # seconds that a broken collective may come before the word
_WAIT_FOR_READER = 10.0  # seconds that a failed process gives the first one to print its line


def agreed(trainer: pl.Trainer, folder: RunFolder, error: Exception, parent: int) -> Exception:
    """What this process has to raise after ``error`` ended its training; does not return in the other processes.

    Args:
        trainer: whose ``fit`` failed.
        folder: shared by the processes.
        error: of this process.
        parent: the process that had started this one when training began.
    """
    if trainer.world_size == 1:
        return error
    shared = isinstance(error, UserError) and error.on_all_processes
    if trainer.global_rank == 0:
        told = error if shared else _reason(trainer, folder, error)
        _end_others(trainer, at_once=not shared)
        folder.clear_failures()
        return told
    if not shared and os.getppid() == parent:  # else the first process is gone, and with it the run
        _leave_word(trainer, folder, error)
        if dist.is_initialized() and dist.get_backend() != "gloo":
            _speak_for_the_first(folder, parent)
    sys.stdout.flush()
    # Not through Lightning's and torch's clean-up, which would wait and talk. With 0, because Lightning kills the
    # first process, which has the word now, when another ends with anything else.
    os._exit(0)


def _reason(trainer: pl.Trainer, folder: RunFolder, error: Exception) -> Exception:
    """The first process's error, or what another process has failed of before."""
    if isinstance(error, UserError):
        return error
    deadline = time.monotonic() + _WAIT_FOR_WORD
    while time.monotonic() < deadline:
        processes = enumerate(started_processes(trainer), 1)
        ended = [(rank, process) for rank, process in processes if process.poll() is not None]
        for rank, word in folder.failures().items():
            return UserError(word["key"], f"{word['problem']} (process {rank})", word["remedy"])
        for rank, process in ended:  # without a word
            problem = f"process {rank} ended with code {process.returncode}"
            return UserError("devices", problem, "see what it said, then continue with --resume")
        time.sleep(0.05)
    return error


def _leave_word(trainer: pl.Trainer, folder: RunFolder, error: Exception) -> None:
    """Tell the others, unless one of them was first."""
    deadline = time.monotonic() + (0 if isinstance(error, UserError) else _WAIT_FOR_WORD / 3)
    while not folder.failures() and time.monotonic() < deadline:
        time.sleep(0.05)
    if not folder.failures():
        if not isinstance(error, UserError):
            traceback.print_exception(error)
        word = error if isinstance(error, UserError) else UserError("solo-bam", repr(error), "see its traceback")
        folder.tell_failure(trainer.global_rank, {"key": word.key, "problem": word.problem, "remedy": word.remedy})


def _speak_for_the_first(folder: RunFolder, parent: int) -> None:
    """Where the end of this process does not wake the others (NCCL): wait a little, then print the line and end all."""
    deadline = time.monotonic() + _WAIT_FOR_READER
    while time.monotonic() < deadline and os.getppid() == parent:
        if not folder.failures():
            return  # it has been read
        time.sleep(0.05)
    for word in folder.failures().values():
        print(f"solo-bam: error: {word['key']}: {word['problem']}; {word['remedy']}", file=sys.stderr, flush=True)
    os._exit(2)  # Lightning, or SLURM, then ends the others


def _end_others(trainer: pl.Trainer, at_once: bool) -> None:
    """End the processes that were started from this one, and Lightning's watch over them."""
    processes = started_processes(trainer)
    deadline = time.monotonic() + (0 if at_once else 5)
    while not at_once and time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.02)
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
    processes.clear()
