"""What a method says about itself."""

from __future__ import annotations

from typing import Any, NamedTuple

# In solo-learn's own recipes at the top level, and read by neither edition.
UNREAD_KEYS = ("augmentations_cfg", "wandb_cfg")


class CropRule(NamedTuple):
    """Which crops a method takes.

    Attributes:
        large: how many large crops, None for any number.
        small: whether its loss uses small crops.
        least: how many crops of any size there must be.
    """

    large: int | None
    small: bool
    least: int = 1


class Panel(NamedTuple):
    """A panel among the curves of a run.

    Attributes:
        title: over it.
        label: of the y axis, with the unit.
        lines: logged metric -> name in the legend; metrics that were not logged are left out.
    """

    title: str
    label: str
    lines: dict[str, str]


class OwnMethod(NamedTuple):
    """Facts about one of solo-learn's own methods, whose classes say none of it.

    Attributes:
        crops: that it takes.
        unread_options: ``method_kwargs`` of solo-learn's recipes that it does not read.
        defaults: of options whose defaults differ between the editions.
        projector: its submodule whose outputs a sound training spreads; None where there is none.
        by_row: whether its networks take a batch and give one tensor, each row's output by itself, batch norm aside.
        vit_heads: backbone -> attention heads, of its own ViTs where they are not timm's.
        labels: whether its loss sees the labels.
        note: what it has that others have not, for a comparison's report; ``{queue_size}`` stands for that option.
    """

    crops: CropRule
    unread_options: tuple[str, ...] = ()
    defaults: dict[str, Any] = {}
    projector: str | None = "projector"
    by_row: bool = True
    vit_heads: dict[str, int] = {}
    labels: bool = False
    note: str = ""
