"""A dataset directory read again, whole, against its manifest: whatever differs is found, and all of it."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

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
from alexnet_cli.dataset.rereading import Finding, ShardError, Task, check_shard
from alexnet_cli.dataset.statistics import principal_components
from alexnet_cli.dataset.treatment import Treatment, treatment_of
from alexnet_cli.dataset.workers import run_here, run_with
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import read_json, sha256

UNLIKELY = 10.0  # standard deviations, for the classes in a shard


@dataclass(frozen=True)
class Progress:
    """Pictures read so far, and what was found since the last report."""

    done: int
    total: int
    findings: tuple[Finding, ...]


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
