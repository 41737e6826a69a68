"""Nothing that comes from a checkpoint, a recipe, a dataset or an archive is run."""

from __future__ import annotations

import io
import os
import pickle
import re
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.datasets
from omegaconf import OmegaConf
from PIL import Image

import solo_bam
from solo_bam.cli import main
from solo_bam.config import load_recipe
from solo_bam.core.errors import UserError
from solo_bam.data import find_source
from solo_bam.data.datasets import downloads
from solo_bam.data.datasets.images import ImageFiles
from solo_bam.runs.folder import RunFolder
from tests.data.pictures import cifar, packed
from tests.recipes import tiny, tiny_overrides

# ------------------------------------------------------------------------------------------- checkpoints


class Payload:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def _in_the_weights(path: Path, payload: Payload) -> None:
    torch.save({"solo_bam": {"method": "bam"}, "state_dict": {"w": payload}}, path)


def _in_an_old_file(path: Path, payload: Payload) -> None:
    torch.save({"solo_bam": {"method": "bam"}, "x": payload}, path, _use_new_zipfile_serialization=False)


def _bare_pickle(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps(payload))


def _script(path: Path, payload: Payload) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))


CHECKPOINTS: list[Callable[[Path, Payload], None]] = [_in_the_weights, _in_an_old_file, _bare_pickle, _script]


@pytest.mark.parametrize("make", CHECKPOINTS)
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_with_code_is_refused_and_its_code_not_run(
    make: Callable[[Path, Payload], None], tmp_path: Path, capsys: Any
) -> None:
    path, trace = tmp_path / "bad.ckpt", tmp_path / "trace"
    make(path, Payload(trace))
    overrides = [*tiny_overrides(tmp_path / "runs"), f"resume_from_checkpoint={path}"]
    assert main(["pretrain", "--config-name", "digits/bam", *overrides]) == 2
    error = capsys.readouterr().err
    assert not trace.exists()
    assert len(error.splitlines()) == 1
    assert re.search(r"resume_from_checkpoint: .*bad.ckpt cannot be read safely \(.+\); give a checkpoint", error)
    assert not (tmp_path / "runs").exists()


def test_the_payload_is_a_real_one(tmp_path: Path) -> None:
    """Read carelessly, it would have run."""
    _in_the_weights(tmp_path / "bad.ckpt", Payload(tmp_path / "trace"))
    torch.load(tmp_path / "bad.ckpt", weights_only=False)
    assert (tmp_path / "trace").is_dir()


# ----------------------------------------------------------------------------------------------- recipes

CALL = "{_target_: os.mkdir, path: TRACE}"
PLACES = (
    "_target_=os.mkdir", f"+extra={CALL}", f"method_kwargs={CALL}", f"method_kwargs.proj_act={CALL}",
    f"backbone={CALL}", f"backbone.kwargs={CALL}", f"backbone.kwargs.norm_layer={CALL}", f"optimizer.kwargs={CALL}",
    f"optimizer.kwargs.betas=[{CALL}]", f"optimizer.kwargs.a.b={CALL}", f"augmentations.0.rrc={CALL}",
    f"callbacks=[{CALL}]", f"strategy={CALL}", f"wandb={CALL}", "optimizer.kwargs._partial_=True",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_nothing_that_a_recipe_names_is_called(place: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown key .*nothing that it names is called; remove it") as caught:
        load_recipe("digits/bam", [place.replace("TRACE", str(tmp_path / "trace"))])
    assert caught.value.key.split(".")[-1] in ("_target_", "_partial_")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "override",
    ["hydra.run.dir=/tmp", "hydra/launcher=basic", "hydra.searchpath=[pkg://os]", "++hydra.job.chdir=True",
     "+hydra.callbacks.x={_target_: os.mkdir}"],
)  # fmt: skip
def test_hydras_own_settings_are_refused_on_the_command_line(override: str) -> None:
    with pytest.raises(UserError, match="Hydra only composes the recipe, its own settings have no effect; remove it"):
        load_recipe("digits/bam", [override])


SHARED = "defaults:\n  - digits/base@_global_\n  - methods/bam@_global_\n  - _self_\n"
CROPS = "augmentations: [{crop_size: 32, num_crops: 2}]\n"
HYDRA = """
hydra:
  searchpath: [pkg://hostile]
  run: {dir: TRACE}
  sweep: {dir: TRACE}
  output_subdir: TRACE
  job: {chdir: true, env_set: {HOSTILE: "1"}}
  callbacks: {x: {_target_: hostile.Callback}}
  launcher: {_target_: hostile.Launcher}
  job_logging: {version: 1, handlers: {x: {class: hostile.Handler}}, root: {handlers: [x]}}
"""


def test_hydras_section_of_a_recipe_does_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    """Its search path is not even imported."""
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "__init__.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'trace')!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.yaml").write_text(SHARED + CROPS + HYDRA.replace("TRACE", str(tmp_path / "trace")))
    recipe = load_recipe("mine", config_path=str(tmp_path))
    assert recipe.method == "bam"
    assert not hasattr(recipe, "hydra")
    assert not (tmp_path / "trace").exists()
    assert "hostile" not in sys.modules
    assert "HOSTILE" not in os.environ


@pytest.mark.parametrize("entry", ["pkg://hostile/x", "x@pkg://hostile", "/pkg://hostile: x", "override hydra/launcher: pkg://hostile"])  # fmt: skip
def test_a_defaults_list_imports_nothing(entry: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "__init__.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'trace')!r})\n")
    (tmp_path / "hostile" / "x.yaml").write_text("seed: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.yaml").write_text(SHARED.replace("  - _self_", f"  - {entry}\n  - _self_") + CROPS)
    with pytest.raises(UserError, match="--config-name"):
        load_recipe("mine", config_path=str(tmp_path))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"])
def test_yaml_builds_no_objects(tag: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"name: {tag} [{tmp_path / 'trace'}]\n")
    with pytest.raises(UserError, match="is not valid YAML"):
        load_recipe("mine", config_path=str(tmp_path))
    assert not (tmp_path / "trace").exists()


def test_interpolations_read_values_and_run_nothing(monkeypatch: Any) -> None:
    """Of the environment too: a recipe may name a folder by it. No resolver runs code."""
    monkeypatch.setenv("MY_IMAGES", "images")
    assert load_recipe("digits/bam", ["name=${oc.env:MY_IMAGES}"]).name == "images"
    known = {"oc.create", "oc.decode", "oc.deprecated", "oc.dict.keys", "oc.dict.values", "oc.env", "oc.select"}
    hydras = {"hydra", "now", "python_version"}
    from omegaconf.basecontainer import BaseContainer

    assert set(BaseContainer._resolvers) <= known | hydras
    with pytest.raises(UserError, match="Unsupported interpolation type eval"):
        load_recipe("digits/bam", ["name=${eval:1}"])
    assert OmegaConf.has_resolver("oc.env")


@pytest.mark.parametrize("name", ["../../up", "/tmp/x", "a/b", "a\\b", "n" * 201])
def test_a_runs_name_is_no_path(name: str) -> None:
    with pytest.raises(UserError, match="^name: got "):
        load_recipe("digits/bam", [f"name='{name}'"])


# ---------------------------------------------------------------------------------------------- archives


def _tar(path: Path, name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
    with tarfile.open(path, "w:gz") as tar:
        good = tarfile.TarInfo("good/file")
        good.size = 3
        tar.addfile(good, io.BytesIO(b"abc"))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        tar.addfile(member)


def _zip(path: Path, name: str, mode: int = 0) -> None:
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("good/file", b"abc")
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        zipped.writestr(member, b"/etc")


MEMBERS: dict[str, Callable[[Path], None]] = {
    "tar: climbs": lambda p: _tar(p, "../evil"),
    "tar: climbs on the way": lambda p: _tar(p, "good/../../evil"),
    "tar: absolute": lambda p: _tar(p, "/tmp/solo-bam-evil"),
    "tar: climbs with backslashes": lambda p: _tar(p, "..\\evil"),
    "tar: a drive": lambda p: _tar(p, "C:/evil"),
    "tar: link": lambda p: _tar(p, "good/link", tarfile.SYMTYPE, "/etc"),
    "tar: link out": lambda p: _tar(p, "good/link", tarfile.SYMTYPE, "../.."),
    "tar: hard link": lambda p: _tar(p, "good/link", tarfile.LNKTYPE, "/etc/passwd"),
    "tar: device": lambda p: _tar(p, "good/device", tarfile.CHRTYPE),
    "tar: pipe": lambda p: _tar(p, "good/pipe", tarfile.FIFOTYPE),
    "zip: climbs": lambda p: _zip(p, "../evil"),
    "zip: absolute": lambda p: _zip(p, "/tmp/solo-bam-evil"),
    "zip: link": lambda p: _zip(p, "good/link", stat.S_IFLNK | 0o777),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_members_that_climb_out_are_refused(case: str, tmp_path: Path) -> None:
    archive, folder = tmp_path / "archive", tmp_path / "into" / "this"
    folder.mkdir(parents=True)
    MEMBERS[case](archive)
    with pytest.raises(ValueError, match="the archive's member .* (would lie outside|is neither a file nor)"):
        downloads.unpack(archive, folder)
    assert sorted(tmp_path.rglob("*")) == [archive, folder.parent, folder]


def test_good_archives_are_unpacked(tmp_path: Path) -> None:
    _tar(tmp_path / "tar", "good/other")
    _zip(tmp_path / "zip", "good/other")
    for name in ("tar", "zip"):
        (tmp_path / name[0]).mkdir()
        downloads.unpack(tmp_path / name, tmp_path / name[0])
        assert (tmp_path / name[0] / "good" / "file").read_bytes() == b"abc"
        assert (tmp_path / name[0] / "good" / "other").is_file()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half", b"\x1f\x8b\x08\0half"])
def test_no_archive_at_all(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        downloads.unpack(tmp_path / "x", tmp_path)


def test_a_hostile_archive_of_a_dataset(tmp_path: Path, monkeypatch: Any) -> None:
    """Were its MD5 forged, it would be refused all the same, with one line and nothing unpacked."""
    root = tmp_path / "data"
    root.mkdir()
    cls = torchvision.datasets.CIFAR10
    archive = root / cls.filename
    _tar(archive, "../evil")
    monkeypatch.setattr(downloads, "check_integrity", lambda *_: True)
    where = ["data.dataset=cifar10", f"data.train_path={root}"]
    with pytest.raises(UserError, match="has the SHA-256 [0-9a-f]{64}, not 6d958be0"):
        find_source(tiny(tmp_path / "runs", "digits/bam", *where).data)
    monkeypatch.delitem(downloads.SHA256, cls.filename)
    with pytest.raises(UserError, match=r"member '../evil' would lie outside the folder"):
        find_source(tiny(tmp_path / "runs", "digits/bam", *where).data)
    assert sorted(tmp_path.rglob("*")) == [root, archive]


def test_the_sha256_is_checked(tmp_path: Path, monkeypatch: Any) -> None:
    root = cifar(tmp_path / "data", "CIFAR10", monkeypatch, 2)
    archive = packed(root, "CIFAR10", monkeypatch)
    monkeypatch.setitem(downloads.SHA256, archive.name, "0" * 64)
    with pytest.raises(UserError, match="SHA-256"):
        find_source(tiny(tmp_path / "runs", "digits/bam", "data.dataset=cifar10", f"data.train_path={root}").data)
    assert list(root.iterdir()) == [archive]


def test_every_archive_that_can_be_downloaded_has_a_sha256() -> None:
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        assert re.fullmatch("[0-9a-f]{64}", downloads.SHA256[getattr(torchvision.datasets, name).filename])


# ---------------------------------------------------------------------------------------------- datasets


def test_postscript_with_an_images_ending_is_not_run(tmp_path: Path, monkeypatch: Any) -> None:
    """PIL would hand it to Ghostscript, which runs the program in the file."""
    from PIL import EpsImagePlugin

    def run(*_: Any, **__: Any) -> Any:
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    path = tmp_path / "x.png"
    Image.new("RGB", (4, 4)).save(path, "EPS")
    with pytest.raises(OSError, match="its format is not recognised"):
        ImageFiles([str(path)]).open(0)
    with pytest.raises(AssertionError, match="Ghostscript was called"):
        Image.open(path).load()


# ------------------------------------------------------------------------------------------ the package

FORBIDDEN = {
    "torch.load without weights_only": re.compile(r"torch\.load\((?!.*weights_only=True)"),
    "weights_only=False": re.compile(r"weights_only\W{1,4}False"),
    "pickle": re.compile(r"\b(c?[pP]ickle|dill|cloudpickle|joblib|shelve|marshal)\.\w|import (c?pickle|dill|joblib|shelve)"),
    "numpy's pickles": re.compile(r"allow_pickle=True"),
    "eval or exec": re.compile(r"(?<![\w.])(eval|exec|compile)\("),
    "os.system or a shell": re.compile(r"os\.(system|popen)|shell=True"),
    "hydra's instantiate": re.compile(r"instantiate\(|hydra\.utils|get_class\(|get_method\("),
    "unsafe YAML": re.compile(r"yaml\.(unsafe_|full_)?load\(|UnsafeLoader|FullLoader"),
    "a resolver": re.compile(r"register_new_resolver|register_resolver"),
    "an image of any format": re.compile(r"Image\.open\((?!.*formats=)"),
    "an archive unpacked as it is": re.compile(r"extract_archive|unpack_archive|download_and_extract"),
}  # fmt: skip


def _offences(text: str) -> list[str]:
    return [name for name, pattern in FORBIDDEN.items() if pattern.search(text)]


@pytest.mark.parametrize(
    "line",
    ["torch.load(path)", "torch.load(path, weights_only=False)", '{"weights_only": False}', "import pickle", "pickle.loads(x)",
     "np.load(x, allow_pickle=True)", "eval(x)", "    exec(code)", "hydra.utils.instantiate(cfg)", "yaml.load(x)",
     "os.system('x')", "OmegaConf.register_new_resolver('eval', eval)", "extract_archive(a, b)", "Image.open(path)"],
)  # fmt: skip
def test_the_search_finds(line: str) -> None:
    assert _offences(line)


# What is only written: detectron2 reads pickles; a checkpoint holds more than the weights.
ALLOWED = {("runs/checkpoints/export/detectron2.py", "pickle"), ("train/callbacks/saving.py", "weights_only=False")}


def test_nothing_in_the_package_runs_what_it_reads() -> None:
    root = Path(solo_bam.__file__).parent
    found = [
        f"{path.relative_to(root)}:{number}: {name}"
        for path in sorted(root.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for name in _offences(line)
        if (str(path.relative_to(root)), name) not in ALLOWED
    ]
    assert found == []


def test_a_recipe_of_a_run_that_stands_for_gigabytes_is_not_read(tmp_path: Path) -> None:
    levels = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "recipe.yaml").write_text("\n".join(["k0: &k0 [a]", *levels]))
    assert RunFolder(tmp_path).recipe() is None
    (tmp_path / "recipe.yaml").write_text("name: 'a *b'\nmethod: bam\n")
    assert RunFolder(tmp_path).recipe() == {"name": "a *b", "method": "bam"}
