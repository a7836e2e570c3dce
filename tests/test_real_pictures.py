"""The four commands on real labelled pictures: Debian's package dataset-fashion-mnist."""

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

FASHION = Path("/usr/share/datasets/fashion-mnist")
pytestmark = pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")


Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_fashion_mnist_goes_through_all_four_commands(alexnet: Command) -> None:
    alexnet("prepare", FASHION, "--limit", 200).succeeded()
    small = ("--recipe", "small", "--set", "width=0.1", "--batch-size", 32)
    alexnet("train", *small, "--max-steps", 12).succeeded()
    found = json.loads(alexnet("eval", "--crops", 10, "--split", "test", "--json").succeeded().out)
    assert found["models"][0]["pictures"] == 200
    Image.fromarray(pixels("t10k", 1)[0]).save("picture.png")
    answer = json.loads(alexnet("predict", "picture.png", "--json").succeeded().out)
    top = answer["pictures"][0]["top"]
    assert len(top) == 5 and top[0]["probability"] >= top[4]["probability"] > 0


def test_each_stored_picture_is_an_original_enlarged_with_its_label(alexnet: Command) -> None:
    alexnet("prepare", FASHION, "--limit", 10, "--val-fraction", 0).succeeded()
    originals, labels = pixels("t10k", 10_000).astype(float), labels_of("t10k")
    with tarfile.open("dataset/test-000000.tar") as shard:
        files = {name: shard.extractfile(name) for name in shard.getnames()}
        for name in (name for name in files if name.endswith(".jpg")):
            picture, label = files[name], files[name.replace(".jpg", ".cls")]
            assert picture is not None and label is not None
            small = Image.open(picture).convert("L").resize((28, 28), Image.Resampling.BOX)
            distances = np.abs(np.asarray(small, float) - originals).mean((1, 2))
            assert distances.min() < 20, "a bilinear enlargement blurs, and no more"
            assert int(label.read()) == labels[distances.argmin()]


def pixels(part: str, count: int) -> np.ndarray:
    with gzip.open(FASHION / f"{part}-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(16 + count * 784)[16:], dtype=np.uint8).reshape(-1, 28, 28)


def labels_of(part: str) -> np.ndarray:
    with gzip.open(FASHION / f"{part}-labels-idx1-ubyte.gz") as file:
        return np.frombuffer(file.read()[8:], dtype=np.uint8)
