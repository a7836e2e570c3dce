import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def copy(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(tiny, tmp_path / "dataset").relative_to(tmp_path)


@pytest.mark.usefixtures("copy")
def test_a_sound_dataset(alexnet: Run) -> None:
    outcome = alexnet("verify", "--workers", 1).succeeded()
    assert "Dataset in dataset" in outcome.out and "verifying 100 %  68/68 pictures" in outcome.err
    rows = {" ".join(line.split()) for line in outcome.out.splitlines()}
    assert {"wrong 0", "worth a look 0", "train pictures, shards 40, 1"} <= rows


def test_everything_that_is_wrong_is_said(copy: Path, alexnet: Run) -> None:
    (copy / "mean.npy").unlink()
    for number in range(12):
        (copy / f"val-9999{number:02}.tar").touch()
    (copy / "notes\x1b.txt").touch()
    outcome = alexnet("verify", copy, "--workers", 1, "--json")
    assert outcome.code == 1 and "Traceback" not in outcome.err
    assert "warning: notes\\x1b.txt: does not belong to the dataset" in outcome.err
    assert "error: dataset is not what its manifest says:\n  mean.npy: missing\n" in outcome.err
    assert outcome.err.count("  val-9999") == 9 and "\n  and 3 more\nhint: prepare it again" in outcome.err
    document = json.loads(outcome.out)
    assert document["sound"] is False and len(document["findings"]) == 13 and len(document["warnings"]) == 1
    assert document["pictures"] == {"train": 40, "val": 18, "test": 10} and document["shards"] == 3


def test_no_dataset(tmp_path: Path, alexnet: Run) -> None:
    alexnet("verify", tmp_path).failed("there is no dataset in", "make one: alexnet prepare SOURCE")
