"""The zoo says what there is, and nothing that is not known; what it keeps is what it says."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from solo_bam.cli import main
from solo_bam.cli.knn import main as knn
from solo_bam.config import load_recipe
from solo_bam.runs import zoo
from solo_bam.runs.checkpoints.published import RECIPES
from solo_bam.runs.records import read_records
from solo_bam.runs.zoo import Entry, entries, table

KEPT = [entry for entry in entries() if entry.file.kept]
PUBLISHED = [entry for entry in entries() if not entry.file.kept]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_an_entrys_recipe_composes(entry: Entry) -> None:
    words = shlex.split(entry.command)
    overrides = words[words.index("--config-name") + 2 :] if entry.file.kept else []
    recipe = load_recipe(entry.recipe, overrides)
    found = (recipe.method, recipe.backbone.name, recipe.data.called, recipe.max_epochs)
    assert found == (entry.method, entry.backbone, entry.data, entry.epochs)
    assert not entry.file.kept or [recipe.seed] == entry.seeds
    for accuracy in entry.accuracies:
        assert accuracy.re_measured or accuracy.stated_by


def test_the_readmes_table_is_made_from_the_index(capsys: Any) -> None:
    assert table(entries()) in (zoo.zoo_folder() / "README.md").read_text()
    assert main(["zoo", "table"]) == 0
    assert capsys.readouterr().out == table(entries()) + "\n"


def test_published_entries_are_imported_by_the_recipe_they_name() -> None:
    assert {entry.accuracies[0].value for entry in PUBLISHED} == {78.1, 79.3}
    for entry in PUBLISHED:
        assert "import-official" in entry.command
        assert f"backbone.name={entry.backbone}" in entry.command
        assert RECIPES[entry.backbone] == entry.recipe
        assert not entry.accuracies[0].re_measured


def test_files_are_few_and_small() -> None:
    sizes = [entry.path.stat().st_size for entry in KEPT]
    assert max(sizes) <= 25e6
    assert sum(sizes) <= 100e6
    kept = {entry.path for entry in KEPT}
    assert set(zoo.zoo_folder().glob("**/*.safetensors")) == kept


@pytest.mark.parametrize("entry", KEPT, ids=lambda entry: entry.name)
def test_a_kept_file_reproduces_its_accuracy(entry: Entry, tmp_path: Path) -> None:
    """On the digits, wherever it was trained. To one test image: other processors round otherwise."""
    [stated] = [one for one in entry.accuracies if (one.protocol.kind, one.data) == ("k-NN", "digits val")]
    protocol = stated.protocol
    settings = [f"{name}={getattr(protocol, name)}" for name in ("k", "temperature", "distance")]
    settings += [] if entry.data == "digits" else ["data.dataset=digits"]
    assert knn([str(entry.path), *settings, "num_workers=0", f"output={tmp_path}"]) == 0
    found = next(record for record in read_records(tmp_path) if record.metric == "accuracy")
    assert found.protocol == protocol
    assert found.images == stated.images
    assert found.value == pytest.approx(stated.value, abs=100 / (stated.images or 1) + 1e-6)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo to break."""
    shutil.copytree(zoo.zoo_folder(), tmp_path / "zoo")
    monkeypatch.setattr(zoo, "zoo_folder", lambda: tmp_path / "zoo")
    return tmp_path / "zoo"


def test_a_changed_or_missing_file_is_noticed(copy: Path, capsys: Any) -> None:
    name = KEPT[0].name
    assert main(["zoo", "load", name]) == 0
    path = capsys.readouterr().out.splitlines()[0]
    content = bytearray(Path(path).read_bytes())
    content[-1] ^= 1
    Path(path).write_bytes(content)
    assert main(["zoo", "load", name]) == 2
    assert "has another SHA-256 than the index says" in capsys.readouterr().err
    Path(path).unlink()
    assert main(["zoo", "load", name]) == 2
    assert "is missing; take it from the repository" in capsys.readouterr().err


def test_list_show_and_mistakes(capsys: Any) -> None:
    assert main(["zoo", "list"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [e.name for e in entries()]
    assert main(["zoo", "show", "bam_vit_base-imagenet-published"]) == 0
    assert "stated_by: the README of the authors" in capsys.readouterr().out
    assert main(["zoo", "load", "bam_vit_base-imagenet-published"]) == 2
    assert "is not kept here; download https://drive.google.com" in capsys.readouterr().err
    assert main(["zoo", "show", "bam_vit_bose-imagenet-published"]) == 2
    assert "did you mean bam_vit_base-imagenet-published?" in capsys.readouterr().err
    assert main(["zoo", "show"]) == 2
    assert "show needs the NAME" in capsys.readouterr().err
    assert main(["zoo", "lost"]) == 2
