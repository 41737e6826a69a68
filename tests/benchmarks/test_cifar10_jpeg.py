"""CIFAR-10 as JPEG files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.cifar10_jpeg import write


def test_files_lie_in_class_folders(tmp_path: Path) -> None:
    images = [(Image.new("RGB", (32, 32), (40 * i, 0, 0)), label) for i, label in enumerate([1, 0, 1])]
    write(images, ["cat", "dog"], tmp_path)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*.jpg"))
    assert found == ["cat/0000.jpg", "dog/0000.jpg", "dog/0001.jpg"]
    second = Image.open(tmp_path / "dog" / "0001.jpg")
    assert abs(second.getpixel((5, 5))[0] - 80) < 5  # type: ignore[index, operator]
    assert second.quantization[0][0] == 8  # type: ignore[attr-defined]  # of quality 75
