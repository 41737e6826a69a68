"""Run a function in several processes; a process that fails, hangs or dies fails the test."""

from __future__ import annotations

import os
import queue
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _child(
    rank: int, world_size: int, store: str, backend: str, environment: dict[str, str],
    function: Callable[..., Any], args: tuple[Any, ...], out: Any,
) -> None:  # fmt: skip
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        if backend == "nccl":
            torch.cuda.set_device(rank)
        dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=world_size)
        out.put((rank, function(*args), None))
    except BaseException:
        out.put((rank, None, traceback.format_exc()))


def run(
    world_size: int, function: Callable[..., Any], *args: Any, timeout: float = 120, backend: str = "gloo"
) -> list[Any]:
    """What ``function(*args)`` returned in each process, by rank.

    Args:
        world_size: number of processes.
        function: at a module's top level; returns plain values or numpy arrays.
        timeout: seconds until processes that have not all answered count as hanging.
        backend: ``nccl``: each process on a GPU of its own.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tests.warm"])
    out = context.Queue()
    results: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        shared = (world_size, f"{folder}/store", backend, dict(os.environ), function, args, out)
        processes = [context.Process(target=_child, args=(rank, *shared), daemon=True) for rank in range(world_size)]
        for process in processes:
            process.start()
        deadline = time.monotonic() + timeout
        try:
            while len(results) < world_size:
                assert time.monotonic() < deadline, f"only processes {sorted(results)} answered within {timeout} s"
                try:
                    rank, result, failure = out.get(timeout=1)
                except queue.Empty:
                    dead = [i for i, p in enumerate(processes) if p.exitcode and i not in results]
                    assert not dead, f"processes {dead} died with {[processes[i].exitcode for i in dead]}"
                    continue
                assert failure is None, f"process {rank} failed:\n{failure}"
                results[rank] = result
        finally:
            for process in processes:
                process.kill()
                process.join()
    return [results[rank] for rank in range(world_size)]
