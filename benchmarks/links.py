"""Processes in network namespaces of their own, joined by a bridge, each with a link whose rate is set (Linux, root).

    with network(3) as (*spaces, switch):
        outputs = run(spaces, "benchmarks.scaling", ["--member", …])

`tc`'s token bucket sets what a process may send per second. A delay cannot be set where the kernel lacks `netem`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

INTERFACE = "eth0"  # in each namespace
FIRST = "10.213.7.1"
PORT = 29513


def _command(*words: object, check: bool = True) -> None:
    subprocess.run([str(word) for word in words], check=check, capture_output=True, text=True)


@contextmanager
def network(processes: int) -> Iterator[list[str]]:
    """Names of the namespaces, and last that of the switch between them, whose ports are called :func:`port`.

    All is taken away again at the end.

    Raises:
        OSError, subprocess.CalledProcessError: this user or system cannot make them.
    """
    prefix = f"sb{os.getpid() % 100_000}"
    switch, spaces = f"{prefix}s", [f"{prefix}n{rank}" for rank in range(processes)]
    try:
        _command("ip", "netns", "add", switch)
        _command("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        _command("ip", "-n", switch, "link", "set", "br0", "up")
        for rank, space in enumerate(spaces):
            _command("ip", "netns", "add", space)
            ends = (INTERFACE, "netns", space, "type", "veth", "peer", "name", port(rank), "netns", switch)
            _command("ip", "link", "add", *ends)
            _command("ip", "-n", switch, "link", "set", port(rank), "master", "br0", "up")
            for words in (
                ("addr", "add", f"{address(rank)}/24", "dev", INTERFACE),
                ("link", "set", INTERFACE, "up"),
                ("link", "set", "lo", "up"),
            ):
                _command("ip", "-n", space, *words)
        yield [*spaces, switch]
    finally:
        for space in (*spaces, switch):
            _command("ip", "netns", "del", space, check=False)


def port(rank: int) -> str:
    """Of the switch, where a process's link ends."""
    return f"port{rank}"


def address(rank: int) -> str:
    """Of a process."""
    head, _, tail = FIRST.rpartition(".")
    return f"{head}.{int(tail) + rank}"


def run(spaces: Sequence[str], module: str, arguments: Sequence[str], timeout: float) -> None:
    """A Python module in each namespace, with ``RANK`` and ``WORLD_SIZE``; all are ended at the first that fails."""
    shared = {
        **os.environ, "WORLD_SIZE": str(len(spaces)), "MASTER_ADDR": FIRST, "MASTER_PORT": str(PORT),
        "GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            ["ip", "netns", "exec", space, sys.executable, "-m", module, *arguments], env={**shared, "RANK": str(rank)}
        )
        for rank, space in enumerate(spaces)
    ]
    try:
        for process in processes:
            if process.wait(timeout):
                raise RuntimeError(f"a process ended with {process.returncode}")
    finally:
        for process in processes:
            process.kill()
            process.wait()


def set_rate(megabits: float | None) -> None:
    """What the process that calls this may send from now on; None: all that the machine can."""
    if megabits is None:
        _command("tc", "qdisc", "del", "dev", INTERFACE, "root", check=False)
        return
    burst = max(131_072, int(megabits * 1e6 / 8 * 0.002))  # two milliseconds, and two of the largest packets
    words = ("rate", f"{megabits:g}mbit", "burst", burst, "latency", "200ms")
    _command("tc", "qdisc", "replace", "dev", INTERFACE, "root", "tbf", *words)


def sent() -> int:
    """Bytes that this process's interface has sent, headers included."""
    return int(Path(f"/sys/class/net/{INTERFACE}/statistics/tx_bytes").read_text())
