"""Folders of runs that never ran, and a board over them."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from solo_bam.board.server import serve
from solo_bam.runs.folder import RunFolder

RECIPE = "name: {name}\nmethod: {method}\ndata:\n  path: null\n  dataset: digits\nmax_epochs: {epochs}\nseed: {seed}\n"


def write_run(
    root: Path, name: str, epochs: int = 3, of: int = 10, status: str = "finished", seed: int = 0, **record: Any
) -> RunFolder:
    """A run of method ``bam`` with its log."""
    run = RunFolder(root / "bam" / name)
    run.logs.mkdir(parents=True)
    recipe = RECIPE.format(name=name, method="bam", epochs=of, seed=seed)
    (run.path / "recipe.yaml").write_text(recipe)
    add_epochs(run, range(epochs))
    results = {"results": {"knn_acc1": 60.0 + seed, "projection_spread": 0.9}} if status == "finished" else {}
    about = {"method": "bam", "status": status, "started": f"2026-11-2{seed % 10}T10:00:00+0000", **results, **record}
    (run.path / "run.json").write_text(json.dumps(about))
    return run


def add_epochs(run: RunFolder, epochs: Iterable[int]) -> None:
    """What a training writes at each epoch's end."""
    log, costs = [], []
    for epoch in epochs:
        measured = {"knn_acc1": 50.0 + epoch, "rankme": 20.0, "projection_spread": 0.9}
        log.append({"loss_step": 5.0 - epoch / 10, "step": 10 * epoch + 5})
        log.append({**measured, "epoch": epoch, "step": 10 * epoch + 9})
        costs.append({"epoch": epoch, "seconds": 1800.0})
    for name, rows in (("start_0.jsonl", log), ("cost.jsonl", costs)):
        with (run.logs / name).open("a") as out:
            out.write("".join(f"{json.dumps(row)}\n" for row in rows))


def pipe(path: Path) -> None:
    """A pipe with a secret in it for whoever reads it; he would wait for ever without a writer."""
    os.mkfifo(path)

    def fill() -> None:
        with suppress(OSError):  # it has been taken away
            path.write_bytes(b"secret")

    threading.Thread(target=fill, daemon=True).start()


@asynccontextmanager
async def board(root: Path, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """A board's address."""
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(root, host, 0, address.set_result))
    try:
        yield await asyncio.wait_for(address, 20)
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
