"""Class-balanced subsets."""

import numpy as np

from solo_bam.data.datasets.subsets import balanced, describe_share

TARGETS = np.repeat([0, 1, 2, -1], [100, 200, 10, 50])


def test_as_many_of_each_class_and_none_without_a_label():
    chosen = balanced(TARGETS, 0.2)  # 62 of 310 labelled images, 20.7 per class
    assert np.bincount(TARGETS[chosen]).tolist() == [21, 21, 10]
    assert (np.diff(chosen) > 0).all()


def test_the_seed_alone_decides():
    assert (balanced(TARGETS, 0.2) == balanced(TARGETS.copy(), 0.2)).all()
    assert (balanced(TARGETS, 0.2) != balanced(TARGETS, 0.2, seed=1)).any()


def test_the_smaller_subset_lies_within_the_larger():
    small, large = (set(balanced(TARGETS, share, seed=3).tolist()) for share in (0.02, 0.2))
    assert small < large


def test_all_is_all_labelled_images_and_little_is_one_of_each():
    assert balanced(TARGETS, 1.0).tolist() == list(range(310))
    assert np.bincount(TARGETS[balanced(TARGETS, 1e-6)]).tolist() == [1, 1, 1]
    assert (describe_share(1.0), describe_share(0.1)) == ("all", "class-balanced 10 %")
