"""The pictures that a command line means: files, folders, patterns, and what comes in by standard input."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_cli.dataset.images import is_picture
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import is_folder

STDIN = "-"
FILE_LIMIT = 1 << 30  # bytes: the most pixels that are decoded (images.PIXEL_LIMIT) have half of that
STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*"),
    *(b"P%d%c" % (kind, space) for kind in range(1, 7) for space in b" \t\r\n"),  # and not a file P5010001.JPG
)
"""Of the picture formats that are read (images.FORMATS)."""


@dataclass(frozen=True)
class Picture:
    """One picture by the name to show; `data` if it is here already, `problem` if there is none."""

    name: str
    data: bytes | None = None
    problem: AlexNetError | None = None

    def read(self) -> bytes:
        """The file's bytes; raises AlexNetError."""
        if self.problem is not None:
            raise self.problem
        if self.data is not None:
            return self.data
        try:
            with Path(self.name).open("rb") as file:
                data = file.read(FILE_LIMIT + 1)
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
            reason = error.strerror if isinstance(error, OSError) else error
            raise AlexNetError(f"{self.name} cannot be read: {reason}", "give picture files") from error
        if len(data) > FILE_LIMIT:
            raise AlexNetError(f"{self.name} is larger than {FILE_LIMIT >> 30} GiB", "make it smaller first")
        return data


def gathered(given: Sequence[str], stdin: Callable[[], bytes]) -> list[Picture]:
    """All pictures in the order given, those of folders and patterns sorted."""
    return [picture for name in given for picture in _meant(name, stdin)]


def _meant(name: str, stdin: Callable[[], bytes]) -> Iterator[Picture]:
    if name == STDIN:
        yield from _from_stdin(stdin())
    elif is_folder(name):
        yield from _in_folder(name)
    elif glob.has_magic(name) and not os.path.lexists(name):
        yield from _matched(name)
    else:
        yield Picture(name)


def _matched(pattern: str) -> Iterator[Picture]:
    """Each picture once, though the pattern match its folder too; folders without any are passed over."""
    found: dict[str, Picture] = {}
    paths = _matching(pattern)
    for path in paths:
        if "**" in pattern and is_folder(path) and Path(path).is_symlink():
            continue
        for picture in _in_folder(path, asked=False) if is_folder(path) else [Picture(path)]:
            found.setdefault(picture.name, picture)
    if not found:
        what = "no file is" if not paths else "there are no pictures in what is"
        yield _nothing(pattern, f"{what} named like {pattern}", "check the pattern and the folder")
    yield from found.values()


def _matching(pattern: str) -> list[str]:
    """Sorted; ** goes through folders but through no links to them, and hidden names have to be asked for."""
    path = Path(pattern)
    try:
        found = sorted(map(str, Path(path.anchor).glob(str(path.relative_to(path.anchor)))))
    except (ValueError, NotImplementedError, OSError):  # a pattern that means nothing
        return []
    return [name for name in found if _hidden(pattern) or not _hidden(name)]


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part.strip(".") for part in Path(name).parts)


def _from_stdin(data: bytes) -> Iterator[Picture]:
    """One picture, or a list of paths: one a line, or ended by NUL as `find -print0` gives them."""
    if data.startswith(STARTS):
        yield Picture(STDIN, data)
        return
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    paths = [os.fsdecode(name) for name in names if name.strip()]
    if not paths:
        yield _nothing(STDIN, "standard input is empty", "pipe a picture or a list of paths into it")
    for path in paths:
        yield from _in_folder(path) if is_folder(path) else [Picture(path)]


def _in_folder(root: str, asked: bool = True) -> Iterator[Picture]:
    """What is named as a picture in a folder and those in it; of a folder its own pictures come first.

    It is a problem if there is none, where just this folder was asked for.
    Hidden files and folders are passed over, and links to folders.
    """
    empty = True
    problems: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=problems.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_picture(name) and not name.startswith("."):
                empty = False
                yield Picture(f"{Path(folder) / name}")
    for error in problems:
        yield _nothing(error.filename, f"{error.filename} cannot be read: {error.strerror}", "make it readable")
    if asked and empty and not problems:
        yield _nothing(root, f"there are no pictures in {root}", "give a folder of JPEG, PNG or other pictures")


def _nothing(name: str, message: str, hint: str) -> Picture:
    return Picture(name, problem=AlexNetError(message, hint))
