"""One evaluation on 1, 2 and 3 ranks is the same to the last bit, whether the counts divide or not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_cli import recipes
from alexnet_cli.dataset.manifest import open_squares
from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.engine import checkpoint
from alexnet_cli.engine.checkpoint import Checkpoint, Position, Subject
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.network.alexnet import AlexNet, initialise

from .on_ranks import on_ranks

VAL, CLASSES = 300, 7  # three batches of 128, 128 and 44
SIGMA = "sigma=0.01,0.03,0.03,0.03,0.03,0.03,0.03,0.03"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of noise and two nets that have not seen it."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(1)
    for split, count in (("train", CLASSES), ("val", VAL)):
        for number in range(count):
            folder = Path("pictures") / split / f"class {number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            blocks = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(blocks).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    list(prepare(open_source("pictures"), Path("dataset")))
    dataset = open_squares(Path("dataset"))
    colours = Colours(torch.from_numpy(np.array(dataset.mean)), dataset.eigenvalues, dataset.eigenvectors)
    subject = Subject(dataset.classes, dataset.wnids, colours, {}, dataset.fingerprint)
    recipe = recipes.chosen("small", ["width=0.05", "biased=", SIGMA])
    for seed in (1, 2):
        model = AlexNet(recipe.network, CLASSES)
        initialise(model, recipe.network, seed)
        made = Checkpoint(recipe, subject, Position(), dict(model.named_parameters()), {})
        checkpoint.save(Path(f"{seed}.safetensors"), made)
    return tmp_path


def result(ranks: int) -> dict[str, Any]:
    options = ("--device", "cpu", "--json", "--save-probs", f"probs-{ranks}", "--confusion", f"{ranks}.csv")
    codes = on_ranks(ranks, "eval", "1.safetensors", "2.safetensors", *options)
    shown = Path("stderr-0").read_text()
    assert codes == [0] * ranks, shown
    for rank in range(1, ranks):
        assert not Path(f"stderr-{rank}").read_text(), "the first talks"
    document = shown[shown.index("{\n") : shown.rindex("}") + 1]
    found: dict[str, Any] = json.loads(document)
    return found


@pytest.mark.usefixtures("here")
def test_one_two_and_three_ranks_are_one() -> None:
    alone = result(1)
    assert alone["models"][0]["pictures"] == VAL and alone["ensemble"]["top5_wrong"] > 0
    assert alone["models"][0]["top1_wrong"] != alone["models"][1]["top1_wrong"], "the nets differ"
    for ranks in (2, 3):
        assert result(ranks) == alone, "not a bit of cross-entropy or calibration apart"
        for name in ("probs-{}", "{}.csv"):
            assert Path(name.format(ranks)).read_bytes() == Path(name.format(1)).read_bytes()
