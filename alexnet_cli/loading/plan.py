"""Which pictures make up each batch: a pure function of (seed, epoch, step), with random access."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from alexnet_cli.loading import draws


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
        return Part(positions, self._order(epoch)[positions], rows)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self.seed is None:
            return np.arange(self.pictures)
        return _epoch_order(self.seed, epoch if self.reshuffled else 0, self.pictures)


@lru_cache(maxsize=2)  # this epoch's, and the next one's while its first batches are loaded ahead
def _epoch_order(seed: int, epoch: int, pictures: int) -> NDArray[np.int64]:
    return draws.permutation(seed, epoch, pictures)
