"""The four commands on real labelled pictures: Debian's package dataset-fashion-mnist."""

import gzip
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FASHION = Path("/usr/share/datasets/fashion-mnist")
pytestmark = pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")


def alexnet(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "alexnet_cli", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fashion_mnist_goes_through_all_four_commands(tmp_path: Path) -> None:
    alexnet(tmp_path, "prepare", str(FASHION), "--limit", "200")
    alexnet(
        tmp_path, "train", "--recipe", "small", "--set", "width=0.1", "--batch-size", "32", "--max-steps", "12"
    )
    found = json.loads(alexnet(tmp_path, "eval", "--crops", "10", "--split", "test", "--json"))
    assert found["models"][0]["pictures"] == 200
    picture = tmp_path / "picture.png"
    Image.fromarray(pixels("t10k", 1)[0]).save(picture)
    answer = json.loads(alexnet(tmp_path, "predict", str(picture), "--json"))
    top = answer["pictures"][0]["top"]
    assert len(top) == 5 and top[0]["probability"] >= top[4]["probability"] > 0


def test_each_stored_picture_is_an_original_enlarged_with_its_label(tmp_path: Path) -> None:
    alexnet(tmp_path, "prepare", str(FASHION), "--limit", "10", "--val-fraction", "0")
    originals, labels = pixels("t10k", 10_000).astype(float), labels_of("t10k")
    with tarfile.open(tmp_path / "dataset" / "test-000000.tar") as shard:
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
