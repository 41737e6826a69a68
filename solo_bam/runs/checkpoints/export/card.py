"""The model card beside exported weights: what they are, how good, and how to load them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from solo_bam.backbones import timm_call
from solo_bam.config import Recipe
from solo_bam.config.resolve import cifar_stem_stride
from solo_bam.data.transforms.augmentations import mean_and_std
from solo_bam.runs.checkpoints.export.weights import shareable
from solo_bam.runs.checkpoints.read import Pretrained
from solo_bam.runs.identity import recipe_hash
from solo_bam.runs.records import Record

_PACKAGES = ("solo-bam", "solo-learn", "torch", "timm")


@dataclass(frozen=True)
class Card:
    """What a card tells.

    Attributes:
        pretrained: the weights.
        file: name of the file of weights.
        half: in 16 bits.
        run: content of ``run.json``, empty where there is none.
        records: numbers of the run; those of other weights are left out.
    """

    pretrained: Pretrained
    file: str
    half: bool = False
    run: Mapping[str, Any] = field(default_factory=dict)
    records: Sequence[Record] = ()


def model_card(card: Card) -> str:
    """The card as Markdown."""
    recipe = card.pretrained.recipe
    what = (
        f"{recipe.backbone.name}, pretrained without labels by `{recipe.method}` on {recipe.data.called}. "
        f"`{card.file}` holds the backbone alone, without projector or classifier."
    )
    loading = detectron2_snippet(card) if card.file.endswith(".pkl") else timm_snippet(card)
    parts = [
        "---\nlibrary_name: timm\ntags:\n- self-supervised-learning\n- solo-bam\n---",
        f"# {recipe.name or recipe.method}",
        what,
        _facts(card),
        f"## Accuracy\n\n{_accuracies(card)}",
        f"## Load\n\n{loading}",
    ]
    if card.pretrained.own_recipe:
        parts.append(f"## Recipe\n\n```yaml\n{OmegaConf.to_yaml(OmegaConf.create(shareable(recipe)))}```")
    return "\n\n".join(parts) + "\n"


def _facts(card: Card) -> str:
    p = card.pretrained
    versions = card.run.get("versions") or {}
    own = p.own_recipe
    facts = {
        "branch": p.branch,
        "epochs": f"{p.epoch} of {p.recipe.max_epochs}" if own else p.epoch,
        "seed": card.run.get("seed"),
        "images per process and step": _images_per_step(p.recipe) if own else None,
        "values": "16-bit floating point" if card.half else "32-bit floating point",
        "recipe": recipe_hash(p.recipe) if own else None,
        "weights": p.weights + (" (before rounding to 16 bits)" if card.half else ""),
        "trained with": ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions) or None,
        "imported from": (card.run.get("imported_from") or {}).get("file"),
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *rows])


def _images_per_step(recipe: Recipe) -> str:
    times = recipe.accumulate_grad_batches
    return f"{recipe.optimizer.batch_size}" + f" x {times} accumulated" * (times > 1)


def _accuracies(card: Card) -> str:
    """A row per record of these very weights."""
    records = [r for r in card.records if r.weights == card.pretrained.weights]
    if not records:
        return "Not measured."
    rows = [f"| {r.metric} | {_value(r)} | {r.stated} |" for r in records]
    note = "\n\nMeasured before rounding to 16 bits." if card.half else ""
    return "\n".join(["| measure | value | protocol |", "|---|---|---|", *rows]) + note


def _value(record: Record) -> str:
    interval = f" ({record.interval[0]:.1f}–{record.interval[1]:.1f})" if record.interval else ""
    return f"{record.value:.1f} {record.unit}{interval}"


def timm_snippet(card: Card) -> str:
    """How to load it with timm alone, and with solo-bam."""
    recipe = card.pretrained.recipe
    call = timm_call(recipe.backbone.name, recipe.backbone.kwargs, recipe.crop_sizes, recipe.method)
    branch = ', branch="teacher"' if card.pretrained.branch == "teacher" else ""
    ours = f'```python\nimport solo_bam\n\nbackbone = solo_bam.load("{card.file}"{branch}).network\n```'
    parts = [f"With solo-bam, which knows the architecture from the file:\n\n{ours}"]
    if call is not None:
        parts.insert(0, f"With timm alone:\n\n```python\n{_timm_lines(card, *call)}\n```")
    return "\n\n".join([*parts, _images(card)])


def _timm_lines(card: Card, name: str, arguments: Mapping[str, Any]) -> str:
    words = "".join(f", {key}={_python(value)}" for key, value in arguments.items())
    imported = "import torch\n" if "torch." in words else ""
    stride = cifar_stem_stride(card.pretrained.recipe)
    if not stride:
        created = f'timm.create_model("{name}"{words}, checkpoint_path="{card.file}")'
        return f"import timm\n{imported}\nbackbone = {created}.eval()"
    width = card.pretrained.backbone.bn1.num_features  # type: ignore[union-attr]
    return f"""import timm
import torch
from safetensors.torch import load_file

backbone = timm.create_model("{name}"{words})
# The stem for small images, which timm has no argument for.
backbone.conv1 = torch.nn.Conv2d(3, {width}, kernel_size=3, stride={stride}, padding=2, bias=False)
backbone.maxpool = torch.nn.Identity()
backbone.load_state_dict(load_file("{card.file}"))
backbone.eval()"""


def _python(value: object) -> str:
    return f"torch.nn.{value.__name__}" if isinstance(value, type) else repr(value)


def _images(card: Card) -> str:
    recipe = card.pretrained.recipe
    mean, std = mean_and_std(recipe.data.dataset, recipe.augmentations[0])
    size, width = recipe.crop_sizes[0], card.pretrained.backbone.num_features
    return (
        f"It maps RGB images (N, 3, {size}, {size}) to features (N, {width}). Values are scaled to 0 … 1, then "
        f"normalised by mean {_numbers(mean)} and deviation {_numbers(std)} per channel."
    )


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"


def detectron2_snippet(card: Card) -> str:
    """The part of a detectron2 configuration that these weights need."""
    recipe = card.pretrained.recipe
    mean, std = mean_and_std(recipe.data.dataset, recipe.augmentations[0])
    depth = recipe.backbone.name.removeprefix("resnet")
    lines = [
        "MODEL:",
        f"  WEIGHTS: {card.file}",
        f"  PIXEL_MEAN: [{', '.join(f'{255 * v:.3f}' for v in mean)}]",
        f"  PIXEL_STD: [{', '.join(f'{255 * v:.3f}' for v in std)}]",
        "  RESNETS:",
        f"    DEPTH: {depth}",
        "    STRIDE_IN_1X1: False",
        *(["    RES2_OUT_CHANNELS: 64"] if depth in ("18", "34") else []),
        "INPUT:",
        '  FORMAT: "RGB"',
    ]
    return "In a configuration of detectron2:\n\n```yaml\n" + "\n".join(lines) + "\n```"
