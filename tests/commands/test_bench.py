import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_cli.bench import prepare as measure
from alexnet_cli.dataset import shards


def test_prepare_is_measured_next_to_the_plain_ways(pictures: Path, alexnet: Callable[..., Any]) -> None:
    rows = json.loads(alexnet("bench", "prepare", pictures, "--count", 3, "--json").succeeded().out)
    assert rows[0]["way"] == "alexnet prepare" and rows[0]["ours"] == 1
    assert {"Pillow", "torchvision"} < {row["way"] for row in rows}
    assert all(abs(row["rate"] * row["ours"] / rows[0]["rate"] - 1) < 1e-9 for row in rows)
    table = alexnet("bench", "prepare", pictures, "--count", 1).succeeded().out
    assert "pictures/s" in table and "1.00×" in table


def test_the_whole_of_it_is_measured_with_one_worker_and_two(
    pictures: Path, alexnet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (measure, shards):
        monkeypatch.setattr(module, "PICTURES_PER_SHARD", 80)  # a shard reports every 64
    one, two = json.loads(alexnet("bench", "prepare", pictures, "--whole", "--json").succeeded().out)
    assert (one["workers"], one["times"], two["workers"]) == (1, 1, 2)
    assert two["times"] == two["rate"] / one["rate"] > 0


def test_a_folder_without_pictures_is_a_mistake(tmp_path: Path, alexnet: Callable[..., Any]) -> None:
    alexnet("bench", "prepare", tmp_path).failed("there are no pictures", "alexnet bench prepare")
