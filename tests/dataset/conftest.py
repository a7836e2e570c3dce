"""Small sources, written by the tests and laid out as real ones are."""

import gzip
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.errors import AlexNetError

from .far_server import Server


def refused(source: object, **words: object) -> AlexNetError:
    """What opening a source raises."""
    with pytest.raises(AlexNetError) as caught:
        open_source(str(source), **words)  # type: ignore[arg-type]
    return caught.value


def photograph(seed: int, height: int, width: int) -> Image.Image:
    """A smooth random picture, so that JPEG and resizing behave as on photographs."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write_idx(path: Path, array: np.ndarray) -> None:
    data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 10 training and 2 validation pictures each, of many sizes, JPEG and PNG."""
    root = tmp_path_factory.mktemp("folders")
    for split, count in (("train", 10), ("val", 2)):
        for label, name in enumerate(("n00000001", "n00000002", "zebra")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 100 * label + number + 1000 * (split == "val")
                picture = photograph(seed, 120 + 41 * number, 300 - 17 * label)
                picture.save(folder / f"a.b {number}.{'png' if number % 3 else 'JPEG'}")
    return root


@pytest.fixture
def idx(tmp_path: Path) -> Path:
    """Ten classes of 28×28 grey pictures: 100 to train and 20 to test."""
    root = tmp_path / "idx"
    root.mkdir()
    generator = np.random.default_rng(5)
    for prefix, count in (("train", 100), ("t10k", 20)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(root / f"{prefix}-images-idx3-ubyte.gz", pixels)
        write_idx(root / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return root


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Far datasets without the patience that real networks need, in a cache of the test's own."""
    monkeypatch.setattr("alexnet_cli.dataset.far.answers.TIME_OUT", 0.5)
    monkeypatch.setattr("alexnet_cli.dataset.far.fetching.FIRST_WAIT", 0.001)
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Server]:
    """A web server on this machine, for the empty folder `served`."""
    (tmp_path / "served").mkdir()
    with Server(tmp_path / "served") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()
