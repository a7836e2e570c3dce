"""What a source holds: classes in label order and, for each split, its pictures in source order.

A listing is columns (labels, sizes, names), not objects: a `Record` is made only for the shard at work.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from alexnet_cli.dataset.archives import Columns, Names
from alexnet_cli.dataset.sources.records import Record, Span
from alexnet_cli.imagenet import WNID


class Store(Protocol):
    """Where the pictures of a split are, by row."""

    def record(self, row: int, label: int) -> Record: ...

    def order(self, rows: np.ndarray, /) -> np.ndarray:
        """Give the positions in `rows` in the order in which they are best read."""

    def weight(self, rows: np.ndarray, /) -> int:
        """Give the bytes that their files have together; 0 of what is in memory."""

    def digest(self) -> str:
        """Digest what lies there, but not where."""


@dataclass(frozen=True)
class Files:
    """Pictures that are files: names relative to `root`, sizes in bytes int64 (n,)."""

    root: Path
    names: Sequence[str] | Names
    sizes: np.ndarray

    def record(self, row: int, label: int) -> Record:
        name = self.names[row]
        return Record(name, Path(name).stem, label, self.root / name)

    def order(self, rows: np.ndarray) -> np.ndarray:
        return np.argsort(rows, kind="stable")

    def weight(self, rows: np.ndarray) -> int:
        return int(self.sizes[rows].sum())

    def digest(self) -> str:
        digest = hashlib.sha256(self.sizes.tobytes())
        for row in range(len(self.names)):
            digest.update(self.names[row].encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()


@dataclass(frozen=True)
class Arrays:
    """Pictures that are decoded already: uint8 (n, H, W) grey or (n, H, W, 3) RGB, shown as `name[row]`."""

    name: str
    pixels: np.ndarray

    def record(self, row: int, label: int) -> Record:
        return Record(f"{self.name}[{row}]", "", label, self.pixels[row])

    def order(self, rows: np.ndarray) -> np.ndarray:
        return np.argsort(rows, kind="stable")

    def weight(self, _: np.ndarray) -> int:
        return 0

    def digest(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.pixels).data).hexdigest()


@dataclass(frozen=True)
class Members:
    """Pictures that are members of tars, tar after tar.

    `archives` are files under `root`. A tar's name is shown before its members' names; `archive` int64 (tars,)
    says in which file it is, and `ends` int64 (tars,) at which row it ends.
    """

    root: Path
    archives: Sequence[str]
    tars: Sequence[str]
    archive: np.ndarray
    ends: np.ndarray
    members: Columns

    def record(self, row: int, label: int) -> Record:
        tar = int(np.searchsorted(self.ends, row, side="right"))
        name = self.members.names[row]
        path = self.root / self.archives[int(self.archive[tar])]
        span = Span(path, self.members.offsets[row], self.members.sizes[row])
        shown = f"{self.tars[tar]}/{name}" if self.tars[tar] else name
        return Record(shown, Path(name).stem, label, span)

    def order(self, rows: np.ndarray) -> np.ndarray:
        archives = self.archive[np.searchsorted(self.ends, rows, side="right")]
        return np.lexsort((np.asarray(self.members.offsets)[rows], archives))

    def weight(self, rows: np.ndarray) -> int:
        return int(np.asarray(self.members.sizes)[rows].sum())

    def digest(self) -> str:
        digest = hashlib.sha256(self.members.sizes)
        digest.update("\0".join(self.tars).encode("utf-8", "surrogateescape") + self.ends.tobytes())
        digest.update(self.members.names.ends)
        digest.update(self.members.names.text)
        return digest.hexdigest()


@dataclass(frozen=True)
class Pictures:
    """The pictures of one split: `rows` of a store and their labels, both (n,)."""

    store: Store
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: np.ndarray) -> "Pictures":
        return replace(self, rows=self.rows[positions], labels=self.labels[positions])

    def record(self, position: int) -> Record:
        return self.store.record(int(self.rows[position]), int(self.labels[position]))


@dataclass(frozen=True)
class Listing:
    """A source that was looked at; `ignored` names what lies there and is no picture by its name.

    `ids` are the WNIDs of the classes where their names are words; `notes` are for the user to know.
    """

    form: str
    classes: tuple[str, ...]
    splits: dict[str, Pictures]
    ignored: tuple[str, ...] = field(default=())
    ids: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())

    @property
    def wnids(self) -> tuple[str | None, ...]:
        return self.ids or tuple(name if WNID.fullmatch(name) else None for name in self.classes)

    def digest(self) -> str:
        """Digest everything that decides which picture becomes what: equal for an unchanged source."""
        said = "\0".join((self.form, *self.classes, *self.ids))
        digest = hashlib.sha256(said.encode("utf-8", "surrogateescape"))
        for name, pictures in self.splits.items():
            digest.update(f"\n{name} {pictures.store.digest()}".encode())
            digest.update(pictures.rows.astype("<u4").tobytes() + pictures.labels.astype("<u4").tobytes())
        return digest.hexdigest()


def whole(store: Store, labels: np.ndarray) -> Pictures:
    return Pictures(store, np.arange(len(labels), dtype=np.uint32), labels.astype(np.uint32))


def carve_validation(listing: Listing, fraction: float, seed: int) -> Listing:
    """Move a seeded part of each class from `train` to a new `val`, both left in source order.

    A class gives ⌊count × fraction + ½⌋ pictures, but never its last. A source that has `val` is unchanged.
    """
    if "val" in listing.splits or "train" not in listing.splits or fraction <= 0:
        return listing
    train = listing.splits["train"]
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(train), dtype=bool)
    for label in range(len(listing.classes)):
        positions = np.flatnonzero(train.labels == label)
        count = min(int(len(positions) * fraction + 0.5), len(positions) - 1)
        chosen[generator.permutation(positions)[: max(count, 0)]] = True
    parts = {"train": train.take(np.flatnonzero(~chosen)), "val": train.take(np.flatnonzero(chosen))}
    return replace(listing, splits={**parts, **{k: v for k, v in listing.splits.items() if k not in parts}})


def limit(listing: Listing, count: int | None) -> Listing:
    """Keep at most `count` pictures of each split, evenly over its classes, the first of each class."""
    if count is None:
        return listing
    return replace(listing, splits={name: evenly(pictures, count) for name, pictures in listing.splits.items()})


def evenly(pictures: Pictures, count: int) -> Pictures:
    """Take the first picture of every class, then the second of every class, and so on up to `count`."""
    by_class = np.argsort(pictures.labels, kind="stable")
    labels = pictures.labels[by_class]
    turn = np.arange(len(labels)) - np.searchsorted(labels, labels)  # place within its class
    return pictures.take(np.sort(by_class[np.lexsort((labels, turn))][:count]))
