"""A reader for as much of MATLAB's level 5 files as `meta.mat` of the ImageNet devkits uses.

Files come from strangers: every length is compared with what remains, and depth and inflated size have limits.
The format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, Union

import numpy as np

HEADER = 128
DEEPEST = 8
MOST_BYTES = 1 << 28  # inflated; the devkits' files hold some 3 MB
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, CHARACTERS = 1, 2, 4
NUMERIC = range(6, 16)  # classes double … uint64

Value = Union[np.ndarray, str, list["Value"], list[dict[str, "Value"]]]  # noqa: UP007  # names itself
"""Numbers (n,) in column order, a text, a cell array, or a struct array with a dictionary for each element."""


class MatError(ValueError):
    """A file that cannot be read; the message is the short reason."""


class Element(NamedTuple):
    kind: int
    body: memoryview
    end: int


def read_mat(data: bytes) -> dict[str, Value]:
    """Give the variables by name; raises MatError and nothing else."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or data[125 if order == "<" else 124] != 1:
        raise MatError("it is not a MATLAB 5 file")
    found, rest, view = {}, MOST_BYTES, memoryview(data)
    at = HEADER
    while at < len(data):
        kind, body, at = element(view, at, order, padded=False)
        if kind == COMPRESSED:
            inflated = inflate(body, rest)
            rest -= len(inflated)
            kind, body, _ = element(memoryview(inflated), 0, order)
        if kind == MATRIX:
            name, value = matrix(body, order, 0)
            found[name] = value
    return found


def inflate(body: memoryview, most: int) -> bytes:
    engine = zlib.decompressobj()
    try:
        data = engine.decompress(body, most)
    except zlib.error as error:
        raise MatError(f"its compressed data are damaged ({error})") from None
    if not engine.eof:
        raise MatError("its compressed data are cut short or absurdly large")
    return data


def element(data: memoryview, at: int, order: str, padded: bool = True) -> Element:
    """Give one element; what is compressed is not padded to a multiple of eight bytes, all else is."""
    if len(data) - at < 8:
        raise MatError("it is cut short")
    kind, size = struct.unpack_from(order + "II", data, at)
    if kind >> 16:  # the short form: size and kind in one word, then up to four bytes
        size, kind = kind >> 16, kind & 0xFFFF
        if size > 4:
            raise MatError("it is damaged: a short element is too long")
        return Element(kind, data[at + 4 : at + 4 + size], at + 8)
    start = at + 8
    if size > len(data) - start:
        raise MatError("it is cut short")
    end = start + size
    if padded or kind != COMPRESSED:
        end = min(start + -(-size // 8) * 8, len(data))
    return Element(kind, data[start : start + size], end)


def matrix(body: memoryview, order: str, depth: int) -> tuple[str, Value]:
    """Give a variable's name and value."""
    if depth > DEEPEST:
        raise MatError("it is nested too deeply")
    if not body:
        return "", np.zeros(0)
    flags, dimensions, name = islice(elements(body, order), 3)
    at = name.end
    kind = whole_numbers(flags, order)[0] & 0xFF
    shape = whole_numbers(dimensions, order)
    count = math.prod(shape)
    if min(shape) < 0 or count > MOST_BYTES:
        raise MatError("it is damaged: absurd dimensions")
    shown = bytes(name.body).decode("latin-1")
    if kind == STRUCT:
        return shown, structs(body, at, count, order, depth)
    if kind == CELL:
        return shown, [value for _, value in matrices(body, at, count, order, depth)]
    if kind == CHARACTERS:
        return shown, characters(element(body, at, order), order) if count else ""
    if kind not in NUMERIC:
        raise MatError(f"it holds an array of class {kind}")
    values = numbers(element(body, at, order), order) if count else np.zeros(0)
    if len(values) != count:
        raise MatError(f"it is damaged: {len(values)} numbers for {count}")
    return shown, values


def elements(body: memoryview, order: str) -> Iterator[Element]:
    at = 0
    while True:
        item = element(body, at, order)
        at = item.end
        yield item


def matrices(body: memoryview, at: int, count: int, order: str, depth: int) -> Iterator[tuple[str, Value]]:
    for _ in range(count):
        item = element(body, at, order)
        if item.kind != MATRIX:
            raise MatError("it is damaged: something is no matrix")
        at = item.end
        yield matrix(item.body, order, depth + 1)


def structs(body: memoryview, at: int, count: int, order: str, depth: int) -> list[dict[str, Value]]:
    length = element(body, at, order)
    names = element(body, length.end, order)
    width = whole_numbers(length, order)[0]
    if width < 1 or len(names.body) % width:
        raise MatError("it is damaged: its fields have no names")
    fields = [
        bytes(names.body[start : start + width]).split(b"\0")[0].decode("latin-1")
        for start in range(0, len(names.body), width)
    ]
    values = matrices(body, names.end, count * len(fields), order, depth)
    return [{field: next(values)[1] for field in fields} for _ in range(count)] if fields else []


def numbers(item: Element, order: str) -> np.ndarray:
    if item.kind not in NUMBERS:
        raise MatError(f"it is damaged: numbers of type {item.kind}")
    dtype = np.dtype(order + NUMBERS[item.kind])
    if len(item.body) % dtype.itemsize:
        raise MatError("it is damaged: part of a number")
    return np.frombuffer(item.body, dtype)


def whole_numbers(item: Element, order: str) -> list[int]:
    """Give at least one whole number."""
    values = numbers(item, order)
    if values.dtype.kind == "f" or not len(values):
        raise MatError("it is damaged: no whole number")
    return [int(value) for value in values]


def characters(item: Element, order: str) -> str:
    encoding = ENCODINGS.get(item.kind)
    if encoding is None:
        raise MatError(f"it is damaged: characters of type {item.kind}")
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if order == "<" else "-be"
    return bytes(item.body).decode(encoding, "replace")
