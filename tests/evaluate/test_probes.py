"""Features and probes of the demo."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from solo_bam.evaluate import Features, extract_features, few_shot_knn, knn, linear, pixel_features
from solo_bam.evaluate.probes import _balanced


def _blobs(per_class: int, seed: int, spread: float) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat(per_class)
    return Features(4 * torch.eye(4)[labels] + spread * torch.randn(len(labels), 4, generator=generator), labels)


def test_separable_classes_are_told_apart_and_noise_is_not() -> None:
    train, test = _blobs(50, 0, 0.3), _blobs(50, 1, 0.3)
    assert knn(train, test) == few_shot_knn(train, test, per_class=5) == linear(train, test) == 100.0
    shuffled = Features(train.values, train.labels[torch.randperm(200, generator=torch.Generator().manual_seed(0))])
    assert knn(shuffled, test) < 50
    assert linear(shuffled, test) < 50


def test_more_labels_help() -> None:
    train, test = _blobs(100, 0, 2.0), _blobs(100, 1, 2.0)
    assert few_shot_knn(train, test, per_class=2) < few_shot_knn(train, test, per_class=50)


def test_few_shot_banks_are_balanced_and_fixed_by_the_seed() -> None:
    labels = np.repeat([0, 1, 2], [20, 30, 10])
    chosen = _balanced(labels, 5, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [5, 5, 5]
    assert len(set(chosen)) == 15
    assert (chosen == _balanced(labels, 5, seed=0)).all()
    assert (chosen != _balanced(labels, 5, seed=1)).any()


def test_features_come_from_evaluation_mode_in_order() -> None:
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 2, 2).contiguous()
    data = torch.utils.data.TensorDataset(images, torch.arange(10))
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(12), torch.nn.Dropout(0.5))
    features = extract_features(backbone, data, batch_size=4)
    torch.testing.assert_close(features.values, images.flatten(1) / (1 + 1e-5) ** 0.5)
    assert features.labels.tolist() == list(range(10))
    assert backbone.training
    assert pixel_features(data).values.shape == (10, 12)


def test_more_neighbours_than_images() -> None:
    with pytest.raises(ValueError, match="k must be 1 to the bank's 4 images, got 20"):
        knn(_blobs(1, 0, 0.1), _blobs(2, 1, 0.1))
