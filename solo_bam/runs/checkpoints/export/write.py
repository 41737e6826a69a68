"""Write a backbone for timm or detectron2, with a model card."""

from __future__ import annotations

from pathlib import Path

from solo_bam.config.options import ExportOptions
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded, writable
from solo_bam.runs.checkpoints.export import Card, detectron2_file, model_card, safetensors_file
from solo_bam.runs.checkpoints.read import Pretrained, load_pretrained
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.records import read_records, records_folder


def export(checkpoint: Path, settings: ExportOptions) -> Path:
    """Write a backbone's weights and its model card.

    Returns:
        the file of weights.

    Raises:
        UserError: a checkpoint that cannot be read, or a network or values that the format has no room for.
    """
    if settings.format == "detectron2" and settings.half:
        raise UserError("half", "got True, detectron2 reads 32-bit weights", "set half=False")
    pretrained = load_pretrained(checkpoint, settings.branch)
    records = records_folder(pretrained.path)
    folder = expanded(settings.output or records.with_name("export") / f"{pretrained.branch}-{settings.format}")
    writable(folder, "output")
    if settings.format == "timm":
        name, content = "backbone.safetensors", safetensors_file(pretrained, settings.half)
    else:
        name, content = "backbone.pkl", detectron2_file(pretrained.backbone, pretrained.recipe.backbone.name)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"{name}.part"
    scratch.write_bytes(content)
    path = scratch.replace(folder / name)  # whole or not at all
    card = Card(pretrained, name, settings.half, _run_of(pretrained), read_records(records))
    (folder / "README.md").write_text(model_card(card), encoding="utf-8")
    return path


def _run_of(pretrained: Pretrained) -> dict[str, object]:
    return RunFolder(pretrained.path.absolute().parent.parent).record()
