"""One shard read again, from its first byte to its last: its checksum, its members and their pictures together.

Nothing is kept of it but what is wrong.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet_cli.dataset import images
from alexnet_cli.dataset.shards import BLOCK
from alexnet_cli.dataset.treatment import Treatment
from alexnet_cli.dataset.workers import NOWHERE, Lost, Watch

CHUNK = 64  # pictures between two reports of progress
MEMBER_LIMIT = 1 << 26  # bytes; no stored picture is near it
LABEL = ".cls"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with `file` or, where it is only `odd`, worth a look."""

    file: str
    what: str
    odd: bool = False


@dataclass(frozen=True)
class Task:
    """A shard and what is said of it: `rows` of the index, INDEX_DTYPE, or None where that is no use."""

    name: str
    path: Path
    pictures: int
    checksum: str
    rows: np.ndarray | None
    classes: int
    treatment: Treatment


@dataclass(frozen=True)
class Member:
    name: str
    offset: int
    data: bytes

    @property
    def key(self) -> str:
        return self.name.partition(".")[0]


News = tuple[int, tuple[Finding, ...]]  # pictures read since the last report; findings come with the last


class ShardError(Exception):
    """A shard that cannot be read on; the message is the short reason."""


def check_shard(task: Task, *, lost: Lost, watch: Watch) -> Iterator[News]:
    """Read a shard, give pictures read and, at the end, what is wrong; `watch` is told which one is decoded."""
    found: list[Finding] = []
    count = 0
    try:
        with task.path.open("rb") as file:
            reader = Reader(file)
            try:
                for count, (label, picture) in enumerate(pairs(reader), start=1):
                    for what in check_picture(task, count - 1, label, picture, lost, watch):
                        found.append(Finding(task.name, f"{picture.name}: {what}"))
                    if count % CHUNK == 0 and count <= task.pictures:
                        yield CHUNK, ()
                if count != task.pictures:
                    found.append(Finding(task.name, f"it holds {count} pictures instead of {task.pictures}"))
            except ShardError as error:
                found.append(Finding(task.name, f"after {count} of {task.pictures} pictures: {error}"))
            reader.read_rest()
            if reader.digest.hexdigest() != task.checksum:
                found.append(Finding(task.name, "its checksum is not the manifest's"))
    except FileNotFoundError:
        pass  # `check_files` has said so
    except OSError as error:
        found.append(Finding(task.name, f"cannot be read: {error.strerror}"))
    yield task.pictures - min(count, task.pictures) // CHUNK * CHUNK, tuple(found)


def check_picture(
    task: Task, position: int, label: Member, picture: Member, lost: Lost, watch: Watch
) -> Iterator[str]:
    """Hold one picture against its row of the index and against the size the manifest states."""
    text = label.data.decode("ascii", "backslashreplace")
    if not text.isdecimal() or int(text) >= task.classes:
        yield f"label {text[:20]!r}, and there are {task.classes} classes"
    if not picture.name.endswith(f".{task.treatment.extension}"):
        yield f"it is no .{task.treatment.extension}"
    if task.rows is not None and position < len(task.rows):
        _, offset, size, number = task.rows[position].tolist()
        if (offset, size) != (picture.offset, len(picture.data)):
            yield f"it is at byte {picture.offset}, {len(picture.data)} long; the index has {offset}, {size}"
        if text != str(number):
            yield f"label {text[:20]}; the index has {number}"
    if position in lost:
        yield lost[position]
        return
    watch(position)
    try:
        height, width = shape_of(picture.data, task.treatment)
    except images.PictureError as error:
        yield str(error)
    else:
        size, shorter = task.treatment.size, task.treatment.geometry == "shorter"
        if min(height, width) != size or (max(height, width) != size and not shorter):
            yield f"{width}×{height} pixels instead of {size}×{size}"
    finally:
        watch(NOWHERE)


def shape_of(data: bytes, treatment: Treatment) -> tuple[int, int]:
    """Decode a whole stored picture for its height and width; raises PictureError."""
    pixels = images.raw_pixels(data) if treatment.encoding == "raw" else images.decode(data)
    return pixels.shape[0], pixels.shape[1]


class Reader:
    """A file that is read forwards only, and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.at, self.digest = file, 0, hashlib.sha256()

    def read(self, count: int) -> bytes:
        data = self.file.read(count)
        self.digest.update(data)
        self.at += len(data)
        if len(data) < count:
            raise ShardError(f"it is cut short at byte {self.at}")
        return data

    def read_rest(self) -> None:
        while data := self.file.read(1 << 20):
            self.digest.update(data)


def members(reader: Reader) -> Iterator[Member]:
    """Read plain files, as we write them and nothing else, up to the empty block at the end of a tar."""
    while (header := reader.read(BLOCK)).strip(b"\0"):
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ShardError(f"no tar header at byte {reader.at - BLOCK}: {error}") from None
        if not info.isreg() or not 0 <= info.size <= MEMBER_LIMIT:
            raise ShardError(f"no plain file at byte {reader.at - BLOCK}: {info.name}")
        offset, data = reader.at, reader.read(info.size)
        reader.read(-info.size % BLOCK)
        yield Member(info.name, offset, data)


def pairs(reader: Reader) -> Iterator[tuple[Member, Member]]:
    """Give label and picture of each key, which lie side by side."""
    keys: set[str] = set()
    its = members(reader)
    for one in its:
        other = next(its, None)
        if other is None or one.key != other.key or one.name.endswith(LABEL) == other.name.endswith(LABEL):
            raise ShardError(f"{one.name} is not beside its label or picture")
        if one.key in keys:
            raise ShardError(f"{one.key} is there twice")
        keys.add(one.key)
        yield (one, other) if one.name.endswith(LABEL) else (other, one)
