"""Counting: to the last image, on one process and on several."""

import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from solo_bam.data.labelled import EveryNth
from solo_bam.evaluate.tally import Tally, write_confusion, write_per_class
from solo_bam.runs.records import wilson_interval
from tests.processes import run

HEADS, IMAGES, CLASSES = 2, 23, 7


def _answers():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(HEADS, IMAGES, CLASSES, generator=generator), torch.randint(
        CLASSES, (IMAGES,), generator=generator
    )


def _counted(indexes, batch=4):
    logits, labels = _answers()
    tally = Tally(HEADS, CLASSES)
    for start in range(0, len(indexes), batch):
        rows = list(indexes)[start : start + batch]
        tally.add(logits[:, rows], labels[rows])
    tally.reduce()
    return tally


def test_counts_are_the_naive_ones():
    logits, labels = _answers()
    tally = _counted(range(IMAGES))
    assert tally.images == IMAGES
    for head in range(HEADS):
        confusion = np.zeros((CLASSES, CLASSES), int)
        top = 0
        for answer, label in zip(logits[head], labels):
            confusion[label, answer.argmax()] += 1
            top += int(label in answer.sort(descending=True).indices[:5])
        assert (tally.confusion[head].numpy() == confusion).all()
        assert tally.accuracies[head] == pytest.approx(100 * confusion.trace() / IMAGES)
        assert tally.top_accuracies[head] == pytest.approx(100 * top / IMAGES)
        assert tally.losses[head] == pytest.approx(F.cross_entropy(logits[head], labels).item())


def _process(world_size):
    import torch.distributed as dist

    tally = _counted(EveryNth(IMAGES, world_size, dist.get_rank()))
    return tally.confusion.numpy(), tally.accuracies, tally.losses


def test_two_processes_count_every_image_once():
    """23 images do not divide by two, and nothing is padded."""
    one = _counted(range(IMAGES))
    for confusion, accuracies, losses in run(2, _process, 2):
        assert (confusion == one.confusion.numpy()).all()
        assert accuracies == one.accuracies
        assert losses == pytest.approx(one.losses)


def test_the_best_has_most_right_answers_and_then_the_smaller_loss():
    tally = Tally(4, 2)
    sure, hesitant, wrong = [[3.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]
    tally.add(torch.tensor([wrong, hesitant, sure, [[float("nan")] * 2]]), torch.tensor([0]))
    assert tally.accuracies[1] == tally.accuracies[2] == 100
    assert tally.best() == 2


def test_tables(tmp_path):
    confusion = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    write_per_class(tmp_path / "a.csv", confusion, ["cat", "dog", "owl"])
    cat, dog, owl = csv.DictReader((tmp_path / "a.csv").open())
    low, high = wilson_interval(0.75, 4)
    assert (cat["images"], cat["correct"], cat["accuracy"]) == ("4", "3", "75.00")
    assert (cat["low"], cat["high"]) == (f"{low:.2f}", f"{high:.2f}")
    assert (dog["accuracy"], owl["accuracy"]) == ("100.00", "")
    write_confusion(tmp_path / "b.csv", confusion, ["cat", "dog", "owl"])
    assert (tmp_path / "b.csv").read_text().splitlines()[:2] == ["true \\ predicted,cat,dog,owl", "cat,3,1,0"]
