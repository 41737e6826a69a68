"""J and F by hand and against a naive computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from solo_bam.evaluate.davis import boundary, boundary_accuracy, region_similarity, score_sequence, statistics


def _box(size, top, left, height, width):
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


EMPTY = np.zeros((10, 10), dtype=bool)


def test_region_similarity_by_hand():
    truth, shifted = _box(10, 2, 2, 4, 4), _box(10, 2, 4, 4, 4)
    assert region_similarity(truth, truth) == 1.0
    assert region_similarity(truth, shifted) == pytest.approx(8 / 24)
    assert region_similarity(truth, EMPTY) == 0.0
    assert region_similarity(EMPTY, truth) == 0.0
    assert region_similarity(EMPTY, EMPTY) == 1.0


def test_void_pixels_do_not_count():
    truth, shifted = _box(10, 2, 2, 4, 4), _box(10, 2, 4, 4, 4)
    right = _box(10, 0, 6, 10, 4)
    assert region_similarity(truth, shifted, right) == pytest.approx(8 / 16)
    assert region_similarity(truth, EMPTY, truth) == 1.0
    assert boundary_accuracy(truth, EMPTY, void=truth) == 1.0


def test_boundary_by_hand():
    """Half a pixel towards the upper left of the mask's own edge, as in the benchmark for boundaries."""
    edges = boundary(_box(5, 2, 2, 1, 1))
    assert np.argwhere(edges).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert not boundary(np.ones((5, 5), dtype=bool)).any()
    assert np.argwhere(boundary(_box(4, 0, 2, 4, 2))).tolist() == [[0, 1], [1, 1], [2, 1], [3, 1]]


def test_boundaries_match_within_two_pixels_of_a_diagonal_of_141():
    truth = _box(100, 0, 0, 100, 50)
    for shift, expected in [(0, 1.0), (2, 1.0), (3, 0.0), (-2, 1.0), (-3, 0.0)]:
        assert boundary_accuracy(truth, _box(100, 0, 0, 100, 50 + shift)) == expected


def test_an_object_that_is_not_there():
    truth = _box(10, 2, 2, 4, 4)
    assert boundary_accuracy(EMPTY, EMPTY) == 1.0
    assert boundary_accuracy(truth, EMPTY) == 0.0
    assert boundary_accuracy(EMPTY, truth) == 0.0


def _naive_boundary_accuracy(truth, found):
    def edges(mask):
        height, width = mask.shape
        inside = lambda i, j: mask[min(i, height - 1), min(j, width - 1)]  # noqa: E731
        return [
            (i, j)
            for i, j in itertools.product(range(height), range(width))
            if any(mask[i, j] != inside(*place) for place in ((i, j + 1), (i + 1, j), (i + 1, j + 1)))
        ]

    reach = math.ceil(0.008 * math.hypot(*truth.shape))
    theirs, ours = edges(truth), edges(found)
    near = lambda a, others: any(math.dist(a, b) <= reach for b in others)  # noqa: E731
    precision = sum(near(a, theirs) for a in ours) / len(ours)
    recall = sum(near(a, ours) for a in theirs) / len(theirs)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(3))
def test_boundary_accuracy_against_a_naive_one(seed):
    generator = np.random.default_rng(seed)
    truth, found = (np.zeros((60, 90), dtype=bool) for _ in range(2))
    for mask in (truth, found):
        top, left, height, width = generator.integers(5, 35, 4)
        mask[top : top + height, left : left + width] = True
        mask[generator.integers(0, 60, 5), generator.integers(0, 90, 5)] ^= True
    expected = _naive_boundary_accuracy(truth, found)
    assert 0 < expected < 1
    assert boundary_accuracy(truth, found) == pytest.approx(expected)


def test_statistics_by_hand():
    """The quarters of eight frames are 1-3, 3-5, 5-6 and 6-8: they share their ends."""
    values = np.array([1.0, 0.9, 0.8, 0.7, 0.5, 0.4, 0.2, 0.0])
    found = statistics(values)
    assert found.mean == pytest.approx(4.5 / 8)
    assert found.recall == 4 / 8
    assert found.decay == pytest.approx(0.9 - 0.2)
    assert statistics(np.array([0.75])) == (0.75, 1.0, 0.0)


def _video():
    """Two objects; the second disappears after the second of five frames."""
    truths = np.zeros((5, 10, 10), dtype=np.uint8)
    for i, frame in enumerate(truths):
        frame[1:4, i : i + 3] = 1
        if i < 2:
            frame[6:9, 2:5] = 2
    return truths


def test_an_object_that_disappears_is_right_where_it_is_not_found():
    truths = _video()
    first, second = score_sequence(truths, truths)
    assert (first.object, second.object) == (1, 2)
    assert first.region == first.boundary == second.region == second.boundary == (1.0, 1.0, 0.0)
    stays = truths.copy()
    stays[2:, 6:9, 2:5] = 2
    _, second = score_sequence(truths, stays)
    assert second.region.mean == second.boundary.mean == pytest.approx(1 / 3)


def test_first_and_last_frame_do_not_count_and_void_is_background():
    truths = _video()
    found = truths.copy()
    found[[0, -1]] = 0
    truths[0, 9] = truths[2, 9] = 255
    assert [s.region.mean for s in score_sequence(truths, found)] == [1.0, 1.0]
    found[2, 9] = 1
    assert score_sequence(truths, found)[0].region.mean == pytest.approx((1 + 9 / 19 + 1) / 3)


def test_objects_that_are_never_found():
    truths = _video()
    assert [s.region.mean for s in score_sequence(truths, np.zeros_like(truths))] == [0.0, pytest.approx(2 / 3)]
    with pytest.raises(ValueError, match="must be equal and at least 3"):
        score_sequence(truths[:2], truths[:2])
