"""Parquet files as on the Hugging Face hub: a column of pictures' bytes and one of labels, by split.

Only labels and names are read here. A picture is read with its row group by the process that needs it.
"""

import errno
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_cli.dataset.archives import Names
from alexnet_cli.dataset.sources.listing import Listing, Pictures
from alexnet_cli.dataset.sources.records import Place, Record
from alexnet_cli.dataset.sources.splitfiles import names_of_numbers, split_files
from alexnet_cli.errors import AlexNetError

PICTURES = ("image", "img", "jpg", "picture", "pixel_values")
LABELS = ("label", "labels", "cls", "class", "fine_label")
UNLABELLED = np.iinfo(np.uint32).max  # the hub marks unlabelled test pictures with -1
GROUPS = 2  # row groups that a process keeps
LARGE_GROUP = 1 << 22  # bytes; training pictures are read in random order, each with its whole group


@dataclass(frozen=True)
class Cell:
    """A picture in a row group of a file. Reading raises OSError."""

    path: Path
    group: int
    row: int
    column: str

    @property
    def place(self) -> Place:
        return str(self.path), self.group

    def expect(self) -> None:
        """Leave it: the system would have to be told of its whole row group."""

    def read(self) -> bytes:
        import pyarrow

        try:
            value = row_group(self.path, self.group, self.column)[self.row].as_py()
        except (pyarrow.ArrowException, IndexError) as error:
            raise OSError(errno.EIO, f"the row group is damaged: {error}") from error
        data = value["bytes"] if isinstance(value, dict) else value
        return bytes(data or b"")


@lru_cache(GROUPS)
def row_group(path: Path, group: int, column: str) -> Any:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(0)


@dataclass(frozen=True)
class Groups:
    """Pictures in row groups, one after another.

    `files` are under `root` and of `sizes` bytes, their pictures in `columns`. For each group, int64 (groups,):
    its file, its number in that file, and the row at which it ends. `names` are those that the pictures had as
    files, or empty.
    """

    root: Path
    files: Sequence[str]
    columns: Sequence[str]
    sizes: Sequence[int]
    file: np.ndarray
    number: np.ndarray
    ends: np.ndarray
    names: Names

    def record(self, row: int, label: int) -> Record:
        group = int(np.searchsorted(self.ends, row, side="right"))
        inside = row - (int(self.ends[group - 1]) if group else 0)
        place = int(self.file[group])
        file = self.files[place]
        cell = Cell(self.root / file, int(self.number[group]), inside, self.columns[place])
        return Record(f"{file}[{row}] {self.names[row]}".rstrip(), Path(self.names[row]).stem, label, cell)

    def order(self, rows: np.ndarray) -> np.ndarray:
        return np.argsort(rows, kind="stable")

    def weight(self, rows: np.ndarray) -> int:
        return sum(self.sizes) * len(rows) // max(1, len(self.names))

    def digest(self) -> str:
        said = json.dumps([*self.files, *self.columns, *self.sizes])
        digest = hashlib.sha256(said.encode() + self.ends.tobytes())
        digest.update(self.names.text)
        return digest.hexdigest()


def list_parquet(root: Path, names: Sequence[str] | None = None) -> Listing | None:
    """List the files in `root` or its `data`; raises AlexNetError without pyarrow, or without both columns."""
    files = next((found for folder in (root, root / "data") if (found := parquet_files(folder))), None)
    if files is None:
        return None
    if find_spec("pyarrow") is None:
        raise AlexNetError(
            f"{root} has Parquet files, and pyarrow is missing", "pip install 'alexnet-cli[parquet]'"
        )
    splits: dict[str, Pictures] = {}
    notes: list[str] = []
    for split, paths in files.items():
        pictures = list_split(root, paths)
        if len(pictures) and (pictures.labels == UNLABELLED).all():
            notes.append(f"{len(pictures)} {split} pictures are left out: they have no labels")
        elif (pictures.labels == UNLABELLED).any():
            raise AlexNetError(f"{root}: some {split} pictures have no label", "take them out, or label them")
        elif len(pictures):
            splits[split] = pictures
    if "train" not in splits:
        raise AlexNetError(f"{root} has Parquet files but no training pictures", "they are named train-….parquet")
    if (size := group_bytes(files["train"][0])) > LARGE_GROUP:
        notes.append(
            f"each training picture is read with its row group of {size >> 20} MiB; "
            "with --spool DIR each group is read once"
        )
    highest = [int(pictures.labels.max()) for pictures in splits.values()]
    classes, ids = names_of_numbers(highest, names or names_in(files["train"][0]), root)
    return Listing("Parquet files", classes, splits, ids=ids, notes=tuple(notes))


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    return split_files(folder, ".parquet") if folder.is_dir() else {}


def list_split(root: Path, paths: list[Path]) -> Pictures:
    """Read labels and names, a row group at a time."""
    names, labels = Names(), []
    groups: list[tuple[int, int, int]] = []
    for place, path in enumerate(paths):
        for group, (its_names, its_labels) in enumerate(read_groups(path)):
            for name in its_names:
                names.append(name)
            labels.append(its_labels)
            groups.append((place, group, len(names)))
    file, number, ends = np.array(groups, dtype=np.int64).reshape(-1, 3).T
    files = [path.relative_to(root).as_posix() for path in paths]
    columns = [picture_column(path) for path in paths]
    store = Groups(root, files, columns, [path.stat().st_size for path in paths], file, number, ends, names)
    return Pictures(
        store, np.arange(len(names), dtype=np.uint32), np.concatenate([*labels, np.zeros(0, np.uint32)])
    )


def picture_column(path: Path) -> str:
    from pyarrow.parquet import read_schema

    return find_columns(path, read_schema(path))[0]


def read_groups(path: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Give the pictures' names and labels uint32 of each row group."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            picture, label, has_path = find_columns(path, file.schema_arrow)
            for group in range(file.num_row_groups):
                wanted = [label, f"{picture}.path"] if has_path else [label]
                table = file.read_row_group(group, columns=wanted)
                paths = table.column(picture).to_pylist() if has_path else [None] * len(table)
                names = [Path(value["path"] or "").name if value else "" for value in paths]
                yield names, whole_labels(path, table.column(label).to_pylist())
    except (OSError, pyarrow.ArrowException) as error:
        raise AlexNetError(f"{path} cannot be read: {first_line(error)}", "download it again") from error


def find_columns(path: Path, schema: Any) -> tuple[str, str, bool]:
    """Give the names of the columns of pictures and of labels, and whether pictures have paths."""
    from pyarrow import types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    pictures = [field.name for field in schema if holds_bytes(field.type)]
    labels = [field.name for field in schema if types.is_integer(field.type)]
    picture = next((name for name in PICTURES if name in pictures), pictures[0] if len(pictures) == 1 else None)
    label = next((name for name in LABELS if name in labels), labels[0] if len(labels) == 1 else None)
    if picture is None or label is None:
        lacking = "pictures (image: bytes)" if picture is None else "labels (label: a number)"
        raise AlexNetError(
            f"{path} has no column of {lacking}, or several; its columns are {', '.join(schema.names)}",
            "name them image and label",
        )
    kind = schema.field(picture).type
    return picture, label, bool(types.is_struct(kind) and any(field.name == "path" for field in kind))


def whole_labels(path: Path, values: list[int | None]) -> np.ndarray:
    labels = [-1 if value is None else value for value in values]
    if any(not -1 <= value < UNLABELLED for value in labels):
        raise AlexNetError(f"{path} has a label that is no class: {min(labels)} to {max(labels)}")
    return np.array([UNLABELLED if value < 0 else value for value in labels], dtype=np.uint32)


def names_in(path: Path) -> list[str] | None:
    """Give the class names that the hub's library writes into a file's schema."""
    from pyarrow.parquet import read_schema

    schema = read_schema(path)
    _, label, _ = find_columns(path, schema)
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    names = list(names.values()) if isinstance(names, dict) else names
    return [str(name) for name in names] if isinstance(names, list) else None


def group_bytes(path: Path) -> int:
    from pyarrow.parquet import read_metadata

    groups = read_metadata(path).num_row_groups
    return int(path.stat().st_size // max(groups, 1))


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
