"""Whether two processes train as one does: the loss and its gradient over gloo, against one process."""

from __future__ import annotations

import queue
import tempfile
import time
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from solo_bam.losses import BAMLoss
from solo_bam.train.doctor.finding import Finding

_IMAGES = 8
_TOLERANCE = 1e-9  # in float64


def check_gradients(timeout: float = 60) -> Finding:
    """Two gloo processes with half a batch each, held against one with the whole batch.

    Args:
        timeout: seconds after which processes that have not answered are ended.
    """
    start = time.monotonic()
    try:
        loss, gradient = _on_two_processes(timeout)
    except (TimeoutError, RuntimeError, OSError) as error:
        remedy = "check that processes may reach one another over 127.0.0.1; train on one device until then"
        return Finding("warning", "processes", f"two gloo processes do not work together ({error})", remedy)
    alone, expected = _loss_and_gradient(0, 1)
    differences = torch.cat([torch.tensor([loss - alone], dtype=torch.float64), (gradient - expected).flatten()])
    difference = float(differences.abs().max())  # NaN where one is
    if not difference <= _TOLERANCE:
        text = f"two processes differ from one by {difference:.1e} in the loss or its gradient"
        return Finding("failure", "processes", text, "train on one device, and report this")
    text = f"two give the loss and the gradient of one (to {difference:.0e}, {time.monotonic() - start:.0f} s)"
    return Finding("ok", "processes", text)


def _loss_and_gradient(rank: int, world_size: int) -> tuple[float, Tensor]:
    """Of this process's share of the batch, with respect to a linear network's weights."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, _IMAGES, 6, generator=generator, dtype=torch.float64)
    weights = torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    mine = images.chunk(world_size, dim=1)[rank].flatten(0, 1)
    loss = BAMLoss(num_crops=2, num_large_crops=2)(mine @ weights)
    loss.backward()
    assert weights.grad is not None
    return loss.item(), weights.grad


def _process(rank: int, store: str, out: Any) -> None:
    try:
        _answer_over_gloo(rank, store, out)
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        out.put(first_line.rpartition("cc:")[2].partition("] ")[2] or first_line)  # gloo begins with its source's line


def _answer_over_gloo(rank: int, store: str, out: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    loss, gradient = _loss_and_gradient(rank, 2)
    both = torch.cat([torch.tensor([loss], dtype=torch.float64), gradient.flatten()])
    dist.all_reduce(both)  # as DDP averages
    out.put((both / 2).tolist())
    dist.barrier()  # gloo may abort a process whose peers have gone
    dist.destroy_process_group()


def _on_two_processes(timeout: float) -> tuple[float, Tensor]:
    context = mp.get_context("spawn")
    out = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_process, args=(rank, f"{folder}/store", out), daemon=True) for rank in range(2)
        ]
        for process in processes:
            process.start()
        try:
            values = torch.tensor(_answer(out, processes, time.monotonic() + timeout), dtype=torch.float64)
        finally:
            for process in processes:
                process.kill()
                process.join()
    return float(values[0]), values[1:].view(6, 5)


def _answer(out: Any, processes: list[Any], deadline: float) -> list[float]:
    while time.monotonic() < deadline:
        try:
            answer: list[float] | str = out.get(timeout=0.2)
        except queue.Empty:
            if dead := [p.exitcode for p in processes if p.exitcode]:
                raise RuntimeError(f"one ended with {dead[0]}") from None
            continue
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer
    raise TimeoutError("no answer in time")
