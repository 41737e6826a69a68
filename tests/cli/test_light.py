"""Help, listings and mistakes answer at once: nothing heavy is imported before something is computed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from solo_bam.cli import COMMANDS

HEAVY = ["torch", "lightning", "timm", "torchvision", "sklearn", "scipy", "matplotlib", "pandas", "solo"]
PARSING = ["hydra", "pydantic"]  # of recipes: half a second
HELP = [[], ["--help"], ["prtrain"], *([command, "--help"] for command in COMMANDS)]
HELP += [["list"], ["list", "recipes"], ["list", "comparisons", "d*"], ["list", "figures"], ["list", "recpes"]]
HELP += [["pretrain", "--resumm"], ["pretrain", "digits/bam"], ["show", "digits/bma"], ["knn", "nowhere"]]
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
    ["pretrain", "--config-name", "digits/bam", "optimizer.lrr=1"],
    ["pretrain", "--config-name", "digits/bam", "max_epoch=1"],
    ["pretrain", "--config-name", "digits/bam", "method=bamm"],
    ["pretrain", "--config-name", "no/such"],
    ["health", "nowhere"],
    ["knn", ".", "kk=1"],
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
    words = [sys.executable, "-c", _CODE, json.dumps(commands), json.dumps(heavy)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout.rpartition("FOUND")[2])
    assert {command: heavy for command, heavy in found.items() if heavy} == {}
    assert len(found) == len(commands)
