"""Files that are written whole or not at all, and what is known of them."""

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from alexnet_cli.errors import AlexNetError

FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EFBIG}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden folder, met while writing `path`, into an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise AlexNetError(
                f"the disk is full: {path} could not be written",
                "free some space, or choose another place with --out or --name; "
                "the same command then goes on from what is finished",
            ) from error
        if error.errno in FORBIDDEN:
            raise AlexNetError(f"{path} may not be written: {error.strerror}", "choose another place") from error
        raise


def is_folder(path: Path | str) -> bool:
    """As Path.is_dir, but no error where a name is too long or a folder around it is locked."""
    return os.path.isdir(path)  # noqa: PTH112


def check_place(path: Path) -> None:
    """Before long work: raise AlexNetError where a file of this name could not be written."""
    if is_folder(path):
        raise AlexNetError(f"{path} is a folder", "name a file")
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not os.access(folder, os.W_OK):
        raise AlexNetError(f"{path} may not be written: {folder} cannot", "choose another place")


@contextmanager
def whole_file(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success flush it to disk and rename it into place.

    A reader sees the old file or the whole new one, also after `kill -9` or a power cut. On an error the
    temporary file is removed and `path` is untouched. With `keep` the old file takes that name; for an instant
    between the two renames it is there and `path` is not.
    """
    if not path.name:
        raise AlexNetError(f"{path} is a folder", "name a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                path.replace(keep)
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # shares that do not know it for folders
            raise
    finally:
        os.close(opened)


@contextmanager
def locked(path: Path, message: str, hint: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`, or say that another process does; the kernel lets go however the process ends.

    For `patience` seconds it is tried again: `is_locked` takes a lock for an instant.
    """
    end = time.monotonic() + patience
    with disk_errors(path), path.open("a") as file:
        while not _locked_now(path, file):
            if time.monotonic() >= end:
                raise AlexNetError(message, hint)
            time.sleep(0.02)
        yield


def _locked_now(path: Path, file: IO[str]) -> bool:
    try:
        return taken(file)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
            raise
        raise AlexNetError(
            f"{path} cannot be locked, and two processes could write there: {error.strerror}",
            "name a folder on another file system, or have this one mounted with locks (Lustre: flock)",
        ) from error


def is_locked(path: Path) -> bool:
    """Tell whether a process holds the lock file `path`, as far as this one can."""
    for mode in ("r+", "r"):  # some file systems lock only what is open for writing, which somebody else's is not
        try:
            with path.open(mode) as file:
                return not taken(file)
        except FileNotFoundError:
            return False
        except OSError:
            continue
    return False


def taken(file: IO[str] | int) -> bool:
    """Whether the lock of an open file, or of a descriptor, is ours from now on."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_bytes(path: Path, data: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` with sorted keys, so that equal values are equal files."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise AlexNetError(f"{path} cannot be read as JSON: {error}", "it is damaged; write it anew") from error


def csv_line(cells: Iterable[object]) -> str:
    """A line of CSV in which nothing that came from data is a formula to a spreadsheet."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([_harmless(cell) for cell in cells])
    return text.getvalue()


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
