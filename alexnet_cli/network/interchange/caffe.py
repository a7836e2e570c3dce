"""Caffe's bvlc_alexnet: a .caffemodel read as the bytes it is (caffe.proto, messages NetParameter to BlobProto).

Its pictures are BGR and its mean image too; here they become RGB. The order of fc6's inputs, maps by rows by
columns, is ours. The reader believes no length: each must fit into what remains, messages are entered to a fixed
depth, and a blob must have as many numbers as its shape says.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli import paper
from alexnet_cli.errors import AlexNetError
from alexnet_cli.network.interchange.fitting import Weights, listed
from alexnet_cli.recipes import LAYERS

MEAN_FILE = "imagenet_mean.binaryproto"
MEAN_RGB = (123.0, 117.0, 104.0)
"""Of ILSVRC-2012 in Caffe's tutorials, for when there is no mean image."""

LARGEST = 1 << 31  # bytes; protobuf itself goes no further
MOST_FIELDS = 100_000  # of one message; a run of unpacked numbers counts as one
HINT = "give bvlc_alexnet.caffemodel, as Caffe's model zoo has it"

Array = NDArray[np.float32]
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class _MalformedError(Exception):
    """What is wrong with the bytes; `read` says in which file."""


@dataclass(frozen=True)
class Layer:
    name: str = ""
    kind: str = ""
    blobs: list[Array] = field(default_factory=list)


@dataclass(frozen=True)
class _Encoding:
    """The fields of a layer's message, which Caffe has changed once."""

    name: int
    kind: int
    blobs: int


ENCODINGS = {2: _Encoding(4, 5, 6), 100: _Encoding(1, 2, 7)}
"""By their field in NetParameter: `layers` (V1LayerParameter) and `layer` (LayerParameter)."""
KINDS = {15: "LRN", 17: "Pooling"}
"""The enum of V1LayerParameter, as far as it matters here."""


def read(path: Path) -> Weights:
    """The weights under our names, conv1's kernels for RGB."""
    name, layers = _parsed(path)
    kinds = [layer.kind for layer in layers if layer.kind in KINDS.values()]
    if "caffenet" in name.lower() or kinds[:1] == ["Pooling"]:
        raise AlexNetError(
            f"{path} is CaffeNet, which pools before it normalizes: another net, with weights of the same shapes",
            HINT,
        )
    blobs = {layer.name: layer.blobs for layer in layers if layer.blobs}
    if set(blobs) != set(LAYERS) or any(len(pair) != 2 for pair in blobs.values()):
        raise AlexNetError(
            f"{path} holds {f'the net {name!r} with ' if name else ''}weights of {listed(list(blobs))}, "
            f"which are not bvlc_alexnet's",
            HINT,
        )
    weights: Weights = {}
    for layer, (weight, bias) in blobs.items():
        if not layer.startswith("conv"):
            weight = weight.reshape(weight.shape[-2:]) if weight.size == np.prod(weight.shape[-2:]) else weight
        elif layer == "conv1" and weight.ndim == 4 and weight.shape[1] == 3:
            weight = weight[:, ::-1]
        weights[f"{layer}.weight"], weights[f"{layer}.bias"] = _tensor(weight), _tensor(bias.reshape(-1))
    return weights


def read_mean(path: Path) -> Tensor:
    """The mean image (3, 256, 256) in RGB of a .binaryproto beside the weights."""
    try:
        mean = _blob(memoryview(_contents(path)))
    except _MalformedError as error:
        raise AlexNetError(f"{path} is not a mean image: {error}", "get it again, or remove it") from error
    side = paper.IMAGE_SIZE
    if mean.shape not in ((1, 3, side, side), (3, side, side)):
        shape = "×".join(map(str, mean.shape))
        raise AlexNetError(f"{path} holds {shape} numbers, not 3×{side}×{side}", "give ILSVRC-2012's mean image")
    return _tensor(mean.reshape(3, side, side)[::-1])


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _contents(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise _MalformedError("it is larger than protobuf allows")
        return path.read_bytes()
    except OSError as error:
        raise AlexNetError(f"{path} cannot be read: {error.strerror}", HINT) from error


def _parsed(path: Path) -> tuple[str, list[Layer]]:
    """Name and layers of a net."""
    try:
        name, layers = "", []
        for number, value in _fields(memoryview(_contents(path))):
            if number == 1:
                name = _text(value)
            elif number in ENCODINGS:
                layers.append(_layer(_bytes(value), ENCODINGS[number]))
    except _MalformedError as error:
        raise AlexNetError(f"{path} is not a net of Caffe: {error}", HINT) from error
    return name, layers


# --- protobuf: a message is fields one after another, each a tag (number and wire type) and a value


def _layer(message: memoryview, encoding: _Encoding) -> Layer:
    name, kind, blobs = "", "", []
    for number, value in _fields(message):
        if number == encoding.name:
            name = _text(value)
        elif number == encoding.kind:
            kind = KINDS.get(value, "") if isinstance(value, int) else _text(value)
        elif number == encoding.blobs:
            blobs.append(_blob(_bytes(value)))
    return Layer(name, kind, blobs)


def _blob(message: memoryview) -> Array:
    """A BlobProto: `data` or `double_data`, shaped by `shape` or by the older num, channels, height and width."""
    old, shape = [1, 1, 1, 1], None
    numbers: list[NDArray[np.floating]] = []
    for number, value in _fields(message):
        if number in (1, 2, 3, 4):
            old[number - 1] = _integer(value)
        elif number == 5:
            numbers.append(_floats(_bytes(value), np.dtype("<f4")))
        elif number == 7:
            shape = _shape(_bytes(value))
        elif number == 8:
            numbers.append(_floats(_bytes(value), np.dtype("<f8")))
    shape = old if shape is None else shape
    count = sum(len(part) for part in numbers)
    if not 0 < len(shape) <= 4 or min(shape) < 1 or np.prod(np.array(shape, dtype=object)) != count:
        raise _MalformedError(f"a blob has {count} numbers, and the shape {'×'.join(map(str, shape[:8]))}")
    with np.errstate(over="ignore"):  # a double beyond float32 is infinite, and evaluation will say so
        return np.concatenate(numbers, dtype=np.float32, casting="same_kind").reshape(shape)


def _shape(message: memoryview) -> list[int]:
    dims: list[int] = []
    for number, value in _fields(message):
        if number == 1 and isinstance(value, int):
            dims.append(value)
        elif number == 1:
            place = 0
            while place < len(_bytes(value)) and len(dims) < MOST_FIELDS:
                dim, place = _varint(_bytes(value), place)
                dims.append(dim)
    return dims


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field: an integer for a varint, else bytes; those of a run of numbers at once."""
    place = 0
    for _ in range(MOST_FIELDS):
        if place == len(message):
            return
        start = place
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            integer, place = _varint(message, place)
            yield number, integer
            continue
        if wire == BYTES:
            size, place = _varint(message, place)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise _MalformedError(f"there is no wire type {wire} in it")
        if size > len(message) - place:
            raise _MalformedError("it is cut short")
        if wire == BYTES or tag > 127:
            yield number, message[place : place + size]
            place += size
        else:
            run = _run(message, start, 1 + size)
            rows = np.frombuffer(message[start : start + run * (1 + size)], np.uint8).reshape(run, 1 + size)
            yield number, memoryview(rows[:, 1:].tobytes())
            place = start + run * (1 + size)
    if place != len(message):
        raise _MalformedError("a message has too many fields")


def _run(message: memoryview, start: int, stride: int) -> int:
    """How many fields of `stride` bytes with one tag follow each other: repeated numbers that are not packed."""
    most, run = (len(message) - start) // stride, 1
    while run < most:
        # As many again as there are already, so that no byte is looked at more than twice.
        end = min(most, 2 * run)
        tags = np.frombuffer(message[start + run * stride : start + end * stride], np.uint8)[::stride]
        others = np.flatnonzero(tags != message[start])
        if len(others):
            return run + int(others[0])
        run = end
    return run


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The integer, and where what follows it begins."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise _MalformedError("it is cut short")
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise _MalformedError("a number has more than ten bytes")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _MalformedError("a number is where a message should be")
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _MalformedError("a message is where a number should be")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)[:200]).decode("utf-8", "replace")


def _floats(data: memoryview, kind: np.dtype[np.floating]) -> NDArray[np.floating]:
    if len(data) % kind.itemsize:
        raise _MalformedError("its numbers are cut short")
    return np.frombuffer(data, kind) if len(data) else np.empty(0, kind)
