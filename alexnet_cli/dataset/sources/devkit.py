"""The development kits of ILSVRC-2010 and 2012: which class an ID stands for, and the labels of val and test.

A kit is a folder or an archive. `data/meta.mat` says which WNID an ILSVRC ID stands for; the ground truths have
an ID a line, in the order of the pictures' numbers.
"""

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet_cli.dataset.archives import Region, members, opened
from alexnet_cli.dataset.sources.matfile import MatError, read_mat
from alexnet_cli.errors import AlexNetError
from alexnet_cli.imagenet import WNID

LOW_LEVEL = 1000  # higher IDs are the classes' ancestors in WordNet
FILE_LIMIT = 1 << 26
KIT_LIMIT = 1 << 28  # inflated
TRUTHS = {"val": "validation", "test": "test"}
AGAIN = "download the development kit again"


@dataclass(frozen=True)
class Devkit:
    """`wnids` and `words` are by ILSVRC ID; `truth` has the IDs int64 (n,) of val and test, if they are known."""

    name: str
    wnids: dict[int, str]
    words: dict[int, str]
    truth: dict[str, np.ndarray]

    def labels(self, split: str) -> list[str] | None:
        """Give the WNIDs of a split's pictures, by their numbers from 1 on."""
        return [self.wnids[number] for number in self.truth[split].tolist()] if split in self.truth else None


def find_devkit(root: Path, year: int) -> Devkit | None:
    """Open the kit that lies in `root`, packed or unpacked; raises AlexNetError when it is damaged."""
    files: dict[str, tuple[str, bytes]] = {}
    for shown, data in kit_files(root, year):
        files.setdefault(shown.rpartition("/")[2], (shown, data))
    if "meta.mat" not in files:
        return None
    name, data = files["meta.mat"]
    wnids, words = read_meta(name, data, f"ILSVRC{year}_ID")
    truth = {
        split: read_truth(*files[file], wnids)
        for split, word in TRUTHS.items()
        if (file := f"ILSVRC{year}_{word}_ground_truth.txt") in files
    }
    return Devkit(name, wnids, words, truth)


def kit_files(root: Path, year: int) -> Iterator[tuple[str, bytes]]:
    """Give the files of interest, those that lie open first, each with the name to show."""
    wanted = {"meta.mat", *(f"ILSVRC{year}_{word}_ground_truth.txt" for word in TRUTHS.values())}
    kits = [path for path in sorted(root.glob("*devkit*")) if "ILSVRC" not in path.name or str(year) in path.name]
    folders = [root, *(path for path in kits if path.is_dir()), *root.glob("*devkit*/*devkit*/")]
    for folder in folders:
        for path in (folder / place / name for place in ("", "data") for name in sorted(wanted)):
            if path.is_file():
                yield str(path), read_bounded(path)
    for path in kits:
        if path.is_file() and path.suffix in (".gz", ".tgz", ".tar"):
            yield from packed_files(path, wanted)


def packed_files(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    if path.suffix == ".tar":
        with opened(path) as tar:
            yield from wanted_members(tar, wanted)
        return
    with tempfile.TemporaryFile() as file:
        size = inflate(path, file)
        yield from wanted_members(Region(path, file.fileno(), 0, size, str(path)), wanted)


def inflate(path: Path, file: BinaryIO) -> int:
    """Unpack gzip into an open file and give the number of bytes."""
    size = 0
    try:
        with gzip.open(path) as packed:
            while piece := packed.read(1 << 20):
                size += file.write(piece)
                if size > KIT_LIMIT:
                    raise AlexNetError(f"{path} inflates to more than {KIT_LIMIT >> 20} MiB", AGAIN)
    except (OSError, EOFError, zlib.error) as error:
        raise AlexNetError(f"{path} cannot be read: {error}", AGAIN) from error
    file.flush()
    return size


def wanted_members(tar: Region, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    for member in members(tar):
        if member.name.rpartition("/")[2] in wanted and member.size <= FILE_LIMIT:
            yield f"{tar.name}/{member.name}", tar.read(member.offset, member.size)


def read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise AlexNetError(f"{path} cannot be read: {error.strerror}", "make it readable") from error
    if len(data) > FILE_LIMIT:
        raise AlexNetError(f"{path} is larger than {FILE_LIMIT >> 20} MiB", AGAIN)
    return data


def read_meta(name: str, data: bytes, key: str) -> tuple[dict[int, str], dict[int, str]]:
    """Give WNID and words by ID, of the classes that are leaves; `key` is what the file calls the ID."""
    try:
        synsets = read_mat(data).get("synsets")
    except MatError as error:
        raise AlexNetError(f"{name} cannot be read: {error}", AGAIN) from error
    wnids: dict[int, str] = {}
    words: dict[int, str] = {}
    for synset in synsets if isinstance(synsets, list) else []:
        try:
            number, wnid, children = int(synset[key][0]), synset["WNID"], int(synset["num_children"][0])  # type: ignore
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise AlexNetError(f"{name} has a synset without {key}, WNID or num_children", AGAIN) from error
        if not isinstance(wnid, str) or not WNID.fullmatch(wnid):
            raise AlexNetError(f"{name} has no WNID for {key} {number}: {wnid!r}", AGAIN)
        if children or not 1 <= number <= LOW_LEVEL:
            continue
        if number in wnids or wnid in wnids.values():
            raise AlexNetError(f"{name} has {key} {number} or {wnid} twice", AGAIN)
        wnids[number], words[number] = wnid, str(synset.get("words", ""))  # type: ignore[union-attr]
    if not wnids:
        raise AlexNetError(f"{name} has no synsets with {key} 1 to {LOW_LEVEL}", "is it the kit of another year?")
    return wnids, words


def read_truth(name: str, data: bytes, wnids: dict[int, str]) -> np.ndarray:
    lines = data.split()
    for place, line in enumerate(lines, 1):
        if not line.isdigit() or len(line) > 4 or int(line) not in wnids:
            shown = line[:20].decode("latin-1")
            raise AlexNetError(f"{name}: line {place} is no ID of a class: {shown!r}", AGAIN)
    return np.array([int(line) for line in lines], dtype=np.int64)
