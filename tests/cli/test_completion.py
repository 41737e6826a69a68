"""Shells complete commands, options, recipes, keys and runs; asked as the shells themselves ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# bash sets these when <TAB> is pressed, and calls the function that `complete -F` names.
_ASK = """
eval "$(solo-bam completion bash)"
while IFS= read -r line; do
    COMP_LINE="$line"; COMP_POINT=${#line}; COMP_TYPE=9; COMPREPLY=()
    _python_argcomplete solo-bam 2>/dev/null
    printf '%s|' "${COMPREPLY[@]}"; echo
done
"""
CASES = {
    "solo-bam pre": {"pretrain"},
    "solo-bam pretrain --dr": {"--dry-run"},
    "solo-bam pretrain --config-name digits/b": {"digits/bam", "digits/bam_momentum", "digits/barlow_twins", "digits/byol"},
    "solo-bam pretrain --config-name digits/bam optimizer.l": {"optimizer.layer_decay=", "optimizer.lr="},
    "solo-bam pretrain --config-name digits/bam optimizer.name=a": {"adam", "adamw"},
    "solo-bam pretrain --config-name digits/bam method_kwargs.r": {"method_kwargs.reg="},
    "solo-bam pretrain --config-path own --config-name m": {"mine"},
    "solo-bam doctor digits/bam augmentations.0.crop": {"augmentations.0.crop_size="},
    "solo-bam show quick/l": {"quick/lejepa", "quick/lightly", "quick/lightly_momentum", "quick/linear"},
    "solo-bam compare imagenet-": {"imagenet-100"},
    "solo-bam compare quick tune.tr": {"tune.trials="},
    "solo-bam linear trained": {"trained_models/bam/bam-digits-1234", "trained_models/"},
    "solo-bam linear RUN --config-name cifar/l": {"cifar/linear"},
    "solo-bam knn trained_models/bam/bam-d": {"trained_models/bam/bam-digits-1234", "trained_models/bam/bam-digits-1234/"},
    "solo-bam knn RUN dist": {"distance="},
    "solo-bam knn RUN distance=c": {"cosine"},
    "solo-bam explore RUN red": {"reduction="},
    "solo-bam transfer RUN cor": {"corrupted="},
    "solo-bam plot cur": {"curves"},
    "solo-bam board trained": {"trained_models/bam/bam-digits-1234", "trained_models/"},
    "solo-bam board po": {"port="},
    "solo-bam board --op": {"--open"},
    "solo-bam list rec": {"recipes"},
    "solo-bam completion z": {"zsh"},
    "solo-bam nosuch ": set(),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    run = tmp_path / "trained_models" / "bam" / "bam-digits-1234"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text("method: bam\n")
    return tmp_path


def _shell(words: list[str], place: Path, asked: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        words, cwd=place, input=asked, env=environment, capture_output=True, text=True, timeout=300, check=True
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(place: Path) -> None:
    done = _shell(["bash", "-c", _ASK], place, "".join(f"{line}\n" for line in CASES))
    offered = [{word.strip() for word in line.split("|") if word} for line in done.stdout.splitlines()]
    assert dict(zip(CASES, offered, strict=True)) == CASES


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_completes(place: Path) -> None:
    line = "solo-bam pretrain --config-name digits/bam_"
    done = _shell(["fish", "-c", f"solo-bam completion fish | source; complete -C '{line}'"], place)
    assert done.stdout.split() == ["digits/bam_momentum"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_takes_the_script(place: Path) -> None:
    """Its completion runs in an interactive line editor alone."""
    script = 'autoload -U compinit && compinit -D -u && eval "$(solo-bam completion zsh)" && echo $_comps[solo-bam]'
    assert _shell(["zsh", "-f", "-c", script], place).stdout.strip() == "_python_argcomplete"
