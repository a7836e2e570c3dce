"""A dataset directory read again, whole, against its manifest: whatever differs is found, and all of it.

Each shard is read once, from its first byte to its last, for its checksum, its members and their pictures
together. Nothing is kept of it but what is wrong.
"""

import hashlib
import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from alexnet_cli.dataset import images
from alexnet_cli.dataset.manifest import (
    BARE_NAME,
    INDEX_DTYPE,
    MANIFEST,
    MEAN,
    SPLITS,
    STATISTICS,
    UNFINISHED,
    damaged,
    index_name,
    load,
    read_manifest,
)
from alexnet_cli.dataset.shards import BLOCK
from alexnet_cli.dataset.statistics import principal_components
from alexnet_cli.dataset.treatment import Treatment, treatment_of
from alexnet_cli.dataset.workers import NOWHERE, Lost, Watch, run_here, run_with
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import read_json, sha256

CHUNK = 64  # pictures between two reports of progress
MEMBER_LIMIT = 1 << 26  # bytes; no stored picture is near it
UNLIKELY = 10.0  # standard deviations, for the classes in a shard
LABEL = ".cls"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with `file` or, where it is only `odd`, worth a look."""

    file: str
    what: str
    odd: bool = False


@dataclass(frozen=True)
class Progress:
    """Pictures read so far, and what was found since the last report."""

    done: int
    total: int
    findings: tuple[Finding, ...]


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


def verify(root: Path, workers: int = 0) -> Generator[Progress, None, None]:
    """Read a dataset directory again, in `workers` processes or with 0 in this one, and give what is found.

    Raises AlexNetError where there is no dataset of this format, or a manifest of another shape.
    """
    manifest = read_manifest(root)
    try:
        found = [*check_files(root, manifest), *check_statistics(root, manifest)]
        tasks: list[Task] = []
        for split in manifest["splits"]:
            tasks += check_index(root, manifest, split, found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(root / MANIFEST, f"{type(error).__name__}: {error}") from error
    if len({task.name for task in tasks}) < len(tasks):
        raise damaged(root / MANIFEST, "it names a shard twice")
    done, total = 0, sum(task.pictures for task in tasks)
    yield Progress(done, total, tuple(found))
    said: dict[str, int] = {}
    for name, news in run_with(workers, iter(tasks), check_shard) if workers else run_here(tasks, check_shard):
        advance, findings = (-said.pop(name, 0), ()) if news is None else news
        if news is not None:
            said[name] = said.get(name, 0) + advance
        done += advance
        yield Progress(done, total, findings)


def check_files(root: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    """Name what is missing, and what is there unasked."""
    splits = manifest["splits"]
    shards = [str(shard["name"]) for split in splits.values() for shard in split["shards"]]
    expected = {MANIFEST, MEAN, STATISTICS, *shards, *map(index_name, splits)}
    there = {path.name for path in root.iterdir()}
    for name in sorted(expected - there):
        yield Finding(name, "missing")
    for name in sorted(there - expected):
        if name == UNFINISHED:
            yield Finding(name, "left by a preparation that was killed when all but tidying up was done", odd=True)
        else:
            yield Finding(name, "does not belong to the dataset", odd=not BARE_NAME.fullmatch(name))
    for name, key in ((MEAN, "mean_sha256"), (STATISTICS, "statistics_sha256")):
        if name in there:
            yield from check_sum(root / name, manifest[key])


def check_sum(path: Path, expected: str) -> Iterator[Finding]:
    try:
        found = sha256(path)
    except OSError as error:
        yield Finding(path.name, f"cannot be read: {error.strerror}")
        return
    if found != expected:
        yield Finding(path.name, "its checksum is not the manifest's")


# --- The statistics: their own sums say what they must be


def check_statistics(root: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    """Hold means, covariance and components against the sums beside them, and the mean image against these."""
    if not (root / STATISTICS).is_file():
        return
    try:
        numbers = read_json(root / STATISTICS)
        yield from check_numbers(numbers, manifest["splits"]["train"]["pictures"])
        if (root / MEAN).is_file():
            yield from check_mean(load(root / MEAN), numbers["rgb_mean"], treatment_of(manifest))
    except AlexNetError as error:
        yield Finding(STATISTICS, error.message)
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError) as error:
        yield Finding(STATISTICS, f"{type(error).__name__}: {error}")


def check_numbers(numbers: dict[str, Any], pictures: int) -> Iterator[Finding]:
    sums, products, n = numbers["rgb_sums"], numbers["rgb_product_sums"], numbers["pixels"]
    if numbers["pictures"] != pictures:
        yield Finding(STATISTICS, f"of {numbers['pictures']} pictures, and there are {pictures}")
    if numbers["rgb_mean"] != [float(Fraction(total, n)) for total in sums]:
        yield Finding(STATISTICS, "rgb_mean is not rgb_sums ÷ pixels")
    covariance = [
        [float(Fraction(n * products[i][j] - sums[i] * sums[j], n * n)) for j in range(3)] for i in range(3)
    ]
    if numbers["covariance"] != covariance:
        yield Finding(STATISTICS, "covariance is not that of the sums")
    if [numbers["eigenvalues"], numbers["eigenvectors"]] != [*principal_components(covariance)]:
        yield Finding(STATISTICS, "eigenvalues and eigenvectors are not those of the covariance")


def check_mean(mean: np.ndarray, rgb_mean: list[float], treatment: Treatment) -> Iterator[Finding]:
    if mean.dtype != np.float32 or mean.shape != (3, treatment.size, treatment.size):
        yield Finding(MEAN, f"it holds {mean.dtype} {mean.shape}")
    elif treatment.geometry != "shorter" and not np.allclose(
        mean.mean((1, 2), dtype=np.float64), rgb_mean, rtol=0, atol=1e-3
    ):
        yield Finding(MEAN, "its mean is not rgb_mean")
    elif mean.min() < 0 or mean.max() > 255:
        yield Finding(MEAN, "it holds values outside 0..255")


# --- The index, and with it what each shard must hold


def check_index(root: Path, manifest: dict[str, Any], split: str, found: list[Finding]) -> list[Task]:
    """Give the shards of a split with their rows; what is wrong with the index is added to `found`."""
    facts, name = manifest["splits"][split], index_name(split)
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}")
    for shard in facts["shards"]:
        if not BARE_NAME.fullmatch(shard["name"]):
            raise ValueError(f"{shard['name']!r} is not the name of a shard")
    if sum(shard["pictures"] for shard in facts["shards"]) != facts["pictures"]:
        found.append(Finding(MANIFEST, f"{split}: its shards do not add up to {facts['pictures']} pictures"))
    rows: list[np.ndarray | None] = [None] * len(facts["shards"])
    if (root / name).is_file():
        found += check_sum(root / name, facts["index_sha256"])
        try:
            rows = [*rows_by_shard(load(root / name, mapped=True), facts)]
        except AlexNetError as error:
            found.append(Finding(name, error.message))
        except ShardError as error:
            found.append(Finding(name, str(error)))
    classes = len(manifest["classes"])
    if split == "train" and not any(part is None for part in rows):
        found += check_balance([str(s["name"]) for s in facts["shards"]], rows, classes)  # type: ignore[arg-type]
    return [
        Task(
            name=shard["name"],
            path=root / shard["name"],
            pictures=int(shard["pictures"]),
            checksum=shard["sha256"],
            rows=part,
            classes=classes,
            treatment=treatment_of(manifest),
        )
        for shard, part in zip(facts["shards"], rows, strict=True)
    ]


def rows_by_shard(index: np.ndarray, facts: dict[str, Any]) -> Iterator[np.ndarray]:
    """Cut the mapped index at the shards' borders; raises ShardError where it has none."""
    if index.dtype != INDEX_DTYPE or index.ndim != 1 or len(index) != facts["pictures"]:
        raise ShardError(f"it does not list {facts['pictures']} pictures")
    numbers = np.ascontiguousarray(index["shard"])
    if (numbers[1:] < numbers[:-1]).any():
        raise ShardError("its rows are not in the order of the shards")
    if len(numbers) and numbers[-1] >= len(facts["shards"]):
        raise ShardError("it names a shard that is not there")
    borders = np.searchsorted(numbers, np.arange(len(facts["shards"]) + 1))
    for start, end in pairwise(borders):
        yield np.asarray(index[start:end])


def check_balance(names: list[str], rows: list[np.ndarray], classes: int) -> Iterator[Finding]:
    """Find training shards whose classes are not a fair sample of all (Pearson's χ², as a shuffle would give it).

    A batch comes from few shards: from shards of few classes each, as unshuffled sources give, a net learns badly.
    """
    total = np.zeros(classes, dtype=np.int64)
    for part in rows:
        total += histogram(part, classes)
    shares = total[total > 0] / max(1, total.sum())
    for name, part in zip(names, rows, strict=True):
        count = histogram(part, classes)
        expected = shares * count.sum()
        if not count.sum():
            continue
        chi2 = ((count[total > 0] - expected) ** 2 / expected).sum()
        deviation = (2 + 1 / expected).sum() ** 0.5
        if chi2 > len(shares) - 1 + UNLIKELY * deviation:
            there = np.count_nonzero(count)
            yield Finding(
                name, f"its {there} of {len(shares)} classes are no fair sample: not shuffled?", odd=True
            )


def histogram(rows: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(rows["label"][rows["label"] < classes], minlength=classes)


# --- One shard


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
