"""What a paper takes from a comparison: it builds, says what the page says, and its figures come from its numbers."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from solo_bam.cli import main
from solo_bam.comparison.report import paper
from solo_bam.comparison.report.paper import references, write_paper
from solo_bam.config.listing import DATASETS
from tests.comparison import synthetic
from tests.recipes import METHODS

FIGURES = ("accuracy.pdf", "accuracy.svg", "differences.pdf", "differences.svg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("paper")
    write_paper(replace(synthetic.results(path, unfair=True), dataset="cifar10"), path)
    return path


def row(folder: Path, entry: str) -> list[str]:
    [line] = [line for line in (folder / "table.tex").read_text().splitlines() if line.startswith(f"{entry} &")]
    return [cell.strip() for cell in line.removesuffix(r"\\").split("&")[1:]]


def test_bold_is_the_best_only_where_it_is_clear_of_every_other_row(tmp_path: Path) -> None:
    def table(values: dict[str, list[float]]) -> str:
        results = synthetic.results(tmp_path, entries=tuple(values))
        offline = [c._replace(values={e: dict(enumerate(v)) for e, v in values.items()})
                   for c in results.columns if not c.online and c.branch == "student"]  # fmt: skip
        return paper.table(replace(results, columns=offline[:1]))

    clear = table({"first": [90.0, 91.0, 92.0], "second": [80.1, 81.0, 82.2], "third": [70.0, 71.5, 72.0]})
    assert re.findall(r"(\w+) & \\textbf", clear) == ["first"]
    assert "textbf" not in table(
        {"first": [90.0, 91.0, 92.0], "second": [89.0, 91.5, 91.0], "third": [70.0, 71.0, 72.0]}
    )
    assert "textbf" not in table({"first": [90.0, 91.0], "second": [50.0, 52.0]})  # two seeds say nothing of chance
    assert "textbf" not in table({"alone": [90.0, 91.0, 92.0]})


def test_the_table_has_the_numbers_of_the_csv(folder: Path) -> None:
    lines = list(csv.DictReader((folder / "results.csv").open()))
    own = [float(x["value"]) for x in lines if (x["entry"], x["branch"], x["online"]) == ("bam", "student", "False")
           and x["metric"].startswith("k-NN")]  # fmt: skip
    assert len(own) == 3
    assert row(folder, "bam")[0].startswith(f"{sum(own) / 3:.1f} $\\pm$")


def test_names_are_escaped(folder: Path) -> None:
    text = (folder / "table.tex").read_text()
    assert r"\textless{}b\textgreater{}dino\&co\textless{}/b\textgreater{}\_100\%" in text
    body = re.sub(r"\\[&%$#_{}]", "", text)
    assert "%" not in body
    assert "#" not in body


def test_the_protocol_cites_what_the_references_hold(folder: Path) -> None:
    told = (folder / "protocol.tex").read_text()
    cited = {key for keys in re.findall(r"\\cite\{(.+?)\}", told) for key in keys.split(",")}
    there = set(re.findall(r"@\w+\{(\S+),", (folder / "references.bib").read_text()))
    assert cited == there >= {"krizhevsky2009cifar", "grill2020byol"}
    assert " of = " not in (folder / "references.bib").read_text()
    assert "not fair: max" in told
    assert "k 20, temperature 0.07" in told


def test_each_method_and_data_set_has_a_reference() -> None:
    known = set.union(*(of for of, _ in references().values()))
    assert set(METHODS) - known == set()
    assert set(DATASETS) - known <= {"custom"}


def test_the_figures_come_from_the_numbers_beside_them(folder: Path, tmp_path: Path) -> None:
    for name in ("figures.py", "results.csv"):
        shutil.copy(folder / name, tmp_path)
    subprocess.run([sys.executable, tmp_path / "figures.py"], check=True, timeout=120)
    assert b"/FontFile2" in (tmp_path / "accuracy.pdf").read_bytes()  # embedded
    before = (tmp_path / "accuracy.svg").read_bytes()
    assert before == (folder / "accuracy.svg").read_bytes()
    assert b"<text" not in before  # its letters are outlines
    text = (tmp_path / "results.csv").read_text()
    (tmp_path / "results.csv").write_text(re.sub(r",9(\d\.\d+),%", r",8\1,%", text))
    subprocess.run([sys.executable, tmp_path / "figures.py"], check=True, timeout=120)
    assert (tmp_path / "accuracy.svg").read_bytes() != before


@pytest.mark.skipif(shutil.which("latexmk") is None, reason="needs Debian's texlive-latex-recommended and latexmk")
@pytest.mark.parametrize(
    "scene",
    [
        {"unfair": True},
        {"entries": ("first", "[b] x", '*y* \\z ~^|"')},
        {"seeds": (0,)},
        {"missing": [(e, s) for e in synthetic.ENTRIES for s in (0, 1, 2)]},
    ],
)
def test_it_builds(tmp_path: Path, scene: dict[str, Any]) -> None:
    write_paper(synthetic.results(tmp_path, **scene), tmp_path)
    words = ["latexmk", "-pdf", "-halt-on-error", "-interaction=nonstopmode", "main.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "main.log").read_text(errors="replace")
    assert "undefined" not in log
    assert all((tmp_path / name).exists() for name in FIGURES) == ("missing" not in scene)


@pytest.mark.skipif(shutil.which("latexmk") is None or shutil.which("lualatex") is None, reason="needs LuaLaTeX")
def test_names_in_other_scripts_build_with_lualatex(tmp_path: Path) -> None:
    write_paper(synthetic.results(tmp_path, entries=("自己注意", "Сопоставление", "bam")), tmp_path)
    words = ["latexmk", "-lualatex", "-halt-on-error", "-interaction=nonstopmode", "main.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=240)
    assert done.returncode == 0, done.stdout[-2000:]


def test_of_several_comparisons_it_is_refused(tmp_path: Path, capsys: Any) -> None:
    assert main(["report", str(tmp_path), str(tmp_path), "--paper", str(tmp_path / "paper")]) == 2
    assert "--paper" in capsys.readouterr().err
    assert not (tmp_path / "paper").exists()
