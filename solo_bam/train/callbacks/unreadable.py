"""Images that were skipped because they cannot be read (``data.on_error: skip``)."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from solo_bam.core import collectives

_SHOWN = 5


class UnreadableImages(pl.Callback):
    """Count the unreadable images that all processes met since the run's first epoch, resumed or not.

    Logged at each epoch's end as ``unreadable_images``; the run's end names the first of them.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        here = trainer.datamodule.unreadable_names()  # type: ignore[attr-defined]
        for names in collectives.gather_objects(here):
            self.names.update(names)
        pl_module.log("unreadable_images", float(len(self.names)), sync_dist=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.names:
            shown = ", ".join(sorted(self.names)[:_SHOWN]) + (", …" if len(self.names) > _SHOWN else "")
            rank_zero_info(f"{len(self.names)} unreadable image(s) were replaced by the next one: {shown}")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"names": sorted(self.names)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.names = set(state_dict["names"])
