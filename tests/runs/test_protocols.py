"""How a number was measured: typed, read as it was written before, never mistaken for another way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from pydantic import ValidationError

from solo_bam.comparison.collect import columns
from solo_bam.comparison.results import RunResult
from solo_bam.evaluate.video_segmentation import _key
from solo_bam.runs.protocols import KNN, Health, Linear, OnlineLinear, Other, Protocol, VideoSegmentation
from solo_bam.runs.records import Record, read_records, write_records

# Written by version 0.2.0 whose protocols were dictionaries, with the words and the keys that it showed.
STORED = json.loads(Path(__file__).with_name("records-0.2.0.json").read_text())
CLASSES = {
    ("linear", True): OnlineLinear,
    **{("k-NN", online): KNN for online in (True, False)},
    **{(kind, False): Linear for kind in ("linear", "finetune")},
    **{(kind, False): Health for kind in ("RankMe", "alpha-ReQ", "alignment", "uniformity", "spread")},
    ("video segmentation", False): VideoSegmentation,
}
TYPED = [one["record"]["protocol"] for one in STORED if "labels" not in one["record"]["protocol"]]
NEWER = [
    {"kind": "retrieval", "online": False, "recall at": 5},
    {**TYPED[6], "version": 2},
    {**TYPED[6], "whitened": True},
    {**TYPED[6], "k": "five"},
    {"kind": "linear", "online": False},
]


def _record(protocol: Any, **changes: Any) -> Record:
    return Record(**{"metric": "accuracy", "value": 50.0, "data": "digits val", "protocol": protocol, **changes})


def _typed(stored: dict[str, Any]) -> Any:
    return _record(stored).protocol


@pytest.mark.parametrize("stored", STORED, ids=lambda one: one["key"])
def test_earlier_records_mean_what_they_meant(stored: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "number.json").write_text(json.dumps([stored["record"]]))
    [record] = read_records(tmp_path)
    written = stored["record"]["protocol"]
    assert type(record.protocol) is (Other if "labels" in written else CLASSES[written["kind"], written["online"]])
    assert (record.stated, record.protocol_key) == (stored["stated"], stored["key"])
    path = write_records(tmp_path, "number", [record])
    assert json.loads(path.read_text()) == [stored["record"]]
    assert read_records(tmp_path) == [record]


def test_every_kind_is_among_them() -> None:
    assert {(one["kind"], one["online"]) for one in TYPED} == set(CLASSES)


def _choices(annotation: Any) -> list[Any]:
    return [a for a in get_args(annotation) if isinstance(a, str)] + [
        choice for inner in get_args(annotation) for choice in _choices(inner)
    ]


@pytest.mark.parametrize("stored", TYPED, ids=lambda one: one["kind"])
def test_settings_that_differ_in_any_field_are_never_equal(stored: dict[str, Any]) -> None:
    one = _typed(stored)
    values: list[Any] = [True, False, 7, 8, 0.25, 0.25000001, "else", None, (0.1,), (0.1234567,), (0.12345671,)]
    for name, field in type(one).model_fields.items():
        found = {one.key(): one}
        for value in [*values, *_choices(field.annotation)]:
            try:
                other = type(one)(**{**{n: getattr(one, n) for n in type(one).model_fields}, name: value})
            except ValidationError:
                continue
            assert found.setdefault(other.key(), other) == other, (name, value)
            assert (other == one) == (getattr(other, name) == getattr(one, name))
            assert _typed(json.loads(json.dumps(other.settings))) == other
        assert len(found) > 1 or len(get_args(field.annotation)) == 1, name  # one choice alone


def test_a_later_version_is_another_measurement() -> None:
    class Later(KNN):
        version: Literal[2] = 2  # type: ignore[assignment]

    stored = TYPED[6]
    later = Later(**_typed(stored).model_dump(by_alias=False, exclude={"version"}))
    assert later.settings == {**stored, "version": 2}
    assert later.key() != _typed(stored).key()
    assert "version 2" in later.stated("digits val")


@pytest.mark.parametrize("settings", NEWER)
def test_what_has_no_class_is_kept_and_stands_apart(settings: dict[str, Any], tmp_path: Path) -> None:
    known, newer = _record(TYPED[6], branch="student"), _record(settings, branch="student")
    assert type(newer.protocol) is Other
    path = write_records(tmp_path, "number", [newer])
    write_records(tmp_path, "number", [known])
    assert json.loads(path.read_text())[0]["protocol"] == settings
    found = columns([RunResult("a", "bam", 0, "finished", records=read_records(tmp_path))])
    assert len(found) == 2
    assert {column.stated for column in found} == {known.stated, newer.stated}
    assert all(str(value) in newer.stated for name, value in settings.items() if name != "online")


def test_a_mistyped_protocol_cannot_be_made() -> None:
    with pytest.raises(ValidationError):
        KNN(bank="train", k="20", temperature=0.07, distance="cosine", crop="all")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Protocol(kind="k-NN", neighbors=5)  # type: ignore[call-arg]


def test_earlier_forms_of_a_field_stand_in_the_same_column() -> None:
    now = next(one for one in TYPED if one["kind"] == "finetune")
    assert _record({**now, "training images": int(now["training images"])}).protocol_key == _record(now).protocol_key
    video = next(one for one in TYPED if one["kind"] == "video segmentation")
    without = {name: value for name, value in video.items() if name != "files"}
    assert type(_typed(without)) is VideoSegmentation
    assert _typed(without).settings == without


def test_masks_lie_where_they_lay() -> None:
    video = next(one for one in TYPED if one["kind"] == "video segmentation")
    asked = {name: value for name, value in video.items() if name not in ("sequences", "objects")}
    assert _key(_typed(asked)) == "326f3aff"
