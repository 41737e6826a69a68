"""Two and three hosts give what one process gives with the whole batch, and may change in number between two starts."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from solo_bam.runs.folder import RunFolder
from tests.cli.test_survival import SMALL
from tests.cluster.hosts import Cluster, Launch, needs_hosts
from tests.recipes import small_head, tiny_overrides
from tests.zygote import Zygote

pytestmark = needs_hosts()

METHODS = ("bam", "bam_momentum", "simclr", "byol", "dino")
WHOLE_BATCH = 24  # divisible by 2 and 3


def command(folder: Path, hosts: int, method: str = "bam_momentum", *overrides: str) -> list[str]:
    """A tiny pretraining on so many hosts with an equal share of the batch."""
    name = f"digits/{method}"
    shares = [f"num_nodes={hosts}", f"optimizer.batch_size={WHOLE_BATCH // hosts}", "sync_batchnorm=True"]
    small = [one for one in SMALL if not one.startswith(("method_kwargs", "limit_val"))]
    fixed = ["distributed.timeout=20", "data.num_workers=0", "pictures=False"]
    return [
        "pretrain",
        "--config-name",
        name,
        *tiny_overrides(folder, *small, *small_head(method), *shares, *fixed, *overrides),
    ]


def run_of(folder: Path, kind: str = "*") -> RunFolder:
    """The one run below a folder."""
    (path,) = folder.glob(f"{kind}/*/run.json")
    return RunFolder(path.parent)


def ended_well(launch: Launch) -> None:
    codes = launch.wait(120)
    assert set(codes.values()) == {0}, launch.text()[-6000:]


def alone(zygote: Zygote, folder: Path, arguments: list[str]) -> None:
    """The same command, in one process of this machine."""
    folder.mkdir(exist_ok=True)
    start = zygote.start(arguments, folder / f"output_{len(list(folder.glob('output_*')))}")
    assert start.wait() == 0, start.output.read_text()[-5000:]


def differences(one: RunFolder, other: RunFolder) -> tuple[float, float]:
    """The largest differences of a weight and of a logged loss, relative where they are above 1."""
    weights = [torch.load(run.last_checkpoint, weights_only=True)["state_dict"] for run in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    pairs = [(weights[0][key].double(), weights[1][key].double()) for key in weights[0]]
    of_weights = max(float((a - b).abs().max() / a.abs().max().clamp(min=1)) for a, b in pairs)
    losses = [[row[key] for row in run.metrics() for key in sorted(row) if "loss" in key] for run in (one, other)]
    assert losses[0]
    assert len(losses[0]) == len(losses[1])
    of_losses = max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(*losses))
    return of_weights, of_losses


@pytest.mark.nightly
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("precision", "limit"), [("64", 1e-6), ("32", 1e-2)])
def test_as_one_process_with_the_whole_batch(
    method: str, count: int, precision: str, limit: float, zygote: Zygote, tmp_path: Path, record_property: Any
) -> None:
    """Losses and weights after three epochs."""
    more = [f"precision={precision}", "max_epochs=3"]
    alone(zygote, tmp_path / "one", command(tmp_path / "one", 1, method, *more))
    with Cluster(count, zygote, tmp_path) as cluster:
        ended_well(cluster.torchrun(command(tmp_path / "many", count, method, *more)))
    found = differences(run_of(tmp_path / "one"), run_of(tmp_path / "many"))
    record_property("difference of weights and losses", found)
    print(f"{method}, {count} hosts, float{precision}: weights {found[0]:.1e}, losses {found[1]:.1e}")
    assert max(found) <= limit


def test_two_hosts_give_what_one_process_gives(zygote: Zygote, tmp_path: Path) -> None:
    """The quick one of these."""
    more = ["precision=64", "max_epochs=1"]
    alone(zygote, tmp_path / "one", command(tmp_path / "one", 1, "bam", *more))
    with Cluster(2, zygote, tmp_path) as cluster:
        ended_well(cluster.torchrun(command(tmp_path / "many", 2, "bam", *more)))
    assert max(differences(run_of(tmp_path / "one"), run_of(tmp_path / "many"))) <= 1e-6


@pytest.mark.nightly
def test_linear_and_knn(zygote: Zygote, tmp_path: Path) -> None:
    alone(zygote, tmp_path, command(tmp_path, 1, "bam", "max_epochs=1"))
    pretrained = run_of(tmp_path, "bam")
    linear = [
        "linear",
        str(pretrained.path),
        "max_epochs=2",
        "precision=64",
        "accelerator=cpu",
        "data.fraction=0.1",
        "enable_progress_bar=False",
    ]

    def of(count: int) -> list[str]:
        shares = [f"num_nodes={count}", f"optimizer.batch_size={24 // count}", "distributed.timeout=20"]
        return [*linear, *shares, f"checkpoint.dir={tmp_path / f'linear{count}'}"]

    alone(zygote, tmp_path / "linear1", of(1))
    alone(zygote, tmp_path, ["knn", str(pretrained.path), "accelerator=cpu", f"output={tmp_path / 'knn1'}"])
    with Cluster(3, zygote, tmp_path) as cluster:
        for count in (2, 3):
            ended_well(cluster.torchrun(of(count), hosts=cluster.hosts[:count]))
            found = differences(run_of(tmp_path / "linear1"), run_of(tmp_path / f"linear{count}"))
            assert max(found) <= 1e-6
            assert (
                run_of(tmp_path / "linear1").record()["results"]
                == run_of(tmp_path / f"linear{count}").record()["results"]
            )
        launch = cluster.torchrun(["knn", str(pretrained.path), "accelerator=cpu", f"output={tmp_path / 'knn3'}"])
        ended_well(launch)
        assert launch.text().count("Records: ") == 1
    texts = [sorted(path.read_text() for path in (tmp_path / name).glob("*.json")) for name in ("knn1", "knn3")]
    assert texts[0]
    values = [[re.findall(r'"value": ([\d.]+)', text) for text in of_one] for of_one in texts]
    assert values[0] == values[1]


@pytest.mark.nightly
@pytest.mark.parametrize("real", [False, True])
def test_processes_on_each_host(real: bool, zygote: Zygote, tmp_path: Path) -> None:
    """Two on each of two; also by the command itself, which is what the forked ones stand for."""
    more = ["precision=64", "max_epochs=2", "optimizer.batch_size=6", "devices=2"]
    alone(zygote, tmp_path / "one", command(tmp_path / "one", 1, "bam", "precision=64", "max_epochs=2"))
    with Cluster(2, zygote, tmp_path) as cluster:
        ended_well(cluster.torchrun(command(tmp_path / "many", 2, "bam", *more), processes=2, real=real))
    assert max(differences(run_of(tmp_path / "one"), run_of(tmp_path / "many"))) <= 1e-6


@pytest.mark.nightly
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (2, 1), (1, 3)])
def test_a_host_more_or_less_changes_nothing_but_speed(before: int, after: int, zygote: Zygote, tmp_path: Path) -> None:
    """Between a stop at an epoch's end and the next start, with the same batch in all."""
    more = ["precision=64", "max_epochs=4"]
    alone(zygote, tmp_path / "whole", command(tmp_path / "whole", 1, "bam", *more))
    stop = "from solo_bam.train.callbacks import CheckpointWriter as C\nlink = C.on_validation_start = lambda self, t, m: (_ for _ in ()).throw(KeyError('stop')) if t.current_epoch == 2 else None"
    with Cluster(3, zygote, tmp_path) as cluster:
        first = cluster.torchrun(
            command(tmp_path / "run", before, "bam", *more), hosts=cluster.hosts[:before], before=stop
        )
        assert 0 not in first.wait().values()
        ended_well(cluster.torchrun(command(tmp_path / "run", after, "bam", *more), hosts=cluster.hosts[:after]))
    run = run_of(tmp_path / "run")
    assert len(list(run.logs.glob("*.jsonl"))) >= 2
    assert max(differences(run_of(tmp_path / "whole"), run)) <= 1e-6


@pytest.mark.nightly
def test_other_batches_are_refused(zygote: Zygote, tmp_path: Path) -> None:
    """Another whole batch, batch norms that are not synchronised, or another number of hosts than the recipe has."""
    with Cluster(3, zygote, tmp_path) as cluster:
        two, three = cluster.hosts[:2], cluster.hosts
        saved = cluster.torchrun(command(tmp_path, 2, "bam", "max_epochs=9"), hosts=two)
        while not list(tmp_path.glob("bam/*/checkpoints/epoch=1.ckpt")):
            assert saved.cluster.hosts[0].pids()
        saved.starts[two[0]].send(signal.SIGTERM)
        saved.wait()
        (run,) = [RunFolder(path.parent) for path in tmp_path.glob("bam/*/run.json")]
        for changed, message in {
            "optimizer.batch_size=12": "differs in num_nodes 2 -> 3; start without --resume",
            "sync_batchnorm=False": "differs in num_nodes 2 -> 3, optimizer.batch_size 12 -> 8, sync_batchnorm True -> False;",
        }.items():
            launch = cluster.torchrun([*command(tmp_path, 3, "bam", "max_epochs=9", changed), "--resume"])
            assert 0 not in launch.wait().values()
            assert message in launch.errors()[0]
            assert len(set(launch.errors())) == 1
        launch = cluster.torchrun(command(tmp_path, 2, "bam", "max_epochs=9"), hosts=three)
        assert 0 not in launch.wait().values()
        assert "devices: got 1 on 2 node(s), torchrun has started 3 (WORLD_SIZE=3)" in launch.errors()[0]
        assert len(list(tmp_path.glob("bam/*"))) == 1
        ended_well(cluster.torchrun(command(tmp_path, 2, "bam", "max_epochs=9"), hosts=two))
    assert run.status == "finished"
