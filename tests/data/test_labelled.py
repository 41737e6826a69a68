"""Which labelled images train a classifier, choose its rate and test it."""

import numpy as np
import pytest
import torch
from PIL import Image

from solo_bam.config.linear import LinearAugmentation, load_linear_recipe
from solo_bam.config.schema import Augmentation, Chance
from solo_bam.core.errors import UserError
from solo_bam.data.datasets.images import ArrayImages, Split
from solo_bam.data.datasets.sources import Source
from solo_bam.data.labelled import EveryNth, LabelledData, find_labelled, training_view
from solo_bam.data.sampling import seeded
from solo_bam.data.transforms.augmentations import plain_view
from tests.data.pictures import picture
from tests.pretrained import TINY

VIEW = ["data.augmentations.mean=[0.5,0.5,0.5]", "data.augmentations.std=[0.5,0.5,0.5]"]


def _recipe(*overrides):
    return load_linear_recipe("digits/linear", [*TINY, *VIEW, "data.fraction=-1", *overrides])


def _data(*overrides):
    recipe = _recipe(*overrides)
    return LabelledData(recipe, find_labelled(recipe))


def _names(split):
    return {split.reader.name(i) for i in range(len(split))}


def test_a_tenth_of_the_labels_is_listed(tmp_path):
    data = _data("data.label_fraction=0.1", "data.tune_fraction=0")
    assert np.bincount(data.train_split.targets).tolist() == [14] * 10
    data.write_subsets(tmp_path)
    lines = (tmp_path / "label_subset.txt").read_text().splitlines()
    assert len(lines) == 140
    assert {line.split("\t")[1] for line in lines} == _names(data.train_split)
    assert not (tmp_path / "tune_split.txt").exists()


def test_images_to_tune_on_are_training_images_that_are_not_trained_on():
    everything, data = _data("data.tune_fraction=0"), _data("data.tune_fraction=0.2")
    assert _names(data.tune_split) | _names(data.train_split) == _names(everything.train_split)
    assert not _names(data.tune_split) & _names(data.train_split)
    assert not _names(data.tune_split) & _names(data.val_split)
    assert abs(len(data.tune_split) - 0.2 * 1437) < 1
    shares = np.bincount(data.tune_split.targets) / np.bincount(everything.train_split.targets)
    assert shares.min() > 0.18
    assert shares.max() < 0.22


def test_images_to_tune_on_count_among_the_labels():
    data = _data("data.label_fraction=0.1", "data.tune_fraction=0.2")
    assert len(data.train_split) + len(data.tune_split) == 140


def test_tuning_and_validation_see_the_plain_view():
    data = _data("data.augmentations.rrc.enabled=True", "data.augmentations.horizontal_flip.prob=0.5")
    for images in data.test_sets:
        assert torch.equal(images[0][0], images[0][0])
    assert not torch.equal(data.train_set[0, 0][1], data.train_set[1, 0][1])
    assert torch.equal(data.train_set[0, 0][1], data.train_set[0, 0][1])


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_every_image_is_on_one_process(world_size):
    indexes = [i for rank in range(world_size) for i in EveryNth(11, world_size, rank)]
    assert sorted(indexes) == list(range(11))


def _split(targets, key="data.train_path"):
    return Split(
        ArrayImages(np.zeros((len(targets), 4, 4, 3), np.uint8), "image"), np.array(targets), ["a", "b"], ".", key
    )


def test_images_without_a_label_are_left_out():
    """STL-10's training images come with the unlabelled ones."""
    source = Source(_split([0, -1, 1, -1]), _split([0, 1]), 2)
    data = LabelledData(_recipe("data.tune_fraction=0"), source)
    assert data.train_split.targets.tolist() == [0, 1]
    with pytest.raises(UserError, match="data.train_path: none of the 2 images has a label"):
        LabelledData(_recipe(), Source(_split([-1, -1]), _split([0, 1]), 2))


def test_labels_are_needed(tmp_path):
    (tmp_path / "flat").mkdir()
    picture(0).save(tmp_path / "flat" / "0.png")
    custom = ["data.dataset=custom", f"data.train_path={tmp_path / 'flat'}"]
    with pytest.raises(
        UserError, match="has no class folders, a classifier needs labels; give a folder of class"
    ) as error:
        find_labelled(_recipe(*custom))
    assert "no_labels" not in str(error.value)
    with pytest.raises(UserError, match="data.val_path: is missing, accuracy is that of labelled images"):
        LabelledData(_recipe(), Source(_split([0, 1]), None, 2))
    with pytest.raises(UserError, match="data.tune_fraction: got 0.5, which does not fit 2 images"):
        LabelledData(_recipe("data.tune_fraction=0.5"), Source(_split([0, 1]), _split([0, 1]), 2))


def test_without_augmentation_training_sees_what_is_tested():
    """The digits' 8 pixels are drawn at 32: another interpolation costs a per cent of accuracy."""
    crop = LinearAugmentation(crop_size=32, mean=[0.5] * 3, std=[0.5] * 3, rrc={"enabled": False})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    tested = plain_view("custom", Augmentation(num_crops=1, **crop.model_dump()))
    still = crop.model_copy(update={"horizontal_flip": Chance(prob=0)})
    assert torch.equal(training_view(still)(image), tested(image))
    mirrored = crop.model_copy(update={"horizontal_flip": Chance(prob=1)})
    assert torch.equal(training_view(mirrored)(image), tested(image).flip(-1))


def test_auto_augment_is_drawn_from_the_image_s_own_seed():
    crop = LinearAugmentation(crop_size=16, mean=[0.5] * 3, std=[0.5] * 3)
    view = training_view(crop, auto_augment=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8))

    def drawn(*key):
        with seeded(*key):
            return view(image)

    first = [drawn(0, i) for i in range(8)]
    np.random.seed(7)  # whatever numpy's own stream is at
    before = np.random.get_state()[1].tolist()
    assert all(torch.equal(drawn(0, i), view) for i, view in enumerate(first))
    assert not torch.equal(first[0], first[1])
    assert first[0].shape == (3, 16, 16)
    assert np.random.get_state()[1].tolist() == before
