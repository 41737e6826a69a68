"""The list of checkpoints says what there is, and nothing that is not known."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from solo_bam.config import load_recipe
from solo_bam.evaluation.records import Record
from solo_bam.published import RECIPES

ZOO = Path(__file__).parents[1] / "zoo"
ENTRIES = yaml.safe_load((ZOO / "index.yaml").read_text())
FIELDS = ["name", "method", "backbone", "data", "epochs", "seeds", "accuracies", "recipe", "command", "hardware", "date", "versions", "sha256", "file"]  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES, ids=[e["name"] for e in ENTRIES])
def test_an_entry_is_complete_and_its_recipe_composes(entry):
    assert list(entry) == FIELDS
    recipe = load_recipe(entry["recipe"])
    found = (recipe.method, recipe.backbone.name, recipe.data.dataset, recipe.max_epochs)
    assert found == (entry["method"], entry["backbone"], entry["data"], entry["epochs"])
    assert entry["file"]["where"] in (ZOO / "README.md").read_text()
    for accuracy in entry["accuracies"]:
        record = Record(**{k: v for k, v in accuracy.items() if k not in ("re_measured", "stated_by")})
        assert accuracy["re_measured"] or accuracy["stated_by"]
        assert f"| {record.value} {record.unit} |" in (ZOO / "README.md").read_text()


def test_published_entries_are_imported_by_the_recipe_they_name():
    published = [e for e in ENTRIES if "import-official" in e["command"]]
    assert {e["accuracies"][0]["value"] for e in published} == {78.1, 79.3}
    for entry in published:
        assert f"backbone.name={entry['backbone']}" in entry["command"]
        assert RECIPES[entry["backbone"]] == entry["recipe"]
        assert not entry["accuracies"][0]["re_measured"]
