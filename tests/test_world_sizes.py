"""W processes with B / W images each give what one process gives with B: loss, gradients, weights after 5 steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from solo_bam.core import collectives
from solo_bam.losses import BAMLoss, _kernel, _tiled
from solo_bam.train.batch_norm import desynchronise, synchronise
from tests import processes

BATCH = 24  # divisible by every world size
STEPS = 5
TOLERANCE = 1e-6  # of gradients and weights of the order of 1, in float32
# Number of large and of small crops, and whether there is a teacher.
CASES = {
    "bam": (2, 0, False),
    "bam, multi-crop": (2, 2, False),
    "bam_momentum": (2, 0, True),
    "bam_momentum, multi-crop": (2, 2, True),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "positives": {"positive_weight": 0.4},
    "self": {"positive_masking": "self", "positive_weight": 0.0},
    "positives, multi-crop": {"positive_weight": 0.4},
}
CASES |= {"positives": (2, 0, False), "self": (2, 0, True), "positives, multi-crop": (2, 2, False)}


class Network(nn.Module):
    """Convolutions and a head, with batch norm of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        nn.init.normal_(self.backbone[0].weight)
        self.projector = nn.Sequential(
            nn.Linear(24, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 8), nn.BatchNorm1d(8, affine=False)
        )

    def forward(self, crops: list[Tensor]) -> Tensor:
        sizes = dict.fromkeys(crop.shape[-1] for crop in crops)
        same = [torch.cat([crop for crop in crops if crop.shape[-1] == size]) for size in sizes]
        return self.projector(torch.cat([self.backbone(batch) for batch in same]))


def crops_of(step: int, large: int, small: int) -> list[Tensor]:
    """All images' crops of one step, the same for every world size."""
    generator = torch.Generator().manual_seed(step)
    sizes = [6] * large + [4] * small
    return [torch.randn(BATCH, 3, size, size, generator=generator) for size in sizes]


def train(case: str, strided: bool = False) -> dict[str, Any]:
    """Five steps of this process's share of the images; the losses are averaged over processes for the record.

    Args:
        case: of CASES.
        strided: whether process w has images w, w + W, … in place of a block of neighbours.
    """
    torch.manual_seed(0)
    large, small, momentum = CASES[case]
    network: nn.Module = synchronise(Network())
    teacher = copy.deepcopy(network).requires_grad_(False) if momentum else None
    loss_fn = BAMLoss(large + small, large, reg=0.5, temperature=0.5, top_k_sink=4, **OPTIONS.get(case, {}))
    world, rank = collectives.world_size(), collectives.rank()
    share = slice(rank, None, world) if strided else slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    model = DistributedDataParallel(network) if world > 1 else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    losses, gradients = [], []
    for step in range(STEPS):
        crops = [crop[share] for crop in crops_of(step, large, small)]
        loss = loss_fn(model(crops), None if teacher is None else teacher(crops))
        optimizer.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))  # type: ignore[union-attr]
        optimizer.step()
        if teacher is not None:
            for online, slow in zip(network.parameters(), teacher.parameters()):
                slow.lerp_(online.detach(), 0.1)
        losses.append(float(collectives.all_sum(loss.detach().clone()) / world))
    weights = torch.cat([tensor.flatten().float() for tensor in network.state_dict().values()])
    return {"losses": losses, "gradients": torch.stack(gradients).numpy(), "weights": weights.numpy()}


def train_all() -> dict[str, Any]:
    """Every case, with blocks of neighbours; BAM also strided, and with the similarities in tiles of one image."""
    results = {case: train(case) for case in CASES}
    results |= {f"{case}, strided": train(case, True) for case in ("bam", "bam_momentum")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_kernel, "_CPU_TILE_ENTRIES", 1)
        patch.setattr(_kernel, "_TILE_ROWS", 1)
        return results | {f"{case}, in tiles": train(case) for case in ("bam", "bam_momentum, multi-crop")}


def everything() -> dict[str, Any]:
    """What one start of the processes is worth."""
    results = {"trained": train_all(), "normalised": _normalise_both_ways() if collectives.world_size() < 3 else None}
    values = torch.tensor([float(collectives.rank()), 2.0], requires_grad=True)
    results["mean"] = collectives.mean(values).tolist()
    _tiled._own_columns = lambda p, dt: dt.view(p.T, p.W, p.B, -1)[:, p.rank]
    return {**results, "broken": train("bam") if collectives.world_size() == 2 else None}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {"trained": train_all(), "normalised": _normalise_both_ways()}
    torch.set_num_threads(threads)
    return results


@pytest.fixture(scope="module")
def of_two() -> list[dict[str, Any]]:
    return processes.run(2, everything)


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Largest absolute difference of each result, relative to the largest value where that is above 1."""
    pairs = {key: (torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one}
    return {key: float((a - b).abs().max() / a.abs().max().clamp(min=1)) for key, (a, b) in pairs.items()}


@pytest.mark.parametrize("world", [1, 2, 3, pytest.param(4, marks=pytest.mark.nightly)])
def test_many_processes_give_what_one_gives(world: int, alone: dict[str, Any], request: pytest.FixtureRequest) -> None:
    answers = request.getfixturevalue("of_two") if world == 2 else processes.run(world, everything)
    for rank, results in enumerate(answers):
        for case, result in results["trained"].items():
            for what, difference in differences(
                alone["trained"][case.removesuffix(", strided").removesuffix(", in tiles")], result
            ).items():
                assert difference < TOLERANCE, f"{case}, process {rank} of {world}: {what} differ by {difference}"


def test_gradients_that_are_not_added_up_are_noticed(alone: dict[str, Any], of_two: list[dict[str, Any]]) -> None:
    found = differences(alone["trained"]["bam"], of_two[0]["broken"])
    assert found["gradients"] > 100 * TOLERANCE
    assert found["weights"] > 100 * TOLERANCE


def test_what_is_logged_is_the_mean_over_processes(of_two: list[dict[str, Any]]) -> None:
    assert [results["mean"] for results in of_two] == [[0.5, 2.0]] * 2


# ------------------------------------------------------------------------------------- batch norm alone


def _normalise(momentum: float | None) -> list[Any]:
    """Outputs, gradients and running statistics of unequal shares of one batch, after two passes."""
    results = []
    for layer, shape in (
        (nn.BatchNorm1d(5, momentum=momentum), (9, 5)),
        (nn.BatchNorm2d(5, momentum=momentum), (9, 5, 3, 2)),
    ):
        torch.manual_seed(1)
        nn.init.normal_(layer.weight)
        synchronise(layer)
        bounds = [0, 9] if collectives.world_size() == 1 else [0, 2, 9]
        share = slice(bounds[collectives.rank()], bounds[collectives.rank() + 1])
        for number in (1, 2):
            torch.manual_seed(number)
            x = torch.randn(shape, dtype=torch.float64).float() * 3 + 5
            part = x[share].requires_grad_()
            out = layer(part)
            layer.zero_grad()
            (out * torch.randn(shape)[share]).sum().backward()
        gradients = [collectives.all_sum(p.grad.clone()) for p in layer.parameters()]  # type: ignore[union-attr]
        results.append([t.detach().numpy() for t in (out, part.grad, *gradients, *layer.state_dict().values())])
    return results


def _normalise_both_ways() -> list[Any]:
    return [_normalise(0.1), _normalise(None)]


def test_synchronised_batch_norm_is_batch_norm_over_the_whole_batch(
    alone: dict[str, Any], of_two: list[dict[str, Any]]
) -> None:
    whole, parts = alone["normalised"], [results["normalised"] for results in of_two]
    for way in range(2):
        for kind in range(2):
            out, grad, *rest = whole[way][kind]
            for which, joined in ((0, out), (1, grad)):
                both = [torch.as_tensor(part[way][kind][which]) for part in parts]
                torch.testing.assert_close(torch.cat(both), torch.as_tensor(joined), rtol=1e-5, atol=1e-5)
            for part in parts:
                for a, b in zip(part[way][kind][2:], rest):
                    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-5, atol=1e-5)


def test_synchronising_keeps_the_tensors_and_can_be_undone() -> None:
    network = Network()
    before = dict(network.named_parameters()) | dict(network.named_buffers())
    kinds = [type(module).__name__ for module in synchronise(network).modules()]
    assert kinds.count("SyncBatchNorm2d") == 1
    assert kinds.count("SyncBatchNorm1d") == 2
    after = dict(network.named_parameters()) | dict(network.named_buffers())
    assert all(after[name] is tensor for name, tensor in before.items())
    assert not [module for module in desynchronise(network).modules() if "Sync" in type(module).__name__]


def test_a_batch_norm_that_cannot_be_synchronised_is_refused() -> None:
    from solo_bam.core.errors import UserError

    with pytest.raises(UserError, match=r"^sync_batchnorm: got True, BatchNorm3d is not synchronised"):
        synchronise(nn.Sequential(nn.BatchNorm3d(2)))
