"""Shards: which picture goes where, and writing one of them with its sidecar.

The plan is made before anything is decoded, so a reject leaves its shard shorter and shifts no other, and
workers, kills and machines change nothing. A shard is finished when its sidecar is in place.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from webdataset import TarWriter

from alexnet_cli.dataset.images import PictureError, Pixels, decode, encode, from_array, to_square
from alexnet_cli.dataset.manifest import INDEX_DTYPE, UNFINISHED
from alexnet_cli.dataset.sources.listing import Listing, Pictures, Record
from alexnet_cli.dataset.statistics import SIZE, Sums
from alexnet_cli.files import sha256, whole_file

PICTURES_PER_SHARD = 2048
CHUNK = 64  # pictures between two reports of progress
BANDS = 8  # into which a picture is cut for the sums of products
RECENT = 2**24 // (255**2 * BANDS)  # pictures whose products single precision holds exactly: 32
BLOCK = 512  # a tar header is one block, data is padded to whole blocks


@dataclass(frozen=True)
class Shard:
    """One shard to be: its pictures by position in the split, in the order in which they are written."""

    split: str
    number: int
    positions: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06d}"


@dataclass(frozen=True)
class Task:
    """All that a worker needs to write one shard."""

    name: str
    number: int
    counted: bool  # whether its pixels enter the statistics: the training split's do
    keys: tuple[str, ...]
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Sidecar:
    """What is known of a finished shard: `index` has INDEX_DTYPE; rejects are (name, reason)."""

    checksum: str
    index: np.ndarray
    rejects: tuple[tuple[str, str], ...]
    sums: Sums | None


def plan_shards(listing: Listing, seed: int) -> list[Shard]:
    """Cut each split into shards: training pictures by one seeded permutation, the others in source order."""
    shards = []
    for split, pictures in listing.splits.items():
        order = np.arange(len(pictures))
        if split == "train":
            order = np.random.default_rng(seed).permutation(len(pictures))
        cuts = range(0, len(order), PICTURES_PER_SHARD)
        shards += [Shard(split, n, order[at : at + PICTURES_PER_SHARD]) for n, at in enumerate(cuts)]
    return shards


def make_task(shard: Shard, pictures: Pictures) -> Task:
    records = tuple(pictures.record(int(position)) for position in shard.positions)
    keys = tuple(
        key(int(position), record.stem) for position, record in zip(shard.positions, records, strict=True)
    )
    return Task(shard.name, shard.number, shard.split == "train", keys, records)


def key(position: int, stem: str) -> str:
    """Name a picture by its place in the source, which is unique, and its stem without dots and surprises."""
    clean = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:60]
    return f"{position:08d}_{clean}" if clean else f"{position:08d}"


def write_shard(work: Task, out: Path) -> Iterator[tuple[int, int]]:
    """Write `out/NAME.tar`, then its sidecar; give pictures done and rejected since the last time."""
    rejects: list[tuple[str, str]] = []
    rows: list[tuple[int, int, int, int]] = []
    totals = Totals() if work.counted else None
    tar = out / f"{work.name}.tar"
    with whole_file(tar) as temporary, temporary.open("wb") as file, tar_writer(file) as writer:
        for start in range(0, len(work.records), CHUNK):
            before, end = len(rejects), min(start + CHUNK, len(work.records))
            for position in range(start, end):
                record = work.records[position]
                try:
                    square = open_square(record)
                except PictureError as error:
                    rejects.append((record.name, str(error)))
                    continue
                if totals:
                    totals.add(square)
                data = encode(square)
                offset = write_picture(writer, work.keys[position], record.label, data)
                rows.append((work.number, offset, len(data), record.label))
            yield end - start, len(rejects) - before
    sums = totals.sums() if totals else None
    save_sidecar(out, work.name, Sidecar(sha256(tar), np.array(rows, dtype=INDEX_DTYPE), tuple(rejects), sums))


def open_square(record: Record) -> Pixels:
    try:
        content = record.read()
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from None
    return to_square(decode(content) if isinstance(content, bytes) else from_array(content))


def tar_writer(file: BinaryIO) -> TarWriter:
    return TarWriter(file, user="", group="", mtime=0, encoder=False)


def write_picture(writer: TarWriter, name: str, label: int, jpeg: bytes) -> int:
    """Add one picture and give the offset of the JPEG's first byte in the tar."""
    writer.write({"__key__": name, "cls": str(label).encode(), "jpg": jpeg})
    # Members are written in the order of their extensions, so the padded JPEG is what ends here.
    return int(writer.tarstream.offset) - -(-len(jpeg) // BLOCK) * BLOCK


class Totals:
    """The running sums of a shard: exact integers, carried by small numbers as long as these can hold them.

    A picture's values lie in one line, R G B R G B and so on. Each times itself, times the next and times the
    one after next is, where it is an R, RR, RG and RB; a G gives GG and GB, a B gives BB.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self.pixels = np.zeros((SIZE, SIZE, 3), dtype=np.uint64)
        self.products = torch.zeros(3, 3, dtype=torch.int64)  # by distance and channel
        self.recent_pixels = np.zeros((SIZE, SIZE, 3), dtype=np.uint16)
        self.recent_products = torch.zeros(3, SIZE * SIZE * 3 // BANDS)  # single precision is the fastest
        line = torch.zeros(self.recent_products.shape[1] + 2)
        self.values, self.neighbours = line[:-2], line.unfold(0, len(line) - 2, 1)  # of one band, one memory

    def add(self, square: Pixels) -> None:
        """Add a (256, 256, 3) picture, its products in bands that the processor's cache can hold."""
        self.recent_pixels += square
        for band in torch.from_numpy(square.reshape(BANDS, -1)):
            self.values.copy_(band)
            self.recent_products.addcmul_(self.values, self.neighbours)
        self.pictures += 1
        if self.pictures % RECENT == 0:
            self.settle()

    def settle(self) -> None:
        self.pixels += self.recent_pixels
        self.products += self.recent_products.view(3, -1, 3).sum(1, dtype=torch.float64).long()
        self.recent_pixels.fill(0)
        self.recent_products.zero_()

    def sums(self) -> Sums:
        self.settle()
        (rr, gg, bb), (rg, gb, _), (rb, _, _) = self.products.tolist()
        pixels = np.ascontiguousarray(self.pixels.transpose(2, 0, 1))
        return Sums(self.pictures, pixels, ((rr, rg, rb), (rg, gg, gb), (rb, gb, bb)))


def sidecar_path(out: Path, name: str) -> Path:
    return out / UNFINISHED / f"{name}.npz"


def save_sidecar(out: Path, name: str, sidecar: Sidecar) -> None:
    facts: dict[str, Any] = {"checksum": sidecar.checksum, "rejects": sidecar.rejects}
    arrays = {"index": sidecar.index}
    if sidecar.sums:
        facts |= {"pictures": sidecar.sums.pictures, "products": sidecar.sums.products}
        arrays["pixels"] = sidecar.sums.pixels.astype(np.uint32)
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    with whole_file(sidecar_path(out, name)) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_sidecar(out: Path, name: str) -> Sidecar:
    with np.load(sidecar_path(out, name), allow_pickle=False) as arrays:
        facts = json.loads(arrays["facts"].tobytes())
        sums = None
        if "pixels" in arrays:
            products = tuple(tuple(row) for row in facts["products"])
            sums = Sums(facts["pictures"], arrays["pixels"].astype(np.uint64), products)
        return Sidecar(facts["checksum"], arrays["index"], tuple(map(tuple, facts["rejects"])), sums)


def is_finished(out: Path, name: str) -> bool:
    return sidecar_path(out, name).is_file()
