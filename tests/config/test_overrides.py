"""Words of a command line: whatever a value holds, it arrives, or is refused by its key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_bam.config import load_recipe
from solo_bam.config.options import KNNOptions, parse_options
from solo_bam.config.overrides import _quoted, parse_overrides
from solo_bam.core.errors import UserError

TEXTS = [
    "müller/train",
    "new (1)/train",
    "runs/epoch=0.ckpt",
    "it's",
    "a\\",
    "a\\'b",
    "50% off!",
    "a;b",
    "日本",
    "[a",
    "{",
    "'",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_that_hydra_has_no_word_for_is_text(text: str) -> None:
    assert load_recipe("digits/bam", [f"data.train_path={text}"]).data.train_path == Path(text)
    assert parse_options(KNNOptions, ["k=1", f"output={text}"]).output == Path(text)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_its_quotes(text: str) -> None:
    (override,) = parse_overrides([f"name={_quoted(text)}"])
    assert override.value() == text


def test_what_hydra_reads_stays_what_it_reads() -> None:
    words = ["a=1", "a=[1,2]", "a={b: 0.5}", "a=null", "a=True", "a='x y'", "a=x y", "a=1e-3"]
    values = [one.value() for one in parse_overrides(words)]
    assert values == [1, [1, 2], {"b": 0.5}, None, True, "x y", "x y", 1e-3]


def test_solo_learns_form_of_a_new_key() -> None:
    recipe = load_recipe("digits/bam", ["++limit_train_batches=2", "+limit_val_batches=3", "++name=x"])
    assert recipe.trainer_arguments["limit_train_batches"] == 2
    assert recipe.trainer_arguments["limit_val_batches"] == 3
    assert recipe.name == "x"


def test_several_values_are_a_list_where_one_fits() -> None:
    assert parse_options(KNNOptions, ["k=1,5"]).k == [1, 5]
    with pytest.raises(UserError, match=r"optimizer.lr: got \[0.1, 0.2\]"):
        load_recipe("digits/bam", ["optimizer.lr=0.1,0.2"])


@pytest.mark.parametrize("word", ["value", "=1", "1=2", "a b=c", "müller=1"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(UserError, match="is not of the form key=value"):
        parse_options(KNNOptions, [word])
