"""A dataset directory as the rest of the program reads it: `open_dataset` checks everything it hands out.

The keys of manifest.json:

`format`            FORMAT_VERSION
`form`              of the source, in words
`classes`           [{name, wnid or null}] in label order
`splits`            of each: pictures, shards [{name, pictures, sha256}], index_sha256, rejects [{name, reason}],
                    kinds {word: pictures} of what they were in the source, odd [{name, what}] of those that are
                    not what they seem (at most 1000)
`geometry`, `size`, `exif`, `encoding` {format, extension, and for JPEG quality, chroma}: see `treatment`
`filter`            of the resize
`pictures_per_shard`
`options`           {seed, val_fraction, limit}
`decoder`           versions of the libraries and a fingerprint of what they make
`mean_sha256`, `statistics_sha256`
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_cli import paper
from alexnet_cli.dataset.far.address import is_far
from alexnet_cli.dataset.treatment import Encoding, Treatment, treatment_of
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import read_json, sha256

if TYPE_CHECKING:
    from alexnet_cli.dataset.far.lending import Far

FORMAT_VERSION = 1
INDEX_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("label", "<u4")])
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
STATISTICS = "statistics.json"
MEAN = "mean.npy"
UNFINISHED = ".unfinished"
BARE_NAME = re.compile(r"(train|val|test)-\d{6,}\.tar")
CHECKED_AT_ONCE = 1 << 20  # index rows
LARGEST_SHARD = 1 << 40  # bytes, of one that is not here


@dataclass(frozen=True)
class Split:
    """One split: `index` is memory-mapped INDEX_DTYPE, a row a picture; its `shard` counts in `shards`.

    With `far` a shard is there only while that lends it.
    """

    name: str
    shards: tuple[Path, ...]
    index: np.ndarray
    encoding: Encoding = "jpeg"
    far: "Far | None" = None

    def part(self, count: int | None) -> "Split":
        """The same split with `count` of its pictures, evenly spaced: it may be ordered by class."""
        total = len(self.index)
        if count is None or count >= total:
            return self
        return replace(self, index=self.index[np.arange(count) * total // count])

    def first(self, count: int) -> "Split":
        """The same split with its first pictures only, which lie in few shards."""
        return replace(self, index=self.index[:count])


@dataclass(frozen=True)
class Dataset:
    """A finished dataset directory; pixels count 0..255.

    `mean` is float32 (3, size, size), `rgb_mean` float64 (3,), `eigenvalues` float64 (3,) descending variances,
    `eigenvectors` float64 (3, 3) in columns with rows R, G, B; `fingerprint` is the manifest's SHA-256.
    `treatment` says what was done to the pictures.
    """

    root: Path
    classes: tuple[str, ...]
    wnids: tuple[str | None, ...]
    splits: dict[str, Split]
    mean: np.ndarray
    rgb_mean: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    fingerprint: str
    treatment: Treatment
    manifest: dict[str, Any]
    url: str = ""

    @property
    def place(self) -> str:
        """Where it lies, for people: of a far dataset `root` holds only what was fetched."""
        return self.url or str(self.root)


def index_name(split: str) -> str:
    return f"{split}-index.npy"


def open_dataset(root: Path, shards_here: bool = True) -> Dataset:
    """Open and check; raises AlexNetError for a directory that is absent, unfinished, foreign or damaged.

    With `shards_here` false the shards are not looked for, nor whether pictures lie inside them.
    """
    manifest = read_manifest(root)
    try:
        treatment = treatment_of(manifest)
        classes = tuple(str(entry["name"]) for entry in manifest["classes"])
        wnids = tuple(entry["wnid"] for entry in manifest["classes"])
        splits = {
            name: open_split(root, name, manifest["splits"][name], len(classes), treatment.encoding, shards_here)
            for name in SPLITS
            if name in manifest["splits"]
        }
        numbers = read_json(root / STATISTICS)
        mean = load(root / MEAN)
        if mean.dtype != np.float32 or mean.shape != (3, treatment.size, treatment.size):
            raise damaged(root / MEAN, f"it holds {mean.dtype} {mean.shape}")
        return Dataset(
            root=root,
            classes=classes,
            wnids=wnids,
            splits=splits,
            mean=mean,
            rgb_mean=np.array(numbers["rgb_mean"], dtype=np.float64).reshape(3),
            eigenvalues=np.array(numbers["eigenvalues"], dtype=np.float64).reshape(3),
            eigenvectors=np.array(numbers["eigenvectors"], dtype=np.float64).reshape(3, 3),
            fingerprint=sha256(root / MANIFEST),
            treatment=treatment,
            manifest=manifest,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(root / MANIFEST, f"{type(error).__name__}: {error}") from error


def open_squares(place: Path | str, keep: bool = False) -> Dataset:
    """Open a dataset to feed a network of the recipes: a directory, or the URL of one.

    The shards of a far one are fetched as they are needed, and with `keep` stay on this disk. Raises AlexNetError
    as `open_dataset`, and where the pictures do not fit.
    """
    dataset = _opened(str(place), keep)
    size, geometry = dataset.treatment.size, dataset.treatment.geometry
    if geometry == "shorter" or size != paper.IMAGE_SIZE:
        found = f"have a shorter side of {size}" if geometry == "shorter" else f"are {size}×{size}"
        raise AlexNetError(
            f"the pictures in {dataset.place} {found}, and the recipes need {paper.IMAGE_SIZE}×{paper.IMAGE_SIZE}",
            f"alexnet prepare SOURCE --out OTHER --size {paper.IMAGE_SIZE} --geometry crop",
        )
    return dataset


def _opened(place: str, keep: bool) -> Dataset:
    if is_far(place):
        from alexnet_cli.dataset.far.opening import open_far  # which builds on this module

        return open_far(place, keep)
    if keep:
        raise AlexNetError(
            f"--cache disk: {place} is a folder of this machine already", "leave --cache out, or copy it elsewhere"
        )
    return open_dataset(Path(place))


def read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        if (root / UNFINISHED).is_dir():
            raise AlexNetError(
                f"the dataset in {root} is unfinished", "give the same `alexnet prepare` again: it goes on"
            )
        raise AlexNetError(f"there is no dataset in {root}", f"make one: alexnet prepare SOURCE --out {root}")
    manifest = read_json(path)
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise AlexNetError(
            f"{root} has dataset format {version}; this alexnet reads format {FORMAT_VERSION}",
            "prepare it again, or use the version of alexnet that wrote it",
        )
    return dict(manifest)


def open_split(
    root: Path, name: str, facts: dict[str, Any], classes: int, encoding: Encoding, shards_here: bool
) -> Split:
    names = [shard["name"] for shard in facts["shards"]]
    for shard in names:
        if not BARE_NAME.fullmatch(shard):
            raise damaged(root / MANIFEST, f"{shard!r} is not the name of a shard")
    shards = tuple(root / shard for shard in names)
    index = load(root / index_name(name), mapped=True)
    if index.dtype != INDEX_DTYPE or index.ndim != 1 or len(index) != facts["pictures"]:
        raise damaged(root / index_name(name), f"it does not list {facts['pictures']} pictures")
    limits = sizes(shards) if shards_here else np.full(len(shards), LARGEST_SHARD, dtype=np.uint64)
    check_index(root / index_name(name), index, limits, classes)
    return Split(name, shards, index, encoding)


def sizes(shards: tuple[Path, ...]) -> np.ndarray:
    try:
        return np.array([shard.stat().st_size for shard in shards], dtype=np.uint64)
    except OSError as error:
        raise damaged(Path(error.filename), error.strerror or "it cannot be read") from error


def check_index(path: Path, index: np.ndarray, limits: np.ndarray, classes: int) -> None:
    """Every row must lie inside its shard and have a class; done in pieces, so that 14 million rows fit."""
    for start in range(0, len(index), CHECKED_AT_ONCE):
        rows = np.asarray(index[start : start + CHECKED_AT_ONCE])
        if rows["shard"].max() >= len(limits):
            raise damaged(path, "it names a shard that is not there")
        if rows["label"].max() >= classes:
            raise damaged(path, f"it has label {rows['label'].max()}, and there are {classes} classes")
        limit = limits[rows["shard"]]
        # The offset is compared first, so that the difference cannot wrap around.
        if (rows["offset"] > limit).any() or (rows["size"] > limit - rows["offset"]).any():
            raise damaged(path, "it points outside a shard")


def load(path: Path, mapped: bool = False) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(array, np.ndarray):
        raise damaged(path, "it is no array")
    return array


def damaged(path: Path, reason: str) -> AlexNetError:
    return AlexNetError(f"{path} is missing or damaged: {reason}", "prepare the dataset again with --overwrite")
