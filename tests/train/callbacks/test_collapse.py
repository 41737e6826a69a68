"""The collapse monitor: warns of what it should, once, and changes nothing."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from solo_bam.core.errors import UserError
from solo_bam.data import PretrainData, find_source
from solo_bam.evaluate import extract_features
from solo_bam.evaluate.health import effective_rank, spread
from solo_bam.losses import BAMLoss
from solo_bam.losses.bam import bam_loss
from solo_bam.methods.bam import BAM, attention_columns, symptoms_of_attention
from solo_bam.runs.folder import RunFolder
from solo_bam.train import pretrain as training
from solo_bam.train import run as command
from solo_bam.train.callbacks import CollapseMonitor, CollapseWarning
from solo_bam.train.callbacks.collapse import ROWS, symptoms_of_features, symptoms_of_projections
from solo_bam.train.run import Trained, pretrain
from tests.recipes import tiny


def _train(folder: Path, *overrides: str, name: str = "digits/bam") -> tuple[Trained, list[str]]:
    """A small run, and what the monitor said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained = pretrain(tiny(folder, name, *overrides))
    return trained, [str(w.message) for w in caught if issubclass(w.category, CollapseWarning)]


def _logged(trained: Trained, key: str) -> list[float]:
    return [row[key] for row in trained.folder.metrics() if key in row]


HEALTHY = ("max_epochs=2", "data.fraction=0.03")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, list[str]]:
    """A small run of BAM with a momentum teacher."""
    return _train(tmp_path_factory.mktemp("healthy"), *HEALTHY, name="digits/bam_momentum")


def test_a_healthy_run_is_left_alone(healthy: tuple[Trained, list[str]]) -> None:
    trained, said = healthy
    assert said == []
    assert _logged(trained, "attention_columns") == [30, 30]
    assert len(_logged(trained, "rankme")) == 2


def test_the_measures_are_of_the_validation_images(healthy: tuple[Trained, list[str]], tmp_path: Path) -> None:
    trained, _ = healthy
    recipe = tiny(tmp_path)
    val = PretrainData(recipe, find_source(recipe.data)).val_set
    assert val is not None
    features = extract_features(trained.model.backbone, val).values  # type: ignore[arg-type]
    assert trained.metrics["rankme"] == pytest.approx(effective_rank(features), rel=1e-3)
    assert trained.metrics["feature_spread"] == pytest.approx(spread(features), rel=1e-3)


def test_the_weights_are_those_without_a_monitor(
    healthy: tuple[Trained, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CollapseMonitor, "on_fit_start", lambda *_: None)
    monkeypatch.setattr(CollapseMonitor, "on_train_epoch_end", lambda *_: None)
    watched, (alone, _) = healthy[0], _train(tmp_path, *HEALTHY, name="digits/bam_momentum")
    a, b = watched.model.state_dict(), alone.model.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    own = {"rankme", "feature_spread", "projection_spread", "attention_columns"}
    assert own <= set(watched.metrics)
    assert {key: value for key, value in watched.metrics.items() if key not in own} == alone.metrics


@pytest.mark.parametrize("name", ["bam", "byol"])
def test_a_constant_backbone_is_told_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BYOL's without validation images: from the training crops."""
    ordinary = training.backbone_factory

    def constant(cfg: Any) -> Any:
        build = ordinary(cfg)

        def create() -> torch.nn.Module:
            backbone = build()
            backbone.register_forward_hook(lambda *io: 0 * io[2] + torch.linspace(1, 2, io[2].shape[1]))
            return backbone

        return create

    monkeypatch.setattr(training, "backbone_factory", constant)
    own = {"bam": ["method_kwargs.proj_use_bn=False"], "byol": ["limit_val_batches=0"]}
    trained, said = _train(tmp_path, "max_epochs=3", "data.fraction=0.03", *own[name], name=f"digits/{name}")
    features = [text for text in said if "the features hardly differ between images" in text]
    assert len(features) == 1
    assert features[0].startswith("Collapse? In epoch 1, ")
    assert "Lower optimizer.lr" in features[0]
    assert _logged(trained, "rankme") == pytest.approx([1, 1, 1], abs=1e-3)
    attention = [text for text in said if "almost uniform" in text and "method_kwargs.reg (now 0.05)" in text]
    assert len(attention) == (name == "bam")
    alike = [text for text in said if text.startswith("Collapsed in epoch 0: the projections of different images are")]
    assert len(alike) == 1
    assert len(said) == len(features) + len(attention) + 1
    assert trained.collapsed_in == trained.folder.record()["collapsed_in"] == 0


def test_a_collapsed_run_says_so_at_its_end_or_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(BAM, "alike_below", 1.1)
    trained, said = _train(tmp_path / "warned", *HEALTHY)
    command.report_pretrained(trained)
    assert capsys.readouterr().out.startswith("COLLAPSED since epoch 1, finished: bam_loss ")
    assert [text[:21] for text in said] == ["Collapsed in epoch 1:"]
    with pytest.raises(UserError, match=r"optimizer.lr: the training collapsed in epoch 1; .*on_collapse=warn"):
        _train(tmp_path / "stopped", *HEALTHY, "on_collapse=stop")
    (record,) = (tmp_path / "stopped").glob("*/*/run.json")
    assert RunFolder(record.parent).record()["status"] == "stopped"


def test_a_collapse_may_pass() -> None:
    """And a resumed run knows of it."""
    monitor = CollapseMonitor(tiny(Path("runs")))
    monitor.collapsed_in = 3
    again = CollapseMonitor(tiny(Path("runs")))
    again.load_state_dict(monitor.state_dict())
    assert again.collapsed_in == 3


@pytest.mark.parametrize(("spread", "told"), [(0.54, True), (0.92, False)])
def test_the_silent_collapse_is_told(spread: float, told: bool) -> None:
    """cifar-small/bam at twice its tuned rate, in its sixth epoch; and the least of sound runs."""
    assert (symptoms_of_projections({"projection_spread": spread}, BAM.alike_below) is not None) == told
    assert symptoms_of_projections({}, BAM.alike_below) is None


def test_an_episode_is_told_once_and_the_next_one_again() -> None:
    monitor, said = CollapseMonitor(tiny(Path("runs"))), []
    ill = {"rank": "the rank fell."}
    for epoch, symptoms in enumerate([ill, {}, ill, ill, ill, {}, ill, ill]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor._tell(symptoms, epoch)
        said += [epoch] * len(caught)
    assert said == [3, 7]


def test_a_resumed_run_does_not_repeat_itself() -> None:
    first, second = CollapseMonitor(tiny(Path("runs"))), CollapseMonitor(tiny(Path("runs")))
    first.lasting, first.highest_rank = {"rank": 2}, 80.0
    second.load_state_dict(first.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second._tell({"rank": "the rank fell."}, 3)
    assert second.highest_rank == 80


def test_a_fallen_rank() -> None:
    assert symptoms_of_features({"rankme": 30.0, "feature_spread": 0.5}, 100) == {}
    assert "fallen to 20.0 from 100.0" in symptoms_of_features({"rankme": 20.0, "feature_spread": 0.5}, 100)["rank"]
    assert symptoms_of_features({}, 100) == {}


@pytest.mark.parametrize("setting", [{}, {"positive_masking": False}, {"target_crops_number": 1}, {"top_k_sink": 5}])
def test_the_columns_are_those_of_the_loss(setting: dict[str, Any]) -> None:
    """Equal features make the target attention uniform over exactly the columns."""
    loss = BAMLoss(num_crops=2, num_large_crops=2, **setting)
    _, statistics = loss.with_statistics(torch.ones(2 * 9, 4))
    columns = attention_columns(loss, 9)
    assert float(statistics["target_entropy"]) == pytest.approx(math.log(columns), rel=1e-5)
    entropy, largest = float(statistics["target_entropy"]), float(statistics["target_max"])
    assert list(symptoms_of_attention(entropy, largest, columns, 0.05)) == ["uniform"]


@pytest.mark.parametrize(
    ("reg", "told"), [(0.05, {}), (50, "almost uniform: entropy 4.1"), (0.0001, "almost one-hot: its largest")]
)
def test_an_absurd_reg_is_told_with_the_remedy(reg: float, told: Any) -> None:
    z = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    _, statistics = bam_loss(z, num_crops=2, num_large_crops=2, reg=reg)
    found = symptoms_of_attention(float(statistics["target_entropy"]), float(statistics["target_max"]), 62, reg)
    assert found == told or any(told in text and f"method_kwargs.reg (now {reg:g})" in text for text in found.values())


def test_one_column_is_one_hot_because_it_was_asked_for() -> None:
    assert symptoms_of_attention(0.0, 1.0, 1, 0.05) == {}


def test_memory_is_bounded() -> None:
    monitor = CollapseMonitor(tiny(Path("runs")))
    monitor._now = "train"
    for step in range(50):
        monitor._keep(torch.nn.Identity(), (), torch.full((100, 2), float(step)))
    kept = monitor._rows["train"]
    assert ROWS <= sum(map(len, kept)) < ROWS + 100
    assert kept[-1][0, 0] == 49
    monitor._now = None
    monitor._keep(torch.nn.Identity(), (), torch.zeros(5, 2))
    assert kept[-1][0, 0] == 49
