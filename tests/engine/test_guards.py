"""What stops a training, or is said of it, names the layer, the pictures and the likely cause."""

import math
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet_cli import recipes, runs
from alexnet_cli.dataset.manifest import Dataset, open_dataset
from alexnet_cli.dataset.treatment import Treatment
from alexnet_cli.engine import guards
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.loading.loader import Reader, TrainingBatch, TrainingBatches
from alexnet_cli.loading.plan import Plan
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.runs import Config, Machine

from .on_ranks import Command, ended, started
from .same import OPTIONS

Run = Callable[..., Any]

RECIPE = recipes.chosen("small", ["width=0.05", "batch_size=7"])


@pytest.fixture(scope="module")
def dataset(tiny: Path) -> Dataset:
    return open_dataset(tiny)


@pytest.fixture
def model() -> AlexNet:
    made = AlexNet(RECIPE.network, 2)
    initialise(made, RECIPE.network, 1)
    return made.train()


def batch_of(dataset: Dataset, step: int) -> TrainingBatch:
    """Of 7 rows; the sixth (5) has two of padding."""
    split = dataset.splits["train"]
    colours = Colours(torch.from_numpy(np.array(dataset.mean)), dataset.eigenvalues, dataset.eigenvectors)
    with Reader(split) as reader:
        build = TrainingBatches(reader, Plan(40, 7, 1), RECIPE, colours, 1, 0, 1, torch.device("cpu"))
        return build((0, step))


def blamed(dataset: Dataset, model: AlexNet, batch: TrainingBatch, accumulate: int = 1) -> str:
    config = Config(RECIPE, "", machine=Machine(accumulate=accumulate))
    return guards.blame(model, batch, dataset.splits["train"], config, dataset.classes)


def key(dataset: Dataset, sample: int) -> str:
    """A picture's name and class, as tarfile reads the one shard."""
    (shard,) = dataset.splits["train"].shards
    with tarfile.open(shard) as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")]
        label = tar.extractfile(names[sample].replace(".jpg", ".cls"))
        assert label is not None
        return f"{names[sample]} ({dataset.classes[int(label.read())]})"


@pytest.mark.parametrize("accumulate", [1, 7])
def test_the_first_layer_and_the_pictures_are_named(dataset: Dataset, model: AlexNet, accumulate: int) -> None:
    batch = batch_of(dataset, 1)
    assert blamed(dataset, model, batch, accumulate) == ""
    spoilt = batch.pixels[4]

    def spoil(_: Any, given: Any, maps: torch.Tensor) -> torch.Tensor:
        rows = [row for row, pixels in enumerate(given[0]) if pixels[0, 0, 0] == spoilt[0, 0, 0]]
        return maps.index_fill(0, torch.tensor(rows, dtype=torch.int64), float("nan"))

    # The first layer sees the pixels, so that it knows its picture.
    handle = model.conv1.register_forward_hook(spoil)
    said = blamed(dataset, model, batch, accumulate)
    handle.remove()
    assert said == f"the outputs of conv1 are no numbers at train-000000.tar:{key(dataset, int(batch.samples[4]))}"


def test_what_overflows_is_the_layer_whose_outputs_do(dataset: Dataset, model: AlexNet) -> None:
    with torch.no_grad():
        model.fc7.weight.fill_(3e38)
    said = blamed(dataset, model, batch_of(dataset, 1))
    assert said.startswith("the outputs of fc7 are no numbers at train-000000.tar:")
    assert said.count("train-000000.tar:") == guards.SHOWN and said.endswith(" and 4 more")


def test_pictures_of_a_shard_that_is_not_here_are_named_by_their_place(dataset: Dataset, model: AlexNet) -> None:
    with torch.no_grad():
        model.fc7.weight.fill_(3e38)
    split, batch = dataset.splits["train"], batch_of(dataset, 1)
    far = replace(dataset, splits={"train": replace(split, shards=(Path("gone/train-000000.tar"),))})
    offset = split.index["offset"][batch.samples[0]]
    assert f" at train-000000.tar:byte {offset} (" in blamed(far, model, batch)


def test_padding_is_nobodys_fault(dataset: Dataset, model: AlexNet) -> None:
    batch = batch_of(dataset, 5)
    assert len(batch.samples) == 5 and len(batch.pixels) == 7
    batch.pixels[5:] = float("nan")
    assert blamed(dataset, model, batch) == ""


def test_weights_that_are_no_numbers_are_named(dataset: Dataset, model: AlexNet) -> None:
    with torch.no_grad():
        model.conv3.weight[0, 0, 0, 0] = float("nan")
    assert blamed(dataset, model, batch_of(dataset, 0)) == "the weights conv3.weight are no numbers any more"


def test_of_gradients_the_one_nearest_to_the_loss_is_named(dataset: Dataset, model: AlexNet) -> None:
    batch = batch_of(dataset, 0)
    F.cross_entropy(model(batch.pixels, batch.masks), batch.labels).backward()
    for name in ("conv1.weight", "conv5.bias", "fc6.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        gradient.view(-1)[-1] = float("nan")
    assert blamed(dataset, model, batch).startswith(
        "the gradient of fc6.weight is too large; the batch has train-"
    )


@pytest.mark.parametrize("way", ["data", "towers"])
def test_a_gradient_stops_a_run_before_its_update(train: Run, way: str) -> None:
    train("--max-steps", 3).succeeded()
    before = Path("runs/small-1/last.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "cross_entropy", steep(F.cross_entropy))
        outcome = train("--max-steps", 5, "--device", "cpu", "--parallel", way)
    outcome.failed(
        "the gradients became infinite or no numbers at step 4: the gradient of fc8.bias ", "try a lower rate"
    )
    assert Path("runs/small-1/last.safetensors").read_bytes() == before


class Steep(Command):
    def __call__(self) -> None:
        F.cross_entropy = steep(F.cross_entropy)
        super().__call__()


def test_a_gradient_that_lies_on_several_ranks_is_named(place: Path) -> None:
    command = ("train", "--recipe", "small", "--set", "width=0.05", *OPTIONS, "--device", "cpu")
    with started(2, Steep([*command, "--parallel", "hybrid", "--max-steps", "3"])) as jobs:
        assert ended(jobs) == [1, 1]
    for said in ((place / f"stderr-{rank}").read_text() for rank in range(2)):
        assert "no numbers at step 1: the gradient of fc8.bias is too large; the batch has train-" in said
        assert "Traceback" not in said


def steep(entropy: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The same values, and the slope of another function."""
    return lambda logits, *rest, **words: (
        entropy(logits, *rest, **words) + (logits.sum() - logits.sum().detach()) * 1e38
    )


# --- memory


def test_a_lack_of_memory_says_what_to_do() -> None:
    for parts, more in ((1, "--accumulate 2"), (4, "--accumulate 8")):
        message = "the memory is too small for a step of 128 pictures"
        with pytest.raises(AlexNetError, match=message) as caught, guards.memory(128, parts):
            torch.empty(1 << 60)
        assert more in caught.value.hint and "--batch-size" in caught.value.hint
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory"),
    ):
        with pytest.raises(AlexNetError), guards.memory(1, 1):
            raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), guards.memory(1, 1):
        raise RuntimeError("shapes differ")


# --- chance


def sayings(dataset: Dataset, losses: list[float], recipe: recipes.Recipe = RECIPE) -> dict[int, str]:
    chance = guards.Chance(dataset, recipe)
    said = {step: chance.said_of(step, loss) for step, loss in enumerate(losses, 1)}
    return {step: text for step, text in said.items() if text}


def test_a_loss_at_chance_is_said_once(dataset: Dataset) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 2000)
    (step, text), *others = sayings(dataset, list(math.log(2) + noise)).items()
    assert step == guards.SOONEST and not others
    assert f"guessing by the classes' frequencies gives {math.log(2):.3f}" in text and "--lr 0.001" in text
    assert sayings(dataset, [20.0] * 600), "above chance nothing is learnt either"


def test_a_loss_below_chance_is_not_said(dataset: Dataset) -> None:
    assert not sayings(dataset, [0.97 * math.log(2)] * 2000)
    assert not sayings(dataset, [math.log(2)] * 450 + [0.1] * 2000)


def test_chance_is_what_the_labels_are(dataset: Dataset) -> None:
    """A quarter and three quarters of the pictures: guessing gives 0.562, not ln 2."""
    index = dataset.splits["train"].index.copy()
    index["label"] = np.arange(len(index)) % 4 == 0
    uneven = replace(dataset, splits={"train": replace(dataset.splits["train"], index=index)})
    assert not sayings(uneven, [0.54] * 600)
    assert "0.562" in sayings(uneven, [0.57] * 600)[500]


def test_the_likely_cause_is_the_recipes(dataset: Dataset) -> None:
    doubled = recipes.chosen("paper", ["dropout_scaling=training"])
    (text,) = sayings(dataset, [0.7] * 600, doubled).values()
    assert "--set dropout_scaling=test" in text
    (text,) = sayings(dataset, [0.7] * 600, recipes.caffe()).values()
    assert "dropout_scaling" not in text


def test_more_classes_are_given_more_time(dataset: Dataset) -> None:
    thousand = replace(dataset, classes=tuple(map(str, range(1000))))
    assert list(sayings(thousand, [0.7] * 6000)) == [5000]


def test_a_run_at_chance_says_so(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "LOOKED_AT", 5)
    monkeypatch.setattr(guards, "SOONEST", 8)
    outcome = train("--lr", 0, "--max-steps", 12).succeeded()
    assert outcome.err.count("warning: the loss has been 0.") == 1 and "nothing is learnt" in outcome.err


# --- a dataset that does not fit


def test_classes_without_pictures_are_named(dataset: Dataset) -> None:
    assert not list(guards.misfits(dataset, RECIPE))
    more = replace(dataset, classes=(*dataset.classes, "rings", "stars", "crosses", "waves"))
    (text,) = guards.misfits(more, RECIPE)
    assert "4 of 6 classes have no training picture (rings, stars, crosses, …)" in text
    assert "validation pictures" not in text
    index = dataset.splits["train"].index.copy()
    index["label"] = 1
    halved = replace(dataset, splits=dataset.splits | {"train": replace(dataset.splits["train"], index=index)})
    (text,) = guards.misfits(halved, RECIPE)
    assert (
        "1 of 2 classes have no training picture (bars)" in text and "9 validation pictures will be wrong" in text
    )


@pytest.mark.parametrize(
    ("recipe", "geometry", "said"),
    [
        ("paper", "warp", "the paper cuts out the middle"),
        ("paper+six-conv", "warp", "the paper cuts out the middle"),
        ("caffe", "crop", "--geometry warp"),
        ("caffe", "warp", ""),
        ("paper", "crop", ""),
    ],
)
def test_pictures_prepared_for_another_recipe_are_said(
    dataset: Dataset, recipe: str, geometry: Any, said: str
) -> None:
    texts = list(guards.misfits(replace(dataset, treatment=Treatment(geometry)), recipes.chosen(recipe, [])))
    assert [said in text for text in texts] == [True] * bool(said)


def test_no_pictures_to_judge_by_are_said(dataset: Dataset) -> None:
    unused = {name: split for name, split in dataset.splits.items() if name != "val"}
    assert guards.unjudged(dataset, RECIPE) == guards.unjudged(replace(dataset, splits=unused), RECIPE) == ""
    without = replace(dataset, manifest=dataset.manifest | {"splits": {"train": {}}})
    never = "there are none: the rate is never divided and no best checkpoint is kept"
    assert guards.unjudged(without, RECIPE) == never
    assert guards.unjudged(without, recipes.original()) == "there are none: no best checkpoint is kept"


def test_a_misfit_is_said_at_the_start(train: Run) -> None:
    outcome = train("--recipe", "caffe", "--set", "width=0.05", "--max-steps", 1).succeeded()
    assert "warning: the pictures are cut to squares, as in the paper" in outcome.err
    assert runs.open_run(Path("runs/caffe-1")).config.recipe.name == "caffe"
