import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_cli.dataset.manifest import INDEX_DTYPE, open_dataset
from alexnet_cli.dataset.preparation import Options, prepare
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.errors import AlexNetError


@pytest.fixture(scope="module")
def pristine(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("manifest") / "dataset"
    list(prepare(open_source(str(folders)), out, Options(limit=6)))
    return out


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "dataset")


def refused(root: Path) -> AlexNetError:
    with pytest.raises(AlexNetError) as caught:
        open_dataset(root)
    return caught.value


def edit(root: Path, **changes: object) -> None:
    path = root / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_index_is_mapped_and_typed(root: Path) -> None:
    dataset = open_dataset(root)
    index = dataset.splits["train"].index
    assert isinstance(index, np.memmap) and index.dtype == INDEX_DTYPE and len(index) == 6
    assert dataset.mean.shape == (3, 256, 256) and len(dataset.fingerprint) == 64


def test_no_dataset(tmp_path: Path) -> None:
    error = refused(tmp_path / "absent")
    assert "there is no dataset in" in error.message and "alexnet prepare SOURCE --out" in error.hint


def test_unfinished(tmp_path: Path) -> None:
    (tmp_path / ".unfinished").mkdir()
    assert "is unfinished" in refused(tmp_path).message


def test_another_format_version(root: Path) -> None:
    edit(root, format=7)
    assert "has dataset format 7; this alexnet reads format 1" in refused(root).message


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "classes": 3, "splits": {}}'])
def test_damaged_manifest(root: Path, text: str) -> None:
    (root / "manifest.json").write_text(text)
    assert "manifest.json" in refused(root).message or "format None" in refused(root).message


@pytest.mark.parametrize("name", ["../train-000000.tar", "/etc/passwd", "pipe:ls", "train-000000.tar/../x", ""])
def test_shard_names_are_bare(root: Path, name: str) -> None:
    splits = json.loads((root / "manifest.json").read_text())["splits"]
    splits["train"]["shards"][0]["name"] = name
    edit(root, splits=splits)
    assert "is not the name of a shard" in refused(root).message


@pytest.mark.parametrize(
    "field,value,reason",
    [
        ("offset", 2**63, "points outside"),
        ("offset", 2**64 - 5, "points outside"),
        ("size", 2**32 - 1, "points outside"),
        ("label", 3, "has label 3, and there are 3 classes"),
        ("shard", 1, "names a shard that is not there"),
    ],
)
def test_tampered_index(root: Path, field: str, value: int, reason: str) -> None:
    index = np.load(root / "train-index.npy")
    index[field][2] = value
    np.save(root / "train-index.npy", index)
    assert reason in refused(root).message


def test_an_index_of_another_kind(root: Path) -> None:
    np.save(root / "train-index.npy", np.zeros(6))
    assert "does not list 6 pictures" in refused(root).message
    np.save(root / "train-index.npy", np.zeros(5, INDEX_DTYPE))
    assert "does not list 6 pictures" in refused(root).message
    np.save(root / "train-index.npy", np.array([{}], dtype=object))
    assert "train-index.npy is missing or damaged" in refused(root).message


@pytest.mark.parametrize("name", ["train-index.npy", "mean.npy", "statistics.json", "train-000000.tar"])
def test_missing_files(root: Path, name: str) -> None:
    (root / name).unlink()
    error = refused(root)
    assert name in error.message


def test_a_mean_of_another_shape(root: Path) -> None:
    np.save(root / "mean.npy", np.zeros((3, 224, 224), np.float32))
    assert "mean.npy is missing or damaged" in refused(root).message


def test_a_shorter_shard(root: Path) -> None:
    shard = root / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:10_000])
    assert "points outside a shard" in refused(root).message
