"""Segment DAVIS-2017's videos with frozen features, and score the masks."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from solo_bam.config.options import DavisOptions
from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded, writable
from solo_bam.data.datasets.davis import Video, find_videos, read_frame, read_palette, read_truths, write_labels
from solo_bam.data.transforms.augmentations import mean_and_std
from solo_bam.evaluate.davis import ObjectScore, score_sequence
from solo_bam.evaluate.video import Propagation, dense_features, segment
from solo_bam.runs.checkpoints.read import Pretrained, backbone_of, load_pretrained
from solo_bam.runs.protocols import VideoSegmentation
from solo_bam.runs.records import Record, records_folder, write_records

Extract = Callable[[Tensor], Tensor]
_MEASURES = ("mean", "recall", "decay")


def davis(checkpoint: Path, options: DavisOptions) -> list[Record]:
    """Segment and score all sequences of a split.

    Raises:
        UserError: a checkpoint, a folder or a setting that does not fit; before anything is written.
    """
    videos = find_videos(options.data.path, options.data.split)
    pretrained = load_pretrained(checkpoint, options.branch)
    extract, rounded_to = _extractor(pretrained, options)
    _check(extract, videos, options, rounded_to)
    records = records_folder(pretrained.path)
    protocol = VideoSegmentation.of(options, videos)
    name = pretrained.evaluation_name("davis", options.data.split)
    folder = expanded(options.output or records / f"{name}-{_key(protocol)}")
    writable(folder, "output")
    writable(records, "checkpoint", "copy it to a folder that can be written")
    scores: dict[str, list[ObjectScore]] = {}
    for video in videos:
        scores[video.name] = _segmented(video, extract, options, rounded_to, folder)
        print(f"{video.name:<22}" + _row(scores[video.name]), flush=True)
    numbers = _records(pretrained, options.data.split, protocol, videos, scores)
    if numbers:
        write_records(records, name, numbers)
        _write_table(folder / "objects.csv", scores)
    _report(numbers, folder)
    return numbers


def _propagation(options: DavisOptions) -> Propagation:
    """How labels are handed on."""
    return Propagation(options.n_last_frames, options.size_mask_neighborhood, options.topk, options.temperature)


def _extractor(pretrained: Pretrained, options: DavisOptions) -> tuple[Extract, int]:
    """What maps frames in [0, 1] to features, and what the frames' sides must be multiples of."""
    recipe = pretrained.recipe
    device = torch.device(hardware.find_devices(options.accelerator, 1).accelerator)
    backbone = backbone_of(recipe, any_size=True)
    backbone.load_state_dict(pretrained.backbone.state_dict())
    backbone.to(device)
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", (1, 1))[0]
    if options.short_side % patch:
        problem = f"got {options.short_side}, must be a multiple of the patches' side ({patch})"
        raise UserError("short_side", problem, "change it")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in mean_and_std(recipe.data.dataset, recipe.augmentations[0]))

    def extract(images: Tensor) -> Tensor:
        return dense_features(backbone, ((images - mean) / std).to(device), options.layer)

    return extract, 64 if 64 % patch == 0 else patch


def _check(extract: Extract, videos: Sequence[Video], options: DavisOptions, rounded_to: int) -> None:
    """Read all annotations and segment a first frame: what cannot be done is told before anything is written."""
    for video in videos:
        read_truths(video)
    video = videos[0]
    first = read_truths(video)[0]
    frames = [read_frame(video.frames[0])]
    list(segment(extract, frames, first, options.short_side, rounded_to, _propagation(options)))


def _segmented(
    video: Video, extract: Extract, options: DavisOptions, rounded_to: int, folder: Path
) -> list[ObjectScore]:
    """Masks of one sequence, written and, where they can be, scored."""
    truths = read_truths(video)
    frames = (read_frame(path) for path in video.frames)
    found = list(segment(extract, frames, truths[0], options.short_side, rounded_to, _propagation(options)))
    palette = read_palette(video.annotations[0])
    (folder / video.name).mkdir(parents=True, exist_ok=True)
    for path, labels in zip(video.frames, found):
        write_labels(folder / video.name / f"{path.stem}.png", labels, palette)
    return score_sequence(truths, np.stack(found)) if video.scored else []


# ------------------------------------------------------------------------------------------- results


def _row(scores: Sequence[ObjectScore]) -> str:
    if not scores:
        return " masks without a score: the first frame alone is annotated"
    region, edge = fmean(s.region.mean for s in scores), fmean(s.boundary.mean for s in scores)
    return f" {len(scores)} objects  J {100 * region:5.1f}  F {100 * edge:5.1f}"


def _write_table(path: Path, scores: dict[str, list[ObjectScore]]) -> None:
    """A row per object, in percent."""
    with path.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(["sequence", "object", *(f"{m} {s}" for m in "JF" for s in _MEASURES)])
        for name, objects in scores.items():
            for score in objects:
                values = [f"{100 * v:.2f}" for v in (*score.region, *score.boundary)]
                table.writerow([name, score.object, *values])


def _key(protocol: VideoSegmentation) -> str:
    return hashlib.sha256(repr(protocol.settings).encode()).hexdigest()[:8]


def _records(
    pretrained: Pretrained,
    split: str,
    protocol: VideoSegmentation,
    videos: Sequence[Video],
    scores: dict[str, list[ObjectScore]],
) -> list[Record]:
    """Means over all objects of all scored sequences, as DAVIS reports them; none where nothing was scored."""
    objects = [score for of_video in scores.values() for score in of_video]
    if not objects:
        return []
    scored = [video for video in videos if video.scored]
    values = {f"J {m}": fmean(getattr(o.region, m) for o in objects) for m in _MEASURES}
    values |= {f"F {m}": fmean(getattr(o.boundary, m) for o in objects) for m in _MEASURES}
    values = {"J&F mean": (values["J mean"] + values["F mean"]) / 2, **values}
    protocol = protocol.model_copy(update={"sequences": len(scored), "objects": len(objects)})
    about, frames = pretrained.about, sum(len(video.frames) - 2 for video in scored)
    return [
        Record(metric=metric, value=100 * value, images=frames, data=f"DAVIS-2017 {split}", protocol=protocol, **about)  # type: ignore[arg-type]
        for metric, value in values.items()
    ]


def _report(records: Sequence[Record], folder: Path) -> None:
    if records:
        print(", ".join(f"{r.metric} {r.value:.1f}" for r in records))
        print(records[0].stated)
    print(f"Masks: {folder}")
