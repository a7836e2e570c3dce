"""Every kind of damage to a dataset directory is found and named, and a sound one has none."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_cli.dataset import shards
from alexnet_cli.dataset.manifest import INDEX_DTYPE
from alexnet_cli.dataset.preparation import Options, prepare
from alexnet_cli.dataset.rereading import Finding
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.dataset.treatment import Treatment
from alexnet_cli.dataset.verification import check_balance, verify
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import sha256


@pytest.fixture(scope="module")
def pristine(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of training pictures and one to validate."""
    out = tmp_path_factory.mktemp("verification") / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "PICTURES_PER_SHARD", 7)
        list(prepare(open_source(str(folders)), out))
    return out


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "dataset")


def found(root: Path, workers: int = 0) -> list[Finding]:
    return [finding for step in verify(root, workers) for finding in step.findings]


def told(root: Path, odd: bool = False) -> dict[str, str]:
    """What is wrong, or odd, by file; what is said of one file is joined."""
    texts: dict[str, str] = {}
    for finding in found(root):
        if finding.odd == odd:
            texts[finding.file] = f"{texts.get(finding.file, '')}{finding.what}\n"
    return texts


def edit_manifest(root: Path, change: Callable[[dict], object]) -> None:
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def rewrite(root: Path, name: str, change: Callable[[list[tuple[str, bytes]]], object]) -> None:
    """Write a shard anew after a change of its members, with the checksum of that in the manifest."""
    with tarfile.open(root / name) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    change(members)
    with tarfile.open(root / name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for title, data in members:
            info = tarfile.TarInfo(title)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

    def correct(manifest: dict) -> None:
        for split in manifest["splits"].values():
            for shard in split["shards"]:
                if shard["name"] == name:
                    shard["sha256"] = sha256(root / name)

    edit_manifest(root, correct)


def test_a_sound_dataset_has_nothing_to_find(root: Path) -> None:
    steps = list(verify(root))
    assert (steps[0].done, steps[-1].done, steps[-1].total) == (0, 36, 36)
    assert found(root) == []


def test_with_a_worker(root: Path) -> None:
    (root / "train-000002.tar").unlink()
    steps = list(verify(root, workers=1))
    assert steps[-1].done == 36
    assert [finding for step in steps for finding in step.findings] == [Finding("train-000002.tar", "missing")]


@pytest.mark.parametrize(
    "treatment",
    [Treatment(encoding="png", size=64), Treatment(encoding="raw", size=32), Treatment("shorter", size=40)],
    ids=lambda treatment: f"{treatment.geometry}-{treatment.encoding}",
)
def test_other_treatments_are_sound_too(folders: Path, tmp_path: Path, treatment: Treatment) -> None:
    list(prepare(open_source(str(folders)), tmp_path / "out", Options(limit=6, treatment=treatment)))
    assert found(tmp_path / "out") == []


def test_files_that_are_missing_or_too_many(root: Path) -> None:
    (root / "mean.npy").unlink()
    (root / "val-index.npy").unlink()
    (root / "val-000000.tar").unlink()
    shutil.copy(root / "train-000000.tar", root / "train-000099.tar")
    (root / "notes.txt").touch()
    (root / ".unfinished").mkdir()
    assert told(root) == {
        "mean.npy": "missing\n",
        "val-index.npy": "missing\n",
        "val-000000.tar": "missing\n",
        "train-000099.tar": "does not belong to the dataset\n",
    }
    assert sorted(told(root, odd=True)) == [".unfinished", "notes.txt"]


@pytest.mark.parametrize("name", ["mean.npy", "statistics.json", "train-index.npy", "train-000001.tar"])
def test_any_changed_byte(root: Path, name: str) -> None:
    data = bytearray((root / name).read_bytes())
    data[-1] ^= 1
    (root / name).write_bytes(data)
    assert "its checksum is not the manifest's" in told(root)[name]


def test_a_shard_that_is_cut_short(root: Path) -> None:
    path = root / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:40_000])
    text = told(root)["train-000001.tar"]
    assert "of 7 pictures: it is cut short at byte 40000" in text and "its checksum" in text


def test_members_that_are_not_those_of_the_index(root: Path) -> None:
    rewrite(root, "train-000000.tar", lambda members: members.__setitem__(0, (members[0][0], b"2" * 9)))
    rewrite(root, "train-000001.tar", lambda members: members.__delitem__(slice(4, 6)))
    rewrite(root, "train-000002.tar", lambda members: members.__setitem__(3, (members[3][0], b"no picture")))
    rewrite(root, "train-000003.tar", lambda members: members.__delitem__(2))
    rewrite(root, "train-000004.tar", lambda members: members.append(("more.txt", b"text")))
    texts = told(root)
    assert "label '222222222', and there are 3 classes" in texts["train-000000.tar"]
    assert (
        "it holds 6 pictures instead of 7" in texts["train-000001.tar"]
        and "the index has" in texts["train-000001.tar"]
    )
    assert "not a picture in a known format" in texts["train-000002.tar"]
    assert "after 1 of 7 pictures" in texts["train-000003.tar"] and "not beside" in texts["train-000003.tar"]
    assert "more.txt is not beside its label" in texts["train-000004.tar"]
    assert set(texts) == {f"train-00000{number}.tar" for number in range(5)}


def test_a_picture_of_another_size(root: Path) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (100, 256)).save(file, "JPEG")
    rewrite(root, "val-000000.tar", lambda members: members.__setitem__(1, (members[1][0], file.getvalue())))
    assert "100×256 pixels instead of 256×256" in told(root)["val-000000.tar"]


@pytest.mark.parametrize("kind", ["symlink", "huge", "noise"])
def test_a_shard_with_members_that_we_do_not_write(root: Path, kind: str) -> None:
    path = root / "val-000000.tar"
    data = bytearray(path.read_bytes())
    if kind == "noise":
        data[:512] = b"x" * 512
    else:
        info = tarfile.TarInfo("a.cls")
        info.type = tarfile.SYMTYPE if kind == "symlink" else tarfile.REGTYPE
        info.size = 0 if kind == "symlink" else 1 << 33
        data[:512] = info.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(data)
    text = told(root)["val-000000.tar"]
    assert ("no tar header at byte 0" if kind == "noise" else "no plain file at byte 0") in text


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda index: index[::-1].copy(), "not in the order of the shards"),
        (lambda index: index[:-1], "does not list 30 pictures"),
        (lambda _: np.zeros(30), "does not list 30 pictures"),
        (lambda index: np.full(30, index[-1], INDEX_DTYPE), "instead of"),
    ],
)
def test_an_index_that_is_not_that_of_the_shards(
    root: Path, change: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    np.save(root / "train-index.npy", change(np.load(root / "train-index.npy")))
    texts = told(root)
    assert reason in texts["train-index.npy"] or "the index has" in "".join(texts.values())


@pytest.mark.parametrize(
    "key, value, reason",
    [
        ("pictures", 31, "of 31 pictures, and there are 30"),
        ("rgb_mean", [1.0, 2.0, 3.0], "rgb_mean is not rgb_sums ÷ pixels"),
        ("covariance", [[1.0] * 3] * 3, "covariance is not that of the sums"),
        ("eigenvalues", [3.0, 2.0, 1.0], "not those of the covariance"),
        ("pixels", 0, "ZeroDivisionError"),
        ("rgb_sums", "none", "Error"),
    ],
)
def test_statistics_that_contradict_themselves(root: Path, key: str, value: object, reason: str) -> None:
    path = root / "statistics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert reason in told(root)["statistics.json"]


def test_a_mean_picture_of_others(root: Path) -> None:
    np.save(root / "mean.npy", np.load(root / "mean.npy") + np.float32(1))
    assert "its mean is not rgb_mean" in told(root)["mean.npy"]


def test_a_manifest_of_another_shape_is_an_error(root: Path) -> None:
    for change in (
        lambda manifest: manifest.pop("classes"),
        lambda manifest: manifest["splits"]["val"]["shards"][0].update(name="../val-000000.tar"),
        lambda manifest: manifest["splits"].update(val=3),
    ):
        shutil.copy(root / "manifest.json", root / "kept.txt")
        edit_manifest(root, change)
        with pytest.raises(AlexNetError, match=r"manifest.json is missing or damaged"):
            found(root)
        shutil.copy(root / "kept.txt", root / "manifest.json")


def test_unshuffled_shards_are_odd_and_shuffled_ones_are_not() -> None:
    generator = np.random.default_rng(1)
    for classes, each in ((2, 4000), (10, 2000), (1000, 30)):
        rows = np.zeros(classes * each, dtype=INDEX_DTYPE)
        rows["label"] = np.repeat(np.arange(classes), each)
        for order, expected in ((np.arange(len(rows)), True), (generator.permutation(len(rows)), False)):
            parts = np.array_split(rows[order], 10)
            odd = list(check_balance([f"{n}.tar" for n in range(10)], parts, classes))
            assert len(odd) == (10 if expected else 0), (classes, expected)
            assert not odd or (odd[0].odd and "no fair sample" in odd[0].what)
    # Classes of very different sizes are no reason to complain.
    rows = np.zeros(20_000, dtype=INDEX_DTYPE)
    rows["label"] = np.minimum(generator.exponential(40, 20_000), 999).astype(int)
    assert not list(check_balance([str(n) for n in range(10)], np.array_split(rows, 10), 1000))
