"""Training batches decoded and augmented by DALI, on the GPU or on the CPU: the torchvision loader's very crops."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from solo_bam.config.schema import Recipe
from solo_bam.core.errors import UserError
from solo_bam.data.datasets.images import Images, open_image, reason
from solo_bam.data.sampling import ignore_termination, seeded
from solo_bam.data.transforms.draws import crop_size, draw_all, kind

Pipelines = Sequence[tuple[T.Compose, int]]


def check_dali(recipe: Recipe, pipelines: Pipelines) -> None:
    """Whether DALI can do what the recipe asks for.

    Raises:
        UserError: it is not installed, lacks an operation, or is to run on a GPU that is not there.
    """
    for pipeline, _ in pipelines:
        for transform in pipeline.transforms:
            kind(transform)
    if recipe.data.on_error == "skip":
        raise UserError(
            "data.on_error", "got 'skip', DALI skips nothing", "set data.on_error=stop or another data.format"
        )
    if recipe.dali.device == "gpu" and not torch.cuda.is_available():
        raise UserError("dali.device", "got 'gpu', this machine has none that CUDA can use", "set dali.device=cpu")
    try:
        import nvidia.dali  # noqa: F401
    except ImportError:
        raise UserError("data.format", "got 'dali', DALI is not installed", "pip install 'solo-bam[dali]'") from None


def files_of(images: Images) -> tuple[list[str], list[int]]:
    """Paths and labels of a dataset of image files.

    Raises:
        UserError: its images are no files.
    """
    if not hasattr(images, "samples"):
        raise UserError(
            "data.format",
            f"got 'dali', which reads image files, and {images.split.place} holds none",
            "set data.format=image_folder, the torchvision loader",
        )
    return [path for path, _ in images.samples], [label for _, label in images.samples]


class Encoded(Dataset[tuple[int, int, np.ndarray, np.ndarray]]):
    """Index, label, bytes of the file and random decisions of an image in an epoch.

    Args:
        files: paths and labels.
        pipelines: torchvision pipelines and how many crops of each.
        seed: of the run.
    """

    def __init__(self, files: tuple[list[str], list[int]], pipelines: Pipelines, seed: int):
        self.paths, self.labels = files
        self.pipelines, self.seed = pipelines, seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int, np.ndarray, np.ndarray]:
        epoch, index = key
        try:
            content = np.fromfile(self.paths[index], dtype=np.uint8)
            image = open_image(io.BytesIO(content.tobytes()))
        except OSError as error:
            raise UserError(
                "data.train_path",
                f"{self.paths[index]} cannot be read ({reason(error)})",
                "replace it (solo-bam doctor --data RECIPE lists all such images)",
            ) from None
        with image, seeded(self.seed, epoch, index):  # the stream is seeded as for the torchvision loader
            draws = draw_all(self.pipelines, image)
        return index, self.labels[index], content, draws


def _collate(members: list[tuple[int, int, np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Indexes, labels, lengths of the files, all files one after the other, decisions."""
    indexes, labels, contents, draws = zip(*members)
    lengths = [len(content) for content in contents]
    return (
        torch.tensor(indexes),
        torch.tensor(labels),
        torch.tensor(lengths),
        torch.from_numpy(np.concatenate(contents)),
        torch.from_numpy(np.stack(draws)),
    )


class DaliLoader:
    """Batches ``[indexes, [crops], labels]`` as the torchvision loader gives them, made by DALI.

    Worker processes read the files and take the random decisions; threads of DALI's decode and augment.

    Args:
        files: paths and labels.
        pipelines: torchvision pipelines and how many crops of each.
        sampler: gives ``(epoch, index)``.
        seed: of the run.
        batch_size: images; an incomplete last batch is dropped.
        workers: processes that read, and DALI's threads.
        device: ``gpu`` (torch's current one) or ``cpu``.
    """

    def __init__(
        self,
        files: tuple[list[str], list[int]],
        pipelines: Pipelines,
        sampler: Any,
        seed: int,
        batch_size: int,
        workers: int,
        device: str,
    ):
        self.pipelines, self.sampler, self.batch_size = pipelines, sampler, batch_size
        self.threads, self.gpu = max(1, workers), device == "gpu"
        self.reader = DataLoader(
            Encoded(files, pipelines, seed),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
            collate_fn=_collate,
            worker_init_fn=ignore_termination,
        )
        self.dataset = self.reader.dataset  # some methods ask for its length
        self._pipe: Any = None
        self._batches: Iterator[Any] = iter(())
        self._waiting: deque[tuple[Tensor, Tensor]] = deque()

    def __len__(self) -> int:
        return len(self.reader)

    def __iter__(self) -> Iterator[list[Any]]:
        last = len(self) - getattr(self.sampler, "start", 0) // self.batch_size  # a run may go on in mid-epoch
        self._batches = iter(self.reader)
        self._waiting.clear()
        # An epoch that is broken off leaves batches in the pipeline: the next one then builds its own.
        pipe, self._pipe = self._pipe or self._build(), None
        for number in range(1, last + 1):
            crops = self._run(pipe)
            indexes, labels = self._waiting.popleft()
            if number == last:  # before the last batch goes out: nobody may ask for more
                self._finish(pipe)
            yield [indexes, crops, labels]

    def _build(self) -> Any:
        from solo_bam.data.loaders.dali_graph import crops_graph

        return crops_graph(
            self.pipelines,
            self._next,
            self.gpu,
            batch_size=self.batch_size,
            num_threads=self.threads,
            device_id=torch.cuda.current_device() if self.gpu else None,
        )

    def _next(self) -> list[Any]:
        """DALI asks for a batch, ahead of time."""
        from solo_bam.data.loaders.dali_graph import names

        indexes, labels, lengths, contents, draws = next(self._batches)
        self._waiting.append((indexes, labels))
        files = np.split(contents.numpy(), np.cumsum(lengths.numpy())[:-1])
        widths = [width for _, width in names(self.pipelines)]
        parts = np.split(draws.numpy(), np.cumsum(widths)[:-1], axis=1)
        return [files, *map(np.ascontiguousarray, parts)] if widths else [files]

    def _run(self, pipe: Any) -> list[Tensor]:
        from nvidia.dali.plugin.pytorch import feed_ndarray

        device = torch.device("cuda", torch.cuda.current_device()) if self.gpu else torch.device("cpu")
        stream = torch.cuda.current_stream() if self.gpu else None
        sizes = [crop_size(pipeline) for pipeline, count in self.pipelines for _ in range(count)]
        crops = []
        for output, size in zip(self._outputs(pipe), sizes):
            crop = torch.empty(self.batch_size, 3, size, size, device=device)
            crops.append(feed_ndarray(output.as_tensor(), crop, cuda_stream=stream))
        return crops

    def _outputs(self, pipe: Any) -> Any:
        try:
            return pipe.run()
        except RuntimeError as error:
            said = " ".join(str(error).split())[:300]
            raise UserError("data.train_path", f"DALI failed ({said})", "try solo-bam doctor --data RECIPE") from None

    def _finish(self, pipe: Any) -> None:
        try:
            pipe.run()
        except StopIteration:
            pipe.reset()
            self._pipe = pipe
