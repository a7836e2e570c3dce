"""Saved probabilities: read by another library, averaged again, refused where they do not belong together."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from alexnet_cli.dataset.manifest import Split
from alexnet_cli.engine import probabilities
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.probabilities import About, Saved
from alexnet_cli.engine.rows import header
from alexnet_cli.errors import AlexNetError

ALONE = Ranks(0, 1, torch.device("cpu"))
COUNT = 300
NAMES = ("cat", "d\udcffg", "“quoted”\n")
ABOUT = About(({"model": "a", "recipe": "paper"},), 10, "val", "f00d", 2012, NAMES, (None, None, None), "0123")


@pytest.fixture
def split() -> Split:
    index = np.zeros(COUNT, dtype=[("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("label", "<u4")])
    index["label"] = np.arange(COUNT) % 3
    return Split("val", (), index)


def values(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((COUNT, 3), dtype=np.float32)


def written(path: Path, split: Split, rows: np.ndarray, about: About = ABOUT) -> Saved:
    with probabilities.saving(path, about, split, ALONE) as save:
        for start in (256, 0, 128):  # in any order
            samples = np.arange(start, min(start + 128, COUNT))
            save(samples, torch.from_numpy(rows[samples]))
    return probabilities.read(path)


def test_another_library_reads_them(tmp_path: Path, split: Split) -> None:
    saved = written(tmp_path / "probs", split, values())
    found = load_file(tmp_path / "probs")
    assert np.array_equal(found["probabilities"], values()) and found["probabilities"].dtype == np.float32
    assert found["labels"].tolist() == split.index["label"].tolist() and found["labels"].dtype == np.int64
    assert saved.about == ABOUT and [path.name for path in tmp_path.iterdir()] == ["probs"]


def test_the_rows_come_again_in_batches(tmp_path: Path, split: Split) -> None:
    files = [written(tmp_path / f"{seed}", split, values(seed)) for seed in range(3)]
    answers = [*probabilities.all_answered(files)]
    assert [answer.step for answer in answers] == [0, 1, 2]
    for number in range(3):
        rows = torch.cat([answer.probabilities[number] for answer in answers]).numpy()
        assert np.array_equal(rows, values(number))
    assert np.concatenate([answer.samples for answer in answers]).tolist() == [*range(COUNT)]


def test_an_error_leaves_what_was_there(tmp_path: Path, split: Split) -> None:
    written(tmp_path / "probs", split, values())
    before = (tmp_path / "probs").read_bytes()
    with pytest.raises(KeyError), probabilities.saving(tmp_path / "probs", ABOUT, split, ALONE):
        raise KeyError
    assert (tmp_path / "probs").read_bytes() == before and len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dataset": "beef"}, "dataset"),
        ({"split": "test"}, "split"),
        ({"label_order": "45"}, "order of the classes"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path: Path, split: Split, change: dict, word: str) -> None:
    first = written(tmp_path / "first", split, values())
    other = written(tmp_path / "other", split, values(), replace(ABOUT, **change))
    probabilities.check_alike([first, first])
    with pytest.raises(AlexNetError, match=rf"first and .*other differ in .*{word}"):
        probabilities.check_alike([first, first, other])


def test_what_is_damaged_is_refused(tmp_path: Path, split: Split) -> None:
    path = tmp_path / "probs"
    written(path, split, values())
    good = path.read_bytes()
    generator = np.random.default_rng(2)
    damages = [good[:-1], good[:100], b"", good + b"x", good.replace(b"F32", b"I32")]
    for _ in range(60):
        spoilt = bytearray(good)
        for place in generator.integers(0, len(good) - 4 * COUNT * 3, 3):  # not the probabilities themselves
            spoilt[place] ^= 1 << generator.integers(8)
        damages.append(bytes(spoilt))
    refused = 0
    for data in damages:
        path.write_bytes(data)
        try:
            probabilities.read(path)
        except AlexNetError as error:
            refused += 1
            assert str(path) in error.message and error.hint
    assert refused > 30, "a wrong letter in a name is nobody's business"


def test_a_header_has_room_for_a_longer_one(tmp_path: Path) -> None:
    long = header({"x": ("F32", (9, 2))}, {"names": json.dumps(["a long name"] * 9)})
    short = header({"x": ("F32", (1, 2))}, {"names": json.dumps(["é"])}, len(long))
    assert len(short) == len(long) and len(long) % 8 == 0
    (tmp_path / "x").write_bytes(short + np.array([3, 4], "<f4").tobytes())
    with safe_open(tmp_path / "x", framework="np") as file:
        assert file.get_tensor("x").tolist() == [[3, 4]] and json.loads(file.metadata()["names"]) == ["é"]
