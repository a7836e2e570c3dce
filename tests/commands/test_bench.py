import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_prepare_is_measured_next_to_the_plain_ways(pictures: Path, alexnet: Callable[..., Any]) -> None:
    rows = json.loads(alexnet("bench", "prepare", pictures, "--count", 3, "--json").succeeded().out)
    assert rows[0]["way"] == "alexnet prepare" and rows[0]["ours"] == 1
    assert {"Pillow", "torchvision"} < {row["way"] for row in rows}
    assert all(abs(row["rate"] * row["ours"] / rows[0]["rate"] - 1) < 1e-9 for row in rows)
    table = alexnet("bench", "prepare", pictures, "--count", 1).succeeded().out
    assert "pictures/s" in table and "1.00×" in table


def test_a_folder_without_pictures_is_a_mistake(tmp_path: Path, alexnet: Callable[..., Any]) -> None:
    alexnet("bench", "prepare", tmp_path).failed("there are no pictures", "alexnet bench prepare")
