import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_cli.dataset.sources.listing import carve_validation, limit
from alexnet_cli.dataset.sources.recognise import open_source

from .conftest import photograph, refused, write_idx


def test_folders_by_split(folders: Path) -> None:
    listing = open_source(str(folders))
    assert listing.form == "class folders by split"
    assert listing.classes == ("n00000001", "n00000002", "zebra")
    assert listing.wnids == ("n00000001", "n00000002", None)
    assert {name: len(pictures) for name, pictures in listing.splits.items()} == {"train": 30, "val": 6}
    record = listing.splits["val"].record(2)
    assert (record.name, record.stem, record.label) == ("val/n00000002/a.b 0.JPEG", "a.b 0", 1)
    assert record.read() == (folders / record.name).read_bytes()


def test_class_folders_alone(folders: Path) -> None:
    listing = open_source(str(folders / "train"))
    assert listing.form == "class folders" and list(listing.splits) == ["train"]


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    photograph(1, 20, 20).save(tmp_path / "a" / "1.jpg")
    listing = open_source(str(tmp_path))
    assert listing.ignored == ("README", "a/notes.txt") and len(listing.splits["train"]) == 1


def test_a_class_that_train_lacks(tmp_path: Path) -> None:
    for name in ("train/cat", "val/cat", "val/dog"):
        (tmp_path / name).mkdir(parents=True)
        photograph(1, 20, 20).save(tmp_path / name / "1.png")
    error = refused(tmp_path)
    assert error.message == "class 'dog' is in val but not in train: val/dog/1.png"
    assert "dog" not in error.hint and "train" in error.hint


def test_sources_that_are_none(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "absent").message
    assert "is an empty folder" in refused(tmp_path).message
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert "is a file" in refused(tmp_path / "a.jpg").message
    error = refused(tmp_path)
    assert "has pictures but no class folders" in error.message and "SOURCE/<class>" in error.hint
    (tmp_path / "a.jpg").rename(tmp_path / "a.txt")
    assert "no pictures in class folders" in refused(tmp_path).message
    (tmp_path / "empty").mkdir()
    assert "no pictures in the class folders" in refused(tmp_path).message


def test_a_split_folder_without_train(tmp_path: Path) -> None:
    (tmp_path / "val" / "cat").mkdir(parents=True)
    assert "has val but no train folder" in refused(tmp_path).message


def test_idx_is_exact(idx: Path) -> None:
    listing = open_source(str(idx))
    assert listing.form == "IDX files" and listing.classes == tuple("0123456789")
    body = gzip.decompress((idx / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    record = listing.splits["test"].record(13)
    assert record.name == "t10k-images-idx3-ubyte.gz[13]" and record.label == 3
    assert np.asarray(record.read()).tobytes() == body[13 * 784 : 14 * 784]


def test_plain_colour_idx_with_names(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
    write_idx(tmp_path / "train-images-idx4-ubyte", pixels)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([0, 1, 1, 0], dtype=np.uint8))
    names = tmp_path / "names.txt"
    names.write_text("shoe\nbag\n")
    listing = open_source(str(tmp_path), class_names=names)
    assert listing.classes == ("shoe", "bag")
    assert np.array_equal(listing.splits["train"].record(2).read(), pixels[2])
    names.write_text("shoe\n")
    assert "1 class names for labels up to 1" in refused(tmp_path, class_names=names).message
    names.write_text("shoe\nshoe\n")
    assert "twice" in refused(tmp_path, class_names=names).message


@pytest.mark.parametrize(
    "data,message",
    [
        (b"", "is not an IDX file"),
        (b"\0\0\x0d\3" + bytes(100), "is not an IDX file"),
        (b"\0\0\x08\3" + b"\xff" * 12 + bytes(10), "is damaged: its header says"),
        (b"\0\0\x08\3" + b"\0\0\0\1" * 3, "is damaged: its header says"),
        (b"\0\0\x08\1\0\0\0\1\7", "holds no grey or RGB pictures"),
    ],
)
def test_damaged_idx(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(1, dtype=np.uint8))
    assert message in refused(tmp_path).message


def test_idx_that_do_not_belong_together(idx: Path) -> None:
    packed = idx / "train-labels-idx1-ubyte.gz"
    write_idx(packed, np.zeros(99, dtype=np.uint8))
    assert "does not label the 100 pictures" in refused(idx).message
    packed.write_bytes(packed.read_bytes()[:20])
    assert "cannot be read" in refused(idx).message
    packed.unlink()
    assert "has no labels beside it" in refused(idx).message
    (idx / "train-images-idx3-ubyte.gz").unlink()
    assert "no train-images" in refused(idx).message


def test_torchvision_fashion_mnist_end_to_end(idx: Path, tmp_path: Path) -> None:
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.parent.mkdir(parents=True)
    idx.rename(raw)
    listing = open_source("torchvision:FashionMNIST", root=tmp_path / "root")
    assert listing.form == "torchvision:FashionMNIST" and listing.classes[9] == "Ankle boot"
    assert len(listing.splits["test"]) == 20


def test_torchvision_names(tmp_path: Path) -> None:
    error = refused("torchvision:CIFAR", root=tmp_path)
    assert "no set 'CIFAR'" in error.message and "did you mean torchvision:CIFAR10" in error.hint
    assert "Food101" in error.hint
    assert "--root" in refused("torchvision:CIFAR10").hint
    for name in ("CIFAR10", "MNIST", "Food101", "STL10"):
        error = refused(f"torchvision:{name}", root=tmp_path)
        assert "is not under" in error.message and "--download" in error.hint


def test_cifar_with_a_wrong_checksum_is_never_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    ran = tmp_path / "ran"
    evil = f"cos\nmkdir\n(S'{ran}'\ntR.".encode()
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(evil)
    assert "not the published ones" in refused("torchvision:CIFAR10", root=tmp_path).message
    assert not ran.exists()


def test_torchvision_picture_files(tmp_path: Path) -> None:
    base = tmp_path / "oxford-iiit-pet"
    for name in ("images", "annotations"):
        (base / name).mkdir(parents=True)
    for number, name in enumerate(("Abyssinian_1", "basset_hound_2")):
        photograph(number, 20, 30).save(base / "images" / f"{name}.jpg")
    lines = "Abyssinian_1 1 1 1\nbasset_hound_2 2 2 1\n"
    for split in ("trainval", "test"):
        (base / "annotations" / f"{split}.txt").write_text(lines)
    listing = open_source("torchvision:OxfordIIITPet", root=tmp_path)
    assert listing.classes == ("Abyssinian", "Basset Hound")
    record = listing.splits["train"].record(1)
    assert record.label == 1 and record.stem == "basset_hound_2"


def test_validation_is_carved_by_class_and_by_seed(idx: Path) -> None:
    listing = open_source(str(idx))
    carved = carve_validation(listing, 0.2, seed=1)
    train, val = carved.splits["train"], carved.splits["val"]
    assert np.bincount(val.labels).tolist() == [2] * 10 and len(train) == 80
    assert sorted([*train.rows, *val.rows]) == list(range(100))
    assert (np.diff(val.rows.astype(int)) > 0).all()
    assert np.array_equal(carve_validation(listing, 0.2, seed=1).splits["val"].rows, val.rows)
    assert not np.array_equal(carve_validation(listing, 0.2, seed=2).splits["val"].rows, val.rows)
    assert carve_validation(listing, 0.0, seed=1) is listing
    assert len(carve_validation(listing, 0.99, seed=1).splits["train"]) == 10


def test_a_source_with_val_is_not_carved(folders: Path) -> None:
    listing = open_source(str(folders))
    assert carve_validation(listing, 0.5, seed=1) is listing


def test_limit_is_even_over_classes(folders: Path) -> None:
    listing = limit(open_source(str(folders)), 7)
    train = listing.splits["train"]
    assert np.bincount(train.labels).tolist() == [3, 2, 2] and len(listing.splits["val"]) == 6
    assert train.rows.tolist() == [0, 1, 2, 10, 11, 20, 21]


def test_a_changed_source_has_another_digest(folders: Path, idx: Path) -> None:
    digests = {open_source(str(source)).digest() for source in (folders, folders / "train", idx)}
    digests.add(limit(open_source(str(folders)), 5).digest())
    assert len(digests) == 4
    assert open_source(str(folders)).digest() in digests


def test_a_dataset_among_the_pictures_is_no_class(folders: Path, tmp_path: Path) -> None:
    """As of `cd pictures && alexnet prepare .`, whose --out is ./dataset."""
    source = tmp_path / "pictures"
    shutil.copytree(folders / "train", source)
    before = open_source(str(source))
    (source / "dataset" / ".unfinished").mkdir(parents=True)
    assert open_source(str(source)).digest() == before.digest()
    (source / "dataset" / ".unfinished").rmdir()
    (source / "dataset" / "manifest.json").touch()
    assert open_source(str(source)).digest() == before.digest()
    (source / "dataset" / "manifest.json").unlink()
    listing = open_source(str(source))
    assert listing.classes == ("dataset", *before.classes)
    assert listing.notes == ("1 of 4 class folders have no picture to train on, and are classes: dataset",)


def test_validation_pictures_by_their_other_names(folders: Path, tmp_path: Path) -> None:
    wanted = open_source(str(folders))
    for name in ("valid", "validation"):
        source = tmp_path / name
        shutil.copytree(folders / "train", source / "train")
        shutil.copytree(folders / "val", source / name)
        (source / "more").mkdir()
        found = open_source(str(source))
        assert found.classes == wanted.classes and found.ignored == ("more",)
        assert np.array_equal(found.splits["val"].labels, wanted.splits["val"].labels)
    shutil.copytree(folders / "val", tmp_path / "valid" / "val")
    assert "has val and valid, which mean the same" in refused(tmp_path / "valid").message
