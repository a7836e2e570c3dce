"""Batches out of shards: read by offset, decoded and cut by threads of this process, a few batches ahead.

Reading, decoding and tensor arithmetic all release the GIL, so threads are as quick as worker processes, and
there is no shared memory to run out of, nothing to pickle and nothing left behind after a crash.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli import paper
from alexnet_cli.dataset.images import PictureError, read_stored
from alexnet_cli.dataset.manifest import Split
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading import augmentation, draws
from alexnet_cli.loading.plan import Part, Plan
from alexnet_cli.machine import allow_open_files, cores
from alexnet_cli.recipes import Recipe

T = TypeVar("T")
B = TypeVar("B")

BATCHES_AHEAD = 4


@dataclass(frozen=True)
class EvaluationBatch:
    """Rows beyond the pictures of the part are padding: zeros, label 0, weight 0."""

    pictures: Tensor  # (rows, 3, 256, 256) uint8
    labels: Tensor  # (rows,) int64
    weights: Tensor  # (rows,) float32
    samples: NDArray[np.int64]  # places in the split's index, without the padding


@dataclass(frozen=True)
class TrainingBatch:
    pixels: Tensor  # (rows, 3, side, side) float32, cut and less the mean
    masks: tuple[Tensor, Tensor]  # (rows, units) float32: which units of fc6 and fc7 are kept
    labels: Tensor
    weights: Tensor
    samples: NDArray[np.int64]


class Reader:
    """Random access to the pictures of one split; safe to use from several threads. Close it, or use `with`."""

    def __init__(self, split: Split) -> None:
        self.split = split
        allow_open_files(len(split.shards))
        self._files = ExitStack()
        self._descriptors: list[int] = []
        for shard in split.shards:
            try:
                file = self._files.enter_context(shard.open("rb"))
            except OSError as error:
                self.close()
                raise AlexNetError(
                    f"the shard {shard} cannot be opened: {error.strerror}",
                    "put it back, or prepare the dataset again",
                ) from error
            self._descriptors.append(file.fileno())

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def picture(self, sample: int) -> Tensor:
        """(3, 256, 256) uint8; a shard that is cut short or damaged is an error that names it."""
        entry = self.split.index[sample]
        shard, offset, size = int(entry["shard"]), int(entry["offset"]), int(entry["size"])
        pixels = np.empty((paper.IMAGE_SIZE, paper.IMAGE_SIZE, 3), dtype=np.uint8)
        try:
            read_stored(os.pread(self._descriptors[shard], size, offset), self.split.encoding, pixels)
        except (OSError, PictureError) as error:
            raise self._damaged(shard, offset) from error
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _damaged(self, shard: int, offset: int) -> AlexNetError:
        return AlexNetError(
            f"the picture at byte {offset} of {self.split.shards[shard]} is damaged",
            "the shard was cut short or changed after it was written; prepare the dataset again",
        )

    def batch(self, part: Part) -> EvaluationBatch:
        side = paper.IMAGE_SIZE
        pictures = torch.empty((part.rows, 3, side, side), dtype=torch.uint8)
        count = len(part.samples)
        rows = pictures.numpy()  # torch would copy each picture with a team of threads
        for row, sample in enumerate(part.samples.tolist()):
            rows[row] = self.picture(sample).numpy()
        pictures[count:] = 0
        labels, weights = torch.zeros(part.rows, dtype=torch.int64), torch.zeros(part.rows)
        labels[:count] = torch.from_numpy(self.split.index["label"][part.samples].astype(np.int64))
        weights[:count] = 1
        return EvaluationBatch(pictures, labels, weights, part.samples)


@dataclass(frozen=True)
class TrainingBatches:
    """Builds any training batch of a run from its epoch and step, on `device`."""

    reader: Reader
    plan: Plan
    recipe: Recipe
    colours: augmentation.Colours
    seed: int
    rank: int
    ranks: int
    device: torch.device

    def __call__(self, place: tuple[int, int]) -> TrainingBatch:
        epoch, step = place
        part = self.plan.part(epoch, step, self.rank, self.ranks)
        # Padding rows are given views and masks too, those of positions beyond the epoch: one shape, weight 0.
        padding = self.plan.pictures + np.arange(part.rows - len(part.positions))
        positions = np.concatenate([part.positions, padding])
        raw = self.reader.batch(part)
        pixels = self._pixels(raw.pictures, epoch, positions)
        units6, units7 = self.recipe.network.mask_widths
        mask6 = self._mask("fc6", epoch, positions, units6)
        mask7 = self._mask("fc7", epoch, positions, units7)
        labels, weights = raw.labels.to(self.device), raw.weights.to(self.device)
        return TrainingBatch(pixels, (mask6, mask7), labels, weights, part.samples)

    def _pixels(self, pictures: Tensor, epoch: int, positions: NDArray[np.int64]) -> Tensor:
        recipe, seed = self.recipe.augmentation, self.seed
        patches = augmentation.patches_for(self.recipe, self.colours.mean)
        views = augmentation.training_views(recipe, seed, epoch, positions, patches.side)
        noise = None
        if recipe.colour_noise and not 0 < self.recipe.schedule.colour_stop <= epoch:
            noise = augmentation.colour_noise(recipe, self.colours, seed, epoch, positions).to(self.device)
            if recipe.colour_shrinks:
                patches = patches.divided(1 + recipe.colour_noise)
        return augmentation.cut(pictures.to(self.device), patches, views, noise)

    def _mask(self, purpose: draws.Purpose, epoch: int, positions: NDArray[np.int64], units: int) -> Tensor:
        kept = draws.kept(self.seed, purpose, epoch, positions, units, self.recipe.network.dropout)
        return torch.from_numpy(kept.astype(np.float32)).to(self.device)


def evaluation_batches(
    reader: Reader, batch_size: int, rank: int, ranks: int, threads: int
) -> Iterator[EvaluationBatch]:
    """The split in index order, in batches cut the same whatever the ranks; each rank takes every `ranks`-th."""
    plan = Plan(len(reader.split.index), batch_size, None)
    return ahead(partial(_evaluation_batch, reader, plan), range(rank, plan.steps, ranks), threads)


def _evaluation_batch(reader: Reader, plan: Plan, step: int) -> EvaluationBatch:
    return reader.batch(plan.part(0, step))


def threads() -> int:
    """Loader threads for this process: at most four, and no more than it has cores."""
    return min(4, cores())


def ahead(build: Callable[[T], B], places: Iterable[T], threads: int) -> Generator[B, None, None]:
    """`build(place)` for each place, in order, a few of them built ahead by `threads` threads.

    An error in a thread is raised here, at the place it belongs to. Leaving the iteration stops the threads.
    """
    remaining = iter(places)
    pool = ThreadPoolExecutor(threads, "loader")
    waiting: deque[Future[B]] = deque()
    try:
        waiting.extend(pool.submit(build, place) for place in islice(remaining, max(threads, BATCHES_AHEAD)))
        while waiting:
            ready = waiting.popleft().result()
            waiting.extend(pool.submit(build, place) for place in islice(remaining, 1))
            yield ready
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
