"""Each picture shows what it should: axes, lines, names, numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from solo_bam.evaluate.projections import principal_components
from solo_bam.plots.attention import draw_attention
from solo_bam.plots.confusion import draw_confusion
from solo_bam.plots.curves import draw_curves, draw_runs
from solo_bam.plots.entropy import draw_entropy
from solo_bam.plots.scatter import draw_features
from solo_bam.plots.similarity import draw_similarities, similarity_groups
from solo_bam.plots.style import shortened
from solo_bam.runs.curves import thinned


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved meanwhile; drawing to a file is left to one test."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: figures.append(self))
    return figures


def _texts(figure: Figure) -> list[str]:
    import matplotlib.text

    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def _rows(epochs: int, steps: int = 10, **extra: float) -> list[dict[str, float]]:
    """A run with a step logged every step and an accuracy every epoch."""
    rows = []
    for step in range(epochs * steps):
        entropies = {"target_entropy_step": 2.0, "source_entropy_step": 3.0}
        rows.append({"step": step, "epoch": step // steps, "bam_loss_step": 5.0 - step / 1000, **entropies})
        if step % steps == steps - 1:
            rows.append({"step": step, "epoch": step // steps, "val_knn_acc1": 50.0, "rankme": 20.0, **extra})
    return rows


def test_a_long_line_is_thinned_to_its_course() -> None:
    x, y = thinned(list(range(100_000)), [float(i % 2) for i in range(100_000)])
    assert len(x) == len(y) == 600
    assert np.allclose(y, 0.5, atol=0.01)
    assert (np.diff(x) > 0).all()
    assert [list(v) for v in thinned([1, 2], [3, 4])] == [[1, 2], [3, 4]]
    assert len(thinned([], [])[0]) == 0


def test_a_long_name_keeps_both_ends() -> None:
    assert shortened("digits") == "digits"
    assert shortened("bam-imagenet-with-a-long-name-0123abcd") == "bam-imagen…e-0123abcd"


def test_one_run_has_its_effective_rank(drawn: list[Figure]) -> None:
    draw_curves(_rows(3), Path("x.png"), "run")
    assert {"Effective rank of the features", "RankMe (dimensions)", "step"} <= set(_texts(drawn[0]))


def test_several_runs_share_a_picture(drawn: list[Figure]) -> None:
    byol = [{"step": 9.0, "epoch": 0.0, "train_neg_cos_sim_step": -1.5, "train_class_loss_step": 9.0}]
    draw_runs({"a": _rows(3), "b": _rows(2, 5), "byol": byol}, Path("x.png"), "3 runs")
    loss, knn = drawn[0].axes
    assert (loss.get_xlabel(), knn.get_ylabel()) == ("epoch", "accuracy (%)")
    assert len({line.get_color() for line in loss.lines}) == 3
    assert [max(line.get_xdata()) for line in loss.lines] == [3, 2, 1]  # epochs, whatever their steps
    assert list(loss.lines[2].get_ydata()) == [-1.5]
    assert [t.get_text() for t in drawn[0].legends[0].get_texts()] == ["a", "b", "byol"]


def test_eight_runs_are_told_apart(drawn: list[Figure]) -> None:
    draw_runs({str(i): _rows(1) for i in range(8)}, Path("x.png"), "8 runs")
    looks = {(line.get_color(), line.get_linestyle()) for line in drawn[0].axes[0].lines}
    assert len(looks) == 8


def test_entropy_has_its_ceiling(drawn: list[Figure]) -> None:
    draw_entropy(_rows(2, attention_columns=254.0), Path("x.png"), "entropy")
    (axis,) = drawn[0].axes
    source, target, ceiling = axis.lines
    assert (target.get_ydata()[0], source.get_ydata()[0]) == (2, 3)
    assert ceiling.get_ydata()[0] == pytest.approx(math.log(254))
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_ylim()[0]) == ("step", "entropy (nats)", 0)
    assert "uniform over 254 columns: 5.54" in _texts(drawn[0])
    draw_entropy(_rows(2), Path("x.png"), "entropy")
    assert len(drawn[1].axes[0].lines) == 2


def test_pairs_are_sorted_by_what_they_share() -> None:
    images = torch.eye(4)[[0, 0, 1]]  # two images of one class alike, one of another class
    groups = similarity_groups(torch.stack([images, images]), torch.tensor([0, 0, 1]))
    assert {kind: (len(v), v.min(), v.max()) for kind, v in groups.items()} == {
        "same image, other view": (3, 1, 1),
        "same class, other image": (4, 1, 1),
        "other class": (8, 0, 0),
    }
    unlabelled = similarity_groups(torch.stack([images, images]), torch.full((3,), -1))
    assert {kind: len(v) for kind, v in unlabelled.items()} == {"same image, other view": 3, "other image": 12}


def test_similarities_before_and_after(drawn: list[Figure]) -> None:
    groups = {"same image, other view": np.array([0.9, 0.95]), "other class": np.array([-0.2, 0.1, 0.3])}
    draw_similarities({"untrained": groups, "bam": groups}, Path("x.png"), "similarity")
    assert [axis.get_title() for axis in drawn[0].axes] == ["untrained", "bam"]
    for axis in drawn[0].axes:
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("cosine similarity", "share of pairs (%)")
        assert [sum(p.get_data().values) for p in axis.patches[::2]] == pytest.approx([100, 100])
    assert [t.get_text() for t in drawn[0].legends[0].get_texts()] == [*groups, "mean"]


def test_attention_has_a_column_per_map(drawn: list[Figure]) -> None:
    maps = torch.rand(2, 3, 4, 4) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]  # each by its own largest value
    draw_attention(torch.rand(2, 3, 8, 8), maps, ["head 1", "head 2", "mean"], Path("x.png"), "attention")
    *pictures, bar = drawn[0].axes
    assert [axis.get_title() for axis in pictures[:4]] == ["image", "head 1", "head 2", "mean"]
    shown = pictures[6].images[0].get_array()
    assert np.allclose(shown, maps[1, 1] / maps[1, 1].max())
    assert "largest value" in bar.get_ylabel()


def test_principal_components_are_scikit_learns() -> None:
    from sklearn.decomposition import PCA

    x = np.random.default_rng(0).normal(size=(50, 6)) * np.arange(1, 7) + 3
    places, names = principal_components(x)
    pca = PCA(2).fit(x)
    assert np.allclose(np.abs(places), np.abs(pca.transform(x)))
    assert names[0] == f"principal component 1 ({100 * pca.explained_variance_ratio_[0]:.0f} % of the variance)"
    assert np.isfinite(principal_components(np.ones((5, 4)))[0]).all()


@pytest.mark.parametrize(("classes", "groups"), [(0, 1), (1, 1), (2, 2), (10, 10), (100, 11)])
def test_features_of_any_number_of_classes(classes: int, groups: int, drawn: list[Figure]) -> None:
    labels = np.arange(200) % classes if classes else np.full(200, -1)
    places = np.random.default_rng(0).normal(size=(200, 2))
    draw_features(places, labels, [f"class {i}" for i in range(classes)], ["one", "two"], Path("x.png"), "features")
    (axis,) = drawn[0].axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("one", "two")
    assert len(axis.collections) == groups
    assert sum(len(points.get_offsets()) for points in axis.collections) == 200
    looks = {(tuple(p.get_facecolor()[0][:3]), p.get_paths()[0].vertices.tobytes()) for p in axis.collections}
    assert len(looks) == groups
    legend = [t.get_text() for t in axis.get_legend().get_texts()] if classes else []
    assert len(legend) == (groups if classes else 0)
    assert ("90 other classes" in legend) == (classes == 100)


@pytest.mark.parametrize("classes", [2, 10, 40, 100])
def test_a_confusion_matrix_of_any_size(classes: int, drawn: list[Figure]) -> None:
    matrix = 8 * np.eye(classes, dtype=int)
    matrix[1, 0] = 2
    names = [f"name {i}" for i in range(classes)]
    draw_confusion(matrix, names, Path("x.png"), "Confusion")
    axis = drawn[0].axes[0]
    shown = axis.images[0].get_array()
    assert (shown[1, 0], shown[1, 1], shown[0, 0]) == (20, 80, 100)
    texts = _texts(drawn[0])
    assert ("20.0" in texts) == (classes <= 20)
    assert ("name 1" in texts) == (classes <= 40)
    assert any("20.0 %  name 1 (1)\n            as name 0 (0)" in text for text in texts) == (classes == 100)
    assert "share of the true class's images (%)" in texts
    assert axis.get_xlabel().startswith("predicted class")
    assert axis.get_ylabel().startswith("true class")


def test_a_class_without_images_stays_empty(drawn: list[Figure]) -> None:
    draw_confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], Path("x.png"), "Confusion")
    shown = drawn[0].axes[0].images[0].get_array()
    assert np.isnan(np.ma.filled(shown, np.nan)[1]).all()


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_ending_chooses_the_format(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"confusion.{ending}"
    draw_confusion(np.eye(3), ["a", "b", "c"], path, "Confusion")
    starts: dict[str, Any] = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert path.read_bytes().startswith(starts[ending])
