"""Which pictures make up each batch: a pure function of (seed, epoch, step), with random access.

A shuffled epoch goes through its shards in a drawn order, a window of them at a time, and through the pictures of
a window in another: near a full permutation, while the disk sees each shard once. See docs/loading.md.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from alexnet_cli.loading import draws

WINDOW = 16
"""Shards that are mixed, at most: 32,768 pictures, or 0.7 GB of JPEG, if they are full."""

BATCHES_AHEAD = 8
"""Batches that are built or lie ready while one is used: of fewer, a thread that is held up has soon spent all."""

AT_ONCE = 1 << 20  # index rows


@dataclass(frozen=True)
class Part:
    """One rank's share of one batch: `positions` in the epoch and the `samples` of the index they mean.

    Every rank has the same number of `rows`; the rows beyond `len(positions)` are padding of weight 0.
    """

    positions: NDArray[np.int64]
    samples: NDArray[np.int64]
    rows: int


@dataclass(frozen=True)
class Plan:
    """Every picture exactly once in an epoch, in batches of `batch_size` over all ranks together.

    With `seed` None the order is that of the index (evaluation); else it is drawn, for each epoch anew or
    once for all.
    """

    pictures: int
    batch_size: int
    seed: int | None
    reshuffled: bool = True
    shards: tuple[int, ...] = ()
    """How many pictures of the index lie in each shard, in its order; () mixes all of them, as one shard does."""

    @property
    def steps(self) -> int:
        """Batches in an epoch; the last one may be short."""
        return -(-self.pictures // self.batch_size)

    def pictures_in(self, step: int) -> int:
        """Pictures of batch `step`, over all ranks and without padding."""
        return min(self.batch_size, self.pictures - step * self.batch_size)

    def part(self, epoch: int, step: int, rank: int = 0, ranks: int = 1) -> Part:
        """The rank's rows of batch `step` (0-based) of `epoch`: a slice of the batch's one order."""
        rows = -(-self.batch_size // ranks)
        start = step * self.batch_size
        stop = min(start + self.batch_size, self.pictures)
        first = min(start + rank * rows, stop)
        positions = np.arange(first, min(first + rows, stop))
        return Part(positions, self._samples(epoch, positions), rows)

    def near(self, epoch: int, step: int, epochs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shards to have for batch `step`, each by one of its pictures, and those that may be given up soon.

        To have: those of the batch's own window first, then those of the next window, in the next epoch too if
        there is one. Soon to be given up: those of the BATCHES_AHEAD before, which may still be built. None of
        either where the index does not go shard by shard.
        """
        if not self.shards:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        start = step * self.batch_size
        places = start - BATCHES_AHEAD * self.batch_size, start, min(start + self.batch_size, self.pictures) - 1
        windows, starts = self._windows(epoch)
        before, first, last = np.searchsorted(starts, places, "right") - 1 + epoch * len(windows)
        begins = np.cumsum([0, *self.shards[:-1]])

        def pictures(numbers: range) -> NDArray[np.int64]:
            """`numbers` of windows are counted through all epochs."""
            known = (divmod(number, len(windows)) for number in numbers if 0 <= number < epochs * len(windows))
            shards = [self._windows(its_epoch)[0][number] for its_epoch, number in known]
            return np.array(begins[np.concatenate([np.zeros(0, dtype=np.int64), *shards])])

        return pictures(range(first, last + 2)), pictures(range(before, first))

    def _windows(self, epoch: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        return _windows(self.seed, epoch if self.reshuffled else 0, self.shards)

    def _samples(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the epoch's order has at `positions`, which follow one another."""
        if self.seed is None or not len(positions):
            return positions
        drawn = self.seed, epoch if self.reshuffled else 0, self.shards or (self.pictures,)
        start, stop = int(positions[0]), int(positions[-1]) + 1
        _, starts = _windows(*drawn)
        first, last = np.searchsorted(starts, (start, stop - 1), "right") - 1
        return np.concatenate(
            [_window(*drawn, n)[max(start - starts[n], 0) : stop - starts[n]] for n in range(first, last + 1)]
        )


def shard_lengths(shards: NDArray[np.unsignedinteger]) -> tuple[int, ...]:
    """Pictures of each shard, from the index's `shard` column; () if it is not in the order of the shards."""
    changes = [np.zeros(1, dtype=np.int64)]
    for start in range(0, len(shards) - 1, AT_ONCE):  # the column is memory-mapped and may be large
        here, following = shards[start : start + AT_ONCE], shards[start + 1 : start + 1 + AT_ONCE]
        here = here[: len(following)]
        if (following < here).any():
            return ()
        changes.append(start + 1 + np.flatnonzero(following != here))
    return tuple(np.diff(np.concatenate(changes), append=len(shards)).tolist())


@lru_cache(maxsize=3)  # this epoch's, and those beside it while its first and last batches are loaded
def _windows(
    seed: int | None, epoch: int, shards: tuple[int, ...]
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """The shards of each window, equally many, and the positions where each begins and the last ends."""
    order = np.arange(len(shards)) if seed is None else draws.permutation(seed, epoch, len(shards), "shards")
    windows = np.array_split(order, -(-len(shards) // WINDOW))
    lengths = np.array(shards)
    return windows, np.cumsum([0, *(lengths[window].sum() for window in windows)])


@lru_cache(maxsize=3)  # those of the batches that are being loaded; another is drawn in milliseconds
def _window(seed: int, epoch: int, shards: tuple[int, ...], number: int) -> NDArray[np.int64]:
    windows, starts = _windows(seed, epoch, shards)
    ends = np.cumsum(shards)
    # In the index's order, so that a dataset of one window has the order of `draws.permutation`.
    samples = np.concatenate([np.arange(ends[n] - shards[n], ends[n]) for n in np.sort(windows[number])])
    return samples[draws.permutation(seed, epoch, len(samples), first=int(starts[number]))]
