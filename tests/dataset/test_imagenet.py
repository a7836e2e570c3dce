"""Every form of ImageNet: the same pictures give the same dataset, with the right labels."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision.models._meta import _IMAGENET_CATEGORIES

from alexnet_cli import imagenet
from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources.listing import Listing
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.errors import AlexNetError

from . import forms
from .conftest import refused
from .forms import WNIDS, Originals, originals, write

NAMES = ("tench", "crane (n02012849)", "crane (n03126707)")
PART = "3 of 1000 classes"
FORMS: dict[str, tuple[Callable[[Path, Originals], None], str]] = {
    "official": (forms.write_official, f"ILSVRC-2012, official archives, {PART}"),
    "half": (forms.write_half_unpacked, f"ILSVRC-2012, train as class archives, val as flat pictures, {PART}"),
    "heap": (forms.write_heap, f"ILSVRC-2012, train as class archives, val as flat pictures, {PART}"),
    "kaggle": (forms.write_kaggle, f"ILSVRC-2012, train as class folders, val as flat pictures, {PART}"),
    "mixed": (forms.write_mixed, f"ILSVRC-2012, train as official archives, val as class folders, {PART}"),
    "moved": (forms.write_moved, f"ILSVRC-2012, train as class folders, val as official archives, {PART}"),
    "tiny": (forms.write_tiny, "Tiny ImageNet, 3 of 200 classes"),
}


def prepared(listing: Listing, out: Path) -> dict[str, bytes]:
    """The files that hold pictures or come of them."""
    [*prepare(listing, out)]
    files = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "manifest.json"}
    assert any(name.endswith(".tar") for name in files)
    return files


@pytest.fixture(scope="module")
def pictures() -> Originals:
    return originals()


@pytest.fixture(scope="module")
def unpacked(pictures: Originals, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    root = tmp_path_factory.mktemp("unpacked")
    forms.write_unpacked(root, pictures)
    return root, prepared(open_source(str(root)), root / "out")


def test_class_folders_are_labelled_by_wnid(unpacked: tuple[Path, dict[str, bytes]], pictures: Originals) -> None:
    listing = open_source(str(unpacked[0]))
    assert listing.form == f"ILSVRC-2012, class folders, {PART}"
    assert (listing.classes, listing.wnids) == (NAMES, WNIDS)
    check_records(listing, pictures)


def check_records(listing: Listing, pictures: Originals, val: str = "val") -> None:
    """Every picture, in the order of WNID and name or of name alone, with its bytes and label."""
    train = [
        (Path(name).stem, label, pictures.train[wnid][name])
        for label, wnid in enumerate(WNIDS)
        for name in sorted(pictures.train[wnid])
    ]
    assert records(listing, "train") == train
    files = getattr(pictures, val)
    expected = [(Path(name).stem, WNIDS.index(files[name][0]), files[name][1]) for name in sorted(files)]
    assert records(listing, val) == expected


def records(listing: Listing, split: str) -> list[tuple[str, int, object]]:
    found = [listing.splits[split].record(row) for row in range(len(listing.splits[split]))]
    return [(record.stem, record.label, record.read()) for record in found]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_dataset(
    name: str, unpacked: tuple[Path, dict[str, bytes]], pictures: Originals, tmp_path: Path
) -> None:
    writer, form = FORMS[name]
    writer(tmp_path / "source", pictures)
    listing = open_source(str(tmp_path / "source"))
    assert listing.form == form
    assert (listing.classes, listing.wnids) == (NAMES, WNIDS)
    assert list(listing.splits) == ["train", "val"]
    check_records(listing, pictures)
    assert prepared(listing, tmp_path / "out") == unpacked[1]


def test_workers_read_inside_archives(
    unpacked: tuple[Path, dict[str, bytes]], pictures: Originals, tmp_path: Path
) -> None:
    forms.write_official(tmp_path, pictures)
    [*prepare(open_source(str(tmp_path)), tmp_path / "out", workers=1)]
    assert (tmp_path / "out" / "train-000000.tar").read_bytes() == unpacked[1]["train-000000.tar"]


def test_what_is_shown_of_an_archive(pictures: Originals, tmp_path: Path) -> None:
    forms.write_official(tmp_path, pictures)
    listing = open_source(str(tmp_path))
    assert listing.splits["train"].record(4).name == "n02012849/n02012849_10026.JPEG"
    assert listing.splits["val"].record(0).name == "ILSVRC2012_val_00000001.JPEG"
    assert listing.notes == ("6 test pictures are left out: they have no labels",)


def test_2010_has_test_labels(tmp_path: Path) -> None:
    pictures = originals(2010)
    forms.write_2010(tmp_path, pictures)
    listing = open_source(str(tmp_path))
    assert listing.form == f"ILSVRC-2010, official archives, {PART}" and list(listing.splits) == [
        *("train", "val", "test")
    ]
    assert (listing.classes, listing.wnids) == (NAMES, WNIDS)
    check_records(listing, pictures)
    check_records(listing, pictures, "test")
    (tmp_path / "ILSVRC2010_test_ground_truth.txt").unlink()
    listing = open_source(str(tmp_path))
    assert "test" not in listing.splits and "ILSVRC2010_test_ground_truth.txt" in listing.notes[0]


PATCH = {"n02012849_3.JPEG": forms.jpeg(7001), "ILSVRC2010_val_00000002.JPEG": forms.jpeg(7002)}


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("unpacked", [True, False])
def test_2010_is_patched(nested: bool, unpacked: bool, tmp_path: Path) -> None:
    pictures = originals(2010)
    forms.write_2010(tmp_path, pictures)
    if unpacked:
        (tmp_path / "ILSVRC2010_images_train.tar").unlink()
        forms.write_unpacked(tmp_path, Originals(pictures.train, {}, {}))
    plain = open_source(str(tmp_path))
    assert "there is no patch_images.tar: some pictures of ILSVRC-2010 are blank" in plain.notes[-1]
    unused = {"n01440764_99999.JPEG": b"x"}
    write(tmp_path / "patch_images.tar", forms.patch_tar({**PATCH, **unused}, nested))
    listing = open_source(str(tmp_path))
    assert listing.notes == ("2 pictures are those of patch_images.tar, of 3 in it",)
    pictures.train["n02012849"]["n02012849_3.JPEG"] = PATCH["n02012849_3.JPEG"]
    wnid, _ = pictures.val["ILSVRC2010_val_00000002.JPEG"]
    pictures.val["ILSVRC2010_val_00000002.JPEG"] = wnid, PATCH["ILSVRC2010_val_00000002.JPEG"]
    check_records(listing, pictures)
    check_records(listing, pictures, "test")
    assert listing.digest() != plain.digest()
    train = listing.splits["train"]
    extra = train.store.weight(train.rows[4:8]) - plain.splits["train"].store.weight(train.rows[4:8])
    assert extra == len(PATCH["n02012849_3.JPEG"]) and train.store.weight(train.rows[:4]) > 0
    prepared(listing, tmp_path / "out")


def test_a_patch_that_is_damaged(tmp_path: Path) -> None:
    forms.write_2010(tmp_path, originals(2010))
    write(tmp_path / "patch_images.tar", forms.patch_tar(PATCH)[:700])
    assert "patch_images.tar is cut short" in refused(tmp_path).message


def test_the_digest_does_not_depend_on_the_place(pictures: Originals, tmp_path: Path) -> None:
    for place in ("a", "b"):
        forms.write_official(tmp_path / place, pictures)
    assert open_source(str(tmp_path / "a")).digest() == open_source(str(tmp_path / "b")).digest()
    altered = Originals({**pictures.train, WNIDS[0]: {"n01440764_9.JPEG": b"x"}}, pictures.val, {})
    write(tmp_path / "b" / "ILSVRC2012_img_train.tar", forms.train_tar(altered))
    assert open_source(str(tmp_path / "a")).digest() != open_source(str(tmp_path / "b")).digest()


def test_only_train(pictures: Originals, tmp_path: Path) -> None:
    write(tmp_path / "ILSVRC2012_img_train.tar", forms.train_tar(pictures))
    listing = open_source(str(tmp_path))
    assert list(listing.splits) == ["train"] and listing.wnids == WNIDS


def test_fewer_classes_than_val(pictures: Originals, tmp_path: Path) -> None:
    forms.write_official(tmp_path, pictures)
    write(
        tmp_path / "ILSVRC2012_img_train.tar",
        forms.train_tar(Originals({w: pictures.train[w] for w in (WNIDS[0], WNIDS[2])}, {}, {})),
    )
    listing = open_source(str(tmp_path))
    assert listing.wnids == (WNIDS[0], WNIDS[2]) and listing.classes == ("tench", "crane")
    assert [label for _, label, _ in records(listing, "val")] == [1, 0, 1, 0]
    assert listing.notes[0] == "2 val pictures of classes that train lacks are left out"


def test_a_class_folder_of_val_that_train_lacks(pictures: Originals, tmp_path: Path) -> None:
    forms.write_unpacked(tmp_path, Originals({WNIDS[0]: pictures.train[WNIDS[0]]}, pictures.val, {}))
    error = refused(tmp_path)
    assert error.message == "val has pictures of n02012849, n03126707, which train lacks"
    assert "add the class to train" in error.hint


def test_flat_val_without_labels(pictures: Originals, tmp_path: Path) -> None:
    forms.write_official(tmp_path, pictures)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    error = refused(tmp_path)
    assert "the 6 val pictures" in error.message
    assert "no ILSVRC2012_devkit_t12.tar.gz, and no LOC_val_solution.csv" in error.message
    assert "val/<WNID>/" in error.hint


def test_val_that_is_not_all_there(pictures: Originals, tmp_path: Path) -> None:
    forms.write_official(tmp_path, pictures)
    fewer = dict(list(pictures.val.items())[:4])
    write(tmp_path / "ILSVRC2012_img_val.tar", forms.flat_tar(fewer))
    error = refused(tmp_path)
    assert "there are 4 val pictures, and 6 labels" in error.message and "missing" in error.hint
    more = {**pictures.val, "ILSVRC2012_val_00000007.JPEG": (WNIDS[0], b"x")}
    write(tmp_path / "ILSVRC2012_img_val.tar", forms.flat_tar(more))
    assert "has 6 labels, and none for val picture 'ILSVRC2012_val_00000007'" in refused(tmp_path).message


def test_val_pictures_of_unknown_names(pictures: Originals, tmp_path: Path) -> None:
    forms.write_unpacked(tmp_path, Originals(pictures.train, {}, {}))
    write(tmp_path / "val" / "one.jpg", forms.jpeg(1))
    assert "has neither folders of WNIDs nor pictures named" in refused(tmp_path).message


def test_kaggle_without_a_label(pictures: Originals, tmp_path: Path) -> None:
    forms.write_kaggle(tmp_path, pictures)
    write(
        tmp_path / "LOC_val_solution.csv", b"ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\n"
    )
    assert "has no label for ILSVRC2012_val_00000002" in refused(tmp_path).message
    lines = "".join(f"{Path(name).stem},{number}\n" for number, name in enumerate(pictures.val))
    write(tmp_path / "LOC_val_solution.csv", lines.encode())
    assert "has no label for ILSVRC2012_val_00000001" in refused(tmp_path).message


@pytest.mark.parametrize(
    "name,data,message",
    [
        ("meta.mat", b"MATLAB 5.0", "meta.mat cannot be read: it is not a MATLAB 5 file"),
        ("meta.mat", forms.meta(2012, {"n99999999": 1, **{w: i + 1 for w, i in forms.IDS.items()}}), "n99999999"),
        ("meta.mat", forms.meta(2012, {"tench": 1}), "has no WNID for ILSVRC2012_ID 1: 'tench'"),
        ("meta.mat", forms.meta(2010), "has a synset without ILSVRC2012_ID"),
        ("meta.mat", forms.meta(2012, {"n01440764": 2001}), "has no synsets with ILSVRC2012_ID 1 to 1000"),
        ("ILSVRC2012_validation_ground_truth.txt", b"1\n2\n1001\n", "line 3 is no ID of a class: '1001'"),
        ("ILSVRC2012_validation_ground_truth.txt", b"\xff\n", "line 1 is no ID of a class"),
        ("ILSVRC2012_validation_ground_truth.txt", b"-1\n", "line 1 is no ID of a class: '-1'"),
    ],
)
def test_damaged_devkits(name: str, data: bytes, message: str, pictures: Originals, tmp_path: Path) -> None:
    forms.write_half_unpacked(tmp_path, pictures)
    write(tmp_path / "ILSVRC2012_devkit_t12" / "data" / name, data)
    error = refused(tmp_path)
    assert message in error.message and error.hint


def test_a_devkit_archive_that_is_cut_short(pictures: Originals, tmp_path: Path) -> None:
    forms.write_official(tmp_path, pictures)
    kit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    kit.write_bytes(kit.read_bytes()[:-50])
    error = refused(tmp_path)
    assert "ILSVRC2012_devkit_t12.tar.gz cannot be read" in error.message and "again" in error.hint


@pytest.mark.parametrize("how", ["folders", "csv", "train"])
def test_a_damaged_devkit_that_is_not_needed(how: str, pictures: Originals, tmp_path: Path) -> None:
    if how == "csv":
        forms.write_kaggle(tmp_path, pictures)
    elif how == "folders":
        forms.write_unpacked(tmp_path, pictures)
    else:
        forms.write_unpacked(tmp_path, Originals(pictures.train, {}, {}))
    write(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", b"<html>")
    listing = open_source(str(tmp_path))
    assert listing.wnids == WNIDS and list(listing.splits) == (["train"] if how == "train" else ["train", "val"])
    (note,) = [note for note in listing.notes if "devkit" in note]
    assert note.startswith("the development kit is left aside, for it is not needed: ")
    assert "cannot be read" in note


def test_a_damaged_devkit_of_2010_is_needed_for_its_test_labels(tmp_path: Path) -> None:
    pictures = originals(2010)
    forms.write_2010(tmp_path, pictures)
    (tmp_path / "ILSVRC2010_images_val.tar").unlink()
    kit = tmp_path / "ILSVRC2010_devkit-1.0.tar.gz"
    kit.write_bytes(kit.read_bytes()[:-50])
    assert "ILSVRC2010_devkit-1.0.tar.gz cannot be read" in refused(tmp_path).message


def test_a_class_that_is_not_of_2012(pictures: Originals, tmp_path: Path) -> None:
    write(
        tmp_path / "ILSVRC2012_img_train.tar",
        forms.train_tar(Originals({"n99999999": pictures.train[WNIDS[0]]}, {}, {})),
    )
    assert "n99999999 is no class of ILSVRC-2012" in refused(tmp_path).message


def test_two_years_in_one_folder(pictures: Originals, tmp_path: Path) -> None:
    forms.write_official(tmp_path, pictures)
    forms.write_2010(tmp_path, pictures)
    assert "ILSVRC-2010 and of ILSVRC-2012" in refused(tmp_path).message


def test_archives_without_train(pictures: Originals, tmp_path: Path) -> None:
    write(tmp_path / "ILSVRC2012_img_val.tar", forms.flat_tar(pictures.val))
    error = refused(tmp_path)
    assert "no training pictures" in error.message and "ILSVRC2012_img_train.tar" in error.hint


def test_train_of_which_a_part_is_unpacked(pictures: Originals, tmp_path: Path) -> None:
    forms.write_half_unpacked(tmp_path, pictures)
    (tmp_path / "train" / "n03126707.tar").unlink()
    write(tmp_path / "train" / "n03126707" / "n03126707_3.JPEG", b"x")
    error = refused(tmp_path)
    assert "has class archives, and n03126707 as a folder only" in error.message and error.hint


@pytest.mark.parametrize(
    "data,message,hint",
    [
        (b"", "has no class archives", "right archive"),
        (b"<!DOCTYPE html><html>", "is a web page, not a plain tar", "log in"),
        (b"\x1f\x8b\x08\0" * 300, "is compressed with gzip", "gunzip"),
        (b"PK\3\4" * 300, "is a zip file", "unzip"),
        (b"\7" * 2000, "is not a tar", "download it again"),
    ],
)
def test_train_archives_that_are_none(data: bytes, message: str, hint: str, tmp_path: Path) -> None:
    write(tmp_path / "ILSVRC2012_img_train.tar", data)
    error = refused(tmp_path)
    assert message in error.message and hint in error.hint


def test_a_train_archive_that_is_cut_short(pictures: Originals, tmp_path: Path) -> None:
    data = forms.train_tar(pictures)
    for size in (700, len(data) // 2, len(data) - 10240):
        write(tmp_path / "ILSVRC2012_img_train.tar", data[:size])
        error = refused(tmp_path)
        assert "ILSVRC2012_img_train.tar" in error.message and "is cut short" in error.message
        assert "download it again" in error.hint


def test_fall_2011_is_one_archive_with_empty_classes(pictures: Originals, tmp_path: Path) -> None:
    classes = {**pictures.train, "n00004475": {}, "n15302217": {"n15302217_1.JPEG": forms.jpeg(3)}}
    write(tmp_path / "fall11_whole.tar", forms.train_tar(Originals(classes, {}, {})))
    listing = open_source(str(tmp_path))
    assert listing.form == "ImageNet Fall 2011, fall11_whole.tar, one archive, 5 classes"
    assert listing.wnids == ("n00004475", *WNIDS, "n15302217") == listing.classes
    assert listing.notes == ("classes without training pictures: n00004475",)
    assert listing.splits["train"].labels.tolist() == [1] * 4 + [2] * 4 + [3] * 4 + [4]


@pytest.mark.parametrize("inside", [True, False])
def test_winter_2021_is_a_folder_of_class_archives(inside: bool, pictures: Originals, tmp_path: Path) -> None:
    folder = tmp_path / "winter21_whole"
    for wnid, files in pictures.train.items():
        write(folder / f"{wnid}.tar", forms.class_tar(files))
    write(folder / "n15302217.tar", b"")
    write(tmp_path / "words.txt", b"n01440764\ttench, Tinca tinca\n")
    listing = open_source(str(folder if inside else tmp_path))
    assert listing.form == "ImageNet Winter 2021, class archives, 4 classes"
    assert listing.classes[0] == ("n01440764" if inside else "tench") and listing.wnids == (*WNIDS, "n15302217")
    record = listing.splits["train"].record(11)
    assert (record.name, record.label) == ("n03126707/n03126707_7.JPEG", 2)
    assert record.read() == pictures.train["n03126707"]["n03126707_7.JPEG"]


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_archives_are_errors_or_readable(data: st.DataObject, pictures: Originals, tmp_path: Path) -> None:
    tape = bytearray(forms.train_tar(pictures))
    for _ in range(data.draw(st.integers(1, 5))):
        block, at = data.draw(st.integers(0, len(tape) // 512 - 1)), data.draw(st.integers(0, 511))
        tape[512 * block + at] = data.draw(st.integers(0, 255))
    write(tmp_path / "ILSVRC2012_img_train.tar", bytes(tape))
    try:
        listing = open_source(str(tmp_path))
    except AlexNetError as error:
        assert error.hint
    else:
        assert len(records(listing, "train")) == len(listing.splits["train"])


def test_hostile_names_in_a_class_archive(tmp_path: Path) -> None:
    names = [
        "../../etc/a.JPEG",
        "with space.JPEG",
        "new\nline.JPEG",
        "\udcff\udcfe.JPEG",
        "twice.JPEG",
        "twice.JPEG",
    ]
    files = [(name, forms.jpeg(number)) for number, name in enumerate(names)]
    write(tmp_path / "ILSVRC2012_img_train.tar", forms.tar([("n01440764.tar", forms.tar(files))]))
    listing = open_source(str(tmp_path))
    found = records(listing, "train")
    assert sorted(stem for stem, _, _ in found) == ["a", "new\nline", "twice", "with space", "\udcff\udcfe"]
    assert {stem: data for stem, _, data in found}["twice"] == files[5][1]
    prepared(listing, tmp_path / "out")


def test_unreadable_files_and_links_that_go_round(pictures: Originals, tmp_path: Path) -> None:
    forms.write_unpacked(tmp_path, pictures)
    (tmp_path / "train" / WNIDS[0] / "round.JPEG").symlink_to("round.JPEG")
    (tmp_path / "train" / "n01443537").symlink_to("n01443537")
    (tmp_path / "train" / WNIDS[1] / "again").symlink_to("..")
    (tmp_path / "train" / WNIDS[1] / "gone.JPEG").symlink_to("nowhere")
    listing = open_source(str(tmp_path))
    check_records(listing, pictures)
    assert "train/n01440764/round.JPEG" in listing.ignored
    if os.getuid():
        (tmp_path / "train" / WNIDS[0]).chmod(0)
        assert "cannot be read: Permission denied" in refused(tmp_path).message


def test_tiny_without_labels(pictures: Originals, tmp_path: Path) -> None:
    forms.write_tiny(tmp_path, pictures)
    write(tmp_path / "val" / "val_annotations.txt", b"other.JPEG\tn01440764\t0\t0\t1\t1\n")
    assert "has no label for ILSVRC2012_val_00000001" in refused(tmp_path).message
    write(tmp_path / "val" / "val_annotations.txt", b"".join(f"{n}\tn00000001\n".encode() for n in pictures.val))
    assert "val has pictures of n00000001, which train lacks" in refused(tmp_path).message


def test_the_1000_classes() -> None:
    classes = imagenet.classes()
    wnids = list(classes)
    assert len(wnids) == 1000 and wnids == sorted(wnids)
    assert (wnids[0], classes[wnids[0]]) == ("n01440764", "tench, Tinca tinca")
    assert (wnids[-1], classes[wnids[-1]]) == ("n15075141", "toilet tissue, toilet paper, bathroom tissue")
    first = [words.split(",")[0] for words in classes.values()]
    different = [(a, b) for a, b in zip(first, _IMAGENET_CATEGORIES, strict=True) if a != b]
    assert different == [("crane", "crane bird"), ("maillot", "maillot tank suit")]
    names = imagenet.class_names(wnids, classes)
    assert len(set(names)) == 1000 and names[134] == "crane (n02012849)"


def test_known_odd_files() -> None:
    assert len(imagenet.ODD) == 24
    assert {stem.partition("_")[0] for stem in imagenet.ODD} <= {*imagenet.classes(), "ILSVRC2012"}


def test_test_pictures_of_any_name_are_left_out(pictures: Originals, tmp_path: Path) -> None:
    forms.write_unpacked(tmp_path, pictures)
    write(tmp_path / "test" / "one.jpg", b"x")
    listing = open_source(str(tmp_path))
    assert list(listing.splits) == ["train", "val"]
    assert listing.notes == ("1 test pictures are left out: they have no labels",)
