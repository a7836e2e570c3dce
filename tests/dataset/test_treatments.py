"""Datasets of every geometry and encoding, read back by plain tools and counted by numpy."""

import io
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from alexnet_cli.dataset import images, shards
from alexnet_cli.dataset.manifest import Dataset, open_dataset, open_squares
from alexnet_cli.dataset.preparation import Options, prepare
from alexnet_cli.dataset.sources.folders import list_folders
from alexnet_cli.dataset.treatment import EXTENSIONS, Encoding, Geometry, Treatment
from alexnet_cli.errors import AlexNetError

from .conftest import photograph

CHOICES = [
    *(Treatment("crop", size, "png") for size in (64, 100, 257)),
    *(Treatment("warp", 64, encoding) for encoding in EXTENSIONS),
    *(Treatment("shorter", 100, encoding) for encoding in EXTENSIONS),
    Treatment("shorter", 257, "raw"),
    Treatment("crop", 33, "jpeg", quality=70),
]


def prepared(source: Path, out: Path, treatment: Treatment, workers: int = 0) -> Dataset:
    list(prepare(list_folders(source), out, Options(treatment=treatment), workers=workers))
    return open_dataset(out)


def name(treatment: Treatment) -> str:
    return f"{treatment.geometry}-{treatment.size}-{treatment.encoding}"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, eight pictures to train on and three to validate, upright and lying, of odd sizes."""
    root = tmp_path_factory.mktemp("treatments")
    for split, count in (("train", 8), ("val", 3)):
        for number in range(count):
            folder = root / split / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            height, width = ((61 + 13 * number, 97), (301, 290 - 7 * number))[number // 2 % 2]
            photograph(number + 50 * (split == "val"), height, width).save(folder / f"{number}.png")
    return root


def files(source: Path, split: str) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (source / split).rglob("*.png")}


def by_tarfile(dataset: Dataset, split: str) -> dict[str, bytes]:
    """The pictures by the name of their file in the source."""
    found = {}
    for shard in dataset.splits[split].shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if not member.name.endswith(".cls"):
                    file = tar.extractfile(member)
                    assert file and member.name.endswith(f".{dataset.treatment.extension}")
                    found[Path(member.name).stem.partition("_")[2]] = file.read()
    return found


def decoded(data: bytes, encoding: Encoding) -> np.ndarray:
    if encoding == "raw":
        return np.load(io.BytesIO(data), allow_pickle=False)
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("treatment", CHOICES, ids=name)
def test_shards_and_statistics(source: Path, tmp_path: Path, treatment: Treatment) -> None:
    dataset = prepared(source, tmp_path / "out", treatment)
    assert dataset.treatment == treatment
    expected = {
        split: {stem: images.prepared(data, treatment).pixels for stem, data in files(source, split).items()}
        for split in ("train", "val")
    }
    for split, pictures in expected.items():
        stored = by_tarfile(dataset, split)
        assert stored.keys() == pictures.keys()
        for stem, pixels in pictures.items():
            found = decoded(stored[stem], treatment.encoding)
            assert found.shape == pixels.shape
            if treatment.encoding == "jpeg":
                assert np.abs(found.astype(int) - pixels).mean() < 15
            else:
                assert np.array_equal(found, pixels)
    check_statistics(dataset, [*expected["train"].values()])


def check_statistics(dataset: Dataset, pictures: list[np.ndarray]) -> None:
    size = dataset.treatment.size
    flat = np.concatenate([pixels.reshape(-1, 3) for pixels in pictures]).astype(np.float64).T
    squares = [images.central(pixels, size, size).transpose(2, 0, 1) for pixels in pictures]
    covariance = np.cov(flat, bias=True)
    axes = dataset.eigenvectors
    assert np.allclose(dataset.mean, np.mean(squares, axis=0), atol=1e-4)
    assert np.allclose(dataset.rgb_mean, flat.mean(1), rtol=1e-12)
    assert np.allclose(axes @ np.diag(dataset.eigenvalues) @ axes.T, covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("encoding", EXTENSIONS)
def test_plain_webdataset_reads_the_shards(source: Path, tmp_path: Path, encoding: Encoding) -> None:
    treatment = Treatment("shorter", 64, encoding)
    dataset = prepared(source, tmp_path / "out", treatment)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the collector
        shards = [str(shard) for shard in dataset.splits["train"].shards]
        samples = [*webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8")]
    for sample in samples:
        stem = sample["__key__"].partition("_")[2]
        pixels = images.prepared(files(source, "train")[stem], treatment).pixels
        found = sample[treatment.extension]
        assert found.shape == pixels.shape and found.dtype == np.uint8
        assert encoding == "jpeg" or np.array_equal(found, pixels)
    assert len(samples) == 8


def test_any_number_of_workers_writes_the_same_bytes(source: Path, tmp_path: Path) -> None:
    treatment = Treatment("shorter", 40, "raw")
    found = [
        {path.name: path.read_bytes() for path in prepared(source, tmp_path / str(n), treatment, n).root.iterdir()}
        for n in (0, 2)
    ]
    assert found[0] == found[1]


def test_the_manifest_says_what_was_done(source: Path, tmp_path: Path) -> None:
    manifest = prepared(source, tmp_path / "png", Treatment("warp", 64, "png", exif=True)).manifest
    assert (manifest["geometry"], manifest["size"], manifest["exif"]) == ("warp", 64, True)
    assert manifest["encoding"] == {"format": "png", "extension": "png"}
    manifest = prepared(source, tmp_path / "jpeg", Treatment(size=64, quality=80)).manifest
    jpeg = {"format": "jpeg", "extension": "jpg", "quality": 80, "chroma": "4:2:0"}
    assert manifest["encoding"] == jpeg and manifest["geometry"] == "crop"
    assert manifest["options"] == {"seed": 0, "val_fraction": 0.1, "limit": None}
    assert manifest["splits"]["train"]["kinds"] == {"PNG": 8} and manifest["splits"]["train"]["odd"] == []


def test_pictures_that_are_not_what_they_seem_are_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PICTURES_PER_SHARD", 3)
    folder = tmp_path / "source" / "train" / "cat"
    folder.mkdir(parents=True)
    for number in range(6):
        photograph(number, 40, 50).save(folder / f"{number}.jpg")
    photograph(7, 40, 50).convert("CMYK").save(folder / "n1_7.JPEG")
    photograph(8, 40, 50).save(folder / "n1_8.JPEG", format="PNG")
    photograph(9, 40, 50).convert("L").save(folder / "grey.png")
    train = prepared(tmp_path / "source", tmp_path / "out", Treatment(size=32)).manifest["splits"]["train"]
    assert sum(train["kinds"].get(form, 0) for form in ("JPEG", "PNG")) == train["pictures"] == 8  # one to val
    assert train["kinds"].get("CMYK", 0) == 1 and train["kinds"]["PNG named .jpeg"] == 1
    assert sorted((found["name"], found["what"]) for found in train["odd"]) == [
        ("train/cat/n1_7.JPEG", "CMYK"),
        ("train/cat/n1_8.JPEG", "PNG named .jpeg"),
    ]


@pytest.mark.parametrize(
    "treatment, word",
    [
        (Treatment("warp"), "--geometry"),
        (Treatment(size=64), "--size"),
        (Treatment(encoding="png"), "--encoding"),
        (Treatment(quality=90), "--quality"),
        (Treatment(exif=True), "--exif"),
    ],
)
def test_another_treatment_on_an_unfinished_run_is_refused(
    source: Path, tmp_path: Path, treatment: Treatment, word: str
) -> None:
    steps = prepare(list_folders(source), tmp_path / "out")
    next(steps)
    steps.close()
    with pytest.raises(AlexNetError, match=f"was begun otherwise: {word} changed") as caught:
        prepared(source, tmp_path / "out", treatment)
    assert "--overwrite" in caught.value.hint


@pytest.mark.parametrize(
    "geometry, size, message",
    [
        ("crop", 100, "are 100×100, and the recipes need 256×256"),
        ("warp", 64, "are 64×64, and the recipes need 256×256"),
        ("shorter", 256, "have a shorter side of 256, and the recipes need 256×256"),
    ],
)
def test_what_networks_cannot_be_fed_with_is_refused(
    source: Path, tmp_path: Path, geometry: Geometry, size: int, message: str
) -> None:
    prepared(source, tmp_path / "out", Treatment(geometry, size))
    with pytest.raises(AlexNetError, match=message) as caught:
        open_squares(tmp_path / "out")
    assert "alexnet prepare SOURCE" in caught.value.hint and "--size 256 --geometry crop" in caught.value.hint


def test_warped_squares_can_feed_a_network(source: Path, tmp_path: Path) -> None:
    prepared(source, tmp_path / "out", Treatment("warp", encoding="raw"))
    assert open_squares(tmp_path / "out").treatment.geometry == "warp"
