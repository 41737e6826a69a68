"""A ``solo-bam`` command in a process that is forked from a server, which has imported once what all commands need."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping, Sequence

# What a comparison's commands need.
PRELOAD = ["solo_bam.train.run", "solo_bam.train.linear", "solo_bam.evaluate.offline_knn"]


def run_command(arguments: Sequence[str], log: str, environment: Mapping[str, str]) -> None:
    """Run it as ``python -m solo_bam`` would, and end the process with its exit code.

    Args:
        arguments: of the command.
        log: file that its output is added to.
        environment: the process's.
    """
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # for loader processes: as in any other start
    with open(log, "a", buffering=1) as out:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(out.fileno(), stream.fileno())
    sys.argv = ["solo-bam", *arguments]
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    runpy.run_module("solo_bam", run_name="__main__")


def _end_with_the_parent() -> None:
    """A comparison that is killed leaves no training behind: SIGTERM lets it save itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
