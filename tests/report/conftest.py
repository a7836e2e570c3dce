import json
import sys
from pathlib import Path

import numpy as np
import pytest

NAMES = (
    "<script>alert(1)</script>",
    "$x^2$ & co",
    "zebra",
    "Apple",
    "\"'><img src=x>",
    "item 10",
    "\x1b[31mred\u202e",
)
"""Of seven classes."""


@pytest.fixture(scope="session")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset directory of seven classes, 12 pictures of each to train on and 5 to validate."""
    from PIL import Image

    from alexnet_cli.dataset.preparation import prepare
    from alexnet_cli.dataset.sources.recognise import open_source

    root = tmp_path_factory.mktemp("seven")
    rng = np.random.default_rng(1)
    for label in range(len(NAMES)):
        for split, count in (("train", 12), ("val", 5)):
            folder = root / "pictures" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (40, 40, 3))
                pixels[4 * label : 4 * label + 12, 10:30] += 120 - 15 * label
                Image.fromarray(pixels.astype(np.uint8)).resize((90, 70)).save(folder / f"{number}.png")
    list(prepare(open_source(str(root / "pictures")), root / "dataset"))
    manifest = root / "dataset" / "manifest.json"
    facts = json.loads(manifest.read_bytes())
    for entry, name in zip(facts["classes"], NAMES, strict=True):
        entry["name"] = name  # a folder cannot have some of these names, a manifest can
    manifest.write_text(json.dumps(facts))
    return root / "dataset"


@pytest.fixture(scope="session")
def run(seven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 36 steps on it, six of an epoch, with a validation after each; it has learnt something by then."""
    from alexnet_cli.cli import main

    runs = tmp_path_factory.mktemp("runs")
    command = ["alexnet", "train", "--data", str(seven), "--runs", str(runs), "--name", "seven"]
    options = ["--recipe", "small", "--set", "width=0.1", "--batch-size", "14", "--max-steps", "36"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="0"):
        patch.setattr(sys, "argv", command + options)
        main()
    return runs / "seven"
