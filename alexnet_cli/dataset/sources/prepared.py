"""A prepared dataset as a source: some of its classes, as a dataset of their own with its own mean and colours."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from alexnet_cli.dataset.manifest import Dataset, Split
from alexnet_cli.dataset.sources.listing import Listing, Pictures
from alexnet_cli.dataset.sources.records import Record, Span
from alexnet_cli.errors import AlexNetError


@dataclass(frozen=True)
class Stored:
    """The pictures of a split in its shards, by the row of its index."""

    split: Split

    @cached_property
    def index(self) -> np.ndarray:
        return np.asarray(self.split.index)

    def record(self, row: int, label: int) -> Record:
        shard, offset, size, _ = self.index[row].tolist()
        path = self.split.shards[shard]
        name = f"{path.stem}-{row}"
        return Record(f"{path.name}/{name}", name, label, Span(path, offset, size))

    def order(self, rows: np.ndarray) -> np.ndarray:
        return np.lexsort((self.index["offset"][rows], self.index["shard"][rows]))

    def weight(self, rows: np.ndarray) -> int:
        return int(self.index["size"][rows].sum())

    def digest(self) -> str:
        return hashlib.sha256(self.index.tobytes()).hexdigest()


def some_classes(dataset: Dataset, labels: Sequence[int]) -> Listing:
    """Its pictures of the classes with these labels, which are numbered anew in this order.

    Raises AlexNetError where the shards are elsewhere, or hold bare pixels and not pictures.
    """
    if dataset.url:
        raise AlexNetError(f"{dataset.place} is far away, and its pictures are needed here", "copy it to a folder")
    if dataset.treatment.encoding == "raw":
        raise AlexNetError(
            f"the pictures in {dataset.place} are stored as bare pixels, and are no source",
            "prepare it with --encoding png, or jpeg",
        )
    ids = tuple(wnid for label in labels if (wnid := dataset.wnids[label]) is not None)
    return Listing(
        f"{len(labels)} of the {len(dataset.classes)} classes of {dataset.manifest['form']}",
        tuple(dataset.classes[label] for label in labels),
        {name: _of(split, labels) for name, split in dataset.splits.items()},
        ids=ids if len(ids) == len(labels) else (),
    )


def _of(split: Split, labels: Sequence[int]) -> Pictures:
    store = Stored(replace(split, index=np.asarray(split.index)))
    found = store.index["label"]
    rows = np.flatnonzero(np.isin(found, labels)).astype(np.uint32)
    order = np.argsort(labels)
    anew = order[np.searchsorted(np.asarray(labels)[order], found[rows])]
    return Pictures(store, rows, anew.astype(np.uint32))
