"""A source on a hard disk: read once from front to back, each picture into the file of the shard that it goes to.

Without it shuffled shards ask for one picture here and one there, and each waits for the disk to turn. The files
lie in a folder of their own in the one that the user named; `.unfinished` says where. A file has pictures in the
order of the source, then a table of them. It is only a copy: what is not there, or not as its checksum says, is
read from the source, so that no kill and no damage here changes a byte of the dataset.
"""

import os
import re
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from alexnet_cli.dataset.manifest import UNFINISHED
from alexnet_cli.dataset.shards import CHUNK, Shard, Task
from alexnet_cli.dataset.sources.listing import Listing, Pictures
from alexnet_cli.dataset.sources.records import SPAN_LIMIT, Lazy, Place, Span
from alexnet_cli.dataset.space import size, standing
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import read_json, write_json

NOTE = "spool.json"  # in `.unfinished`: where the folder is
FOLDER = re.compile(r"alexnet-spool-[0-9a-f]{16}")
FILE = re.compile(r"\.?(train|val|test)-\d{6,}\.pictures(\.tmp)?")
ROW = np.dtype([("position", "<u4"), ("size", "<u4"), ("checksum", "<u4")])
END = np.dtype([("rows", "<u4"), ("checksum", "<u4"), ("mark", "S8")])  # behind the table: of it
MARK = b"pictures"
BUFFER = 1 << 28  # bytes that wait to be written, so that each file is written in large pieces


@dataclass(frozen=True)
class Copy:
    """A picture in a spool file, or in the source where that has not the same bytes. Reading raises OSError."""

    span: Span
    checksum: int
    source: Path | Lazy

    @property
    def place(self) -> Place:
        return self.span.place

    def expect(self) -> None:
        self.span.expect()

    def read(self) -> bytes:
        try:
            data = self.span.read()
        except OSError:
            data = b""
        if len(data) == self.span.size and zlib.crc32(data) == self.checksum:
            return data
        return self.source.read_bytes() if isinstance(self.source, Path) else self.source.read()


def settle_spool(out: Path, wanted: Path | None) -> None:
    """Note a folder in `wanted`, the one of before if that is there too; what lies elsewhere is removed."""
    before = folder_of(out, None)
    if before and wanted and before.parent == wanted.absolute():
        return
    remove_spool(out)
    if wanted:
        folder = wanted.absolute() / f"alexnet-spool-{secrets.token_hex(8)}"
        write_json(out / UNFINISHED / NOTE, str(folder))


def folder_of(out: Path, wanted: Path | None) -> Path | None:
    """Give the folder that was noted, or None; it is in `wanted`, which may have another name on each machine."""
    note = out / UNFINISHED / NOTE
    folder = Path(str(read_json(note))) if note.is_file() else None
    if folder is None or not FOLDER.fullmatch(folder.name):
        return None
    return wanted.absolute() / folder.name if wanted else folder


def remove_spool(out: Path) -> None:
    """Remove the folder that was noted, and then the note."""
    remove_folder(folder_of(out, None))
    (out / UNFINISHED / NOTE).unlink(missing_ok=True)


def remove_folder(folder: Path | None) -> None:
    """Remove a folder with our files in it and nothing else."""
    if folder and folder.is_dir() and not folder.is_symlink():
        for path in folder.iterdir():
            if FILE.fullmatch(path.name):
                path.unlink(missing_ok=True)  # a worker may be removing it too
        if not any(folder.iterdir()):
            folder.rmdir()


def spool_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.pictures"


def lacking(shards: Iterable[Shard], folder: Path | None) -> list[Shard]:
    """Give the shards whose pictures are still to be copied."""
    return [shard for shard in shards if folder is None or read_table(spool_file(folder, shard.name)) is None]


def spool_weight(listing: Listing, shards: list[Shard]) -> int:
    """Give the bytes that the shards' pictures will take, as near as the listing knows."""
    weight = 0
    for split, group in groupby(shards, key=lambda shard: shard.split):
        rows = listing.splits[split].rows
        weight += sum(listing.splits[split].store.weight(rows[shard.positions]) for shard in group)
    return weight + sum(ROW.itemsize * len(shard.positions) for shard in shards)


def check_spool(listing: Listing, shards: list[Shard], wanted: Path, folder: Path | None) -> int:
    """Give the bytes that are to be copied; raises AlexNetError where `wanted` has not so much space.

    What a killed run left unfinished in `folder` is removed first.
    """
    if wanted.exists() and not wanted.is_dir():
        raise AlexNetError(f"{wanted} is a file", "name a folder with --spool")
    place, needed = standing(wanted), spool_weight(listing, shards)
    free = shutil.disk_usage(place).free
    for part in (Part(spool_file(folder, shard.name)) for shard in shards if folder):
        free += part.temporary.stat().st_size if part.temporary.is_file() else 0
    if needed > free:
        raise AlexNetError(
            f"there is not enough space for --spool {wanted}: the pictures take {size(needed)}, "
            f"and {place} has {size(free)} free",
            "name a folder on another disk, or leave --spool out",
        )
    return needed


def copy(listing: Listing, shards: list[Shard], folder: Path) -> Iterator[int]:
    """Copy the shards' pictures, in one go through the source, and give how many since the last time."""
    parts = {shard.name: Part(spool_file(folder, shard.name)) for shard in shards}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in parts.values():
            part.temporary.unlink(missing_ok=True)
        for split, group in groupby(shards, key=lambda shard: shard.split):
            yield from copy_split(listing.splits[split], [*group], parts)
        for part in parts.values():
            part.finish()
    except OSError as error:
        for part in parts.values():
            part.temporary.unlink(missing_ok=True)
        raise AlexNetError(
            f"{folder} cannot be written: {error.strerror}", "name another folder with --spool, or leave it out"
        ) from error


def copy_split(pictures: Pictures, shards: list[Shard], parts: "dict[str, Part]") -> Iterator[int]:
    positions = np.concatenate([shard.positions for shard in shards])
    owners = np.repeat(np.arange(len(shards)), [len(shard.positions) for shard in shards])
    starts = np.cumsum([0, *(len(shard.positions) for shard in shards)])
    its_parts = [parts[shard.name] for shard in shards]
    waiting = done = 0
    for place in map(int, pictures.store.order(pictures.rows[positions])):
        owner = int(owners[place])
        content = pictures.record(int(positions[place])).content
        if not isinstance(content, np.ndarray):
            waiting += its_parts[owner].add(place - int(starts[owner]), content)
        if waiting >= BUFFER:
            waiting = 0
            for part in its_parts:
                part.flush()
        done += 1
        if done % CHUNK == 0:
            yield CHUNK
    for part in its_parts:
        part.flush()
    yield done % CHUNK


@dataclass
class Part:
    """The spool file of one shard, as it grows: it is not held open, for there are hundreds or thousands."""

    path: Path
    waiting: list[bytes] = field(default_factory=list)
    table: bytearray = field(default_factory=bytearray)

    @property
    def temporary(self) -> Path:
        return self.path.with_name(f".{self.path.name}.tmp")

    def add(self, position: int, content: Path | Lazy) -> int:
        """Take a picture and give its bytes. One that cannot be read is left to the worker that will miss it."""
        try:
            data = content.read_bytes() if isinstance(content, Path) else content.read()
        except OSError:
            return 0
        if len(data) > SPAN_LIMIT:
            return 0
        self.waiting.append(data)
        self.table += np.array((position, len(data), zlib.crc32(data)), ROW).tobytes()
        return len(data)

    def flush(self) -> None:
        with self.temporary.open("ab") as file:
            file.writelines(self.waiting)
        self.waiting.clear()

    def finish(self) -> None:
        """Write the table and give the file its name."""
        end = np.array((len(self.table) // ROW.itemsize, zlib.crc32(self.table), MARK), END)
        self.waiting += [bytes(self.table), end.tobytes()]
        self.flush()
        self.temporary.replace(self.path)


def read_table(path: Path) -> np.ndarray | None:
    """Give the ROWs of a spool file; None where there is no whole one."""
    try:
        with path.open("rb") as file:
            file.seek(-END.itemsize, os.SEEK_END)
            end = np.frombuffer(file.read(), END)[0]
            start = file.tell() - END.itemsize - int(end["rows"]) * ROW.itemsize
            file.seek(start)
            table = file.read(int(end["rows"]) * ROW.itemsize)
    except (OSError, ValueError):
        return None
    if end["mark"] != MARK or zlib.crc32(table) != int(end["checksum"]):
        return None
    rows = np.frombuffer(table, ROW)
    return rows if int(rows["size"].sum(dtype=np.int64)) == start else None


def spooled(task: Task, folder: Path) -> Task:
    """Let a task read from its spool file what that has."""
    path = spool_file(folder, task.name)
    rows = read_table(path)
    if rows is None:
        return task
    records, offset = list(task.records), 0
    for position, length, checksum in rows.tolist():
        record = records[position]
        copied = partial(Copy, Span(path, offset, length), checksum)
        if not isinstance(record.content, np.ndarray):
            records[position] = replace(record, content=copied(record.content))
        offset += length
    return replace(task, records=tuple(records), spool=path)
