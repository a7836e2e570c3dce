"""A far dataset opened: its small files are fetched and checked, its shards only when they are needed."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_cli.dataset.far import shelf
from alexnet_cli.dataset.far.address import Address, address
from alexnet_cli.dataset.far.fetching import Expected, fetch
from alexnet_cli.dataset.far.lending import Far
from alexnet_cli.dataset.manifest import (
    CHECKED_AT_ONCE,
    INDEX_DTYPE,
    MANIFEST,
    MEAN,
    SPLITS,
    STATISTICS,
    Dataset,
    Split,
    index_name,
    open_dataset,
)
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import sha256, whole_file, write_bytes

SMALL = 256 << 20
"""Bytes that a manifest may have: twice what 14 million pictures need, a tenth of them rejected."""

AFTER = 64 << 10
"""Bytes of a shard after its last picture, at most: its label, and the end of the tar."""

USED = ("train", "val")  # by a training


def cache() -> Path:
    """The folder of this machine's copies."""
    return Path(os.environ.get("ALEXNET_CACHE") or Path.home() / ".cache" / "alexnet")


def open_far(place: str, keep: bool) -> Dataset:
    """Open the dataset at a URL; with `keep` its shards will stay on this disk, else only while they are needed.

    Raises AlexNetError for what cannot be read or is no dataset, and where shards that stay do not fit.
    """
    where, memory = address(place), io.BytesIO()
    fetch(where.file(MANIFEST), memory, Expected(0, SMALL))
    manifest = memory.getvalue()
    folder = cache() / hashlib.sha256(manifest).hexdigest()
    if not _has(folder / MANIFEST, folder.name):
        write_bytes(folder / MANIFEST, manifest)
    try:
        for name, expected in _small_files(json.loads(manifest)):
            if not _has(folder / name, expected.sha256):
                _bring(where.file(name), folder / name, expected)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"{where.file(MANIFEST)} is damaged: {type(error).__name__}: {error}"
        raise AlexNetError(what, "copy the dataset there again, or prepare it again") from error
    try:
        dataset = open_dataset(folder, shards_here=False)
    except AlexNetError as error:
        raise AlexNetError(f"{where}: {error.message}", error.hint) from error
    splits = {name: _split(split, where, dataset, keep) for name, split in dataset.splits.items()}
    if keep:
        needed = [split.far.missing() for name, split in splits.items() if split.far and name in USED]
        shelf.check_space(folder, sum(map(sum, needed)), f"{where} needs")
    return replace(dataset, splits=splits, url=str(where))


def _small_files(manifest: dict[str, Any]) -> Iterator[tuple[str, Expected]]:
    yield STATISTICS, Expected(2, SMALL, manifest["statistics_sha256"])
    yield MEAN, Expected(2, SMALL, manifest["mean_sha256"])
    for name, facts in manifest["splits"].items():
        if index_name(name) in INDICES:
            rows = INDEX_DTYPE.itemsize * int(facts["pictures"])
            yield index_name(name), Expected(rows, rows + AFTER, facts["index_sha256"])


INDICES = {index_name(split) for split in SPLITS}


def _has(path: Path, checksum: str) -> bool:
    return path.is_file() and sha256(path) == checksum


def _bring(file: Address, path: Path, expected: Expected) -> None:
    with whole_file(path) as temporary, shelf.disk_errors(path), temporary.open("wb") as target:
        fetch(file, target, expected)


def _split(split: Split, where: Address, dataset: Dataset, keep: bool) -> Split:
    """With shards that stay where they are kept already, and else where `keep` says."""
    facts = dataset.manifest["splits"][split.name]["shards"]
    ends = _ends(split.index, len(facts))
    expected = tuple(
        Expected(end, end + AFTER, str(shard["sha256"])) for shard, end in zip(facts, ends, strict=True)
    )
    paths = tuple(
        path if keep or path.exists() else path.parent / shelf.PASSING / path.name for path in split.shards
    )
    return replace(split, shards=paths, far=Far(where, paths, expected))


def _ends(index: np.ndarray, shards: int) -> list[int]:
    """Where the last picture of each shard ends; done in pieces, so that 14 million rows fit."""
    ends = np.zeros(shards, dtype=np.uint64)
    for start in range(0, len(index), CHECKED_AT_ONCE):
        rows = np.asarray(index[start : start + CHECKED_AT_ONCE])
        np.maximum.at(ends, rows["shard"], rows["offset"] + rows["size"])
    return [int(end) for end in ends]
