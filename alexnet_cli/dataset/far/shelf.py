"""Where shards from afar lie on this machine's disk, shared by all processes that read the same dataset.

A shard has its name only when it is whole and its checksum was right. While it is fetched it is NAME.part, which
one process has locked; the others wait for that lock, so that the ranks of a machine fetch each shard once. In a
folder `passing` a shard is locked by all who read it, and removed when none does; in the folder above it stays.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

from alexnet_cli.dataset.far.address import Address
from alexnet_cli.dataset.far.fetching import Expected, Stopped, fetch
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import FULL, sha256, taken

PASSING = "passing"
PART = ".part"
CHECKED = "checked"
"""A file of lines NAME BYTES NANOSECONDS: kept shards whose checksum was right, and what they were then."""

ANOTHER_PLACE = "free some space, or name another folder in the variable ALEXNET_CACHE"


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise AlexNetError if so many bytes do not fit on the disk of `folder`, which need not be there yet."""
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise AlexNetError(
            f"{place} has too little space: {what} {needed / 1e9:,.2f} GB, and {free / 1e9:,.2f} GB are free",
            ANOTHER_PLACE,
        )


def is_passing(path: Path) -> bool:
    return path.parent.name == PASSING


def take(path: Path, address: Address, expected: Expected, stop: Event) -> int:
    """A descriptor of the shard that belongs at `path`, fetched if it is not there; close it when it is read.

    Raises AlexNetError, and Stopped.
    """
    with disk_errors(path):
        while True:
            descriptor = _there(path, expected)
            if descriptor is None:
                descriptor = _fetched(path, address, expected, stop)
            if descriptor is not None:
                return descriptor


def tidy(paths: tuple[Path, ...], needed: set[int]) -> None:
    """Remove those of the passing shards at `paths` that are not `needed` here and that no process reads."""
    places = {path: number for number, path in enumerate(paths) if is_passing(path)}
    for folder in {path.parent for path in places}:
        for path in folder.iterdir() if folder.is_dir() else ():
            number = places.get(folder / path.name.removesuffix(PART))
            if number is not None and number not in needed:
                _remove_unused(path)
        with suppress(OSError):  # not empty, or gone already
            folder.rmdir()


def _there(path: Path, expected: Expected) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDWR if is_passing(path) else os.O_RDONLY)
    except FileNotFoundError:
        return None
    if is_passing(path):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor
    if _is_sound(path, descriptor, expected):
        return descriptor
    os.close(descriptor)
    path.unlink(missing_ok=True)
    return None


def _fetched(path: Path, address: Address, expected: Expected, stop: Event) -> int | None:
    """None if another process did it, or it was removed again."""
    part = path.with_name(path.name + PART)
    descriptor = _alone(part, stop)
    try:
        if path.exists():
            part.unlink(missing_ok=True)
            os.close(descriptor)
            return None
        with open(descriptor, "wb", closefd=False) as file:
            fetch(address, file, expected, stop)
        os.fsync(descriptor)
        part.rename(path)
        if is_passing(path):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        else:
            _remember(path, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BaseException:
        part.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return descriptor


def _alone(part: Path, stop: Event) -> int:
    """A descriptor of `part`, new or left by a killed process, that no other process or thread has."""
    while True:
        part.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the folder was found empty and removed
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                while _is_at(descriptor, part):  # else another process has finished it, or given it up
                    if taken(descriptor) and _is_at(descriptor, part):
                        return descriptor
                    if stop.wait(0.05):
                        raise Stopped
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether it is this file that has the name, and not another, or none."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_unused(path: Path) -> None:
    with suppress(OSError):  # gone already, or another's: nothing depends on it
        descriptor = os.open(path, os.O_RDWR)
        try:
            if taken(descriptor) and _is_at(descriptor, path):
                path.unlink()
        finally:
            os.close(descriptor)


def _is_sound(path: Path, descriptor: int, expected: Expected) -> bool:
    """Whether the checksum of a kept shard was right when it was as it is now: else it is computed, once."""
    try:
        known = (path.parent / CHECKED).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        known = []
    if _state(path, descriptor) in known:
        return True
    if sha256(path) != expected.sha256:
        return False
    _remember(path, descriptor)
    return True


def _remember(path: Path, descriptor: int) -> None:
    with suppress(PermissionError), (path.parent / CHECKED).open("a", encoding="utf-8") as file:
        file.write(_state(path, descriptor) + "\n")  # at once, so that lines of several processes stay apart


def _state(path: Path, descriptor: int) -> str:
    found = os.fstat(descriptor)
    return f"{path.name} {found.st_size} {found.st_mtime_ns}"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise AlexNetError(f"the disk is full: {path} could not be written", ANOTHER_PLACE) from error
        hint = "name another folder in the variable ALEXNET_CACHE"
        raise AlexNetError(f"{path} cannot be kept there: {error.strerror}", hint) from error
