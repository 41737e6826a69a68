"""Tables and page of results that never ran: every number where it belongs, nothing that needs a network."""

from __future__ import annotations

import csv
import html
import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from solo_bam.cli import main
from solo_bam.comparison.collect import columns
from solo_bam.comparison.fairness import Difference
from solo_bam.comparison.report.formats import markdown, write_results
from solo_bam.comparison.report.page import RELOAD_HASH
from solo_bam.comparison.report.write import write_report
from solo_bam.comparison.results import RunResult
from solo_bam.runs.records import Record
from tests.comparison import synthetic
from tests.comparison.synthetic import NASTY

GAPS: dict[str, Any] = {
    "seeds": (0, 1, 2, 3),
    "failed": [("byol", 1)],
    "missing": [("simclr", 2)],
    "unfair": True,
    "tuned": True,
}
FILES = ("results.csv", "results.json", "results.md", "report.html")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report")
    write_report([synthetic.results(path, **GAPS)], path)
    return path


def told(column: int, row: int, seeds: tuple[int, ...] = (0, 1, 2, 3)) -> float:
    return sum(synthetic.accuracy(row, seed, column) for seed in seeds) / len(seeds)


# ---------------------------------------------------------------------------------------------- tables


def test_the_table_for_a_readme(folder: Path) -> None:
    text = (folder / "results.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    first = text[: text.index("momentum teacher")]
    [bam] = [line for line in first.splitlines() if line.startswith("| bam |")]
    cells = [cell.strip() for cell in bam.split("|")[2:-1]]
    assert [cell.split(" ± ")[0] for cell in cells[:3]] == [f"{told(column, 0):.1f}" for column in (1, 2, 0)]
    assert cells[3] == "4"
    assert "(a) k-NN (offline) on digits val: bank train, clean, k 20, temperature 0.07, distance cosine" in first
    assert "† Not a fair comparison: max_epochs: 40 (simclr), 20 (the others)" in first
    assert "Without a number: byol seed 1 (failed) and simclr seed 2 (not finished)." in first
    assert any(name.startswith("\\<b\\>") for name in rows)
    teacher = text[text.index("momentum teacher") : text.index("Differences to")]
    assert "| bam | — | 0 |" in teacher


def test_the_untrained_network_has_a_row_of_its_own(tmp_path: Path) -> None:
    results = synthetic.results(tmp_path)
    first = results.outcomes[0]
    start = [
        record.model_copy(update={"branch": "untrained", "value": 99.0, "epoch": 0})
        for record in first.records
        if record.protocol.kind == "k-NN" and record.branch == "student"
    ]
    outcomes = [replace(first, records=[*first.records, *start]), *results.outcomes[1:]]
    write_report([replace(results, outcomes=outcomes, columns=columns(outcomes))], tmp_path)
    text = (tmp_path / "results.md").read_text()
    accuracies, rest = text.split("Results of the momentum teacher")
    assert "| untrained | 99.0 | — | — | 1 |" in accuracies
    assert "untrained" not in rest
    rows = [row for row in csv.DictReader((tmp_path / "results.csv").open()) if row["entry"] == "untrained"]
    assert [(row["seed"], row["value"], row["branch"]) for row in rows] == [("0", "99.0", "student")]
    write_results(tmp_path / "kept.csv", [replace(results, outcomes=outcomes, columns=columns(outcomes))])
    kept = [row for row in csv.DictReader((tmp_path / "kept.csv").open()) if row["entry"] == "untrained"]
    assert [(row["seed"], row["value"], row["protocol"][:4]) for row in kept] == [("0", "99", "k-NN")]
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "dashed: untrained, 99.0" in page or "untrained, to the left" in page
    assert re.search(r"k-NN \(k = 20\): bam,.* below the untrained network\.", page)


def test_a_row_that_sees_labels_is_a_line_too(tmp_path: Path) -> None:
    results = synthetic.results(tmp_path)
    assert "dotted: " not in write_report([results], tmp_path).read_text()
    labels = Difference("labels", {"bam": None, "byol": None, "simclr": "in the loss"}, fair=False)
    page = write_report([replace(results, differences=[labels])], tmp_path).read_text()
    assert f"dotted: simclr, {told(1, 3, (0, 1, 2)):.1f}" in page


def test_a_collapsed_row_is_marked(tmp_path: Path) -> None:
    results = synthetic.results(tmp_path)
    first = replace(results.outcomes[0], about={"collapsed_in": 5})
    write_report([replace(results, outcomes=[first, *results.outcomes[1:]])], tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert f"| {first.entry} † |" in text
    assert f"{first.entry} seed {first.seed}, since epoch 5." in text


def test_differences_are_to_the_baseline_and_paired(folder: Path) -> None:
    text = (folder / "results.md").read_text()
    part = text[text.index("Differences to byol, paired by seed") :]
    [bam] = [line for line in part.splitlines() if line.startswith("| bam |")][:1]
    common = (0, 2, 3)  # byol's second run has failed
    expected = told(1, 0, common) - told(1, 2, common)
    assert bam.split("|")[2].strip().startswith(f"{expected:.1f}".replace("-", "−"))
    assert bam.split("|")[-2].strip() == "3"
    assert "| byol |" not in part[: part.index("Training cost")]


def test_numbers_of_different_protocols_never_share_a_column() -> None:
    def record(value: float, **changes: Any) -> Record:
        vote = {"k": 20, "temperature": 0.07, "distance": "cosine"}
        protocol = {"kind": "k-NN", "online": False, "bank": "train", "crop": "whole", **vote}
        data = changes.pop("data", "digits val")
        return Record(metric="accuracy", value=value, data=data, protocol=protocol | changes, branch="student")

    others = [{}, {"k": 5}, {"temperature": 0.1}, {"online": True}, {"data": "digits train, 20 % held out"}]
    runs = [
        RunResult(f"row {i}", "bam", seed, "finished", records=[record(10.0 * i + seed, **changes)])
        for i, changes in enumerate(others)
        for seed in (0, 1)
    ]
    found = columns(runs)
    assert len(found) == len(others)
    assert sorted(entry for column in found for entry in column.values) == [f"row {i}" for i in range(len(others))]
    assert found[-1].online  # after those that were measured after the training
    [same] = columns([runs[0], RunResult("b", "byol", 0, "finished", records=[record(7.0)])])
    assert same.values == {"row 0": {0: 0.0}, "b": {0: 7.0}}


def test_the_csv_has_a_row_per_run_and_number(folder: Path) -> None:
    rows = list(csv.DictReader((folder / "results.csv").open()))
    finished = [row for row in rows if row["status"] == "finished"]
    assert len(finished) == 18 * 3 + (4 + 3 + 4)  # students' columns; teachers'
    [one] = [
        r
        for r in finished
        if (r["entry"], r["seed"], r["online"], r["metric"]) == ("bam", "2", "False", "k-NN (k 20), accuracy")
    ]
    assert float(one["value"]) == pytest.approx(synthetic.accuracy(0, 2, 1))
    assert one["folder"] == "runs/run 0/seed2"
    assert {(row["entry"], row["seed"]) for row in rows if row["status"] == "failed"} == {("byol", "1")}
    assert {row["entry"] for row in rows} == set(synthetic.ENTRIES)


def test_the_json_has_everything(folder: Path) -> None:
    [content] = json.loads((folder / "results.json").read_text())
    assert len(content["runs"]) == 20
    by_title = {(c["title"], c["branch"], c["online"]): c for c in content["columns"]}
    column = by_title["k-NN (k 20), accuracy", "student", False]
    assert column["means"]["bam"]["mean"] == pytest.approx(told(1, 0))
    assert column["differences"]["simclr"]["n"] == 2
    assert column["differences"]["simclr"]["interval"] is None
    run = content["runs"][0]
    assert run["about"]["versions"] == {"torch": "2.15.0", "timm": "1.0.31"}
    assert run["command"].startswith("solo-bam pretrain --config-name digits/0")
    assert "/somewhere/else" not in (folder / "results.json").read_text()
    assert str(folder) not in (folder / "results.json").read_text()  # it may move


def test_one_seed_says_so(tmp_path: Path) -> None:
    text = markdown([synthetic.results(tmp_path, seeds=[3])])
    assert "Where n = 1 there is no interval" in text
    assert " ± " not in text[text.index("| bam |") : text.index("- ±:")]
    two = markdown([synthetic.results(tmp_path, seeds=[3, 4])])
    assert "Where n = 2 the two values stand in place of an interval" in two
    assert " ± " not in two[two.index("| bam |") : two.index("- ±:")]
    assert re.search(r"\| bam \| [\d.]+ \([\d.]+ and [\d.]+\)", two)


def test_without_a_single_run(tmp_path: Path) -> None:
    everything = [(entry, seed) for entry in synthetic.ENTRIES for seed in (0, 1, 2)]
    page = write_report([synthetic.results(tmp_path, missing=everything)], tmp_path)
    assert "No run has a number yet" in page.read_text()


def test_the_same_results_are_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in FILES}
    write_report([synthetic.results(folder, **GAPS)], folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == before


# ------------------------------------------------------------------------------------------------ page


def test_the_page_needs_no_network_and_runs_nothing(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    links = re.findall(r"(?:src|href|xlink:href)=\"([^\"]*)\"", page)
    assert links
    assert not [link for link in links if not link.startswith(("#", "./", "data:"))]
    assert not re.findall(r"url\((?!#)", page)
    assert "<b>dino" not in page
    assert html.escape(NASTY) in page


def test_the_page_tells_what_the_numbers_do_not_show(folder: Path) -> None:
    text = html.unescape(re.sub(r"<[^>]+>", " ", (folder / "report.html").read_text()))
    for words in (
        "What these numbers show and do not show",
        "Each mean rests on 3 to 4 seeds",
        "The intervals are not corrected for their number",
        "Measured on 360 images of digits val: one image is 0.28 %",
        "2 of 20 runs gave no number",
        "optimizer.lr: got nan & <nothing>; lower it (its log:  jobs/2-1.log ). Start the comparison again",
        "solo-bam pretrain --config-name digits/0 seed=0",
        "cannot be told from zero",
        "Bam: the best optimizer.lr is the largest tried: a better one may lie beyond",
    ):
        assert words in text, words


def test_a_page_of_what_still_runs_says_so_and_loads_itself_anew(tmp_path: Path) -> None:
    results = [synthetic.results(tmp_path)]
    running = write_report(results, tmp_path, now="Runs 3 of 9: <bam>").read_text()
    script = re.findall("<script>(.*?)</script>", running)
    assert [f"sha256-{b64encode(sha256(one.encode()).digest()).decode()}" for one in script] == [RELOAD_HASH]
    assert f"script-src '{RELOAD_HASH}'" in running
    assert "Runs 3 of 9: &lt;bam&gt;" in running
    ended = write_report(results, tmp_path).read_text()
    assert "refresh" not in ended
    assert "<script" not in ended


def test_each_run_is_linked_from_the_pages_place(folder: Path, tmp_path: Path) -> None:
    page = (folder / "report.html").read_text()
    assert 'href="./runs/run%200/seed0/"' in page
    elsewhere = write_report([synthetic.results(folder, **GAPS)], folder / "a" / "b")
    assert 'href="./../../runs/run%200/seed0/"' in elsewhere.read_text()


def test_several_comparisons_stand_on_one_page(tmp_path: Path) -> None:
    both = [synthetic.results(tmp_path), synthetic.results(tmp_path, name="cifar10", entries=["bam", "simclr"])]
    page = write_report(both, tmp_path).read_text()
    assert "<h1>digits and cifar10</h1>" in page
    assert page.count("What these numbers show") == 2
    ids = re.findall(r" id=\"([^\"]+)\"", page)
    assert len(ids) == len(set(ids))
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert {row["comparison"] for row in rows} == {"digits", "cifar10"}


def test_without_matplotlib_everything_but_the_pictures_is_there(tmp_path: Path, monkeypatch: Any) -> None:
    import sys

    for name in [
        name
        for name in sys.modules
        if name.startswith(("matplotlib", "solo_bam.comparison.report.gallery", "solo_bam.comparison.report.figures"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = write_report([synthetic.results(tmp_path)], tmp_path).read_text()
    assert "Pictures need matplotlib" in page
    assert "<svg role" not in page
    assert f"{told(1, 0, (0, 1, 2)):.1f}" in page


# --------------------------------------------------------------------------------------------- command


def test_a_folder_without_a_comparison_is_one_line(tmp_path: Path, capsys: Any) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"solo-bam: error: DIR: {tmp_path} holds no comparison (plan.json); give")
    (tmp_path / "plan.json").write_text("{}")
    assert main(["report", str(tmp_path)]) == 2
    assert "is not what solo-bam compare has written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
