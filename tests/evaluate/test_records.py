"""Numbers travel with their protocol."""

import pytest
from scipy.stats import binomtest

from solo_bam.runs.records import Record, read_records, records_folder, wilson_interval, write_records

PROTOCOL = {
    "kind": "k-NN", "online": False, "bank": "train, all", "k": 20, "temperature": 0.07, "distance": "cosine",
    "crop": "whole",
}  # fmt: skip
CHANGED = {"online": True, "bank": "a half", "k": 5, "temperature": None, "distance": "euclidean", "crop": "middle"}


def _record(**changes):
    return Record(**{"metric": "accuracy", "value": 91.25, "data": "digits val", "protocol": PROTOCOL, **changes})


def test_records_are_read_as_written(tmp_path):
    records = [_record(), _record(value=12.0, interval=(10.0, 14.0), images=360, weights="ab")]
    write_records(tmp_path / "evaluation", "knn", records)
    assert read_records(tmp_path / "evaluation") == records
    assert not list(tmp_path.glob("**/*.part"))


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": "accuracy@5"},
        {"data": "cifar10 val"},
        *({"protocol": {**PROTOCOL, k: v}} for k, v in CHANGED.items()),
    ],
)
def test_another_protocol_has_another_key(changes):
    assert _record(**changes).protocol_key != _record().protocol_key


def test_value_weights_and_order_do_not_change_the_key():
    turned = dict(reversed(PROTOCOL.items()))
    assert _record(value=1.0, weights="ab", epoch=3, protocol=turned).protocol_key == _record().protocol_key


def test_the_protocol_is_stated_in_a_line():
    assert _record().stated == (
        "k-NN (offline) on digits val: bank train, all, k 20, temperature 0.07, distance cosine, crop whole"
    )


@pytest.mark.parametrize(("correct", "count"), [(0, 10), (10, 10), (181, 360), (9876, 10000)])
def test_the_interval_is_scipys(correct, count):
    expected = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    found = wilson_interval(correct / count, count)
    assert found == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-4)


def test_records_lie_in_the_run_or_beside_the_file(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    assert records_folder(run / "checkpoints" / "last.ckpt") == run / "evaluation"
    assert records_folder(tmp_path / "lone" / "a.ckpt") == tmp_path / "lone" / "evaluation"
