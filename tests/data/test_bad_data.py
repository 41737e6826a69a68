"""What users' folders hold beside good images: read rightly, named, skipped and counted, or left out."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.data import find_source
from solo_bam.data.datasets.images import Split
from tests.data.pictures import encoded, folders, h5_file
from tests.recipes import tiny, tiny_overrides

Pixel = tuple[int, int, int]


def source(tmp_path: Path, root: Path, *overrides: str) -> Split:
    """The training images of a recipe."""
    where = ["data.dataset=custom", f"data.train_path={root}", "data.fraction=-1"]
    return find_source(tiny(tmp_path / "runs", "digits/bam", *where, *overrides).data).train


def save(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def palette(**options: Any) -> bytes:
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    return save(image, "PNG", **options)


def animated(form: str, **options: Any) -> bytes:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    return save(frames[0], form, save_all=True, append_images=frames[1:], **options)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees when shown
    return save(Image.new("RGB", (6, 4), (8, 8, 8)), "PNG", exif=exif)


def bomb(side: int) -> bytes:
    """A small file that says that it is a huge image of one bit a pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\n(/tmp/x) (w) file\nshowpage\n"

# ------------------------------------------------------------------------------------------ read rightly

GREY = (156, 156, 156)  # 40,000 of 65,535 in 8 bits; clipped it would be white
READ: dict[str, tuple[str, bytes, Pixel, tuple[int, int]]] = {
    "CMYK JPEG": ("x.jpg", save(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "JPEG"), (255, 0, 0), (6, 4)),
    "CMYK TIFF": ("x.tif", save(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "TIFF"), (255, 0, 0), (6, 4)),
    "16-bit PNG": ("x.png", save(Image.new("I;16", (6, 4), 40000), "PNG"), GREY, (6, 4)),
    "16-bit TIFF": ("x.tiff", save(Image.new("I;16", (6, 4), 40000), "TIFF"), GREY, (6, 4)),
    "16-bit PGM": ("x.pgm", b"P5\n6 4\n65535\n" + b"\x9c\x40" * 24, GREY, (6, 4)),
    "palette": ("x.png", palette(), (200, 10, 20), (6, 4)),
    "palette with transparency": ("x.png", palette(transparency=1), (200, 10, 20), (6, 4)),
    "grey": ("x.png", save(Image.new("L", (6, 4), 90), "PNG"), (90, 90, 90), (6, 4)),
    "grey, see-through": ("x.png", save(Image.new("LA", (6, 4), (90, 0)), "PNG"), (90, 90, 90), (6, 4)),
    "RGB, see-through": ("x.png", save(Image.new("RGBA", (6, 4), (9, 80, 7, 0)), "PNG"), (9, 80, 7), (6, 4)),
    "one bit": ("x.png", save(Image.new("1", (6, 4), 1), "PNG"), (255, 255, 255), (6, 4)),
    "animated GIF": ("x.png", animated("GIF"), (255, 0, 0), (6, 4)),
    "animated WebP": ("x.webp", animated("WEBP", lossless=True), (255, 0, 0), (6, 4)),
    "animated PNG": ("x.png", animated("PNG"), (255, 0, 0), (6, 4)),
    "a single pixel": ("x.png", save(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), (1, 2, 3), (1, 1)),
    "20,000 x 10": ("x.png", save(Image.new("RGB", (20000, 10), (1, 2, 3)), "PNG"), (1, 2, 3), (20000, 10)),
    "rotation in the EXIF data": ("x.png", rotated(), (8, 8, 8), (6, 4)),
    "another format's ending": ("x.jpg", save(Image.new("RGB", (6, 4), (1, 2, 3)), "PNG"), (1, 2, 3), (6, 4)),
    "ending in upper case": ("X.PNG", save(Image.new("RGB", (6, 4), (1, 2, 3)), "PNG"), (1, 2, 3), (6, 4)),
    "spaces, quotes and a dash": ("-- a 'b' \"c\".png", encoded(0)[:0] + save(Image.new("RGB", (6, 4)), "PNG"), (0, 0, 0), (6, 4)),
    "a line break in the name": ("a\nb.png", save(Image.new("RGB", (6, 4)), "PNG"), (0, 0, 0), (6, 4)),
    "a name in other letters": ("ünï 大象 🐘.png", save(Image.new("RGB", (6, 4)), "PNG"), (0, 0, 0), (6, 4)),
    "a name of 255 bytes": ("n" * 251 + ".png", save(Image.new("RGB", (6, 4)), "PNG"), (0, 0, 0), (6, 4)),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
@pytest.mark.parametrize("form", ["image_folder", "h5"])
def test_read_rightly(case: str, form: str, tmp_path: Path) -> None:
    """The first frame, turned as it is stored, colours without their transparency, 16 bits scaled to 8."""
    name, content, colour, size = READ[case]
    root = tmp_path / "train"
    if form == "image_folder":
        (root / "a").mkdir(parents=True)
        (root / "a" / name).write_bytes(content)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(root, "w") as file:
            file.create_group("a").create_dataset(name, data=np.frombuffer(content, dtype=np.uint8))
    images = source(tmp_path, root, f"data.format={form}")(lambda image: image)
    image, label = images[0]
    assert (len(images), label, image.mode, image.size) == (1, 0, "RGB", size)
    assert image.getpixel((0, 0)) == pytest.approx(colour, abs=2 if "JPEG" in case else 0)


# ------------------------------------------------------------------------------------- named, or skipped


@dataclass(frozen=True)
class Bad:
    """A file that no image can be read from."""

    reason: str
    content: bytes = b""
    make: Callable[[Path], object] | None = None

    def put(self, path: Path) -> None:
        """Write it."""
        (self.make or (lambda p: p.write_bytes(self.content)))(path)


def _unreadable(path: Path) -> None:
    path.write_bytes(encoded(0))
    path.chmod(0)


NOISE = save(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
UNREADABLE = {
    "empty": Bad("it is empty"),
    "text": Bad("its format is not recognised", b"no image"),
    "truncated PNG": Bad("truncated", encoded(0)[:200]),
    "truncated JPEG": Bad("truncated", NOISE[: len(NOISE) // 2]),
    "truncated WebP": Bad("not recognised|decod|truncated|cannot", save(Image.open(io.BytesIO(NOISE)), "WEBP")[:300]),
    "truncated GIF": Bad("truncated|no more|not recognised|cannot", animated("GIF")[:20]),
    "web page": Bad("its format is not recognised", b"<!DOCTYPE html><title>404</title>"),
    "PostScript": Bad("its format is not recognised", POSTSCRIPT),
    "floating point": Bad("its 32-bit pixels have no known range", save(Image.new("F", (6, 4), 0.5), "TIFF")),
    "32-bit integers": Bad("its 32-bit pixels have no known range", save(Image.new("I", (6, 4), 70000), "TIFF")),
    "decompression bomb": Bad("exceeds limit of .* pixels", bomb(20000)),
    "pixels missing": Bad("truncated|broken|cannot", bomb(100)),
    "link that leads nowhere": Bad("No such file or directory", make=lambda p: p.symlink_to("gone.png")),
    "link to itself": Bad("symbolic links", make=lambda p: p.symlink_to(p.name)),
    "no permission": Bad("Permission denied", make=_unreadable),
}


def _needs_permissions(case: str) -> None:
    if case == "no permission" and os.geteuid() == 0:
        pytest.skip("root may read everything")


@pytest.mark.parametrize("case", UNREADABLE)
def test_named_where_the_run_stops(case: str, tmp_path: Path) -> None:
    _needs_permissions(case)
    root = folders(tmp_path / "train", count=3)
    (root / "a" / "001.png").unlink()
    UNREADABLE[case].put(root / "a" / "001.png")
    images = source(tmp_path, root)(lambda image: image)
    with pytest.raises(UserError, match=UNREADABLE[case].reason) as caught:
        images[1]
    assert caught.value.problem.startswith(f"{root}/a/001.png cannot be read (")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("case", UNREADABLE)
def test_skipped_and_counted_where_it_goes_on(case: str, tmp_path: Path) -> None:
    _needs_permissions(case)
    root = folders(tmp_path / "train", count=3)
    (root / "a" / "001.png").unlink()
    UNREADABLE[case].put(root / "a" / "001.png")
    images = source(tmp_path, root, "data.on_error=skip")(lambda image: np.asarray(image).sum())
    assert images[1] == images[2]
    assert images.unreadable_names() == [f"{root}/a/001.png"]


@pytest.mark.parametrize("number", [13, 1, 110])
def test_other_system_errors_are_named_too(number: int, tmp_path: Path, monkeypatch: Any) -> None:
    """Permission denied, also where root runs the tests; not permitted; timed out."""
    images = source(tmp_path, folders(tmp_path / "train"))(lambda image: image)

    def refuse(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=f"000.png cannot be read \\({os.strerror(number)}\\)"):
        images[0]


def test_a_hostile_name_is_spelled_out(tmp_path: Path) -> None:
    """A terminal obeys none of it."""
    root = folders(tmp_path / "train")
    (root / "a" / "\x1b[2J\x07\n\r.png").write_bytes(b"")
    images = source(tmp_path, root)(lambda image: image)
    with pytest.raises(UserError) as caught:
        images[0]
    assert str(caught.value).isprintable()
    assert r"a/\x1b[2J\x07\n\r.png cannot be read (it is empty)" in str(caught.value)


# ---------------------------------------------------------------------------------------------- left out


def _names(tmp_path: Path, root: Path, *overrides: str) -> list[str]:
    split = source(tmp_path, root, *overrides)
    return [os.path.relpath(split.reader.name(i), root) for i in range(len(split))]


LEFT_OUT: dict[str, Callable[[Path], object]] = {
    "text file": lambda a: (a / "notes.txt").write_text("x"),
    "folder named like an image": lambda a: (a / "x.jpg").mkdir(),
    "hidden file": lambda a: (a / "._000.png").write_bytes(b"\0\5\x16\7"),
    "hidden folder": lambda a: folders(a / ".thumbnails", ("z",), 1),
    "hidden class": lambda a: folders(a.parent / ".ipynb_checkpoints", ("z",), 1),
    "file beside the classes": lambda a: (a.parent / "stray.png").write_bytes(encoded(0)),
    "loop of links": lambda a: (a / "again").symlink_to(a),
    "loop to the top": lambda a: (a / "top").symlink_to(a.parent.parent),
    "pipe": lambda a: os.mkfifo(a / "pipe.png"),
    "link to a pipe": lambda a: (os.mkfifo(a / "pipe"), (a / "p.png").symlink_to(a / "pipe")),
    "link to a device": lambda a: (a / "d.png").symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_left_out(case: str, tmp_path: Path) -> None:
    """The images are counted once, and nothing else with them."""
    root = folders(tmp_path / "data" / "train", count=2)
    LEFT_OUT[case](root / "a")
    expected = ["a/000.png", "a/001.png", "b/002.png", "b/003.png"]
    found = _names(tmp_path, root)
    if case == "loop to the top":  # what lies beside it is reached once
        found = [name for name in found if "top" not in name]
        assert sum("top" in name for name in _names(tmp_path, root)) <= 4
    assert found == expected
    beside = case in ("file beside the classes", "loop to the top")
    assert beside or _names(tmp_path, root, "data.no_labels=True") == expected


def test_links_to_other_folders_are_followed(tmp_path: Path) -> None:
    root, elsewhere = folders(tmp_path / "train", count=1), folders(tmp_path / "elsewhere", ("c",), 2)
    (root / "c").symlink_to(elsewhere / "c")
    (root / "a" / "more").symlink_to(elsewhere / "c")
    assert _names(tmp_path, root) == ["a/000.png", "a/more/000.png", "a/more/001.png", "b/001.png", "c/000.png", "c/001.png"]  # fmt: skip


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    """os.walk would take it for empty; simulated, since root may list everything."""
    root = folders(tmp_path / "train")
    ordinary = os.scandir

    def scandir(path: Any) -> Any:
        if not isinstance(path, int) and Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return ordinary(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"train/b cannot be read \(Permission denied\); mend it"):
        source(tmp_path, root)


# --------------------------------------------------------------------------------------------- whole sets


def test_classes_without_images_empty_sets_and_other_classes(tmp_path: Path) -> None:
    root = folders(tmp_path / "train")
    (root / "c").mkdir()
    with pytest.raises(UserError, match="the class folder .*/c holds no image"):
        source(tmp_path, root)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="has no class folders"):
        source(tmp_path, tmp_path / "nothing")
    (root / "c").rmdir()
    val = folders(tmp_path / "val", ("a", "z"))
    with pytest.raises(UserError, match=r"val has other classes than .*train \(b, z\); give folders that match"):
        source(tmp_path, root, f"data.val_path={val}")


def _damage(path: Path, key: str, how: str) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "a") as file:
        del file[key]
        match how:
            case "group":
                file.create_group(key)
            case "number":
                file[key] = 7
            case "text":
                file[key] = "words"
            case "link that leads nowhere":
                file[key] = h5py.SoftLink("/gone")
            case "link to another file":
                file[key] = h5py.ExternalLink("/etc/passwd", "/")
            case "truncated":
                file[key] = np.frombuffer(encoded(1)[:200], dtype=np.uint8)


@pytest.mark.parametrize(
    "how", ["group", "number", "text", "link that leads nowhere", "link to another file", "truncated"]
)
def test_bad_members_of_an_hdf5_file(how: str, tmp_path: Path) -> None:
    path = h5_file(tmp_path / "train.h5", count=3)
    _damage(path, "a/001.png", how)
    with pytest.raises(UserError, match=r"train.h5:a/001.png cannot be read \("):
        source(tmp_path, path, "data.format=h5")(lambda image: image)[1]
    images = source(tmp_path, path, "data.format=h5", "data.on_error=skip")(lambda image: np.asarray(image).sum())
    assert images[1] == images[2]
    assert images.unreadable_names() == [f"{path}:a/001.png"]


def test_a_class_of_an_hdf5_file_that_leads_nowhere(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = h5_file(tmp_path / "train.h5", count=3)
    with h5py.File(path, "a") as file:
        file["c"] = h5py.SoftLink("/gone")
    assert list(source(tmp_path, path, "data.format=h5").classes) == ["a", "b"]


def test_there_are_enough_cases() -> None:
    assert len(READ) + len(UNREADABLE) + len(LEFT_OUT) >= 25


# ------------------------------------------------------------------------------------------- whole runs


def test_a_run_of_two_processes_skips(tmp_path: Path) -> None:
    """The command itself, over gloo, with HDF5: finished, and the count is in the record."""
    path = h5_file(tmp_path / "train.h5")
    for key in ("a/003.png", "b/012.png"):
        _damage(path, key, "truncated")
    if hardware.cores() < 2:
        pytest.skip("needs two cores")
    overrides = tiny_overrides(
        tmp_path / "runs", "data.dataset=custom", "data.format=h5", f"data.train_path={path}", "data.fraction=-1",
        "data.on_error=skip", "optimizer.batch_size=5", "devices=2", "strategy=ddp", "data.num_workers=0",
        "method_kwargs.proj_hidden_dim=16", "method_kwargs.proj_output_dim=16",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "solo_bam", "pretrain", "--config-name", "digits/bam", *overrides],
        capture_output=True, text=True, timeout=240, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(next((tmp_path / "runs").rglob("run.json")).read_text())
    assert record["results"]["unreadable_images"] == 2
    assert "2 unreadable image(s) were replaced by the next one" in done.stderr + done.stdout
