"""Starts of ``solo-bam``, and of other Python, forked from a process that has imported everything already.

A start of Python and torch takes seconds; a fork of a warm process takes milliseconds. Every start leads a
process group of its own, so that a kill takes its loader processes and its other training processes along.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Start:
    """One forked ``solo-bam``.

    Args:
        zygote: whose child it is.
        pid: of the process and of its group.
        output: file of everything that it prints.
    """

    def __init__(self, zygote: Zygote, pid: int, output: Path):
        self.zygote, self.pid, self.output = zygote, pid, output
        self.code: int | None = None

    def poll(self) -> int | None:
        """The exit code, minus the signal's number where one ended it; None while it runs."""
        if self.code is None:
            self.code = self.zygote.ask(poll=self.pid)
        return self.code

    def wait(self, timeout: float = 120) -> int:
        """The exit code; a start that hangs fails the test."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline, f"still running after {timeout} s:\n{self.output.read_text()[-3000:]}"
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def send(self, number: int, group: bool = False) -> None:
        """Send a signal to the process, or to it and all that it has started."""
        (os.killpg if group else os.kill)(self.pid, number)

    def kill(self) -> int:
        """SIGKILL to the whole group."""
        self.send(signal.SIGKILL, group=True)
        return self.wait()


class Zygote:
    """The warm process; a context manager.

    Args:
        modules: that it imports.
    """

    def __init__(self, *modules: str):
        self.modules = modules or ("tests.warm",)

    def __enter__(self) -> Zygote:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote", *self.modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, **question: Any) -> Any:
        """One line to the warm process, one line back."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, arguments: list[str], output: Path, before: str = "", **environment: str) -> Start:
        """``solo-bam`` with these arguments; ``before`` is Python run in the child first."""
        question = {
            "start": arguments, "output": str(output), "before": before, "environment": environment,
            "folder": os.getcwd(),
        }  # fmt: skip
        return Start(self, self.ask(**question), output)


# ------------------------------------------------------------------------------ inside the warm process


class _Forked:
    """Stands in for ``subprocess.Popen`` where Lightning starts a run's other processes."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: str | None = None):
        sys.stdout.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.environ.clear()
            os.environ.update(env)
            _run(_ARGUMENTS)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _poll(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(0.005)


_ARGUMENTS: list[str] = []


def _poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _run(arguments: list[str]) -> None:
    from solo_bam.cli import main

    code = 1
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _child(question: dict[str, Any]) -> None:
    os.setsid()
    out = os.open(question["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(question["environment"])
    from lightning.fabric.strategies.launchers import subprocess_script as fabric
    from lightning.pytorch.strategies.launchers import subprocess_script as launcher

    for module in (launcher, fabric):
        module.subprocess = type("subprocess", (), {"Popen": _Forked})  # type: ignore[attr-defined]
    os.chdir(question["folder"])
    exec(question["before"], {})
    _ARGUMENTS[:] = question["start"]
    _run(question["start"])


def _serve() -> None:
    for module in sys.argv[1:]:
        import_module(module)
    for line in sys.stdin:
        question = json.loads(line)
        if "poll" in question:
            answer = _poll(question["poll"])
        else:
            answer = os.fork()
            if answer == 0:
                _child(question)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
