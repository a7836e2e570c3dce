"""What strangers send: pictures with changed bytes, and files and names that nobody would make in good faith."""

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_cli.dataset.images import PIXEL_LIMIT, PictureError, decode, to_square
from alexnet_cli.dataset.manifest import open_dataset
from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.errors import AlexNetError

from .conftest import photograph
from .forms import originals, write_official

SLOW_SECONDS = 10.0  # for one picture of a few thousand pixels, on a busy machine


def seeds() -> list[bytes]:
    """Small pictures of the forms a decoder has branches for."""
    picture = photograph(1, 24, 37)
    return [
        saved(picture, "JPEG"),
        saved(picture, "JPEG", progressive=True, subsampling=0),
        saved(picture.convert("L"), "JPEG"),
        saved(picture.convert("CMYK"), "JPEG"),
        saved(picture, "PNG"),
        saved(picture.quantize(16), "PNG", transparency=3),
        saved(picture.convert("RGBA"), "PNG"),
        saved(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)), "PNG"),
        saved(picture, "GIF"),
        saved(picture, "BMP"),
        saved(picture, "WEBP"),
        saved(picture, "TIFF", compression="tiff_lzw"),
        saved(picture, "PPM"),
    ]


def saved(picture: Image.Image, form: str, **words: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **words)
    return file.getvalue()


def mutated(generator: np.random.Generator, pictures: list[bytes]) -> bytes:
    """Change some bytes, cut, double or swap a piece, or put two pictures together."""
    data = bytearray(pictures[generator.integers(len(pictures))])
    for _ in range(generator.integers(1, 4)):
        kind, at = generator.integers(6), int(generator.integers(len(data)))
        length = int(generator.integers(1, 64))
        if kind <= 1:
            for place in generator.integers(0, len(data), length // 8 + 1):
                data[place] ^= 1 << int(generator.integers(8))
        elif kind == 2:
            del data[at + 1 :]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        else:
            other = pictures[generator.integers(len(pictures))]
            data[at:] = other[int(generator.integers(len(other))) :]
        data = data or bytearray(b"\0")
    return bytes(data)


def check_mutations(seed: int, count: int) -> None:
    """Every mutation is a picture or a PictureError, and comes to an end."""
    generator, pictures = np.random.default_rng(seed), seeds()
    refused = 0
    for number in range(count):
        data = mutated(generator, pictures)
        started = time.monotonic()
        try:
            pixels = decode(data)
        except PictureError as error:
            refused += 1
            assert str(error) and "\n" not in str(error)
        except BaseException as error:
            raise AssertionError(f"mutation {number} of seed {seed}: {error!r}") from error
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            assert 0 < pixels.shape[0] * pixels.shape[1] <= PIXEL_LIMIT
            if number % 50 == 0:
                assert to_square(pixels).shape == (256, 256, 3)
        assert time.monotonic() - started < SLOW_SECONDS, f"mutation {number} of seed {seed}"
    assert count * 0.2 < refused < count * 0.95  # the mutations are neither harmless nor beyond recognition


def test_mutated_pictures() -> None:
    check_mutations(1, 4000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_mutated_pictures(seed: int) -> None:
    check_mutations(seed, 5000)


def check_archives(seed: int, count: int, root: Path) -> None:
    """Each mutation of one of ImageNet's archives is a listing whose pictures lie in it, or an AlexNetError."""
    write_official(root, originals())
    generator, refused = np.random.default_rng(seed), 0
    whole = {path: path.read_bytes() for path in sorted(root.iterdir())}
    for number in range(count):
        path = [*whole][generator.integers(len(whole))]
        path.write_bytes(mutated(generator, [whole[path]]))
        started = time.monotonic()
        try:
            listing = open_source(str(root))
        except AlexNetError as error:
            refused += 1
            assert error.message and error.hint
        except BaseException as error:
            raise AssertionError(f"mutation {number} of seed {seed}, {path.name}: {error!r}") from error
        else:
            for pictures in listing.splits.values():
                read = sum(len(pictures.record(position).read()) for position in range(len(pictures)))
                assert 0 <= read < sum(map(len, whole.values()))
        assert time.monotonic() - started < SLOW_SECONDS, f"mutation {number} of seed {seed}, {path.name}"
        path.write_bytes(whole[path])
    assert count * 0.1 < refused < count * 0.9


def test_mutated_archives(tmp_path: Path) -> None:
    check_archives(1, 300, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_many_mutated_archives(seed: int, tmp_path: Path) -> None:
    check_archives(seed, 2000, tmp_path)


@pytest.mark.parametrize("height, width", [(0, 10), (10, 0), (65535, 65535), (65500, 30000)])
def test_absurd_dimensions(height: int, width: int) -> None:
    jpeg = bytearray(seeds()[0])
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    png = bytearray(seeds()[4])
    png[16:24] = height.to_bytes(4, "big") + width.to_bytes(4, "big")
    for data in (jpeg, png):
        with pytest.raises(PictureError):
            decode(bytes(data))


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[Path]:
    """Twenty good pictures among files and names of every bad kind."""
    folder = tmp_path / "source" / "train" / "a class\nwith\x1b[31m lines"
    folder.mkdir(parents=True)
    for number in range(20):
        photograph(number, 40, 60).save(folder / f"{number:02d} .. \t\n{number}.jpg")
    photograph(3, 30, 30).save(folder / os.fsdecode(b"not text \xff\xfe.png"))
    (folder / "nothing.jpg").touch()
    (folder / "cut.jpg").write_bytes(seeds()[0][:200])
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "itself").symlink_to(folder)
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "secret.jpg").write_bytes(seeds()[0])
    (folder / "secret.jpg").chmod(0)
    (folder.parent / "loop").symlink_to(folder.parent)
    (folder.parent / "circle").symlink_to("circle")
    yield tmp_path / "source"
    (folder / "secret.jpg").chmod(0o600)


def test_hostile_files_and_names(hostile: Path, tmp_path: Path) -> None:
    listing = open_source(str(hostile))
    list(prepare(listing, tmp_path / "out", max_rejects=0.5))
    dataset = open_dataset(tmp_path / "out")
    found = sum(len(split.index) for split in dataset.splits.values())
    rejects = {
        Path(reject["name"]).name: reject["reason"]
        for split in dataset.manifest["splits"].values()
        for reject in split["rejects"]
    }
    assert rejects.pop("nothing.jpg") == "empty file" and rejects.pop("cut.jpg")
    if os.geteuid() == 0:  # to whom nothing is forbidden
        assert found == 22 and not rejects
    else:
        assert found == 21 and list(rejects) == ["secret.jpg"] and "ermission" in rejects["secret.jpg"]
    ignored = {Path(name).name for name in listing.ignored}
    assert {"loop.jpg", "gone.jpg", "pipe.jpg", "folder.jpg", "itself"} <= ignored
    for path in (tmp_path / "out").iterdir():
        assert path.name.isascii() and path.name.isprintable()
    text = (tmp_path / "out" / "manifest.json").read_bytes().decode()
    assert "\x1b" not in text and str(tmp_path) not in text
