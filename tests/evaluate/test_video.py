"""Label propagation: against a naive computation, and on films whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from solo_bam.backbones import create_backbone
from solo_bam.core.errors import UserError
from solo_bam.evaluate.davis import region_similarity
from solo_bam.evaluate.video import (
    Propagation,
    dense_features,
    hand_on,
    harden,
    one_hot,
    propagate,
    resize,
    resized,
    segment,
)

COLOURS = torch.tensor([[40.0, 40.0, 40.0], [250.0, 0.0, 0.0], [0.0, 0.0, 250.0]])


def _film(places, size=64, side=16):
    """Label maps of squares, the n-th object's upper left corner per frame; None: it is not there."""
    frames = []
    for corners in places:
        frame = np.zeros((size, size), dtype=np.uint8)
        for number, corner in enumerate(corners, start=1):
            if corner is not None:
                frame[corner[0] : corner[0] + side, corner[1] : corner[1] + side] = number
        frames.append(frame)
    return np.stack(frames)


def _coloured(labels):
    return [COLOURS[torch.from_numpy(frame).long()].permute(2, 0, 1).byte() for frame in labels]


def _colours(images):
    """A backbone whose features are the colours of 4 x 4 pixels, around grey."""
    return F.avg_pool2d(images, 4) - 0.3


def _segmented(labels, **settings):
    found = list(segment(_colours, _coloured(labels), labels[0], 64, 64, Propagation(**settings)))
    return np.stack(found)


def test_coloured_squares_are_followed():
    labels = _film([((4 * i, 8), (40, 48 - 4 * i)) for i in range(9)])
    found = _segmented(labels)
    assert np.array_equal(found[0], labels[0])
    for number in (1, 2):
        scores = [region_similarity(t == number, f == number) for t, f in zip(labels, found)]
        assert min(scores) > 0.95


def test_an_object_that_disappears_is_not_found_elsewhere():
    labels = _film([((8, 8), (40, 40) if i < 3 else None) for i in range(6)])
    found = _segmented(labels)
    assert (found[2] == 2).any()
    for i in range(3, 6):
        assert not (found[i] == 2).any()
        assert region_similarity(labels[i] == 1, found[i] == 1) > 0.95


def test_the_last_frames_bridge_what_the_first_is_too_far_from():
    """Six positions a frame, neighbourhood of seven; without the last frames it is lost, with them it is not."""
    labels = _film([((0, 24 * i),) for i in range(5)], size=128)
    far = {"size_mask_neighborhood": 7}
    found = _segmented(labels, n_last_frames=1, **far)
    lost = _segmented(labels, n_last_frames=0, **far)
    assert region_similarity(labels[4] == 1, found[4] == 1) > 0.95
    assert region_similarity(labels[4] == 1, lost[4] == 1) < 0.05
    anywhere = _segmented(labels, n_last_frames=0, size_mask_neighborhood=0)
    assert region_similarity(labels[4] == 1, anywhere[4] == 1) > 0.95


def _naive(target, sources, labels, settings):
    """One position after the other."""
    depth, height, width = target.shape
    result = torch.zeros(len(labels[0]), height, width)
    for i in range(height):
        for j in range(width):
            near = []
            for features, shares in zip(sources, labels):
                for a in range(height):
                    for b in range(width):
                        if max(abs(a - i), abs(b - j)) <= settings.size_mask_neighborhood:
                            cosine = sum(float(target[d, i, j]) * float(features[d, a, b]) for d in range(depth))
                            near.append((math.exp(cosine / settings.temperature), shares[:, a, b]))
            near = sorted(near, key=lambda pair: -pair[0])[: settings.topk]
            total = sum(weight for weight, _ in near)
            result[:, i, j] = sum(weight / total * shares for weight, shares in near)
    return result


@pytest.mark.parametrize(("topk", "radius", "temperature"), [(5, 2, 0.1), (1, 1, 0.1), (100, 1, 0.5), (3, 12, 0.07)])
def test_handing_on_against_a_naive_one(topk, radius, temperature):
    torch.manual_seed(topk)
    features = [F.normalize(torch.randn(6, 4, 5), dim=0) for _ in range(3)]
    labels = [torch.rand(3, 4, 5).softmax(0) for _ in range(2)]
    settings = Propagation(topk=topk, size_mask_neighborhood=radius, temperature=temperature)
    found = hand_on(features[2], features[:2], labels, settings)
    torch.testing.assert_close(found, _naive(features[2], features[:2], labels, settings))
    torch.testing.assert_close(found.sum(0), torch.ones(4, 5))


def test_pieces_of_the_affinities_give_the_same(monkeypatch):
    torch.manual_seed(0)
    features = [F.normalize(torch.randn(6, 7, 5), dim=0) for _ in range(2)]
    labels = [torch.rand(3, 7, 5)]
    whole = hand_on(features[1], features[:1], labels, Propagation(size_mask_neighborhood=2))
    monkeypatch.setattr("solo_bam.evaluate.video._MOST", 100)
    pieces = hand_on(features[1], features[:1], labels, Propagation(size_mask_neighborhood=2))
    torch.testing.assert_close(pieces, whole)


def test_sources_are_the_first_and_the_last_frames(monkeypatch):
    seen = []
    frames = [torch.full((1, 1, 1), float(i)) for i in range(6)]

    def handed_on(target, sources, labels, settings):
        seen.append([int(s) for s in sources])
        return labels[0]

    monkeypatch.setattr("solo_bam.evaluate.video.hand_on", handed_on)
    list(propagate(frames[0], frames[1:], torch.ones(1, 1, 1), Propagation(n_last_frames=2)))
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4]]


def test_sizes_are_the_protocols():
    """480p frames of DAVIS, and an upright one."""
    assert resized(480, 854, 480) == (480, 832)
    assert resized(1920, 1080, 480) == (832, 480)
    assert resized(50, 50, 480) == (480, 480)


def test_frames_are_resized_as_the_protocol_does():
    """Each new pixel is the mean of the two whose centres are nearest, by distance; no smoothing."""
    frame = torch.tensor([0, 100, 200, 40], dtype=torch.uint8).expand(3, 2, 4)
    expected = torch.tensor([50.0, 120.0]) / 255
    torch.testing.assert_close(resize(frame, (2, 2))[0, 0, 0], expected)


def test_small_labels_are_those_of_the_centres():
    labels = np.zeros((8, 8), dtype=np.uint8)
    labels[2, 6] = 2
    small = one_hot(labels, (2, 2))
    assert small.shape == (3, 2, 2)
    assert small.argmax(0).tolist() == [[0, 2], [0, 0]]


def test_every_label_is_scaled_before_the_largest_is_taken():
    """A label that is weak everywhere still wins where it is strongest; one that is nowhere never does."""
    shares = torch.tensor([[[0.6, 0.9]], [[0.4, 0.1]], [[0.0, 0.0]]])
    assert harden(shares, (1, 2), (2, 4)).tolist() == [[1, 1, 0, 0]] * 2
    assert harden(torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]]), (1, 2), (1, 2)).tolist() == [[0, 0]]


# ------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("name", ["vit_tiny", "deit_tiny_distilled_patch16_224"])
def test_patch_tokens_in_their_places(name):
    backbone = create_backbone(name, {"patch_size": 8}, crop_sizes=(32,), any_size=True).eval()
    images = torch.randn(1, 3, 24, 40)
    tokens = backbone.forward_features(images)[:, backbone.num_prefix_tokens :]
    found = dense_features(backbone, images)
    assert found.shape == (1, 192, 3, 5)
    torch.testing.assert_close(found[0, :, 1, 2], tokens[0, 5 + 2])
    block = dense_features(backbone, images, "blocks.11")
    torch.testing.assert_close(backbone.norm(block.permute(0, 2, 3, 1)), found.permute(0, 2, 3, 1))


def test_feature_maps_by_layer():
    backbone = create_backbone("resnet18").eval()
    images = torch.randn(1, 3, 64, 96)
    assert dense_features(backbone, images).shape == (1, 512, 2, 3)
    assert dense_features(backbone, images, "layer3").shape == (1, 256, 4, 6)
    torch.testing.assert_close(dense_features(backbone, images, "layer4"), dense_features(backbone, images))
    with pytest.raises(
        UserError, match="layer: got 'stage3', allowed: submodules of conv1, bn1, relu, maxpool, layer1"
    ):
        dense_features(backbone, images, "stage3")
    with pytest.raises(UserError, match="layer: got 'fc', which gives no feature map"):
        dense_features(backbone, images, "fc")
