"""Splits whose decoded pictures stay in memory, here or on a GPU: only the first epoch reads the shards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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


class KeptOnDevice:
    """The same in a device's memory, batch by batch."""

    def __init__(self, pictures: int, device: torch.device) -> None:
        shape = (pictures, paper.IMAGE_SIZE, paper.IMAGE_SIZE, 3)
        self.pixels = torch.empty(shape, dtype=torch.uint8, device=device)
        self.there: NDArray[np.bool_] = np.zeros(pictures, dtype=np.bool_)

    def batch(
        self, samples: NDArray[np.int64], rows: int, decoded: Callable[[NDArray[np.int64], int], Tensor]
    ) -> Tensor:
        """(rows, 3, 256, 256) uint8 on the device; what is not there yet is `decoded`, on the host."""
        device = self.pixels.device
        new = samples[~self.there[samples]]
        if len(new):
            pictures = decoded(new, len(new)).permute(0, 2, 3, 1).to(device)
            self.pixels[torch.from_numpy(new).to(device)] = pictures
            if device.type == "cuda":  # another thread's stream may read them next
                torch.cuda.current_stream(device).synchronize()
            self.there[new] = True
        found = self.pixels.new_zeros((rows, *self.pixels.shape[1:]))
        found[: len(samples)] = self.pixels[torch.from_numpy(samples).to(device)]
        return found.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class KeptSplit(Split):
    kept: Kept | KeptOnDevice | None = None

    def part(self, count: int | None) -> Split:
        """Not kept: a part is read once."""
        return Split(self.name, self.shards, self.index, self.encoding, self.far).part(count)


def in_memory(dataset: Dataset, processes: int) -> Dataset:
    """The dataset with room for what a training reads, in each of so many processes of this machine.

    Raises AlexNetError where it does not fit.
    """
    counts, free = _counts(dataset), free_memory()
    each = f" in each of {processes} processes" if processes > 1 else ""
    refusal = _refusal("memory", sum(counts.values()), processes, each, free)
    if sum(counts.values()) * PICTURE * processes > free - RESERVE:
        raise refusal
    try:
        return _keeping(dataset, {name: Kept(count) for name, count in counts.items()})
    except MemoryError:  # the system lends less than is free
        raise refusal from None


def on_device(dataset: Dataset, device: torch.device) -> Dataset:
    """The dataset with room on a GPU for what a training reads; AlexNetError where it does not fit."""
    if device.type != "cuda":
        raise AlexNetError("--cache device: the training is not on a CUDA GPU", "use --cache memory")
    counts, (free, _) = _counts(dataset), torch.cuda.mem_get_info(device)
    if sum(counts.values()) * PICTURE > free - RESERVE:
        raise _refusal("device", sum(counts.values()), 1, " on the GPU", free)
    return _keeping(dataset, {name: KeptOnDevice(count, device) for name, count in counts.items()})


def _counts(dataset: Dataset) -> dict[str, int]:
    return {name: len(dataset.splits[name].index) for name in USED if name in dataset.splits}


def _keeping(dataset: Dataset, kept: Mapping[str, Kept | KeptOnDevice]) -> Dataset:
    splits = {
        name: KeptSplit(split.name, split.shards, split.index, split.encoding, split.far, kept[name])
        if name in kept
        else split
        for name, split in dataset.splits.items()
    }
    return replace(dataset, splits=splits)


def _refusal(option: str, pictures: int, copies: int, where: str, free: int) -> AlexNetError:
    return AlexNetError(
        f"--cache {option}: {pictures:,} decoded pictures{where} need {_size(pictures * PICTURE * copies)}, and "
        f"of the {_size(free)} that are free {_size(RESERVE)} are kept for the training itself",
        "leave --cache out: the shards are read as the pictures are needed",
    )


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
