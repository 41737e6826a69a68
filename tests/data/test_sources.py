"""Every dataset that a recipe can name: what is found, how it is labelled, and what is said when it is not there."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from solo_bam.core.errors import UserError
from solo_bam.data import PretrainData, Source, find_source
from solo_bam.data.datasets import downloads as downloads_module
from solo_bam.data.datasets.imagenet100 import IMAGENET100
from tests.data.pictures import cifar, encoded, folders, h5_file, packed, picture, stl
from tests.recipes import tiny


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which its files can be downloaded."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        http.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that has read enough hangs up
        Thread(target=http.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def find(tmp_path: Path, *overrides: str) -> Source:
    return find_source(tiny(tmp_path / "runs", "digits/bam", "data.fraction=-1", *overrides).data)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


# ------------------------------------------------------------------------------------ folders and HDF5


@pytest.mark.parametrize("form", ["image_folder", "h5"])
def test_images_and_labels_stay_together(form: str, tmp_path: Path) -> None:
    """Labels are in the order of the classes' names, whatever order they were written in."""
    make = folders if form == "image_folder" else h5_file
    train = make(tmp_path / "train", ("cat", "ant", "bee"), 4)
    source = find(tmp_path, "data.dataset=custom", f"data.format={form}", f"data.train_path={train}")
    images = source.train(pixels)
    assert (source.num_classes, list(source.train.classes)) == (3, ["ant", "bee", "cat"])
    assert images.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert source.val is None
    for index, (written, label) in enumerate(zip([4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3], images.targets)):
        image, target = images[index]
        assert target == label
        np.testing.assert_array_equal(image, pixels(picture(written)))


def test_folders_are_read_like_torchvisions_image_folder(tmp_path: Path) -> None:
    root = folders(tmp_path / "train", ("b", "a"), 3)
    (root / "a" / "deeper").mkdir()
    (root / "a" / "deeper" / "x.PNG").write_bytes(encoded(7))
    (root / "a" / "notes.txt").write_text("no image")
    Image.new("L", (5, 5), 9).save(root / "b" / "grey.png")
    ours = find(tmp_path, "data.dataset=custom", f"data.train_path={root}").train(pixels)
    theirs = torchvision.datasets.ImageFolder(str(root), pixels)
    assert ours.samples == theirs.samples
    assert ours.targets.tolist() == theirs.targets
    for index in range(len(theirs)):
        np.testing.assert_array_equal(ours[index][0], theirs[index][0])


class _Openers(Dataset[Any]):
    """The process that opened the file and the one that reads an image."""

    def __init__(self, reader: Any):
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, position: int) -> tuple[int, int]:
        self.reader.open(position)
        return self.reader._process, os.getpid()


@pytest.mark.parametrize("workers", [0, 2])
def test_h5_in_loader_processes(workers: int, tmp_path: Path) -> None:
    """A file that this process has opened is opened again by each loader process."""
    path = h5_file(tmp_path / "train.h5")
    images = find(tmp_path, "data.dataset=custom", "data.format=h5", f"data.train_path={path}").train(pil_to_tensor)
    expected = [images[i][0] for i in range(len(images))]
    loader = DataLoader(images, batch_size=4, num_workers=workers)
    loaded = [image for batch, _ in loader for image in batch]
    assert all((a == b).all() for a, b in zip(loaded, expected, strict=True))
    assert all(opener == reader for opener, reader in DataLoader(_Openers(images.split.reader), num_workers=workers))
    copy = pickle.loads(pickle.dumps(images.split.reader))
    assert pixels(copy.open(3)).tolist() == pixels(picture(3)).tolist()


@pytest.mark.parametrize("form", ["image_folder", "h5"])
@pytest.mark.parametrize("others", [0, 3])
def test_imagenet100_out_of_imagenet(form: str, others: int, tmp_path: Path) -> None:
    """Its hundred classes are found among others, and labelled 0 to 99."""
    make, names = (folders if form == "image_folder" else h5_file), sorted(IMAGENET100)
    train = make(tmp_path / "train", [*names, *(f"n0000000{i}" for i in range(others))], 1)
    val = make(tmp_path / "val", names, 1)
    where = [f"data.train_path={train}", f"data.val_path={val}", f"data.format={form}"]
    source = find(tmp_path, "data.dataset=imagenet100", *where)
    assert source.num_classes == len(source.train) == 100
    assert source.train.targets.tolist() == list(range(100))
    assert source.val is not None
    assert source.train.reader.name(57).endswith(f"{names[57]}/057.png")
    np.testing.assert_array_equal(source.train(pixels)[57][0], pixels(picture(57)))


def test_imagenets_classes_are_all_expected(tmp_path: Path) -> None:
    train = folders(tmp_path / "train", [f"n{i:08d}" for i in range(1000)], 1)
    assert find(tmp_path, "data.dataset=imagenet", f"data.train_path={train}").num_classes == 1000
    shutil.rmtree(train / "n00000017")
    with pytest.raises(UserError, match="has 999 class folders, imagenet has 1000"):
        find(tmp_path, "data.dataset=imagenet", f"data.train_path={train}")


@pytest.mark.parametrize("form", ["image_folder", "h5"])
def test_without_labels(form: str, tmp_path: Path) -> None:
    """Class folders do not count then, and the validation set is not used."""
    make = folders if form == "image_folder" else h5_file
    train, val = make(tmp_path / "train"), make(tmp_path / "val")
    where = [f"data.format={form}", f"data.train_path={train}", f"data.val_path={val}"]
    source = find(tmp_path, "data.dataset=custom", "data.no_labels=True", *where)
    assert (source.val, source.num_classes, list(source.train.classes)) == (None, 1, [])
    assert source.train.targets.tolist() == [-1] * 20
    assert source.train(pixels)[13][1] == -1
    np.testing.assert_array_equal(source.train(pixels)[13][0], pixels(picture(13)))


# ------------------------------------------------------------------------------------ CIFAR and STL-10


@pytest.mark.parametrize(("dataset", "name", "batches"), [("cifar10", "CIFAR10", 5), ("cifar100", "CIFAR100", 1)])
def test_cifar(dataset: str, name: str, batches: int, tmp_path: Path, monkeypatch: Any) -> None:
    root = cifar(tmp_path / "data", name, monkeypatch)
    source = find(tmp_path, f"data.dataset={dataset}", f"data.train_path={root}")
    assert source.val is not None
    assert (len(source.train), len(source.val), source.num_classes) == (batches * 40, 40, int(dataset[5:]))
    theirs = getattr(torchvision.datasets, name)(str(root), train=False)
    image, label = source.val(pixels)[23]
    np.testing.assert_array_equal(image, pixels(theirs[23][0]))
    assert label == theirs[23][1]


def test_stl10_trains_on_its_unlabelled_images_too(tmp_path: Path, monkeypatch: Any) -> None:
    root = stl(tmp_path / "data", monkeypatch)
    source = find(tmp_path, "data.dataset=stl10", f"data.train_path={root}")
    assert source.val is not None
    assert (len(source.train), len(source.val), source.num_classes) == (50, 20, 10)
    assert Counter(source.train.targets.tolist()) == {**dict.fromkeys(range(10), 2), -1: 30}
    theirs = torchvision.datasets.STL10(str(root), split="train+unlabeled")
    for index in (3, 40):
        image, label = source.train(pixels)[index]
        np.testing.assert_array_equal(image, pixels(theirs[index][0]))
        assert label == theirs[index][1]


def test_an_archive_in_the_folder_is_unpacked(tmp_path: Path, monkeypatch: Any) -> None:
    root = cifar(tmp_path / "data", "CIFAR10", monkeypatch)
    archive = packed(root, "CIFAR10", monkeypatch)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/nowhere")
    assert len(find(tmp_path, "data.dataset=cifar10", f"data.train_path={root}").train) == 200
    assert sorted(p.name for p in root.iterdir()) == ["cifar-10-batches-py", archive.name]


def test_a_download_arrives_whole(tmp_path: Path, monkeypatch: Any, server: tuple[Path, str]) -> None:
    archive = packed(cifar(server[0], "CIFAR10", monkeypatch), "CIFAR10", monkeypatch)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{server[1]}/{archive.name}")
    with (tmp_path / "log").open("w") as log, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", log)
        assert len(find(tmp_path, "data.dataset=cifar10", f"data.train_path={tmp_path / 'data'}").train) == 200
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["cifar-10-batches-py"]
    assert not list(tmp_path.glob(".solo-bam-*"))
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition(" of ")[0] for line in lines] == [f"{archive.name}: 0.00", lines[-1].partition(" of ")[0]]


def test_a_download_writes_nothing_into_a_pipe(tmp_path: Path, monkeypatch: Any, server: tuple[Path, str]) -> None:
    archive = packed(cifar(server[0], "CIFAR10", monkeypatch), "CIFAR10", monkeypatch)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{server[1]}/{archive.name}")
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", pipe)
        find(tmp_path, "data.dataset=cifar10", f"data.train_path={tmp_path / 'data'}")
    assert os.fdopen(reading).read() == ""


def test_an_altered_file_is_replaced(tmp_path: Path, monkeypatch: Any, server: tuple[Path, str]) -> None:
    root = cifar(tmp_path / "data", "CIFAR10", monkeypatch)
    whole = (root / "cifar-10-batches-py" / "test_batch").read_bytes()
    shutil.copytree(root, server[0], dirs_exist_ok=True)
    archive = packed(server[0], "CIFAR10", monkeypatch)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{server[1]}/{archive.name}")
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(whole[:-1])
    find(tmp_path, "data.dataset=cifar10", f"data.train_path={root}")
    assert (root / "cifar-10-batches-py" / "test_batch").read_bytes() == whole


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "STL10"])
def test_without_a_network_it_says_what_to_put_where(
    name: str, existing: bool, tmp_path: Path, monkeypatch: Any
) -> None:
    cls, root = getattr(torchvision.datasets, name), tmp_path / "data"
    if existing:
        root.mkdir()
        (root / "mine.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(cls, "url", f"http://127.0.0.1:9/{cls.filename}")
    with pytest.raises(UserError) as caught:
        find(tmp_path, f"data.dataset={name.lower()}", f"data.train_path={root}")
    assert caught.value.key == "data.train_path"
    assert f"{name} is not in {root} and could not be downloaded ([Errno 111] Connection refused)" in str(caught.value)
    assert caught.value.remedy == f"put {cls.filename} (MD5 {cls.tgz_md5}) from {cls.url} into {root}"
    assert sorted(tmp_path.rglob("*")) == before


def test_half_an_archive_is_named(tmp_path: Path, monkeypatch: Any, server: tuple[Path, str]) -> None:
    """One in the folder, and the same from the server."""
    archive = packed(cifar(tmp_path / "data", "CIFAR10", monkeypatch), "CIFAR10", monkeypatch)
    archive.write_bytes(archive.read_bytes()[:1000])
    shutil.copy(archive, server[0])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{server[1]}/{archive.name}")
    with pytest.raises(
        UserError, match=r"File not found or corrupted.*; the cifar-10-python.tar.gz there is incomplete"
    ):
        find(tmp_path, "data.dataset=cifar10", f"data.train_path={archive.parent}")
    assert list(archive.parent.iterdir()) == [archive]


def test_a_silent_server_is_given_up(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(downloads_module, "_SILENCE", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(torchvision.datasets.STL10, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/x")
        start = time.monotonic()
        with pytest.raises(UserError, match="timed out"):
            find(tmp_path, "data.dataset=stl10", f"data.train_path={tmp_path / 'data'}")
    assert time.monotonic() - start < 5
    assert socket.getdefaulttimeout() is None


# -------------------------------------------------------------------------------------------- fraction


def _dataset(kind: str, tmp_path: Path, monkeypatch: Any) -> list[str]:
    if kind == "cifar10":
        return ["data.dataset=cifar10", f"data.train_path={cifar(tmp_path / 'data', 'CIFAR10', monkeypatch)}"]
    if kind == "stl10":
        return ["data.dataset=stl10", f"data.train_path={stl(tmp_path / 'data', monkeypatch, 40, 60)}"]
    make = h5_file if kind == "h5" else folders
    where = [f"data.train_path={make(tmp_path / 'data', count=50)}", f"data.no_labels={kind == 'unlabelled'}"]
    return ["data.dataset=custom", f"data.format={'h5' if kind == 'h5' else 'image_folder'}", *where]


EXPECTED = {
    "cifar10": dict.fromkeys(range(10), 10),
    "stl10": {**dict.fromkeys(range(10), 2), -1: 30},
    "h5": {0: 25, 1: 25},
    "folders": {0: 25, 1: 25},
    "unlabelled": {-1: 50},
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_half_of_every_dataset(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Stratified by label, the same for every seed, and the chosen images keep their own labels."""
    where = _dataset(kind, tmp_path, monkeypatch)

    def chosen(seed: int) -> tuple[list[str], list[int]]:
        recipe = tiny(tmp_path / "runs", "digits/bam", "data.fraction=0.5", f"seed={seed}", *where)
        images = PretrainData(recipe, find_source(recipe.data)).train_set.dataset
        return [images.split.reader.name(i) for i in range(len(images))], images.targets.tolist()

    names, targets = chosen(0)
    assert (names, targets) == chosen(1)
    assert Counter(targets) == EXPECTED[kind]
    assert len(set(names)) == len(names)
    whole = find(tmp_path, *where).train
    label = {whole.reader.name(i): int(t) for i, t in enumerate(whole.targets)}
    assert [label[name] for name in names] == targets
    recipe = tiny(tmp_path / "runs", "digits/bam", "data.fraction=0.5", *where)
    images = PretrainData(recipe, find_source(recipe.data)).train_set.dataset
    assert hasattr(images, "samples") == (kind in ("folders", "unlabelled"))
    assert not hasattr(images, "samples") or images.samples == list(zip(names, targets))
