"""Tars of pictures: a folder of class tars, one tar of class tars, or one flat tar.

Pictures are ordered by class and file name, as if the tars had been unpacked: of two of one name the last counts.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_cli.dataset.archives import Columns, Member, Region, members, opened
from alexnet_cli.dataset.images import is_picture
from alexnet_cli.dataset.sources.folders import is_file, visible
from alexnet_cli.dataset.sources.listing import Members, Store
from alexnet_cli.errors import AlexNetError

CLASS_TAR = re.compile(r"(n\d{8})\.tar")


@dataclass(frozen=True)
class Found:
    """A split as it lies there, before it is known which class has which number.

    `how` names its form. `wnids` are the classes that its folders or tars name, sorted; `classes` uint32 (n,)
    points into them. Flat pictures have neither: their labels are elsewhere, by `stems`.
    """

    how: str
    store: Store
    count: int
    wnids: tuple[str, ...]
    classes: np.ndarray
    ignored: tuple[str, ...] = ()

    def stems(self) -> list[str]:
        return [self.store.record(row, 0).stem for row in range(self.count)]


def tar_of_tars(root: Path, path: Path, how: str) -> Found:
    """List one tar of class tars; raises AlexNetError when it is damaged or has no class tar."""
    with opened(path) as tar:
        inner = {
            match[1]: tar.inner(member)
            for member in members(tar)
            if (match := CLASS_TAR.fullmatch(basename(member.name)))
        }
        if not inner:
            raise AlexNetError(f"{path} has no class archives (n01440764.tar, …)", "is it the right archive?")
        parts = Parts()
        for wnid in sorted(inner):
            parts.add(inner[wnid])
    return parts.found(root, [path], how, sorted(inner))


def folder_of_tars(root: Path, folder: Path, how: str) -> Found:
    """List a folder of class tars."""
    paths = class_tars(folder)
    parts = Parts()
    for path in paths:
        with opened(path) as tar:
            parts.add(tar)
    return parts.found(root, paths, how, [path.stem for path in paths])


def flat_tar(root: Path, path: Path, how: str) -> Found:
    """List a tar of pictures whose labels are elsewhere."""
    parts = Parts()
    with opened(path) as tar:
        parts.add(tar)
    return parts.found(root, [path], how, [])


class Parts:
    """Tar after tar, as columns."""

    def __init__(self) -> None:
        self.columns = Columns()
        self.ends: list[int] = []
        self.ignored: list[str] = []

    def add(self, tar: Region) -> None:
        self.columns.add(pictures(tar, self.ignored))
        self.ends.append(len(self.columns))

    def found(self, root: Path, paths: list[Path], how: str, wnids: list[str]) -> Found:
        """Give the whole; the tars are files of their own, or all in one."""
        ends = np.array(self.ends, dtype=np.int64)
        archive = np.arange(len(ends)) if len(paths) > 1 else np.zeros(len(ends), dtype=np.int64)
        archives = [os.path.relpath(path, root) for path in paths]
        store = Members(root, archives, wnids or [""], archive, ends, self.columns)
        classes = np.repeat(np.arange(len(ends), dtype=np.uint32), np.diff(ends, prepend=0))
        ignored = tuple(os.path.relpath(name, root) for name in self.ignored)
        return Found(how, store, len(self.columns), tuple(wnids), classes, ignored)


def pictures(tar: Region, ignored: list[str]) -> list[Member]:
    """Give a tar's pictures by file name, as in one folder; the names of others are added to `ignored`."""
    found: dict[str, Member] = {}
    for member in members(tar):
        name = basename(member.name)
        if name.startswith("."):
            continue
        if is_picture(name):
            found[name] = member._replace(name=name)
        else:
            ignored.append(f"{tar.name}/{member.name}")
    return [found[name] for name in sorted(found)]


def class_tars(folder: Path) -> list[Path]:
    return [Path(e.path) for e in visible(folder) if CLASS_TAR.fullmatch(e.name) and is_file(e)]


def is_tar_of_tars(path: Path) -> bool:
    """Tell by its first member whether a file is a tar of class tars."""
    try:
        with opened(path) as tar:
            first = next(members(tar), None)
    except AlexNetError:
        return False
    return first is not None and CLASS_TAR.fullmatch(basename(first.name)) is not None


def basename(name: str) -> str:
    return name.rpartition("/")[2]
