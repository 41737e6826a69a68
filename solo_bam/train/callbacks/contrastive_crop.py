"""Computes ContrastiveCrop's boxes during training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from solo_bam.backbones.heat_maps import heat_map
from solo_bam.core import collectives
from solo_bam.core.errors import UserError
from solo_bam.data import PretrainData
from solo_bam.data.sampling import ignore_termination
from solo_bam.data.transforms.contrastive_crop import BoxSchedule, boxes_from_heat
from solo_bam.evaluate.features import evaluating
from solo_bam.train.sharding import whole_backbone

_SHOWN = 12  # images in the picture, at most


class ContrastiveCropBoxes(pl.Callback):
    """Every ``interval`` epochs: each training image's box, from the teacher where there is one.

    Args:
        boxes: ``(N, 4)``, shared with the loader processes; written in place.
        images: the training images in the order of their indexes, resized plainly and normalised, with labels.
        schedule: when.
        threshold: of the scaled heat, 0 to 1.
        batch_size: images at once.
        workers: loader processes.
        whole: makes of a backbone one that each process can use by itself.
    """

    def __init__(
        self,
        boxes: Tensor,
        images: Dataset[Any],
        schedule: BoxSchedule,
        threshold: float,
        batch_size: int,
        workers: int = 0,
        whole: Callable[[nn.Module], nn.Module] = lambda backbone: backbone,
    ):
        self.boxes, self.images, self.schedule, self.threshold = boxes, images, schedule, threshold
        self.batch_size, self.workers, self.whole = batch_size, workers, whole
        self.updated = False

    @classmethod
    def of(cls, data: PretrainData) -> ContrastiveCropBoxes:
        """For the loaders of a recipe that enables ContrastiveCrop."""
        recipe = data.recipe
        assert data.boxes is not None
        return cls(
            data.boxes,
            data.resized_images(),
            BoxSchedule.of(recipe),
            recipe.data.contrastive_crop.box_threshold,
            recipe.optimizer.batch_size,
            recipe.data.num_workers,
            functools.partial(whole_backbone, recipe=recipe),
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that continues a checkpoint without boxes computes those that it would have by now."""
        missed = any(self.schedule.due(epoch, trainer.max_epochs or 0) for epoch in range(trainer.current_epoch))
        if missed and not self.updated:
            self.update(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning saves checkpoints after all other callbacks, so they hold the new boxes.
        if self.schedule.due(trainer.current_epoch, trainer.max_epochs or 0):
            self.update(trainer, pl_module)
            area = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1).mean()
            pl_module.log("box_area", area, sync_dist=True)  # the same on every process

    def update(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute all boxes, in evaluation mode, and draw some."""
        backbone = self.whole(getattr(pl_module, "momentum_backbone", None) or pl_module.backbone)  # type: ignore[arg-type]
        with evaluating(backbone):
            boxes = compute_boxes(backbone, self.images, self.threshold, self.batch_size, self.workers)
            self.boxes.copy_(boxes)
            self.updated = True
            if trainer.is_global_zero:
                self._draw(backbone, Path(trainer.default_root_dir) / "boxes", trainer.current_epoch)

    def _draw(self, backbone: nn.Module, folder: Path, epoch: int) -> None:
        try:
            from solo_bam.plots.boxes import draw_boxes
        except ImportError:
            rank_zero_info("No picture of the boxes: pip install 'solo-bam[plots]'")
            return
        positions = list(range(0, len(self.boxes), -(-len(self.boxes) // _SHOWN)))
        images = torch.stack([self.images[i][0] for i in positions])
        folder.mkdir(parents=True, exist_ok=True)
        draw_boxes(
            images, _heat(backbone, images), self.boxes[positions], folder / f"epoch={epoch}.png",
            title=f"Boxes after epoch {epoch} (threshold {self.threshold:g})",
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The boxes, once there are any."""
        return {"boxes": self.boxes.clone()} if self.updated else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with a checkpoint's boxes.

        Raises:
            UserError: they are of another number of images.
        """
        if not state_dict:
            return
        if state_dict["boxes"].shape != self.boxes.shape:
            raise UserError(
                "resume_from_checkpoint",
                f"its boxes are of {len(state_dict['boxes'])} images, the training set has {len(self.boxes)}",
                "use the images that it was trained on",
            )
        self.boxes.copy_(state_dict["boxes"])
        self.updated = True


def compute_boxes(
    backbone: nn.Module, images: Dataset[Any], threshold: float, batch_size: int, workers: int = 0
) -> Tensor:
    """The box of every image; each process computes a share, all get all.

    Args:
        backbone: in evaluation mode, the same on every process.
        images: gives ``(image (3, height, width), label)``.
        threshold: of the scaled heat.
        batch_size: images at once.
        workers: loader processes.

    Returns:
        ``(N, 4)`` on the CPU, in the order of ``images``.
    """
    count = len(images)  # type: ignore[arg-type]
    own = list(range(collectives.rank(), count, collectives.world_size()))
    boxes = torch.zeros(count, 4, device=next(backbone.parameters()).device)
    done = 0
    loader = DataLoader(Subset(images, own), batch_size, num_workers=workers, worker_init_fn=ignore_termination)
    for batch, *_ in loader:
        heat = _heat(backbone, batch)
        boxes[own[done : done + len(batch)]] = boxes_from_heat(heat, batch.shape[-2], batch.shape[-1], threshold)
        done += len(batch)
    return collectives.all_sum(boxes).cpu()  # the others' rows are zero


def _heat(backbone: nn.Module, images: Tensor) -> Tensor:
    """Heat maps of images on the CPU, on the backbone's device."""
    parameter = next(backbone.parameters())
    return heat_map(backbone, images.to(parameter.device, parameter.dtype))
