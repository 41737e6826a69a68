"""``solo-bam transfer`` as a user runs it: one table, records that others can be put beside, a figure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from solo_bam.cli import main
from solo_bam.comparison.collect import columns
from solo_bam.comparison.results import RunResult
from solo_bam.data.datasets.digits import digits_folder
from solo_bam.runs.records import Record, read_records
from tests.pretrained import pretrained_run

FAST = ["num_workers=0", "data.fraction=0.1", "draws=4", "corrupted=10", "shots=[1,5,500]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def measured(run: Path) -> dict[tuple[str, str], Record]:
    assert main(["transfer", str(run), *FAST]) == 0
    records = read_records(run / "evaluation")
    found = {(one.metric if one.metric != "accuracy" else one.protocol.title, str(one.branch)): one for one in records}
    assert len(found) == len(records)
    return found


def test_every_measure_of_both_networks(run: Path, measured: dict[tuple[str, str], Record]) -> None:
    names = [
        "k-NN (k = 20)", "logistic, 1 % of the labels", "logistic, 10 % of the labels", "logistic, all labels",
        "logistic, 1 a class", "logistic, 5 a class", "logistic, 14 corruptions, severity 1 to 5", "calibration error",
        "accuracy, fog", "RankMe", "alpha-ReQ", "alignment", "uniformity", "LiDAR",
    ]  # fmt: skip
    assert {name for name, _ in measured} >= {*names}
    assert "logistic, 500 a class" not in {name for name, _ in measured}  # there are not so many
    for name in names:
        assert measured[name, "student"].protocol == measured[name, "untrained"].protocol
        assert measured[name, "student"].weights != measured[name, "untrained"].weights
    assert (run / "evaluation" / "transfer.png").stat().st_size > 10_000
    assert [path.name for path in (run / "evaluation").glob("*.json")] == ["transfer.json"]


def test_more_labels_tell_more(measured: dict[tuple[str, str], Record]) -> None:
    for network in ("student", "untrained"):
        few, more, all_of_them = (
            measured[name, network] for name in ("logistic, 1 a class", "logistic, 5 a class", "logistic, all labels")
        )
        assert few.value < more.value < all_of_them.value
        for one in (few, more, all_of_them):
            assert one.interval is not None
            assert one.interval[0] < one.value < one.interval[1]
        assert few.protocol.settings["draws"] == 4


def test_the_same_number_as_the_command_for_it_alone(run: Path, measured: dict[tuple[str, str], Record]) -> None:
    output = run / "alone"
    words = ["k=20", "distance=cosine", "num_workers=0", "data.fraction=0.1", f"output={output}"]
    assert main(["knn", str(run), *words]) == 0
    alone = next(one for one in read_records(output) if one.metric == "accuracy")
    together = measured["k-NN (k = 20)", "student"]
    assert (alone.value, alone.protocol_key) == (together.value, together.protocol_key)


def test_features_are_extracted_once(
    run: Path, measured: dict[tuple[str, str], Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    from solo_bam.evaluate import cache

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("extracted again")

    monkeypatch.setattr(cache, "extract_features", refuse)
    assert main(["transfer", str(run), *FAST, "untrained=False"]) == 0
    again = {one.same: one.value for one in read_records(run / "evaluation")}
    assert {one.same: one.value for one in measured.values()} == pytest.approx(again)


def test_a_report_has_a_column_for_each_protocol(measured: dict[tuple[str, str], Record]) -> None:
    outcome = RunResult("bam", "bam", 0, "finished", records=list(measured.values()))
    titles = {column.title: column.values for column in columns([outcome])}
    assert {"logistic, all labels", "logistic, 5 a class", "logistic, 14 corruptions, severity 1 to 5"} <= titles.keys()
    assert titles["logistic, all labels"].keys() == {"bam", "untrained"}
    assert not any("fog" in title for title in titles)


def test_several_data_sets(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flowers = tmp_path / "flowers"
    for split, folder in (("train", "train"), ("val", "test")):
        for label in "01":
            shutil.copytree(digits_folder() / split / label, flowers / folder / label)
    words = [
        "num_workers=0",
        "draws=2",
        "shots=1",
        "labels=1",
        "corrupted=0",
        "untrained=False",
        f"output={tmp_path / 'out'}",
    ]
    assert main(["transfer", str(run), f"on=[digits,{flowers}]", *words]) == 0
    records = read_records(tmp_path / "out")
    assert [one.split(" ")[0] for one in dict.fromkeys(record.data for record in records)] == ["digits", "flowers"]
    (own,) = {
        one.protocol.settings["pretrained on"]
        for one in records
        if one.protocol.kind == "k-NN" and "flowers" in one.data
    }
    assert own == "digits"
    assert not json.dumps([one.value for one in records]).count("NaN")
    assert main(["transfer", str(run), f"on={tmp_path}"]) == 2
    assert f"on: {tmp_path} has no folder train; give one that holds train and val, or test" in capsys.readouterr().err
