"""Activations of pictures in a file: the features by which other programs compare or classify them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from alexnet_cli.engine.gathering import Picture
from alexnet_cli.engine.prediction import Seen
from alexnet_cli.engine.rows import header
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import disk_errors, whole_file


def saved(path: Path, found: Iterator[Seen], pictures: Sequence[Picture], about: dict[str, str]) -> Iterator[Seen]:
    """Pass on what is found, and write each output as a row: `features`, float32 (N, …), of one safetensors file.

    The pictures that could not be used have no row; `files` in the metadata (JSON) names those that have, in
    order. The file is there when the last is done, whole, or not at all; its rows were never together in memory.
    """
    kept: list[str] = []
    with whole_file(path) as temporary, temporary.open("wb") as file:
        start: bytes = b""
        shape: tuple[int, ...] = ()
        for one in found:
            if one.output is not None:
                shape = tuple(one.output.shape)
                if not kept:  # room for all names, of which those of unusable pictures will not be needed
                    start = _header([picture.name for picture in pictures], shape, about)
                    with disk_errors(path):
                        file.write(start)
                with disk_errors(path):
                    file.write(one.output.numpy().astype("<f4", copy=False).tobytes())
                kept.append(one.name)
            yield one
        if not kept:
            raise AlexNetError(f"{path} is not written: none of the pictures could be used", "give others")
        file.seek(0)
        file.write(_header(kept, shape, about, len(start)))


def _header(names: Sequence[str], shape: tuple[int, ...], about: dict[str, str], room: int = 0) -> bytes:
    return header({"features": ("F32", (len(names), *shape))}, about | {"files": json.dumps(names)}, room)
