"""Parquet files, written as the hub's library writes them."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources import parquet
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.imagenet import classes

from . import forms
from .conftest import refused
from .forms import WNIDS, Originals, originals

STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


@pytest.fixture(scope="module")
def pictures() -> Originals:
    return originals()


def table(rows: list[tuple[str, bytes, int | None]], names: list[str] | None = None) -> Any:
    columns = {
        "image": pyarrow.array([{"bytes": data, "path": name} for name, data, _ in rows], STRUCT),
        "label": pyarrow.array([label for _, _, label in rows], pyarrow.int64()),
    }
    label = {"names": names, "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})}
    return pyarrow.table(columns).replace_schema_metadata(metadata if names else None)


def write(path: Path, rows: Any, group: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(rows, path, row_group_size=group)


def write_hub(root: Path, pictures: Originals, names: list[str] | None = None) -> None:
    rows = [
        (name, files[name], WNIDS.index(wnid)) for wnid, files in pictures.train.items() for name in sorted(files)
    ]
    write(root / "train-00000-of-00002.parquet", table(rows[:7], names))
    write(root / "train-00001-of-00002.parquet", table(rows[7:], names))
    val = [(name, data, WNIDS.index(wnid)) for name, (wnid, data) in pictures.val.items()]
    write(root / "validation-00000-of-00001.parquet", table(val, names))
    test = [(name, data, -1) for name, (_, data) in pictures.test.items()]
    write(root / "test-00000-of-00001.parquet", table(test, names))


@pytest.mark.parametrize("folder", ["", "data"])
def test_files_give_the_dataset_of_the_folders(folder: str, pictures: Originals, tmp_path: Path) -> None:
    write_hub(tmp_path / "hub" / folder, pictures, ["tench", "crane", "crane"])
    forms.write_unpacked(tmp_path / "folders", pictures)
    listing = open_source(str(tmp_path / "hub"))
    assert listing.form == "Parquet files" and listing.classes == ("tench", "crane (1)", "crane (2)")
    assert listing.notes == ("6 test pictures are left out: they have no labels",)
    record = listing.splits["train"].record(8)
    file = Path(folder, "train-00001-of-00002.parquet").as_posix()
    assert (record.name, record.label) == (f"{file}[8] n03126707_10026.JPEG", 2)
    [*prepare(listing, tmp_path / "a", workers=1)]
    [*prepare(open_source(str(tmp_path / "folders")), tmp_path / "b")]
    for name in ("train-000000.tar", "val-000000.tar", "train-index.npy", "val-index.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_names_of_ilsvrc_2012_bring_their_wnids(pictures: Originals, tmp_path: Path) -> None:
    write_hub(tmp_path, pictures, list(classes().values()))
    listing = open_source(str(tmp_path))
    assert listing.wnids == tuple(classes()) and listing.classes[134] == "crane (n02012849)"


def test_plain_bytes_without_names(pictures: Originals, tmp_path: Path) -> None:
    data = [pictures.val[name][1] for name in pictures.val]
    columns = {"id": pyarrow.array(range(6), pyarrow.int32()), "jpg": data, "label": [0, 1, 0, 1, 0, 1]}
    write(tmp_path / "train-0.parquet", pyarrow.table(columns))
    listing = open_source(str(tmp_path))
    assert listing.classes == ("0", "1")
    record = listing.splits["train"].record(5)
    assert (record.name, record.stem, record.label) == ("train-0.parquet[5]", "", 1)
    assert record.read() == data[5]


def test_pictures_that_are_missing_are_rejects(tmp_path: Path) -> None:
    rows = pyarrow.table({"image": pyarrow.array([None, {"bytes": None, "path": "a"}], STRUCT), "label": [0, 0]})
    write(tmp_path / "train-0.parquet", rows)
    listing = open_source(str(tmp_path))
    assert [listing.splits["train"].record(row).read() for row in (0, 1)] == [b"", b""]


def test_a_group_that_is_damaged_is_a_read_error(tmp_path: Path) -> None:
    path = tmp_path / "train-0.parquet"
    write(path, table([("a.jpg", forms.jpeg(1), 0)]))
    record = open_source(str(tmp_path)).splits["train"].record(0)
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(bytes(data))
    parquet.row_group.cache_clear()
    with pytest.raises(OSError):
        record.read()


def test_large_groups_are_told(pictures: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "LARGE_GROUP", 100)
    write_hub(tmp_path, pictures)
    assert "row group" in open_source(str(tmp_path)).notes[-1]


def test_with_a_spool_each_group_is_read_once(pictures: Originals, tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", pictures)
    parquet.row_group.cache_clear()
    listing = open_source(str(tmp_path / "hub"))
    [*prepare(listing, tmp_path / "out", spool=tmp_path / "disk")]
    assert parquet.row_group.cache_info().misses == 3 + 2 + 2  # of 7, 5 and 6 pictures, three in each


@pytest.mark.parametrize(
    "columns,message",
    [
        ({"image": ["a"], "label": [0]}, "no column of pictures"),
        ({"image": [b"a"], "label": ["cat"]}, "no column of labels"),
        ({"a": [b"a"], "b": [b"b"], "label": [0]}, "or several; its columns are a, b, label"),
        ({"image": [b"a", b"b"], "label": [0, None]}, "some train pictures have no label"),
        ({"image": [b"a"], "label": [-2]}, "a label that is no class"),
        ({"image": [b"a"], "label": [1 << 40]}, "a label that is no class"),
        ({"image": [b"a"], "label": [1 << 30]}, "has label 1073741824"),
        ({"image": [b"a"], "label": [-1]}, "no training pictures"),
    ],
)
def test_files_that_cannot_be_used(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", pyarrow.table(columns))
    assert message in refused(tmp_path).message


@pytest.mark.parametrize("data", [b"", b"PAR1" + bytes(100), b"<html>"])
def test_files_that_are_no_parquet(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "train-0.parquet").write_bytes(data)
    error = refused(tmp_path)
    assert "train-0.parquet cannot be read" in error.message and error.hint == "download it again"


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train-0.parquet", pyarrow.table({"image": [b"a"], "label": [0]}))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = refused(tmp_path)
    assert "pyarrow is missing" in error.message and error.hint == "pip install 'alexnet-cli[parquet]'"
