"""Pictures that are near in the last hidden layer, as in the right half of the paper's Figure 4 (§6.1).

An index is a safetensors file with one tensor, `features` float32 (N, units of fc7), in the order of a split, and
in the metadata, key "alexnet-neighbours", `About` as JSON. It is filled row by row and gets its name when it is
whole; one that was interrupted goes on where it stopped.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_cli import files
from alexnet_cli.dataset.manifest import Dataset, Split
from alexnet_cli.engine.evaluation import BATCH_SIZE, answered
from alexnet_cli.engine.models import Model
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.prediction import Classifier
from alexnet_cli.engine.rows import Table, header
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import disk_errors
from alexnet_cli.loading.loader import threads

LAYER = "fc7"
KEY = "alexnet-neighbours"
FORMAT = 1
CHUNK = 1024
"""Rows that are compared at once: 16 MB of the paper's features."""

Features = NDArray[np.float32]


@dataclass(frozen=True)
class About:
    """What the features are of; another of anything makes another index."""

    model: str
    """SHA-256 of the model file."""
    dataset: str
    """Fingerprint of the dataset directory."""
    split: str
    pictures: int
    limit: int | None
    """How many of the split's pictures, evenly spaced, if not all."""
    units: int
    layer: str = LAYER
    format: int = FORMAT


@dataclass(frozen=True)
class Index:
    path: Path
    about: About
    start: int
    """Byte at which the features begin."""

    def rows(self, first: int, last: int) -> Features:
        """A part of the table, memory-mapped for as long as it is used: the mapping goes with the array."""
        units = self.about.units
        return np.memmap(self.path, "<f4", "r", self.start + 4 * units * first, (last - first, units))


@dataclass(frozen=True)
class Nearest:
    """Of one query, the nearest first; of equal distances the lower place comes first."""

    places: NDArray[np.int64]
    """In the index."""
    distances: NDArray[np.float64]
    """L2."""


def about(model: Model, dataset: Dataset, split: Split, limit: int | None) -> About:
    units = model.network.units
    if LAYER not in units:
        hint = "name the run of a net with hidden layers"
        raise AlexNetError(f"the net of {model.path} has no {LAYER}, whose outputs are compared", hint)
    return About(files.sha256(model.path), dataset.fingerprint, split.name, len(split.index), limit, units[LAYER])


def differences(found: About, wanted: About) -> list[str]:
    return [name for name, value in asdict(wanted).items() if getattr(found, name) != value]


def opened(path: Path) -> Index | None:
    """The whole index in a file, None if there is no file; raises AlexNetError for another file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
            if length > size:
                raise ValueError("it is cut short")
            table = json.loads(file.read(length))
        found = About(**json.loads(table["__metadata__"][KEY]))
        if found.format != FORMAT or size != 8 + length + 4 * found.pictures * found.units:
            raise ValueError("it has another size than it says")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        hint = "remove it, or name another --index"
        raise AlexNetError(f"{path} is no index of pictures: {error}", hint) from error
    return Index(path, found, 8 + length)


def built(path: Path, wanted: About, features: Classifier, split: Split) -> Iterator[int]:
    """Fill the index and give it its name; yields how many pictures are in it, those of a run before included."""
    unfinished, start = path.with_name(f".{path.name}.unfinished"), _header(wanted)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{path} is being made by another process"
    with files.locked(unfinished, busy, "wait for that one"), disk_errors(path):
        with unfinished.open("r+b") as file:
            done = _done(file.read(len(start)), start, unfinished.stat().st_size, wanted)
            file.seek(0)
            file.write(start)
            file.truncate(len(start) + 4 * wanted.units * done)
            file.seek(0, os.SEEK_END)
            rest = replace(split, index=split.index[done:])
            for answer in answered([features], rest, Ranks(0, 1, torch.device("cpu")), threads()):
                file.write(answer.probabilities[0].numpy().astype("<f4", copy=False).tobytes())
                done += len(answer.samples)
                yield done
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)


def _header(wanted: About) -> bytes:
    tensors: Table = {"features": ("F32", (wanted.pictures, wanted.units))}
    return header(tensors, {KEY: json.dumps(asdict(wanted))})


def _done(found: bytes, start: bytes, size: int, wanted: About) -> int:
    """The good rows of an unfinished index, in whole batches, as they were computed; 0 if it is another."""
    rows = (size - len(start)) // (4 * wanted.units) if found == start else 0
    return rows if rows == wanted.pictures else rows // BATCH_SIZE * BATCH_SIZE


def nearest(queries: Features, index: Index, count: int) -> Iterator[int | list[Nearest]]:
    """How many rows are compared, chunk by chunk; at last the `count` nearest rows of each query (Q, units).

    Exact: distances are computed from differences in float64. Which rows need that is told by products in float32
    and a bound on their error, so that a chunk is read once for all queries.
    """
    wide = queries.astype(np.float64)
    best = [Nearest(np.zeros(0, dtype=np.int64), np.zeros(0)) for _ in queries]
    total = index.about.pictures
    for first in range(0, total, CHUNK):
        last = min(first + CHUNK, total)
        rows = index.rows(first, last)
        low, high = _bounds(rows, queries)
        for number, query in enumerate(wide):
            best[number] = _better(best[number], query, rows, first, low[:, number], high[:, number], count)
        yield last
    yield best


def _bounds(rows: Features, queries: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between which numbers the squared distances lie, (rows, queries) each.

    The computed product of two vectors of n numbers is off by at most n·u·|x|·|q| / (1 - n·u), in any order of
    summation, u = 2⁻²⁴ (Higham, Accuracy and Stability of Numerical Algorithms, §3.1).
    """
    products = (rows @ queries.T).astype(np.float64)
    squares = np.einsum("ij,ij->i", rows, rows).astype(np.float64)[:, None]
    lengths = np.einsum("ij,ij->i", queries.astype(np.float64), queries.astype(np.float64))[None]
    relative = rows.shape[1] * 2.0**-24
    relative /= 1 - relative
    slack = (
        2 * relative * (squares + lengths) + 2.0**-100
    )  # 2·|x|·|q| ≤ |x|² + |q|², and |x|² is off by as much itself
    distances = squares - 2 * products + lengths
    return distances - slack, distances + slack


def _better(
    best: Nearest,
    query: NDArray[np.float64],
    rows: Features,
    first: int,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    count: int,
) -> Nearest:
    """The best so far and those of this chunk that are nearer."""
    limit = np.inf if len(best.places) < count else best.distances[-1] ** 2 * (1 + 1e-12)
    if len(high) >= count:
        limit = min(limit, np.partition(high, count - 1)[count - 1])
    candidates = np.flatnonzero(~(low > limit))
    differences = rows[candidates].astype(np.float64) - query
    distances = np.sqrt((differences**2).sum(1))
    places = np.concatenate([best.places, first + candidates])
    distances = np.concatenate([best.distances, distances])
    order = np.argsort(distances, kind="stable")[
        :count
    ]  # places are in order: of equals the lower one stays first
    return Nearest(places[order], distances[order])


def key(split: Split, place: int) -> tuple[str, str]:
    """The shard of a picture and its name in it, as the tar has it."""
    shard, offset, _, _ = split.index[place].item()
    path = split.shards[shard]
    try:
        with path.open("rb") as file:
            file.seek(max(0, offset - tarfile.BLOCKSIZE))
            name = tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "backslashreplace").name
    except (OSError, tarfile.HeaderError):  # a shard that is far away
        name = f"byte {offset}"
    return path.name, name
