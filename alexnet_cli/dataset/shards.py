"""Shards: which picture goes where, and writing one of them with its sidecar.

The plan is made before anything is decoded, so a reject leaves its shard shorter and shifts no other, and
workers, kills and machines change nothing. A shard is finished when its sidecar is in place.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
import torch
from torch.nn.functional import pad
from webdataset import TarWriter

from alexnet_cli.dataset.images import CMYK, PictureError, Pixels, central, encode, misnamed, prepared
from alexnet_cli.dataset.manifest import INDEX_DTYPE, UNFINISHED
from alexnet_cli.dataset.sources.listing import Listing, Pictures
from alexnet_cli.dataset.sources.records import Record, ahead, release
from alexnet_cli.dataset.statistics import SIZE, Sums
from alexnet_cli.dataset.treatment import Treatment
from alexnet_cli.dataset.workers import NOWHERE, Lost, Watch, unwatched
from alexnet_cli.files import sha256, whole_file

PICTURES_PER_SHARD = 2048
CHUNK = 64  # pictures between two reports of progress
BAND = 3 * 2**13  # values of a picture that are multiplied at once: they stay in the processor's cache
EXACT = min(2**24 // 255**2, 65535 // 255)  # bands and pictures whose sums single precision and 16 bits hold: 257
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
    treatment: Treatment = field(default_factory=Treatment)
    spool: Path | None = None
    """A file that has its pictures, and is removed when the shard is finished."""


@dataclass(frozen=True)
class Sidecar:
    """What is known of a finished shard: `index` has INDEX_DTYPE; rejects are (name, reason).

    `kinds` counts what its pictures were; `odd` are (name, what) of those that are not what they seem.
    """

    checksum: str
    index: np.ndarray
    rejects: tuple[tuple[str, str], ...]
    kinds: dict[str, int]
    odd: tuple[tuple[str, str], ...]


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


def make_task(shard: Shard, pictures: Pictures, treatment: Treatment | None = None) -> Task:
    records = tuple(pictures.record(int(position)) for position in shard.positions)
    keys = tuple(
        key(int(position), record.stem) for position, record in zip(shard.positions, records, strict=True)
    )
    return Task(shard.name, shard.number, shard.split == "train", keys, records, treatment or Treatment())


def key(position: int, stem: str) -> str:
    """Name a picture by its place in the source, which is unique, and its stem without dots and surprises."""
    clean = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:60]
    return f"{position:08d}_{clean}" if clean else f"{position:08d}"


def write_shard(
    work: Task, out: Path, lost: Lost | None = None, watch: Watch = unwatched
) -> Iterator[tuple[int, int]]:
    """Write `out/NAME.tar`, then its sidecar; give pictures done and rejected since the last time.

    Pictures at the positions `lost` are rejects; `watch` is told which one's decoder runs.
    """
    lost = lost or {}
    rejects: list[tuple[str, str]] = []
    rows: list[tuple[int, int, int, int]] = []
    kinds: Counter[str] = Counter()
    odd: list[tuple[str, str]] = []
    totals = Totals(work.treatment.size) if work.counted else None
    tar = out / f"{work.name}.tar"
    records = ahead(work.records)
    with whole_file(tar) as temporary, temporary.open("wb") as file, tar_writer(file) as writer:
        for start in range(0, len(work.records), CHUNK):
            before, end = len(rejects), min(start + CHUNK, len(work.records))
            for position, record in zip(range(start, end), records, strict=False):
                try:
                    if position in lost:
                        raise PictureError(lost[position])
                    content = read(record)
                    watch(position)
                    picture = prepared(content, work.treatment)
                except PictureError as error:
                    rejects.append((record.name, str(error)))
                    continue
                finally:
                    watch(NOWHERE)
                if totals:
                    totals.add(picture.pixels)
                wrong = misnamed(record.name, picture.kinds)
                kinds.update((*picture.kinds, *wrong))
                odd += [(record.name, what) for what in (*picture.kinds, *wrong) if what == CMYK or what in wrong]
                data = encode(picture.pixels, work.treatment)
                member = work.treatment.extension, data
                offset = write_picture(writer, work.keys[position], record.label, *member)
                rows.append((work.number, offset, len(data), record.label))
            yield end - start, len(rejects) - before
    index = np.array(rows, dtype=INDEX_DTYPE)
    sidecar = Sidecar(sha256(tar), index, tuple(rejects), dict(sorted(kinds.items())), tuple(odd))
    save_sidecar(out, work.name, sidecar, totals.sums() if totals else None)
    if work.spool:
        release(work.spool)
        work.spool.unlink(missing_ok=True)


def read(record: Record) -> bytes | np.ndarray:
    try:
        return record.read()
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from None


def tar_writer(file: BinaryIO) -> TarWriter:
    return TarWriter(file, user="", group="", mtime=0, encoder=False)


def write_picture(writer: TarWriter, name: str, label: int, extension: str, data: bytes) -> int:
    """Add one picture and give the offset of its first byte in the tar."""
    writer.write({"__key__": name, "cls": str(label).encode(), extension: data})
    # Members are written in the order of their extensions, so the padded picture is what ends here.
    return int(writer.tarstream.offset) - -(-len(data) // BLOCK) * BLOCK


class Totals:
    """The running sums of a shard: exact integers, carried by small numbers as long as these can hold them.

    A picture's values lie in one line, R G B R G B and so on. Each times itself, times the next and times the
    one after next is, where it is an R, RR, RG and RB; a G gives GG and GB, a B gives BB.
    """

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self.pictures, self.count = 0, 0
        self.squares = np.zeros((size, size, 3), dtype=np.uint64)
        self.margins = np.zeros(3, dtype=np.int64)  # R, G, B of what lies outside the central squares
        self.products = torch.zeros(3, 3, dtype=torch.int64)  # by distance and channel
        self.recent_pictures, self.recent_bands = 0, 0  # since the small numbers were emptied
        self.recent_squares = np.zeros((size, size, 3), dtype=np.uint16)
        self.band = min(BAND, 3 * size**2)
        self.recent_products = torch.zeros(3, self.band)  # single precision is the fastest
        line = torch.zeros(self.band + 2)
        self.values, self.neighbours = line[:-2], line.unfold(0, self.band, 1)  # of one band, one memory

    def add(self, picture: Pixels) -> None:
        """Add (H, W, 3) pixels, no side shorter than `size`."""
        square = central(picture, self.size, self.size)
        if self.recent_pictures == EXACT:
            self.settle()
        self.recent_squares += square
        self.recent_pictures += 1
        if square.shape != picture.shape:
            self.margins += channel_sums(picture) - channel_sums(square)
        line = torch.from_numpy(picture.reshape(-1))
        for start in range(0, len(line), self.band):
            self.multiply(line[start : start + self.band])
        self.pictures += 1
        self.count += picture.shape[0] * picture.shape[1]

    def multiply(self, band: torch.Tensor) -> None:
        if self.recent_bands == EXACT:
            self.settle()
        if len(band) < self.band:
            band = pad(band, (0, self.band - len(band)))
        self.values.copy_(band)
        self.recent_products.addcmul_(self.values, self.neighbours)
        self.recent_bands += 1

    def settle(self) -> None:
        self.squares += self.recent_squares
        self.products += self.recent_products.view(3, -1, 3).sum(1, dtype=torch.float64).long()
        self.recent_squares.fill(0)
        self.recent_products.zero_()
        self.recent_pictures, self.recent_bands = 0, 0

    def sums(self) -> Sums:
        self.settle()
        (rr, gg, bb), (rg, gb, _), (rb, _, _) = self.products.tolist()
        squares = np.ascontiguousarray(self.squares.transpose(2, 0, 1))
        rgb = squares.sum(axis=(1, 2), dtype=np.int64) + self.margins
        products = (rr, rg, rb), (rg, gg, gb), (rb, gb, bb)
        return Sums(self.pictures, self.count, squares, tuple(rgb.tolist()), products)


def channel_sums(pixels: Pixels) -> np.ndarray:
    return pixels.reshape(-1, 3).sum(0, dtype=np.int64)  # type: ignore[no-any-return]


def sidecar_path(out: Path, name: str) -> Path:
    return out / UNFINISHED / f"{name}.npz"


def save_sidecar(out: Path, name: str, sidecar: Sidecar, sums: Sums | None) -> None:
    facts: dict[str, Any] = {
        "checksum": sidecar.checksum,
        "rejects": sidecar.rejects,
        "kinds": sidecar.kinds,
        "odd": sidecar.odd,
    }
    arrays = {"index": sidecar.index}
    if sums:
        facts |= {"pictures": sums.pictures, "pixels": sums.pixels, "rgb": sums.rgb, "products": sums.products}
        arrays["squares"] = sums.squares.astype(np.uint32)
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    with whole_file(sidecar_path(out, name)) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_sidecar(out: Path, name: str) -> Sidecar:
    with sidecar_path(out, name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        facts = json.loads(arrays["facts"].tobytes())
        rejects, odd = (tuple(map(tuple, facts[key])) for key in ("rejects", "odd"))
        return Sidecar(facts["checksum"], arrays["index"], rejects, facts["kinds"], odd)


def load_sums(out: Path, name: str) -> Sums | None:
    """Give the sums of a training shard: apart from the sidecar, because those of all shards would fill memory."""
    with np.load(sidecar_path(out, name), allow_pickle=False) as arrays:
        if "squares" not in arrays:
            return None
        facts = json.loads(arrays["facts"].tobytes())
        squares, products = arrays["squares"].astype(np.uint64), tuple(map(tuple, facts["products"]))
        return Sums(facts["pictures"], facts["pixels"], squares, tuple(facts["rgb"]), products)


def finished(out: Path, name: str) -> Sidecar | None:
    """Give the sidecar of a shard that is there, whole; None of one that is to be written."""
    if not sidecar_path(out, name).is_file():
        return None
    try:
        sidecar, size = load_sidecar(out, name), (out / f"{name}.tar").stat().st_size
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    last = sidecar.index[-1:]
    end = int((last["offset"] + last["size"]).sum())
    return sidecar if size >= -(-end // BLOCK) * BLOCK + 2 * BLOCK else None
