"""docs/notebook.ipynb: it runs, small, and it was kept small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import house

NOTEBOOK = house.ROOT / "docs" / "notebook.ipynb"
# What makes it a matter of half a minute; each has to be there.
NETWORK = {"name": "test_resnet", "cifar_stem": False}
SMALLER = {"max_epochs=6": f"max_epochs=1, backbone={NETWORK}", '"pictures": False': f'"pictures": False, "backbone": {NETWORK}',
           '"warmup_epochs": 1': '"warmup_epochs": 0', "max_epochs=3": "max_epochs=1", '"fraction": 0.3': '"fraction": 0.1',
           '"fraction": 0.2': '"fraction": 0.1', '["bam", "simclr"]': '["bam"]', "epochs=2": "epochs=1",
           '"trials": 1': '"trials": 0'}  # fmt: skip


def test_it_holds_its_outputs_and_few_bytes_of_pictures() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2
    assert sum(map(len, pictures)) * 3 / 4 < 200_000
    assert NOTEBOOK.stat().st_size < 300_000
    assert "site-packages" not in NOTEBOOK.read_text()  # a warning, with a path of the machine


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    pytest.importorskip("ipykernel")
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    text = NOTEBOOK.read_text()
    for large, small in SMALLER.items():
        assert json.dumps(large)[1:-1] in text
        text = text.replace(json.dumps(large)[1:-1], json.dumps(small)[1:-1])
    notebook = nbformat.reads(text, as_version=4)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where it writes
    before = sorted(NOTEBOOK.parent.iterdir())
    client(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert sorted(NOTEBOOK.parent.iterdir()) == before
    assert list(tmp_path.rglob("report.html"))
