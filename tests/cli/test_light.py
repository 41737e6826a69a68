"""Help, listings and mistakes answer at once: nothing heavy is imported before something is computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from solo_bam.cli import COMMANDS
from solo_bam.config.known import kept, known

HEAVY = ["torch", "lightning", "timm", "torchvision", "sklearn", "scipy", "matplotlib", "pandas", "solo"]
PARSING = ["hydra", "pydantic"]  # of recipes: half a second
HELP = [[], ["--help"], ["prtrain"], *([command, "--help"] for command in COMMANDS)]
HELP += [["list"], ["list", "recipes"], ["list", "comparisons", "d*"], ["list", "figures"], ["list", "recpes"]]
HELP += [
    ["pretrain", "--resumm"],
    ["pretrain", "digits/bam"],
    ["show", "digits/bma"],
    ["knn", "nowhere"],
    ["board", "nowhere"],
]
RIGHT_AWAY = [
    *HELP,
    ["show", "digits/bam", "seed=1"],
    ["completion", "bash"],
    ["pretrain", "--config-name", "digits/bam", "--dry-run", "optimizer.lrr=1"],
    ["show", "digits"],
    ["show", "cifar/linear"],
    ["show", "digits/bam", "optimizer.lrr=1"],
    ["list", "recipes", "nothing"],
    ["zoo", "list"],
    ["status"],
    ["pretrain", "--config-name", "digits/bam", "optimizer.lrr=1"],
    ["pretrain", "--config-name", "digits/bam", "max_epoch=1"],
    ["pretrain", "--config-name", "digits/bam", "method=bamm"],
    ["pretrain", "--config-name", "no/such"],
    ["health", "nowhere"],
    ["knn", ".", "kk=1"],
    ["explore", "nowhere"],
    ["transfer", "nowhere"],
    # Found once, and kept.
    ["list", "methods"],
    ["list", "metrics"],
    ["list", "backbones", "vit_*"],
    ["pretrain", "--config-name", "digits/bam", "method_kwargs.regg=1"],
    ["pretrain", "--config-name", "digits/byol", "method_kwargs.regg=1"],
]
_CODE = """
import json, sys
from solo_bam.cli import main
found = {}
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit:
        pass
    found[" ".join(arguments)] = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print("FOUND" + json.dumps(found))
"""


@pytest.mark.parametrize(("commands", "heavy"), [(HELP, [*HEAVY, *PARSING]), (RIGHT_AWAY, HEAVY)])
def test_nothing_heavy_is_imported(commands: list[list[str]], heavy: list[str]) -> None:
    known()
    words = [sys.executable, "-c", _CODE, json.dumps(commands), json.dumps(heavy)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout.rpartition("FOUND")[2])
    assert {command: heavy for command, heavy in found.items() if heavy} == {}
    assert len(found) == len(commands)


def test_a_cache_that_cannot_be_read_or_written_costs_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = known()
    monkeypatch.setenv("SOLO_BAM_CACHE", str(tmp_path))
    assert known() == kept() == there
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert kept() is None
    assert known() == there
    monkeypatch.setenv("SOLO_BAM_CACHE", str(file))  # no folder
    assert known() == there


def test_methods_of_ones_own_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from solo_bam import solo_learn

    monkeypatch.setitem(solo_learn.METHODS, "mine", solo_learn.METHODS["bam"])
    monkeypatch.setenv("SOLO_BAM_CACHE", str(tmp_path))
    assert "mine" in solo_learn.method_names()
    assert "mine" not in known()["methods"]
