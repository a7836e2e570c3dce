"""One picture on its way from a source: what is known of it, reading it, and asking for it ahead of time.

Training pictures are read in shuffled order. The system is told of them some hundreds in advance, in the order in
which they lie: storage is at work while pictures are decoded, and a hard disk's heads move in one direction.
"""

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from alexnet_cli.machine import ADVISED

SPAN_LIMIT = 1 << 30
OPEN_FILES = 16  # archives that a thread keeps open
AHEAD = 512  # pictures; of ImageNet 56 MB, which wait in memory that the system may take back

Place = tuple[str, int]  # a file, and where in it


class Lazy(Protocol):
    """Bytes that are somewhere inside a file."""

    @property
    def place(self) -> Place: ...

    def read(self) -> bytes:
        """Raises OSError."""

    def expect(self) -> None:
        """Have the system read it soon, and wait for nothing; raises OSError."""


@dataclass(frozen=True)
class Span:
    """A picture inside an archive: `size` bytes from `offset`. Reading raises OSError."""

    path: Path
    offset: int
    size: int

    @property
    def place(self) -> Place:
        return str(self.path), self.offset

    def read(self) -> bytes:
        if self.size > SPAN_LIMIT:
            raise OSError(errno.EFBIG, f"a picture of {self.size} bytes")
        data = os.pread(descriptor(self.path), self.size, self.offset)
        if len(data) != self.size:
            raise OSError(errno.EIO, "the archive has become shorter")
        return data

    def expect(self) -> None:
        os.posix_fadvise(descriptor(self.path), self.offset, self.size, os.POSIX_FADV_WILLNEED)


class Opened(threading.local):
    """The archives that this thread keeps open; a picture is one read then, and no search for a file."""

    def __init__(self) -> None:
        self.descriptors: dict[Path, int] = {}


OPENED = Opened()


def descriptor(path: Path) -> int:
    known = OPENED.descriptors
    if path not in known:
        if len(known) >= OPEN_FILES:
            os.close(known.pop(next(iter(known))))
        known[path] = os.open(path, os.O_RDONLY)
    return known[path]


def release(path: Path) -> None:
    """Close an archive if it is open: the space of one that is removed is free only then."""
    if (known := OPENED.descriptors.pop(path, None)) is not None:
        os.close(known)


@dataclass(frozen=True)
class Record:
    """One picture on its way to a worker: the name that is shown, its label, and its bytes or pixels.

    `content` is a file, a part of one, or decoded uint8 pixels that are (H, W) grey or (H, W, 3) RGB.
    """

    name: str
    stem: str
    label: int
    content: Path | Lazy | np.ndarray

    @property
    def place(self) -> Place:
        if isinstance(self.content, np.ndarray):
            return "", 0
        return (str(self.content), 0) if isinstance(self.content, Path) else self.content.place

    def read(self) -> bytes | np.ndarray:
        if isinstance(self.content, np.ndarray):
            return self.content
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content.read()

    def expect(self) -> None:
        """Have the system read it soon. What goes wrong is left to the reading."""
        if isinstance(self.content, np.ndarray) or not ADVISED:
            return
        try:
            if isinstance(self.content, Path):
                with self.content.open("rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            else:
                self.content.expect()
        except OSError:
            pass


def ahead(records: Sequence[Record]) -> Iterator[Record]:
    """Give the records in their order, and ask for each some AHEAD before, a window at a time in source order."""
    windows = (records[at : at + AHEAD] for at in range(0, len(records), AHEAD))
    coming = (record for window in windows for record in sorted(window, key=lambda record: record.place))
    for _, record in zip(range(AHEAD), coming, strict=False):
        record.expect()
    for record in records:
        if (following := next(coming, None)) is not None:
            following.expect()
        yield record
