"""WebDataset shards that others wrote."""

import json
from pathlib import Path

import pytest

from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.errors import AlexNetError

from . import forms
from .conftest import refused
from .forms import WNIDS, Originals, originals, tar, write


@pytest.fixture(scope="module")
def pictures() -> Originals:
    return originals()


def write_shards(root: Path, pictures: Originals, prefix: str = "") -> None:
    """Two shards of train labelled by .cls and one of val labelled by .json, in the order of the folders."""
    samples = [
        (wnid, Path(name).stem, files[name]) for wnid, files in pictures.train.items() for name in sorted(files)
    ]
    for number, part in enumerate((samples[:5], samples[5:])):
        members = []
        for wnid, stem, data in part:
            members += [(f"{stem}.cls", b"%d" % WNIDS.index(wnid)), (f"{stem}.JPEG", data), (f"{stem}.txt", b"hi")]
        write(root / f"{prefix}train-{number:04d}.tar", tar(members))
    members = []
    for name, (wnid, data) in pictures.val.items():
        label = json.dumps({"label": WNIDS.index(wnid), "filename": name}).encode()
        members += [(f"a/{Path(name).stem}.jpg", data), (f"a/{Path(name).stem}.json", label)]
    write(root / f"{prefix}validation-0000.tar", tar(members))


@pytest.mark.parametrize("prefix", ["", "imagenet1k-"])
def test_shards_give_the_dataset_of_the_folders(prefix: str, pictures: Originals, tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", pictures, prefix)
    forms.write_unpacked(tmp_path / "folders", pictures)
    listing = open_source(str(tmp_path / "shards"))
    assert listing.form == "WebDataset shards" and listing.classes == ("0", "1", "2")
    assert listing.splits["val"].record(1).name == f"{prefix}validation-0000.tar/a/ILSVRC2012_val_00000002.jpg"
    [*prepare(listing, tmp_path / "a")]
    [*prepare(open_source(str(tmp_path / "folders")), tmp_path / "b")]
    for name in ("train-000000.tar", "val-000000.tar", "train-index.npy", "val-index.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_class_names(pictures: Originals, tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", pictures)
    names = tmp_path / "names.txt"
    names.write_text("tench\ncrane\nhoist\n")
    assert open_source(str(tmp_path / "shards"), class_names=names).classes == ("tench", "crane", "hoist")
    names.write_text("tench\n")
    with pytest.raises(AlexNetError, match="1 class names for labels up to 2"):
        open_source(str(tmp_path / "shards"), class_names=names)
    forms.write_unpacked(tmp_path / "folders", pictures)
    with pytest.raises(AlexNetError, match="names its classes itself"):
        open_source(str(tmp_path / "folders"), class_names=names)


@pytest.mark.parametrize(
    "members",
    [
        [("a.jpg", b"x")],
        [("a.jpg", b"x"), ("a.cls", b"cat")],
        [("a.jpg", b"x"), ("a.cls", b"-1")],
        [("a.jpg", b"x"), ("a.cls", b"4294967296")],
        [("a.jpg", b"x"), ("a.json", b'{"class": 3}')],
        [("a.jpg", b"x"), ("a.json", b"[" * 100_000)],
        [("a.jpg", b"x"), ("b.cls", b"1")],
    ],
)
def test_samples_without_labels(members: list[tuple[str, bytes]], tmp_path: Path) -> None:
    write(tmp_path / "train-0.tar", tar(members))
    error = refused(tmp_path)
    assert "train-0.tar: a has no label" in error.message and error.hint


def test_labels_that_are_absurd(tmp_path: Path) -> None:
    write(tmp_path / "train-0.tar", tar([("a.jpg", b"x"), ("a.cls", b"4294967295")]))
    assert "has label 4294967295" in refused(tmp_path).message


def test_shards_without_training_pictures(tmp_path: Path) -> None:
    write(tmp_path / "val-0.tar", tar([("a.jpg", b"x"), ("a.cls", b"1")]))
    assert "no training pictures" in refused(tmp_path).message
    write(tmp_path / "train-0.tar", tar([("a.cls", b"1")]))
    assert "no training pictures" in refused(tmp_path).message
    write(tmp_path / "train-0.tar", b"\x1f\x8b" * 400)
    assert "is compressed with gzip" in refused(tmp_path).message


def test_an_archive_beside_what_was_unpacked_of_it(tmp_path: Path) -> None:
    write(tmp_path / "train.tar", tar([("train/cat/1.jpg", b"x")]))
    write(tmp_path / "train" / "cat" / "1.jpg", forms.jpeg(1))
    assert open_source(str(tmp_path)).form == "class folders by split"
    error = refused(tmp_path / "train.tar")
    assert "is a file" in error.message and str(tmp_path) in error.hint


def test_a_folder_of_nothing_says_what_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", b"x")
    error = refused(tmp_path)
    assert "has no pictures in class folders" in error.message
    for form in ("SOURCE/train/<class>", "ILSVRC2012_img_train.tar", "train-0.tar", "train-0.parquet", "IDX"):
        assert form in error.hint
