"""Help, listings and mistakes answer at once: nothing heavy is imported before something is computed."""

from __future__ import annotations

import json
import subprocess
import sys

from solo_bam.cli import COMMANDS

HEAVY = ["torch", "lightning", "timm", "torchvision", "sklearn", "scipy", "matplotlib", "pandas", "solo"]
RIGHT_AWAY = [
    *([command, "--help"] for command in COMMANDS),
    ["zoo", "list"],
    ["pretrain", "--config-name", "digits/bam", "optimizer.lrr=1"],
    ["pretrain", "--config-name", "digits/bam", "max_epoch=1"],
    ["pretrain", "--config-name", "no/such"],
    ["knn", "nowhere"],
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
    heavy = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    found[" ".join(arguments)] = heavy
print("FOUND" + json.dumps(found))
"""


def test_nothing_heavy_is_imported() -> None:
    words = [sys.executable, "-c", _CODE, json.dumps(RIGHT_AWAY), json.dumps(HEAVY)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout.rpartition("FOUND")[2])
    assert {command: heavy for command, heavy in found.items() if heavy} == {}
    assert len(found) == len(RIGHT_AWAY)
