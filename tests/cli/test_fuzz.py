"""A thousand wrong ways to start a training: each does its work, or ends in one line; ``FUZZ_EXAMPLES=1000`` for all."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import fuzz
from tests.recipes import tiny_overrides

MEMORY = 6 << 30  # bytes of address space more than there are: a mutation may ask for any number


@pytest.fixture(scope="module", autouse=True)
def _limited() -> Iterator[None]:
    import torch  # noqa: F401

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _folder(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    return folder


@settings(max_examples=1 + fuzz.EXAMPLES // 3)
@given(content=fuzz.recipe_files())
def test_any_recipe(content: bytes, tmp_path_factory: Any) -> None:
    folder = _folder(tmp_path_factory)
    (folder / "mine.yaml").write_bytes(content)
    fuzz.attempt(["pretrain", "--config-path", str(folder), "--config-name", "mine"], folder)


@settings(max_examples=1 + fuzz.EXAMPLES // 3)
@example(words=["--import", ""])
@given(words=st.lists(fuzz.WORDS, min_size=1, max_size=3))
def test_any_command_line(words: list[str], tmp_path_factory: Any) -> None:
    folder = _folder(tmp_path_factory)
    fuzz.attempt(["pretrain", "--config-name", "digits/bam", *tiny_overrides(folder), *words], folder)


@settings(max_examples=1 + fuzz.EXAMPLES // 3)
@given(folders=fuzz.FOLDERS, data=fuzz.DATA)
def test_any_folder(folders: dict[str, list[Any]], data: dict[str, Any], tmp_path_factory: Any) -> None:
    _attempt_on(_folder(tmp_path_factory), folders, data, trains=False)


@settings(max_examples=1 + fuzz.EXAMPLES // 25)
@given(folders=fuzz.FOLDERS.filter(lambda found: sum(map(len, found.values())) > 3), data=fuzz.DATA)
def test_any_folder_is_trained_on(folders: dict[str, list[Any]], data: dict[str, Any], tmp_path_factory: Any) -> None:
    _attempt_on(_folder(tmp_path_factory), folders, data, trains=True)


def _attempt_on(folder: Path, folders: dict[str, list[Any]], data: dict[str, Any], trains: bool) -> None:
    fuzz.build(folder / "images", folders)
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    places = {"images": str(folder / "images"), "null": "null", "nowhere": "nowhere"}
    words = [f"{key}={places.get(value, value)}" for key, value in data.items()]
    words += ["data.dataset=custom", f"data.train_path={folder / 'images'}", "data.num_workers=0", "pictures=False"]
    words += ["optimizer.batch_size=2", "method_kwargs.proj_hidden_dim=16", "method_kwargs.proj_output_dim=8"]
    fuzz.attempt(["pretrain", "--config-name", "digits/bam", *tiny_overrides(folder / "runs"), *words], folder, trains)
