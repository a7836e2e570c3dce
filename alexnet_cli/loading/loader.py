"""Batches out of shards: read by offset, decoded and cut by threads of this process, a few batches ahead.

Reading, decoding and tensor arithmetic all release the GIL, so threads are as quick as worker processes, and
there is no shared memory to run out of, nothing to pickle and nothing left behind after a crash.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli.loading import augmentation, draws
from alexnet_cli.loading.memory import Memory
from alexnet_cli.loading.plan import BATCHES_AHEAD, Plan, shard_lengths
from alexnet_cli.loading.reader import EvaluationBatch
from alexnet_cli.loading.reader import Reader as Reader
from alexnet_cli.loading.transfer import beside_training, handed_over
from alexnet_cli.machine import cores
from alexnet_cli.recipes import Recipe

ASKED_EVERY = 0.5
"""Seconds after which one who waits for a batch is asked whether to go on waiting."""

T = TypeVar("T")
B = TypeVar("B")


@dataclass(frozen=True)
class TrainingBatch:
    pixels: Tensor  # (rows, 3, side, side) float32, cut and less the mean; on a CPU in channels_last
    masks: tuple[Tensor, Tensor]  # (rows, units) float32: which units of fc6 and fc7 are kept
    labels: Tensor
    weights: Tensor
    samples: NDArray[np.int64]


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
    memory: Memory = field(default_factory=partial(Memory, np.float32))
    """Where batches are cut on a CPU."""

    def __call__(self, place: tuple[int, int]) -> TrainingBatch:
        with beside_training(self.device):
            batch = self._built(*place)
        handed_over(batch.pixels, *batch.masks, batch.labels, batch.weights)
        return batch

    def _built(self, epoch: int, step: int) -> TrainingBatch:
        self.reader.expect(self.plan, epoch, step, self.recipe.schedule.epochs)
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
        pictures = pictures.to(self.device, non_blocking=True)
        if self.device.type != "cpu":
            return augmentation.cut(pictures, patches, views, noise)
        memory = self.memory.array((len(pictures), patches.side, patches.side, 3))
        return augmentation.cut(pictures, patches, views, noise, memory)

    def _mask(self, purpose: draws.Purpose, epoch: int, positions: NDArray[np.int64], units: int) -> Tensor:
        kept = draws.kept(self.seed, purpose, epoch, positions, units, self.recipe.network.dropout)
        return torch.from_numpy(kept.astype(np.float32)).to(self.device)


def evaluation_batches(
    reader: Reader,
    batch_size: int,
    rank: int,
    ranks: int,
    threads: int,
    given_up: Callable[[], bool] | None = None,
) -> Iterator[EvaluationBatch]:
    """The split in index order, in batches cut the same whatever the ranks; each rank takes every `ranks`-th.

    Raises GivenUp when `given_up()` says so while the next one is waited for; the reader is closed then.
    """
    plan = Plan(len(reader.split.index), batch_size, None, shards=shard_lengths(reader.split.index["shard"]))
    build = partial(_evaluation_batch, reader, plan)
    for batch in ahead(build, range(rank, plan.steps, ranks), threads, given_up):
        if isinstance(batch, Exception):
            reader.close()  # so that no thread waits for a shard from afar any more
            raise batch
        yield batch


def _evaluation_batch(reader: Reader, plan: Plan, step: int) -> EvaluationBatch:
    reader.expect(plan, 0, step, 1)
    return reader.batch(plan.part(0, step))


def threads() -> int:
    """Loader threads for this process: at most four, and no more than it has cores."""
    return min(4, cores())


class GivenUp(Exception):
    """The next batch is not there yet, and nobody waits for it any more."""


def taken(batch: B | Exception) -> B | None:
    """What `ahead` gave: the batch, or None where it was given up. An error in building it is raised here."""
    if isinstance(batch, GivenUp):
        return None
    if isinstance(batch, Exception):
        raise batch
    return batch


@overload
def ahead(
    build: Callable[[T], B], places: Iterable[T], threads: int, given_up: None = None
) -> Generator[B, None, None]: ...


@overload
def ahead(
    build: Callable[[T], B], places: Iterable[T], threads: int, given_up: Callable[[], bool]
) -> Generator[B | Exception, None, None]: ...


def ahead(
    build: Callable[[T], B], places: Iterable[T], threads: int, given_up: Callable[[], bool] | None = None
) -> Generator[B | Exception, None, None]:
    """`build(place)` for each place, in order, a few of them built ahead by `threads` threads.

    In each of them torch works without further threads: they are as many as are to work. An error in a thread is
    raised here, at the place it belongs to. Leaving the iteration stops the threads, and waits for them.
    With `given_up` nothing is raised, so that the caller may do something before that wait: what is amiss comes in
    the place of a batch, for `taken`: the error, or GivenUp if `given_up()` says so while one is waited for.
    """
    remaining = iter(places)
    torch.get_num_threads()  # a thread that never asked for its number would get the one given next
    pool = ThreadPoolExecutor(threads, "loader", torch.set_num_threads, (1,))
    waiting: deque[Future[B]] = deque()
    try:
        waiting.extend(pool.submit(build, place) for place in islice(remaining, max(threads, BATCHES_AHEAD)))
        while waiting:
            while given_up is not None and not wait([waiting[0]], ASKED_EVERY).done:
                if given_up():
                    yield GivenUp()
            built = waiting.popleft()
            if given_up is not None and isinstance(error := built.exception(), Exception):
                yield error
                continue
            ready = built.result()
            waiting.extend(pool.submit(build, place) for place in islice(remaining, 1))
            torch.set_num_threads(torch.get_num_threads())  # our caller's, for threads that begin from here on
            yield ready
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
