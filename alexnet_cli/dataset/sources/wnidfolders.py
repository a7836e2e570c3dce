"""Folders of ImageNet pictures: class folders named by WNID, Tiny ImageNet's among them, and flat folders."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alexnet_cli.dataset.archives import Names
from alexnet_cli.dataset.images import is_picture
from alexnet_cli.dataset.sources.classtars import Found
from alexnet_cli.dataset.sources.folders import is_file, is_folder, visible
from alexnet_cli.dataset.sources.listing import Files
from alexnet_cli.errors import AlexNetError
from alexnet_cli.imagenet import WNID

WORDS_LIMIT = 1 << 26


def has_class_folders(folder: Path) -> bool:
    """Tell whether a folder has folders, all of them named by a WNID."""
    names = [entry.name for entry in visible(folder) if is_folder(entry)]
    return bool(names) and all(WNID.fullmatch(name) for name in names)


def class_folders(root: Path, folder: Path, by_name: bool) -> Found:
    """List the pictures of class folders, which may lie in folders `images` of these (Tiny ImageNet's do).

    They are ordered by class and file name, or by file name alone as flat pictures are.
    """
    wnids: list[str] = []
    ignored: list[str] = []
    found = pictures_of_classes(root, folder, wnids, ignored)
    names, sizes, classes = Names(), array("q"), array("I")
    for _, number, path, size in sorted(found) if by_name else found:
        names.append(path)
        sizes.append(size)
        classes.append(number)
    store = Files(root, names, np.asarray(sizes))
    return Found("class folders", store, len(names), tuple(wnids), np.asarray(classes), tuple(ignored))


def pictures_of_classes(
    root: Path, folder: Path, wnids: list[str], ignored: list[str]
) -> Iterator[tuple[str, int, str, int]]:
    """Give name, number of the class, path and size of each picture; the classes are added to `wnids`."""
    for entry in visible(folder):
        if not is_folder(entry):
            ignored.append(os.path.relpath(entry.path, root))
            continue
        images = Path(entry.path, "images")
        for name, path, size in pictures(root, images if images.is_dir() else Path(entry.path), ignored):
            yield name, len(wnids), path, size
        wnids.append(entry.name)


def flat_folder(root: Path, folder: Path, part: str) -> Found | None:
    """List the pictures that lie in a folder itself and have `part` in their names; None when there are none."""
    ignored: list[str] = []
    found = [picture for picture in pictures(root, folder, ignored) if part in picture[0]]
    if not found:
        return None
    store = Files(root, [path for _, path, _ in found], np.array([size for *_, size in found], dtype=np.int64))
    return Found("flat pictures", store, len(found), (), np.zeros(len(found), dtype=np.uint32))


def pictures(root: Path, folder: Path, ignored: list[str]) -> Iterator[tuple[str, str, int]]:
    """Give name, path from `root` and size of a folder's pictures by name; others are added to `ignored`."""
    for entry in visible(folder):
        path = os.path.relpath(entry.path, root)
        if is_picture(entry.name) and is_file(entry):
            yield entry.name, path, entry.stat().st_size
        else:
            ignored.append(path)


def read_words(path: Path, separator: str) -> Iterator[tuple[str, str]]:
    """Give the lines of a text file, each cut in two at the first separator."""
    try:
        with path.open("rb") as file:
            data = file.read(WORDS_LIMIT)
    except OSError as error:
        raise AlexNetError(f"{path} cannot be read: {error.strerror}", "make it readable") from error
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        first, found, rest = line.partition(separator)
        if found:
            yield first.strip(), rest.strip()
