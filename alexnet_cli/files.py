"""Files that are written whole or not at all, and what is known of them."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alexnet_cli.errors import AlexNetError

FULL = {errno.ENOSPC, errno.EDQUOT}


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
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise AlexNetError(f"{path} may not be written: {error.strerror}", "choose another place") from error
        raise


@contextmanager
def whole_file(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success flush it to disk and rename it into place.

    A reader sees the old file or the whole new one, also after `kill -9` or a power cut. On an error the
    temporary file is removed and `path` is untouched. With `keep` the old file takes that name; for an instant
    between the two renames it is there and `path` is not.
    """
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
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` with sorted keys, so that equal values are equal files."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise AlexNetError(f"{path} cannot be read as JSON: {error}", "it is damaged; write it anew") from error


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
