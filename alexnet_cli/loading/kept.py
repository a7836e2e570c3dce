"""Splits whose decoded pictures stay in this process's memory, so that only the first epoch reads the shards."""

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from alexnet_cli import paper
from alexnet_cli.dataset.images import Pixels
from alexnet_cli.dataset.manifest import Dataset, Split
from alexnet_cli.errors import AlexNetError

PICTURE = 3 * paper.IMAGE_SIZE**2  # bytes
RESERVE = 4 * 10**9
"""Bytes left alone: a step of 128 pictures on the CPU takes about three quarters of that."""

USED = ("train", "val")  # by a training
CGROUPS = Path("/sys/fs/cgroup")


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


def free_memory() -> int:
    """Bytes this process may still take: of the machine, and of the control groups a scheduler put it in."""
    return min([_free_in_machine(), *_free_in_groups()])


def _free_in_machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # macOS, which does not say so simply what is free
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_in_groups() -> list[int]:
    """Of the process's group and those around it, as version 2 of Linux's control groups has them."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::/")[2]
    except OSError:
        return []
    groups = (CGROUPS / group for group in (PurePosixPath(own), *PurePosixPath(own).parents))
    return [free for group in groups if (free := _free_in_group(group)) is not None]


def _free_in_group(group: Path) -> int | None:
    """None where there is no limit."""
    names = ("memory.max", "memory.current", "memory.stat")
    try:
        limit, used, details = ((group / name).read_text(encoding="ascii") for name in names)
    except OSError:
        return None
    if limit.strip() == "max":
        return None
    lines = dict(line.split() for line in details.splitlines())
    # Files that were read are counted as used, and given up when memory is short.
    return max(0, int(limit) - int(used) + int(lines.get("inactive_file", 0)))


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
