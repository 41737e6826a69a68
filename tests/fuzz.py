"""Random recipes, command lines and folders of images, and what a command may answer to them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from hypothesis import strategies as st
from PIL import Image

from solo_bam.cli import main
from solo_bam.runs.folder import RunFolder
from tests.recipes import tiny

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "90"))  # of all kinds together; 1000 takes a quarter of an hour

# ---------------------------------------------------------------------------------------------- values

GOOD = tiny(Path("runs")).model_dump(mode="json")
KEYS = sorted({*GOOD, *(f"{k}.{j}" for k, v in GOOD.items() if isinstance(v, dict) for j in v)})
ODD = st.sampled_from(["", " ", "a b", "???", "${", "${name}", "${oc.env:X}", "null", "\n", "\x1b[2J", "ü", "=", ":", "[", "{",
                       "'", '"', "a,b", "_target_", "hydra", "-1", "1e999", "nan", "../x", "@", "~", "+", "\\", "#", "0x1",
                       "\0", "\udcff", "x" * 300])  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | ODD
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | ODD, inner, max_size=3)
)


def leaves(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of each section and value in a recipe."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*place, key)
        yield from leaves(child, (*place, key))


PLACES = sorted(leaves(GOOD), key=str)
_NEAR = st.sampled_from([0, 1, -1, 2, 3, 0.0, 0.5, 1.5, 1e-9, 64, 1000, 10**9, True, False, None, "auto", "bam", [], {}, [1], [0.5, 2]])  # fmt: skip


def _changed(node: Any, place: tuple[Any, ...], change: str, value: Any) -> None:
    """Set, remove or add beside a place; a place that an earlier change has taken away stays away."""
    for part in place[:-1]:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(node, dict) and change == "remove":
        node.pop(place[-1], None)
    elif isinstance(node, dict) and change == "add":
        node[f"{place[-1]}_"] = value
    elif isinstance(node, dict) or (isinstance(node, list) and isinstance(place[-1], int) and place[-1] < len(node)):
        node[place[-1]] = value


_CHANGES = st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "set", "set", "remove", "add"]), _NEAR | VALUES)
_ODD_YAML = ["\t- x", "a: *nowhere", "a: &x [*x]", "---\nb: 1", "? [1, 2]\n: 3", "a: !!binary x", "a: !!python/none", "seed: 1\nseed: 2",
             "<<: {seed: 3}", "a: 2026-11-26", "optimizer: 0o17", "name: yes", "%TAG ! x", "\ufeffseed: 1", "a: |\n x", "..."]  # fmt: skip


@st.composite
def recipe_files(draw: st.DrawFn) -> bytes:
    """A YAML file: a small recipe with some of it changed."""
    recipe = yaml.safe_load(yaml.safe_dump(GOOD))
    for change in draw(st.lists(_CHANGES, min_size=1, max_size=3)):
        _changed(recipe, *change)
    text = yaml.dump(recipe, allow_unicode=draw(st.booleans()), sort_keys=False)
    if draw(st.integers(0, 3)) == 0:
        lines = text.splitlines()
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(_ODD_YAML) | st.text(max_size=20)))
        text = "\n".join(lines)
    data = text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16", "latin-1"])), "replace")
    return data[: len(data) // 2] if draw(st.integers(0, 20)) == 0 else data


WORDS = (
    st.text(max_size=30)
    | st.builds(
        "{}{}={}".format, st.sampled_from(["", "", "+", "++", "~"]), st.sampled_from(KEYS) | ODD, _NEAR | VALUES
    )
    | st.builds("{}={}".format, st.sampled_from([".".join(map(str, place)) for place in PLACES]), _NEAR | VALUES)
    | st.sampled_from(
        ["--resume", "--config-path", "--import", "--", "-h=1", "~method_kwargs", "data=digits", "+x/y=z"]
    )
)

# --------------------------------------------------------------------------------------------- folders

_SIZES = st.sampled_from([(8, 8), (8, 8), (1, 1), (1, 400), (300, 2), (17, 9)])
_KINDS = ["image", "image", "image", "gray", "palette", "alpha", "cmyk", "deep", "empty", "text", "cut", "link", "broken link",
          "loop", "folder", "gif"]  # fmt: skip
_NAMES = st.sampled_from(["a", "b", "C", "ü", "日本", " x ", ".hidden", "-a", "a=b", "a'b", "[a]", "a\nb", "a\\b", "\udcff", "*", "n" * 200, "0"])  # fmt: skip
_ENDINGS = st.sampled_from([".png", ".png", ".jpg", ".JPEG", ".txt", "", ".png.png", ".gif"])
FOLDERS = st.dictionaries(
    _NAMES, st.lists(st.tuples(_NAMES, _ENDINGS, st.sampled_from(_KINDS), _SIZES), max_size=5), max_size=4
)
DATA = st.fixed_dictionaries(
    {
        "data.no_labels": st.booleans(),
        "data.on_error": st.sampled_from(["stop", "skip"]),
        "data.format": st.sampled_from(["image_folder", "image_folder", "tensor", "h5"]),
        "data.val_path": st.sampled_from(["null", "images", "nowhere"]),
        "data.fraction": st.sampled_from([-1, 0.5]),
    }
)


def build(root: Path, folders: dict[str, list[Any]]) -> None:
    """Write class folders; what the file system does not take is left out."""
    root.mkdir()
    for name, files in folders.items():
        with contextlib.suppress(OSError):
            (root / name).mkdir()
            for stem, ending, kind, size in files:
                with contextlib.suppress(OSError):
                    _write(root / name / f"{stem}{ending}", kind, size)


def _write(path: Path, kind: str, size: tuple[int, int]) -> None:
    plain = {"empty": b"", "text": b"no image"}
    links = {"link": "../../good.png", "broken link": "nowhere.png", "loop": path.name}
    modes = {"gray": "L", "palette": "P", "alpha": "RGBA", "cmyk": "CMYK", "deep": "I;16"}
    if kind in plain:
        path.write_bytes(plain[kind])
    elif kind in links:
        path.symlink_to(links[kind])
    elif kind == "folder":
        path.mkdir()
    else:
        data = io.BytesIO()
        Image.new(modes.get(kind, "RGB"), size).save(data, {"cmyk": "JPEG", "gif": "GIF"}.get(kind, "PNG"))
        path.write_bytes(data.getvalue()[: -len(data.getvalue()) // 2] if kind == "cut" else data.getvalue())


# ---------------------------------------------------------------------------------------------- answer


class Reached(Exception):
    """Everything has been checked, and the training would begin."""


def attempt(arguments: list[str], runs: Path, trains: bool = False) -> str:
    """``solo-bam`` with these arguments: it does its work, or says one line with exit code 2; else an AssertionError.

    Args:
        arguments: of the command line.
        runs: where its runs would lie; none may be left «running».
        trains: whether it trains; else it stops when all has been checked.

    Returns:
        What it said last.
    """
    said, code = io.StringIO(), None
    stop = contextlib.nullcontext() if trains else mock.patch("solo_bam.train.run._announce", side_effect=Reached)
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), stop:
        try:
            code = main(arguments)
        except Reached:
            code = 0
        except SystemExit as end:  # argparse, after --help
            code = end.code
    told = said.getvalue()
    assert code in (0, 2), f"exit code {code}: {told}"
    assert "Traceback" not in told, told
    errors = [line for line in told.splitlines() if line.startswith("solo-bam: error: ")]
    assert len(errors) == (code == 2), told
    for path in runs.rglob("run.json"):
        assert RunFolder(path.parent).record()["status"] != "running", path
    return errors[0] if errors else ""
