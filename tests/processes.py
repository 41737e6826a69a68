"""Run a function in several gloo processes; a process that fails, hangs or dies fails the test."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _child(
    rank: int, world_size: int, port: int, function: Callable[..., Any], args: tuple[Any, ...], queue: Any
) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
        queue.put((rank, function(*args), None))
        dist.barrier()
        dist.destroy_process_group()
    except Exception:
        queue.put((rank, None, traceback.format_exc()))


def run(world_size: int, function: Callable[..., Any], *args: Any, timeout: float = 120) -> list[Any]:
    """What ``function(*args)`` returned in each process, by rank.

    Args:
        world_size: number of processes.
        function: at a module's top level; returns plain values or numpy arrays.
        timeout: seconds until a silent process counts as hanging.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=_child, args=(rank, world_size, port, function, args, queue), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    results: dict[int, Any] = {}
    try:
        for _ in range(world_size):
            rank, result, failure = queue.get(timeout=timeout)
            assert failure is None, f"process {rank} failed:\n{failure}"
            results[rank] = result
        for process in processes:
            process.join(timeout)
            assert process.exitcode == 0, f"a process ended with {process.exitcode}"
    finally:
        for process in processes:
            process.kill()
    return [results[rank] for rank in range(world_size)]
