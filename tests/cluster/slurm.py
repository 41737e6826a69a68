"""A real SLURM for tests: munged, slurmctld and a slurmd for each of two virtual nodes, on loopback, for as long as a test.

Debian's packages slurm-wlm and munge are enough; nothing of them is started by the system or configured outside of a
temporary folder. Node failures are made by killing a node's slurmd with everything that it has started.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.zygote import ROOT

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "scontrol")
_SBIN = os.pathsep + "/usr/sbin"
# Seconds between a kill and SIGKILL, until a silent node counts as lost, and until a requeued job may start again (the
# life of its credential, which SLURM waits for).
_CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0
FirstJobId={first}
KillWait=20
SlurmdTimeout=6
ReturnToService=2
GresTypes=gpu
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=16 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no SLURM here; empty where there can."""
    absent = [name for name in NEEDED if not _find(name)]
    if absent:
        return f"no SLURM here: {', '.join(absent)} missing (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "SLURM's daemons change users, which only root may"


def _find(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + _SBIN)


class Slurm:
    """A context manager.

    Attributes:
        environment: of commands that talk to it, and of the jobs that they submit.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}{_SBIN}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",  # the nodes' names are known to SLURM alone
            "GLOO_SOCKET_IFNAME": "lo",
        }
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Slurm:
        ports = _free_ports(3)
        host = socket.gethostname().split(".")[0]
        first = random.randrange(1, 40) * 1000  # Lightning's port follows from it
        text = _CONFIGURATION.format(host=host, folder=self.folder, ports=ports, first=first)
        (self.folder / "slurm.conf").write_text(text)
        # Devices that are there: a GPU is a file to SLURM.
        (self.folder / "gres.conf").write_text("AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        for name in ("state", "spool.node1", "spool.node2"):
            (self.folder / name).mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        try:
            files = {
                "key-file": "munge.key",
                "log-file": "munge.log",
                "pid-file": "munge.pid",
                "seed-file": "munge.seed",
            }
            words = [f"--{option}={self.folder / name}" for option, name in files.items()]
            self._start("munged", "--foreground", "--force", f"--socket={self.folder / 'munge.socket'}", *words)
            _wait(lambda: (self.folder / "munge.socket").exists(), 10, "munged does not answer")
            self._start("slurmctld", "-D")
            for node in ("node1", "node2"):
                self.start_node(node)
            self.wait_for_nodes(2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()
        self._kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, name: str, *words: str, key: str = "") -> None:
        program = _find(name)
        assert program is not None
        log = (self.folder / f"{key or name}.out").open("ab")
        self.daemons[key or name] = subprocess.Popen([program, *words], env=self.environment, stdout=log, stderr=log)
        log.close()

    def start_node(self, node: str) -> None:
        """Start a node, or one that was killed again."""
        self._start("slurmd", "-D", "-N", node, key=node)

    def wait_for_nodes(self, count: int) -> None:
        """Until so many can be used."""

        def usable() -> bool:
            listed = self.call("sinfo", "--noheader", "--Node", "--format=%T", check=False).split()
            return sum(state in ("idle", "mixed", "allocated") for state in listed) >= count

        _wait(usable, 30, "nodes do not come up", self.logs)

    def kill_node(self, node: str) -> None:
        """As if its plug were pulled: the daemon, the steps' and all that they run, none of which can say a word."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        self._kill(node)

    def _kill(self, node: str = "") -> None:
        """SIGKILL to what a node runs, or all of them; first to the daemons of steps, which would report the others' end."""
        own, on_it = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode(), f"SLURMD_NODENAME={node}".encode()
        mine = {os.getpid(), *(daemon.pid for daemon in self.daemons.values())}
        found = []
        for pid in {int(path.name) for path in Path("/proc").glob("[0-9]*")} - mine:
            variables = _environ(pid)
            if f"{self.folder}/{node}" in _links(pid) or (own in variables and (not node or on_it in variables)):
                found.append(pid)
        for pid in sorted(found, key=lambda pid: not _is_step(pid)):
            _signal(pid)

    # --------------------------------------------------------------------------------------------- jobs

    def call(self, *words: str, check: bool = True, cwd: Path | None = None) -> str:
        """What a command says."""
        ran = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, cwd=cwd)
        assert not check or ran.returncode == 0, f"{words}: {ran.stderr}{self.logs()}"
        return ran.stdout

    def submit(self, *words: str, cwd: Path) -> str:
        """The id of what sbatch has submitted."""
        return self.call("sbatch", "--parsable", *words, cwd=cwd).strip()

    def states(self, job: str) -> list[str]:
        """Of a job, or of each one of an array."""
        told = self.call("squeue", "--noheader", "--states=all", "--array", "--format=%T", f"--jobs={job}", check=False)
        return told.split()

    def restarts(self, job: str) -> int:
        """How often it was queued again."""
        told = self.call("scontrol", "show", "job", job)
        return int(told.split("Restarts=")[1].split()[0])

    def wait(self, job: str, *states: str, timeout: float = 300) -> None:
        """Until all of a job have one of some states."""
        _wait(
            lambda: bool(found := self.states(job)) and all(state in states for state in found),
            timeout,
            f"job {job} is not {' or '.join(states)}",
            lambda: f"{self.states(job)}\n{self.logs()}",
        )

    def logs(self) -> str:
        """What the daemons said last."""
        parts = [f"{path.name}:\n{path.read_text(errors='replace')[-1500:]}" for path in self.folder.glob("*.log")]
        return "\n".join(parts)


def _wait(done: Callable[[], bool], timeout: float, problem: str, more: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, f"{problem} after {timeout} s\n{more()}"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Neighbors below the range that the system gives away."""
    while True:
        first = random.randrange(10_000, 30_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as taken:
                    taken.bind(("127.0.0.1", port))
        except OSError:
            continue
        return list(range(first, first + count))


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _links(pid: int) -> str:
    """The working folder and open files of a process."""
    found = []
    for path in (Path(f"/proc/{pid}/cwd"), *Path(f"/proc/{pid}/fd").glob("*")):
        try:
            found.append(os.readlink(path))
        except OSError:
            continue
    return " ".join(found)


def _is_step(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("slurmstepd")
    except OSError:
        return False


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
