"""One run in processes that torchrun or SLURM has started, on one host or several.

The first process chooses the run's folder and tells the others. One that fails leaves a line for all of them in the
launcher's key-value store; a thread of each process looks for it, and ends the process wherever its training waits.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from solo_bam.config.schema import Run
from solo_bam.core import hardware
from solo_bam.core.errors import UserError

_LOOK_EVERY = 0.2  # seconds between two looks for a word
_TO_READ = 0.6  # seconds that the others have to read a word, before the store may end with its host's launcher
_ANSWER = 2.0  # seconds that the others have to say that they live, and a store to answer
_BROKEN = re.compile(r"gloo|nccl|connection|timed out|socket|store", re.IGNORECASE)  # what collectives say
_REMEDY = "see what it said; --resume goes on from the last checkpoint, as torchrun --max-restarts and auto_resume do"


class Hosts:
    """This process among the others.

    Args:
        environment: of the launcher.
        timeout: seconds that a process waits for the others.
    """

    def __init__(self, environment: ClusterEnvironment, timeout: float):
        self.rank, self.size, self.timeout = environment.global_rank(), environment.world_size(), timeout
        self.speaks = environment.local_rank() == 0  # for its host
        self.last_words: Callable[[str], None] = lambda line: None
        self.ends = False
        self.told = ""  # what ended one of the processes, by its word
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
        self.limit = timedelta(seconds=timeout)
        store = self._connect()
        met = self._meet(store)
        self.names = [f"process {rank} on {who.split()[0]}" for rank, who in enumerate(met)]
        self.store = PrefixStore(met[0], store)
        # By a connection of its own: one that waits for a key answers nobody else.
        threading.Thread(target=self._look, args=(PrefixStore(met[0], self._connect()),), daemon=True).start()

    def _connect(self) -> Store:
        return next(rendezvous("env://", self.rank, self.size, timeout=self.limit))[0]

    def _meet(self, store: Store) -> list[str]:
        """This start's processes, by rank: torchrun's store may still hold what an earlier start has left in it."""
        me = f"{socket.gethostname()} {uuid.uuid4().hex}"
        store.set(f"solo-bam {self.rank}", me)
        if self.rank:
            first = store.get(f"{me} follows").decode()
            store.set(f"{me} follows {first}", "")
            return json.loads(store.get(f"{first} leads"))
        end = time.monotonic() + self.timeout
        while time.monotonic() < end:
            all_of_them = [store.get(f"solo-bam {rank}").decode() for rank in range(self.size)]
            for one in all_of_them:
                store.set(f"{one} follows", me)
            if store.check([f"{one} follows {me}" for one in all_of_them[1:]]):
                store.set(f"{me} leads", json.dumps(all_of_them))
                return all_of_them
            time.sleep(_LOOK_EVERY)
        raise RuntimeError("some have ended")

    def start_group(self, device: torch.device) -> None:
        """Torch's process group, before Lightning makes one over what an earlier start has left in the store."""
        gpu = device if device.type == "cuda" else None
        backend = dist.get_default_backend_for_device(device)
        store = PrefixStore("group", self.store)
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.size, timeout=self.limit, device_id=gpu
        )

    def share(self, key: str, value: object = "") -> str:
        """What the first process has given."""
        if self.rank == 0:
            self.store.set(key, str(value))
        return self.store.get(key).decode()

    def _look(self, store: Store) -> None:
        """Say that this process lives where somebody asks; end it when somebody has failed."""
        try:
            while not store.check(["told"]):
                if store.check(["asked"]):
                    store.set(f"alive {self.rank}", "")
                time.sleep(_LOOK_EVERY)
            line = self.told = store.get("told").decode()
        except RuntimeError:
            line = f"devices: the launcher of {self.names[0]} has ended or cannot be reached; {_REMEDY}"
            time.sleep(2 * _ANSWER)  # in which the training finds out as well, or ends
        if not self.ends:
            self.end(UserError(line))

    def end(self, error: UserError) -> None:
        """Print the line, once on each host and by who failed, and end this process."""
        self.ends = True
        self.last_words(str(error))
        if self.speaks:
            print(f"solo-bam: error: {error}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(_TO_READ)
        os._exit(error.exit_code)  # not through torch's clean-up, which would wait for the others

    def explained(self, error: Exception) -> UserError:
        """What all processes say of a failure: the line of the one that failed first.

        ``torchrun``, which may have lost its store with process 0, ends its processes by SIGTERM, and waits for them.
        """
        self.ends = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # for the seconds that it takes to learn and say why
        if isinstance(error, UserError) and error.on_all_processes and error.exit_code != 2:
            return error  # a signal: saved, and all stop by themselves
        if isinstance(error, UserError) and error.on_all_processes:
            own = UserError(re.sub(r"process (\d+)", lambda found: self.names[int(found[1])], str(error)))
        elif isinstance(error, UserError):
            own = UserError(error.key, f"{error.problem} ({self.names[self.rank]})", error.remedy)
        elif isinstance(error, RuntimeError) and _BROKEN.search(str(error)):
            own = self._without(error)
        else:
            traceback.print_exception(error)
            own = UserError("solo-bam", f"{error!r} ({self.names[self.rank]})", "see its traceback")
        told = self.told or _soon(lambda: self.store.compare_set("told", "", str(own)).decode()) or str(own)
        self.speaks |= told == str(own)
        return UserError(told)

    def _without(self, error: Exception) -> UserError:
        """Who broke this process's collective: who does not answer, or else who has not come to it."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        late = "timed out" in str(error).lower()
        waited = f"no answer within distributed.timeout={self.timeout:g} s" if late else "the connection broke"
        end = time.monotonic() + _ANSWER
        _soon(lambda: self.store.set(f"failed {self.rank}", ""))
        _soon(lambda: self.store.set("asked", ""))
        time.sleep(max(0.0, end - time.monotonic()))
        silent = _soon(lambda: [rank for rank in others if not self.store.check([f"alive {rank}"])])
        absent = _soon(lambda: [rank for rank in others if not self.store.check([f"failed {rank}"])])
        if silent is None:
            silent = [0] if self.rank else others
        gone = ", ".join(self.names[rank] for rank in silent or absent or others)
        state = "has ended or cannot be reached" if silent else "is alive and did not come" if absent else "lost it too"
        return UserError("devices", f"{gone} {state} ({waited})", _REMEDY)


def _soon(ask: Callable[[], Any]) -> Any:
    """The answer of a store; None where it has none, or gives none in time: a cut connection blocks for minutes."""
    answer: list[Any] = []

    def run() -> None:
        with suppress(RuntimeError):
            answer.append(ask())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_ANSWER)
    return answer[0] if answer else None


_ENVIRONMENTS: dict[str, type[ClusterEnvironment]] = {"torchrun": TorchElasticEnvironment, "slurm": SLURMEnvironment}
_joined: list[Hosts] = []


def joined() -> Hosts | None:
    """The group that this process is in; None where no launcher has started several."""
    return _joined[-1] if _joined else None


@contextmanager
def together(recipe: Run) -> Iterator[None]:
    """Where a launcher has started several processes, they end together, with one line on each host.

    Args:
        recipe: of the run; ``distributed.timeout`` seconds are how long a process waits for the others.

    Raises:
        UserError: the launcher has started other processes than the recipe asks for, or not all have come.
    """
    hardware.check_launcher(hardware.find_devices(recipe.accelerator, recipe.devices).count, recipe.num_nodes)
    timeout = recipe.distributed.timeout
    by = hardware.launcher()
    if by is None or (environment := _ENVIRONMENTS[by]()).world_size() == 1:
        yield
        return
    try:
        hosts = Hosts(environment, timeout)
    except RuntimeError as error:
        problem = f"not all of {environment.world_size()} processes came within {timeout:g} s ({error})"
        raise UserError("distributed.timeout", problem, "start the launcher on all hosts") from None
    _joined.append(hosts)
    try:
        yield
        hosts.ends = True
        if dist.is_initialized():
            dist.destroy_process_group()
    except Exception as error:
        hosts.end(error if hosts.ends and isinstance(error, UserError) else hosts.explained(error))
    finally:
        _joined.pop()
