"""Whatever a recipe or a command line holds: a recipe, or one line about what is wrong; never another exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_bam.config import Recipe, load_recipe
from solo_bam.config.recipe import parse_recipe
from solo_bam.config.resolve import resolve
from solo_bam.core.errors import UserError
from tests.fuzz import GOOD, KEYS, ODD, SCALARS, VALUES


def _accept_or_refuse(function: Any, *args: Any) -> None:
    refusal = None
    try:
        recipe = function(*args)
        assert isinstance(recipe, Recipe)
        resolve(recipe, num_classes=10, has_val=True, world_size=1)
    except UserError as error:
        refusal = str(error)
    assert refusal is None or refusal.isprintable()


def _with(place: str, value: Any) -> dict[str, Any]:
    """The good recipe with one key set to something else."""
    section, _, key = place.partition(".")
    return {**GOOD, section: {**GOOD[section], key: value} if key else value}


@settings(max_examples=250)
@given(st.sampled_from(KEYS) | st.text(min_size=1, max_size=8).filter(lambda k: "." not in k), VALUES)
def test_any_value_under_any_key(place: str, value: Any) -> None:
    _accept_or_refuse(parse_recipe, _with(place, value))


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(sorted(GOOD)) | st.text(max_size=6), VALUES, max_size=6))
def test_any_dictionary(raw: dict[str, Any]) -> None:
    _accept_or_refuse(parse_recipe, raw)


@settings(max_examples=60)
@given(
    st.lists(
        st.text(max_size=20) | st.builds("{}={}".format, st.sampled_from(KEYS) | ODD, SCALARS | VALUES), max_size=2
    )
)
def test_any_command_line(overrides: list[str]) -> None:
    _accept_or_refuse(load_recipe, "digits/bam", overrides)


@settings(max_examples=25)
@given(content=VALUES.map(yaml.safe_dump) | st.text(max_size=40) | st.binary(max_size=20))
def test_any_file(content: str | bytes, tmp_path_factory: Any) -> None:
    folder: Path = tmp_path_factory.mktemp("recipes")
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    (folder / "mine.yaml").write_bytes(data)
    _accept_or_refuse(load_recipe, "mine", [], str(folder))


@pytest.mark.parametrize("name", ["", ".", "..", "/", "\0", "a\nb", "digits", "x" * 5000, "../digits/bam", "~"])
@pytest.mark.parametrize("folder", [None, "", ".", "\0", "x" * 5000])
def test_any_name_and_folder(name: str, folder: str | None) -> None:
    _accept_or_refuse(load_recipe, name, [], folder)
