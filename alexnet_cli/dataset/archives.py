"""Where the members of plain tars lie, found by stepping from header to header: nothing is unpacked.

Read are ustar, GNU and pax headers; given are regular members only. Tars come from strangers, so every size is
compared with what is there, and the number of headers and the length of names have limits.
The format: https://www.gnu.org/software/tar/manual/html_node/Standard.html.
"""

import os
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from alexnet_cli.errors import AlexNetError

BLOCK = 512
MOST_HEADERS = 1 << 25
LONGEST_NAME = 1 << 12
LONGEST_EXTENSION = 1 << 20  # of a pax header, which holds more than the name
REGULAR = b"0\0" + b"7"
WITHOUT_DATA = b"123456"  # links, devices, folders, pipes
ADLER = 65521
SPACES = 8 * ord(" ")  # which stand for the checksum while it is computed
AGAIN = "download it again, or repack it with tar -cf"

KINDS = {  # first bytes → what was put in a tar's place, and what to do about it
    b"\x1f\x8b": ("compressed with gzip", "unpack it once: gunzip FILE, with the name ending in .gz"),
    b"BZh": ("compressed with bzip2", "unpack it once: bunzip2 FILE"),
    b"\xfd7zXZ": ("compressed with xz", "unpack it once: unxz FILE"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack it once: unzstd FILE"),
    b"PK": ("a zip file", "unzip it, and name the folder"),
    b"<": ("a web page", "what was downloaded is probably a login or error page: log in and download it again"),
}


class Member(NamedTuple):
    """A regular member: its name, and where its bytes lie in the file."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Region:
    """The bytes `start` to `end` of an opened file: a tar, or a tar that is a member of one."""

    path: Path
    descriptor: int
    start: int
    end: int
    name: str

    def inner(self, member: Member) -> "Region":
        shown = f"{self.name}/{member.name}"
        return replace(self, start=member.offset, end=member.offset + member.size, name=shown)

    def read(self, at: int, size: int) -> bytes:
        """Read what lies in the region, at most `size` bytes."""
        try:
            return os.pread(self.descriptor, max(0, min(size, self.end - at)), at)
        except OSError as error:
            raise AlexNetError(f"{self.name} cannot be read: {error.strerror}", AGAIN) from error


@contextmanager
def opened(path: Path) -> Iterator[Region]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise AlexNetError(
            f"{path} cannot be read: {error.strerror}", "make it readable, or take it out of the source"
        ) from error
    try:
        yield Region(path, descriptor, 0, os.fstat(descriptor).st_size, str(path))
    finally:
        os.close(descriptor)


def members(tar: Region) -> Iterator[Member]:
    """Give the regular members in the order of the tar; raises AlexNetError where it is none or cut short."""
    at, long_name, pax = tar.start, "", Pax()
    for _ in range(MOST_HEADERS):
        header = tar.read(at, BLOCK)
        if is_end(tar, at, header):
            return
        kind, data = header[156:157], at + BLOCK
        size = pax.size if pax.size is not None else number(tar, header[124:136], at)
        if kind in WITHOUT_DATA:
            size = 0
        if size > tar.end - data:
            raise cut_short(tar, f"a member at byte {at} should end at byte {data + size}")
        at = data + -(-size // BLOCK) * BLOCK
        if kind == b"L":
            long_name = text(tar.read(data, bounded(tar, size, LONGEST_NAME)).split(b"\0")[0])
        elif kind == b"x":
            pax = pax_header(tar, tar.read(data, bounded(tar, size, LONGEST_EXTENSION)))
        elif kind not in (b"g", b"K"):
            name = pax.name or long_name or header_name(header)
            if kind == b"S":
                raise AlexNetError(f"{tar.name} has a sparse member: {name}", "repack it without --sparse")
            if kind in REGULAR and not name.endswith("/"):
                yield Member(name[:LONGEST_NAME], data, size)
            long_name, pax = "", Pax()
    raise AlexNetError(f"{tar.name} has more than {MOST_HEADERS} headers", "this is no archive of pictures")


class Pax(NamedTuple):
    """What an extended header says in place of the next header."""

    name: str = ""
    size: int | None = None


def is_end(tar: Region, at: int, header: bytes) -> bool:
    """Tell whether the end mark or the end of an empty file is reached; raises when there is neither or no header.

    The end is a block of zeros. Only a tar that was written to its end has it.
    """
    if len(header) == BLOCK and header[:1] == b"\0" and not any(header):
        return True
    if at == tar.start and (not header or (not any(header) and len(header) < BLOCK)):
        return True
    if at == tar.start and not has_checksum(header):
        raise not_a_tar(tar, header)
    if len(header) < BLOCK:
        raise cut_short(tar, "it has no end mark")
    if not has_checksum(header):
        raise AlexNetError(f"{tar.name} is damaged: there is no header at byte {at}", AGAIN)
    return False


def has_checksum(header: bytes) -> bool:
    if len(header) < BLOCK:
        return False
    field = header[148:156]
    given = field.split(b"\0")[0].strip()
    if not given or given.strip(b"01234567"):
        return False
    total = int(given, 8) - SPACES + sum(field)
    # The lower half of an Adler-32 is one more than the sum, modulo 65521: much faster than sum().
    return (total + 1) % ADLER == zlib.adler32(header) & 0xFFFF


def number(tar: Region, given: bytes, at: int) -> int:
    """Read octal digits, or GNU's big-endian number after a byte 0x80."""
    if given[0] == 0x80:
        return int.from_bytes(given[1:], "big")
    digits = given.split(b"\0")[0].strip()
    if given[0] == 0xFF or digits.strip(b"01234567"):
        raise AlexNetError(f"{tar.name} is damaged: the header at byte {at} has no size", AGAIN)
    return int(digits or b"0", 8)


def header_name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return text(prefix + b"/" + name if prefix else name)


def pax_header(tar: Region, data: bytes) -> Pax:
    """Read lines of "length key=value", whose length counts the whole line."""
    found: dict[bytes, bytes] = {}
    while data.strip(b"\0"):
        digits, _, _ = data[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        if not len(digits) + 2 <= length <= len(data):
            raise AlexNetError(f"{tar.name} is damaged: an extended header cannot be read", AGAIN)
        key, _, value = data[len(digits) + 1 : length - 1].partition(b"=")
        found[key] = value
        data = data[length:]
    size = found.get(b"size")
    if size is not None and not (size.isdigit() and len(size) < 20):
        raise AlexNetError(f"{tar.name} is damaged: an extended header has no size", AGAIN)
    return Pax(text(found.get(b"path", b"")), None if size is None else int(size))


def bounded(tar: Region, size: int, most: int) -> int:
    if size > most:
        raise AlexNetError(f"{tar.name} is damaged: a name of {size} bytes", AGAIN)
    return size


def text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def cut_short(tar: Region, reason: str) -> AlexNetError:
    return AlexNetError(f"{tar.name} is cut short: {reason}, and there are {tar.end - tar.start} bytes", AGAIN)


def not_a_tar(tar: Region, header: bytes) -> AlexNetError:
    for first, (kind, hint) in KINDS.items():
        if header.lstrip().startswith(first):
            return AlexNetError(f"{tar.name} is {kind}, not a plain tar", hint)
    return AlexNetError(f"{tar.name} is not a tar", AGAIN)


@dataclass(frozen=True)
class Names:
    """Names in one piece of memory, and where in it each ends."""

    text: bytearray = field(default_factory=bytearray)
    ends: "array[int]" = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        return text(bytes(self.text[self.ends[row - 1] if row else 0 : self.ends[row]]))

    def append(self, name: str) -> None:
        self.text.extend(name.encode("utf-8", "surrogateescape"))
        self.ends.append(len(self.text))


@dataclass(frozen=True)
class Columns:
    """Members as columns, which grow: 14 million members must not become objects."""

    names: Names = field(default_factory=Names)
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.sizes)

    def add(self, found: Iterable[Member]) -> None:
        for name, offset, size in found:
            self.names.append(name)
            self.offsets.append(offset)
            self.sizes.append(size)
