"""What is shown while a comparison runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from solo_bam.comparison.launch import Job
from solo_bam.comparison.progress import Progress, overview
from solo_bam.comparison.results import Column, Results
from tests.comparison.test_fairness import plan
from tests.comparison.test_launch import trained


def test_runs_are_counted_and_told_as_they_end(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    made, folder = plan(tmp_path, {"method_kwargs": {"reg": 0.1}}, epochs=4), tmp_path / "out"
    jobs = [Job(run=run, evaluations=[], folder=folder) for run in made.runs]
    jobs[0].place.mkdir(parents=True)
    trained(jobs[0].run, folder)  # of an earlier start
    jobs[1].tell(status="failed", error="of an earlier start")
    shown: list[str] = []
    progress = Progress("Runs", jobs, lambda now: shown.append(now) or f"table {len(shown)}")
    assert progress.bar.total == 3 * 4
    progress()
    assert (progress.bar.n, progress.bar.desc) == (0, "Runs 2 of 4: starting: ")
    jobs[1].tell(status="running", error=None, trained=False)
    jobs[2].tell(status="running", error=None, trained=True)
    progress()
    assert progress.bar.n == 4
    assert progress.bar.desc == "Runs 2 of 4: other, seed 0; bam, seed 1: "
    jobs[1].tell(status="failed", error="data: gone; find it")
    jobs[2].tell(status="finished")
    progress()
    printed = capsys.readouterr().out
    assert "Runs 2 of 4: other, seed 0: FAILED: data: gone; find it (see " in printed
    assert "Runs 3 of 4: bam, seed 1: 0.0 min" in printed
    assert [re.sub("at .*?: |; about .* left", "", now) for now in shown] == [
        "Runs 2 of 4 starting; then other, seed 0.",
        f"Runs 2 of 4 other, seed 0; bam, seed 1; then {jobs[3].run.label}.",
        f"Runs 4 of 4 starting; then {jobs[3].run.label}.",
    ]
    assert "table 1" not in printed
    assert "table 2" not in printed
    assert "table 3" in printed
    assert progress.bar.n == 8
    jobs[3].tell(status="finished")
    progress()
    assert (progress.bar.n, progress.bar.desc) == (12, "Runs 4 of 4: starting: ")


def test_the_time_left_is_told_without_a_terminal(tmp_path: Path, monkeypatch: Any) -> None:
    """As in a job of a cluster, where no bar is drawn."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    made, folder = plan(tmp_path, {"method_kwargs": {"reg": 0.1}}, epochs=4), tmp_path / "out"
    jobs = [Job(run=run, evaluations=[], folder=folder) for run in made.runs]
    shown: list[str] = []
    progress = Progress("Runs", jobs, lambda now: shown.append(now) or "")
    progress.began -= 60
    progress()
    jobs[0].place.mkdir(parents=True)
    jobs[0].tell(status="finished")
    progress()
    assert ["left" in now for now in shown] == [False, True]
    assert "; about 03:0" in shown[1]  # three more runs of a minute


def test_the_table_so_far() -> None:
    values = {"bam": {0: 90.0, 1: 92.0, 2: 91.0}, "byol": {0: 80.0, 1: 81.0}}
    knn = Column("a", "k-NN (k = 20)", "%", "", "student", False, values)
    online = Column("b", "online linear", "%", "", "student", True, values)
    results = Results(
        "x", ["bam", "byol", "dino"], "bam", [], [], "", [], ["max_epochs: 1 (bam), 2 (byol)"], [knn, online], {}
    )
    lines = [line.split() for line in overview(results).splitlines() if line]
    assert lines[0] == ["k-NN", "(k", "=", "20)"]
    assert lines[1] == ["bam", "91.0", "±", "2.5", "(3)"]  # 4.303 = t(0.975, 2 degrees of freedom), / sqrt(3)
    assert lines[2] == ["byol", "80.5", "(2)"]
    assert lines[3] == ["dino", "-"]
    assert overview(results).strip().endswith("UNFAIR: max_epochs: 1 (bam), 2 (byol)")
