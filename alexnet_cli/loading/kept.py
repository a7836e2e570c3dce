"""Splits whose decoded pictures stay in this process's memory, so that only the first epoch reads the shards."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexnet_cli import paper
from alexnet_cli.dataset.images import Pixels
from alexnet_cli.dataset.manifest import Dataset, Split
from alexnet_cli.errors import AlexNetError
from alexnet_cli.machine import free_memory

PICTURE = 3 * paper.IMAGE_SIZE**2  # bytes
RESERVE = 4 * 10**9
"""Bytes left alone: a step of 128 pictures on the CPU takes about three quarters of that."""

USED = ("train", "val")  # by a training


class Kept:
    """Room for every picture of a split, filled as they are read, by any number of threads at once."""

    def __init__(self, pictures: int) -> None:
        # The system gives the memory behind it only when it is written to.
        self.pixels = np.empty((pictures, paper.IMAGE_SIZE, paper.IMAGE_SIZE, 3), dtype=np.uint8)
        self.there: NDArray[np.bool_] = np.zeros(pictures, dtype=np.bool_)

    def give(self, sample: int, target: Pixels) -> bool:
        """Whether the picture is there; then `target` (256, 256, 3) becomes it."""
        if not self.there[sample]:
            return False
        target[:] = self.pixels[sample]
        return True

    def keep(self, sample: int, pixels: Pixels) -> None:
        self.pixels[sample] = pixels
        self.there[sample] = True  # last, for a thread that asks meanwhile; two that read it write the same


@dataclass(frozen=True)
class KeptSplit(Split):
    kept: Kept | None = None

    def part(self, count: int | None) -> Split:
        """Not kept: a part is read once."""
        return Split(self.name, self.shards, self.index, self.encoding).part(count)


def in_memory(dataset: Dataset, processes: int) -> Dataset:
    """The dataset with room for what a training reads, in each of so many processes of this machine.

    Raises AlexNetError where it does not fit.
    """
    counts = {name: len(dataset.splits[name].index) for name in USED if name in dataset.splits}
    needed, free = sum(counts.values()) * PICTURE * processes, free_memory()
    each = f" in each of {processes} processes" if processes > 1 else ""
    refusal = AlexNetError(
        f"--cache memory: {sum(counts.values()):,} decoded pictures{each} need {_size(needed)}, and of the "
        f"{_size(free)} that are free {_size(RESERVE)} are kept for the training itself",
        "leave --cache out: the shards are read as the pictures are needed",
    )
    if needed > free - RESERVE:
        raise refusal
    try:
        kept = {name: Kept(count) for name, count in counts.items()}
    except MemoryError:  # the system lends less than is free
        raise refusal from None
    splits = {
        name: KeptSplit(split.name, split.shards, split.index, split.encoding, kept[name])
        if name in kept
        else split
        for name, split in dataset.splits.items()
    }
    return replace(dataset, splits=splits)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
