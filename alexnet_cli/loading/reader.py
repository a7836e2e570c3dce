"""The pictures of one split, by offset out of its shards, each decoded straight into its place in a batch."""

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli import paper
from alexnet_cli.dataset.images import PictureError, Pixels, read_stored
from alexnet_cli.dataset.manifest import Split
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.kept import Kept, KeptOnDevice, KeptSplit
from alexnet_cli.loading.memory import Memory
from alexnet_cli.loading.plan import Part, Plan
from alexnet_cli.machine import ADVISED

OPEN_SHARDS = 64
"""Kept open at once, the last used: an epoch goes through a window of fewer at a time."""

AT_ONCE = 1 << 17
"""Bytes that the system is asked for in one call: of more, Linux reads no more than its own read-ahead."""

SHAPE = (paper.IMAGE_SIZE, paper.IMAGE_SIZE, 3)
AGAIN = "put the shard back as it was, or prepare the dataset again"


@dataclass(frozen=True)
class EvaluationBatch:
    """Rows beyond the pictures of the part are padding: zeros, label 0, weight 0."""

    pictures: Tensor  # (rows, 3, 256, 256) uint8, in memory as decoded: rows, height, width, colour
    labels: Tensor  # (rows,) int64
    weights: Tensor  # (rows,) float32
    samples: NDArray[np.int64]  # places in the split's index, without the padding


class Reader:
    """Random access to the pictures of one split; safe to use from several threads. Close it, or use `with`.

    For a CUDA device the batches lie in memory that it copies from while the processor does other work.
    """

    def __init__(self, split: Split, device: torch.device | None = None) -> None:
        self.split = split
        pinned = device is not None and device.type == "cuda"
        self._shards = split.far.lend() if split.far is not None else _Shards(split.shards)
        self._memory = Memory(np.uint8, pinned)
        kept = split.kept if isinstance(split, KeptSplit) else None
        self._kept = kept if isinstance(kept, Kept) else None
        self._on_device = kept if isinstance(kept, KeptOnDevice) else None

    def close(self) -> None:
        """Threads that are in the middle of a batch finish it, but for those that wait for a shard from afar."""
        self._shards.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def expect(self, plan: Plan, epoch: int, step: int, epochs: int) -> None:
        """Say before a batch of `plan` where the reading is, so that shards come in time, each in one stretch."""
        kept = self._kept or self._on_device
        if kept is not None and kept.there.all():
            return
        shards = self.split.index["shard"]
        to_have, going = (tuple(shards[near].tolist()) for near in plan.near(epoch, step, epochs))
        if isinstance(self._shards, _Shards):
            self._shards.advise(to_have)
        else:
            self._shards.want((epoch, step), to_have, going)

    def picture(self, sample: int) -> Tensor:
        """(3, 256, 256) uint8."""
        pixels = np.empty(SHAPE, dtype=np.uint8)
        self._read(sample, self.split.index[sample].item(), pixels)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def batch(self, part: Part) -> EvaluationBatch:
        """The part's pictures, on the device where a split is kept on one."""
        if self._on_device is not None:
            pictures = self._on_device.batch(part.samples, part.rows, self._decoded)
        else:
            pictures = self._decoded(part.samples, part.rows)
        count = len(part.samples)
        labels, weights = torch.zeros(part.rows, dtype=torch.int64), torch.zeros(part.rows)
        labels[:count] = torch.from_numpy(self.split.index["label"][part.samples].astype(np.int64))
        weights[:count] = 1
        return EvaluationBatch(pictures, labels, weights, part.samples)

    def _decoded(self, samples: NDArray[np.int64], rows: int) -> Tensor:
        pictures, places = self._memory.array((rows, *SHAPE)), self.split.index[samples].tolist()
        for pixels, sample, place in zip(pictures, samples.tolist(), places, strict=False):
            self._read(sample, place, pixels)
        pictures[len(samples) :] = 0
        return torch.from_numpy(pictures).permute(0, 3, 1, 2)

    def _read(self, sample: int, place: tuple[int, int, int, int], target: Pixels) -> None:
        """Fill `target` (256, 256, 3); an error names the shard that is gone, changed, cut short or damaged."""
        if self._kept is not None and self._kept.give(sample, target):
            return
        shard, offset, size, _ = place
        try:
            with self._shards.opened(shard) as descriptor:
                data = os.pread(descriptor, size, offset)
            if len(data) < size:
                raise PictureError(f"the shard ends {size - len(data):,} bytes too early")
            read_stored(data, self.split.encoding, target)
        except (OSError, PictureError) as error:
            wrong = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else f"is damaged: {error}"
            path = self.split.shards[shard]
            raise AlexNetError(f"the picture at byte {offset} of {path} {wrong}", AGAIN) from error
        if self._kept is not None:
            self._kept.keep(sample, target)


@dataclass
class _Open:
    descriptor: int
    users: int = 0


class _Shards:
    """Shards opened when they are first needed, the last used kept open; none is closed while it is in use."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self._states = [_state_at(path) for path in paths]
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._advised: set[int] = set()
        self._most, self._lock = OPEN_SHARDS, Lock()

    @contextmanager
    def opened(self, shard: int) -> Iterator[int]:
        """The descriptor of a shard that is still what it was."""
        with self._lock:
            file = self._open.pop(shard, None) or _Open(os.open(self._paths[shard], os.O_RDONLY))
            self._open[shard] = file  # at the end, as the last used
            file.users += 1
        try:
            self._check(shard, file.descriptor)
            yield file.descriptor
        finally:
            with self._lock:
                file.users -= 1
                if len(self._open) > self._most:
                    self._close_beyond(self._most)

    def advise(self, shards: tuple[int, ...]) -> None:
        """Have the system read the first of these that it was not asked for yet, from front to back.

        One for each batch: a window has many more batches than shards, so those of the next are asked for one by
        one while this one is read. What goes wrong is left to the reading.
        """
        with self._lock:
            self._advised &= set(shards)  # in the next epoch they are asked for again
            new = next((shard for shard in shards if shard not in self._advised), None)
            if new is None or not ADVISED:
                return
            self._advised.add(new)
        with suppress(OSError), self.opened(new) as descriptor:
            for offset in range(0, self._states[new][0], AT_ONCE):
                os.posix_fadvise(descriptor, offset, AT_ONCE, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        with self._lock:
            self._most = 0  # those in use are closed by their users
            self._close_beyond(0)

    def _check(self, shard: int, descriptor: int) -> None:
        if _state(os.fstat(descriptor)) != self._states[shard]:
            raise OSError(errno.ESTALE, "the shard was changed or replaced while it was in use")

    def _close_beyond(self, most: int) -> None:
        idle = [shard for shard, file in self._open.items() if not file.users]
        for shard in idle[: max(0, len(self._open) - most)]:
            os.close(self._open.pop(shard).descriptor)


def _state_at(path: Path) -> tuple[int, int]:
    try:
        return _state(path.stat())
    except OSError as error:
        raise AlexNetError(f"the shard {path} cannot be read: {error.strerror}", AGAIN) from error


def _state(found: os.stat_result) -> tuple[int, int]:
    """What tells that a file is another than before: its size and time, which a network's disk may round."""
    return found.st_size, int(found.st_mtime)
