"""Hosts on one machine: network namespaces on a bridge, each with a name, in which ``torchrun`` is started.

Nothing of them can be reached from outside, nor reaches outside: the bridge lies in a namespace of its own. A host's
``torchrun`` is forked from a warm process (:mod:`tests.zygote`), and its training processes from it, so that a start takes
a second; ``Cluster.torchrun(..., real=True)`` starts the command itself.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.links import address, network, port
from tests.zygote import Zygote

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
PORT = 29400


def missing() -> str | None:
    """Why there can be no hosts here."""
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "needs iproute2"
    name = f"sb{os.getpid()}try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "needs network namespaces"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


def needs_hosts() -> pytest.MarkDecorator:
    """Skip a test where there can be none."""
    reason = missing()
    return pytest.mark.skipif(reason is not None, reason=f"several hosts: {reason}")


def _ip(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


class Host:
    """One of them: ``name`` is what its processes say, ``namespace`` where they live, ``address`` where they listen."""

    def __init__(self, number: int, namespace: str, switch: str):
        self.number = number
        self.name = f"host-{chr(ord('a') + number)}"
        self.namespace, self.port, self.switch = namespace, port(number), switch
        self.address = address(number)

    def pids(self) -> list[int]:
        """Every process on it."""
        own = os.stat(f"/run/netns/{self.namespace}").st_ino
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.stat(path / "ns/net").st_ino == own and "State:\tZ" not in (path / "status").read_text():
                    found.append(int(path.name))
            except OSError:  # it has just ended
                continue
        return found

    def kill(self) -> None:
        """Lose it: every process of it ends at once."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def cut(self) -> None:
        """Pull its cable."""
        _ip("ip", "-n", self.switch, "link", "set", self.port, "down")

    def cut_for(self, seconds: float) -> None:
        """Pull its cable for so long."""
        self.cut()
        time.sleep(seconds)
        self.join()

    def join(self) -> None:
        """Plug its cable in again."""
        _ip("ip", "-n", self.switch, "link", "set", self.port, "up")

    def throttle(self, rate: str) -> None:
        """Let only so much through in each direction: what waits is late."""
        shape = ["root", "tbf", "rate", rate, "burst", "8kb", "latency", "2s"]
        _ip("tc", "-n", self.namespace, "qdisc", "replace", "dev", "eth0", *shape)
        _ip("tc", "-n", self.switch, "qdisc", "replace", "dev", self.port, *shape)

    def lose(self, share: float) -> None:
        """Drop this share of the packets in each direction."""
        for chain in ("INPUT", "OUTPUT"):
            rule = ["-A", chain, "!", "-i" if chain == "INPUT" else "-o", "lo", "-m", "statistic", "--mode", "random"]
            _ip("ip", "netns", "exec", self.namespace, "iptables", *rule, "--probability", str(share), "-j", "DROP")


class Launch:
    """``torchrun`` on all hosts: one output a host."""

    def __init__(self, cluster: Cluster, starts: dict[Host, Any]):
        self.cluster, self.starts, self.begun = cluster, starts, time.monotonic()

    def text(self, host: Host | None = None) -> str:
        """What was printed on a host, or on all."""
        return "\n".join(each.output.read_text() for of, each in self.starts.items() if host in (None, of))

    def errors(self) -> list[str]:
        """Our own error lines, whatever the host."""
        return [line for line in self.text().splitlines() if line.startswith("solo-bam: error: ")]

    def wait(self, timeout: float = 60) -> dict[str, int]:
        """The exit codes by host, once nothing lives on any of them; a process that hangs fails the test."""
        end = time.monotonic() + timeout
        codes: dict[str, int | None] = {}
        while (
            None in (codes := {host.name: start.poll() for host, start in self.starts.items()}).values() or self.pids()
        ):
            assert time.monotonic() < end, f"{codes} after {timeout} s, {self.pids()} live:\n{self.text()[-6000:]}"
            time.sleep(0.1)
        return {name: code for name, code in codes.items() if code is not None}

    def wait_for_training(self, timeout: float) -> None:
        """Until nothing but ``torchrun`` lives on the hosts."""
        end = time.monotonic() + timeout
        while {*self.pids()} - {start.pid for start in self.starts.values()}:
            assert time.monotonic() < end, f"training after {timeout} s:\n{self.text()[-6000:]}"
            time.sleep(0.1)

    def pids(self) -> list[int]:
        """Every process on its hosts."""
        return [pid for host in self.starts for pid in host.pids()]


class _Real:
    """A started command, with the interface of :class:`tests.zygote.Start`."""

    def __init__(self, words: list[str], output: Path, environment: dict[str, str]):
        self.output = output
        with output.open("a") as out:
            self.process = subprocess.Popen(
                words, stdout=out, stderr=out, env={**os.environ, **environment}, start_new_session=True
            )
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.poll()


class Cluster:
    """A context manager.

    Args:
        count: number of hosts.
        zygote: warm.
        folder: of their outputs.
    """

    def __init__(self, count: int, zygote: Zygote, folder: Path):
        self.zygote, self.folder = zygote, folder
        self.hosts: list[Host] = []
        self._network = network(count)
        self._outputs = 0

    def __enter__(self) -> Cluster:
        *spaces, switch = self._network.__enter__()
        self.hosts += [Host(number, space, switch) for number, space in enumerate(spaces)]
        return self

    def __exit__(self, *_: Any) -> None:
        for host in self.hosts:
            host.kill()
        self._network.__exit__(None, None, None)

    def torchrun(
        self, command: list[str], *, hosts: list[Host] | None = None, processes: int = 1, restarts: int = 0,
        before: str = "", disks: dict[str, dict[str, str]] | None = None, real: bool = False, nodes: str | None = None,
        clocks: dict[str, int] | None = None,
    ) -> Launch:  # fmt: skip
        """Start ``torchrun … solo-bam COMMAND`` on each host.

        Args:
            command: of solo-bam.
            hosts: the first of them holds the rendezvous; all, unless given.
            processes: on each.
            restarts: ``--max-restarts``.
            before: Python that each training process runs first; ``rank`` and ``attempt`` are there.
            disks: small disks by host's name: ``{folder: size}``.
            real: start the command; nothing is forked, ``before`` is not run.
            nodes: ``--nnodes``; as many as hosts, unless given.
            clocks: seconds by which a host, by name, is ahead of the others.
        """
        hosts = hosts or self.hosts
        starts: dict[Host, Any] = {}
        for host in hosts:
            arguments = [
                f"--nnodes={nodes or len(hosts)}", f"--nproc-per-node={processes}", f"--max-restarts={restarts}",
                "--rdzv-backend=c10d", f"--rdzv-endpoint={hosts[0].address}:{PORT}", "--rdzv-id=test",
                "--rdzv-conf", f"is_host={int(host is hosts[0])},join_timeout=60,close_timeout=5",
                f"--local-addr={host.address}", "--monitor-interval=0.1", "--no-python", str(Path(sys.executable).with_name("solo-bam")),
            ]  # fmt: skip
            self._outputs += 1
            output = self.folder / f"output_{self._outputs}_{host.name}"
            environment = {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
            if real:
                shell = f'hostname {host.name} && exec {sys.executable} -m torch.distributed.run "$@"'
                place = ["ip", "netns", "exec", host.namespace, "unshare", "--uts", "sh", "-c", shell, "sh"]
                starts[host] = _Real([*place, *arguments, *command], output, environment)
                continue
            asked = {
                "namespace": host.namespace, "name": host.name, "disks": (disks or {}).get(host.name, {}),
                "arguments": [*arguments, *command], "before": before, "ahead": (clocks or {}).get(host.name, 0),
            }  # fmt: skip
            starts[host] = self.zygote.start(
                [],
                output,
                before=f"from tests.cluster.hosts import be_torchrun\nbe_torchrun(**{asked!r})",
                **environment,
            )
        return Launch(self, starts)


# ------------------------------------------------------------------------------ inside the forked processes


def be_torchrun(
    namespace: str, name: str, disks: dict[str, str], arguments: list[str], before: str, ahead: int
) -> None:
    """Become ``torchrun`` on a host; never returns. What it starts is forked."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    place = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    call(libc.setns(place, _CLONE_NEWNET))
    os.close(place)
    call(libc.unshare(_CLONE_NEWUTS | _CLONE_NEWNS))
    socket.sethostname(name)
    call(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    for folder, size in disks.items():
        call(libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, f"size={size}".encode()))
    from torch.distributed import run
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    # For its own log it looks through all loaded modules several times a second, of which a warm process has thousands.
    for name in ("get_method_name", "construct_and_record_rdzv_event"):
        setattr(dynamic_rendezvous, name, lambda *_, **__: "")
    if ahead:
        set_clock(ahead)
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    class Prepared(_Worker):
        program = before

    subprocess_handler.Popen = Prepared  # type: ignore[misc, assignment]
    code = 0
    try:
        run.main(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        print(f"torchrun: {type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def set_clock(ahead: int) -> None:
    """Put what Python takes for the time of day ahead, in this process and what it forks; Linux has but one clock."""
    import datetime

    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    real, nanoseconds = time.time, time.time_ns
    time.time, time.time_ns = lambda: real() + ahead, lambda: nanoseconds() + ahead * 10**9

    class Ahead(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=ahead)

    dynamic_rendezvous.datetime = Ahead  # type: ignore[misc, assignment]


class _Worker:
    """Stands in for the ``subprocess.Popen`` with which ``torchrun`` starts a training process."""

    program = ""

    def __init__(self, args: tuple[str, ...], env: dict[str, str], stdout: Any, stderr: Any, **_: Any):
        sys.stdout.flush()
        sys.stderr.flush()
        self.args, self.returncode = args, None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._become(list(args[1:]), env)
            finally:
                os._exit(70)

    def _become(self, arguments: list[str], env: dict[str, str]) -> None:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in map(int, os.listdir("/proc/self/fd")):
            if number > 2:  # kept in use, since what holds it in the parent's memory closes it some time
                os.dup2(nothing, number)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(env)
        from lightning.pytorch.utilities import rank_zero_only

        from tests import zygote

        rank_zero_only.rank = int(env["RANK"])  # which Lightning reads when it is imported
        exec(self.program, {"rank": int(env["RANK"]), "attempt": int(env["TORCHELASTIC_RESTART_COUNT"])})
        zygote._run(arguments)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (1e9 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode


def warm_hosts() -> Iterator[Zygote]:
    """A warm process that can become ``torchrun`` too."""
    with Zygote("tests.warm", "torch.distributed.run") as warm:
        yield warm


__all__ = ["Cluster", "Host", "Launch", "needs_hosts", "warm_hosts"]
