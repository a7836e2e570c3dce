"""Runs that begin with other weights: what is taken, what is drawn, and that the source is not needed any more."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from alexnet_cli import recipes, runs
from alexnet_cli.dataset.manifest import Dataset, open_dataset
from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine import optimizer, starting
from alexnet_cli.engine.checkpoint import Checkpoint, Position, Subject
from alexnet_cli.engine.session import subject_of
from alexnet_cli.errors import AlexNetError
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.recipes import Recipe

from .on_ranks import on_ranks

Command = Callable[..., Any]

RECIPE = recipes.chosen("small", ["width=0.05"])
OTHERS = ("cat", "dog", "fish")


def drawn(recipe: Recipe, classes: int, seed: int) -> dict[str, torch.Tensor]:
    model = AlexNet(recipe.network, classes)
    initialise(model, recipe.network, seed)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.fixture
def dataset(tiny: Path) -> Dataset:
    return open_dataset(tiny)


def saved(path: Path, dataset: Dataset, recipe: Recipe = RECIPE, classes: tuple[str, ...] = OTHERS) -> Checkpoint:
    """Weights of another seed, another mean and other colours than the dataset's."""
    subject = subject_of(dataset)
    colours = replace(subject.colours, mean=subject.colours.mean + 7, eigenvalues=np.array([9.0, 4.0, 1.0]))
    subject = Subject(classes, (None,) * len(classes), colours, subject.preparation, "elsewhere")
    checkpoint = Checkpoint(recipe, subject, Position(epoch=3, steps=99), drawn(recipe, len(classes), 5), {})
    checkpoints.save(path, checkpoint)
    return checkpoint


def first(path: Path, dataset: Dataset, recipe: Recipe = RECIPE, seed: int = 1) -> tuple[Checkpoint, list[str]]:
    return starting.first(starting.source(path), recipe, seed, dataset)


def assert_layers(found: Checkpoint, taken: dict[str, torch.Tensor], new: tuple[str, ...], classes: int) -> None:
    """Bit for bit: `taken` but for the layers `new`, which are those that the recipe draws."""
    fresh = drawn(found.recipe, classes, 1)
    assert found.weights.keys() == fresh.keys() == found.velocity.keys()
    for name, tensor in found.weights.items():
        expected = fresh if name.partition(".")[0] in new else taken
        assert torch.equal(tensor, expected[name]), name
        assert not found.velocity[name].any() and found.velocity[name].shape == tensor.shape


def test_all_weights_but_the_classifiers_are_taken_bit_for_bit(tmp_path: Path, dataset: Dataset) -> None:
    before = saved(tmp_path / "a.safetensors", dataset)
    found, said = first(tmp_path / "a.safetensors", dataset)
    assert_layers(found, before.weights, ("fc8",), 2)
    assert found.position == Position() and found.subject.classes == ("bars", "discs")
    assert found.subject.dataset == dataset.fingerprint
    assert torch.equal(found.subject.colours.mean, before.subject.colours.mean), "the mean of the weights"
    assert np.array_equal(found.subject.colours.eigenvalues, dataset.eigenvalues), "the colours of the pictures"
    assert "(recipe small, step 99): conv1, conv2, conv3, conv4, conv5, fc6, fc7" in said[0]
    assert said[1] == "fc8 is new, drawn as the recipe says: its 2 classes are not the 3 of these weights"


def test_the_same_classes_keep_their_classifier_in_any_order(tmp_path: Path, dataset: Dataset) -> None:
    for classes, rows, words in (
        (("bars", "discs"), [0, 1], "fc8 has the same 2 classes"),
        (("discs", "bars"), [1, 0], "fc8 has the same 2 classes, and its rows are put into this dataset's order"),
        (
            ("discs", "discs"),
            None,
            "fc8 is new, drawn as the recipe says: its 2 classes are not the 2 of these weights",
        ),
    ):
        before = saved(tmp_path / "a.safetensors", dataset, classes=classes)
        found, said = first(tmp_path / "a.safetensors", dataset)
        assert said[1] == words
        if rows is None:
            assert_layers(found, before.weights, ("fc8",), 2)
            continue
        moved = {f"fc8.{kind}": before.weights[f"fc8.{kind}"][rows] for kind in ("weight", "bias")}
        assert_layers(found, before.weights | moved, (), 2)


def test_wnids_tell_classes_where_both_have_them(tmp_path: Path, dataset: Dataset) -> None:
    ours = replace(dataset, classes=("crane", "crane"), wnids=("n02012849", "n03126707"))
    before = saved(tmp_path / "a.safetensors", dataset, classes=("crane", "crane"))
    subject = replace(before.subject, wnids=("n03126707", "n02012849"))
    checkpoints.save(tmp_path / "a.safetensors", replace(before, subject=subject))
    found, _ = first(tmp_path / "a.safetensors", ours)
    assert torch.equal(found.weights["fc8.weight"], before.weights["fc8.weight"][[1, 0]])


def test_a_bottleneck_comes_and_goes_with_its_classifier(tmp_path: Path, dataset: Dataset) -> None:
    """The chain of 1 CNN*: pre-trained with one, fine-tuned without (layers-146-2011.cfg, -2012-2011.cfg)."""
    six = recipes.chosen("small+six-conv", ["width=0.05"])
    narrow = recipes.chosen("small+six-conv+bottleneck", ["width=0.05", "bottleneck=400"])
    assert narrow.network.layers[-3:] == ("fc7", "bottleneck", "fc8") and narrow.network.last_inputs == 20
    path = tmp_path / "a.safetensors"
    before = saved(path, dataset, narrow)
    found, said = first(path, dataset, six)
    assert_layers(found, before.weights, ("fc8",), 2)
    assert "conv5, conv6, fc6, fc7" in said[0]
    assert_layers(first(path, dataset, narrow)[0], before.weights, ("fc8",), 2)
    wider = recipes.chosen("small+six-conv+bottleneck", ["width=0.05", "bottleneck=800"])
    found, said = first(path, dataset, wider)
    assert_layers(found, before.weights, ("bottleneck", "fc8"), 2)
    assert said[1] == "bottleneck is new, drawn as the recipe says"
    before = saved(path, dataset, six, ("bars", "discs"))
    found, said = first(path, dataset, narrow)
    assert_layers(found, before.weights, ("bottleneck", "fc8"), 2)
    assert said[2] == "fc8 is new, drawn as the recipe says: other inputs"


@pytest.mark.parametrize(
    ("wanted", "settings", "other"),
    [
        ("paper", [], "other the numbers of kernels and units"),
        ("small+no-lrn", ["width=0.05"], "other network.normalization.size"),
        ("small+six-conv", ["width=0.05"], "other network.kernels"),
        ("torchvision", [], "other network.kernels|other network.towers"),
        ("small", ["width=0.05", "preprocessing.mean=channel"], "other preprocessing.mean"),
    ],
)
def test_another_net_is_refused_with_the_command_of_its_own(
    tmp_path: Path, dataset: Dataset, wanted: str, settings: list[str], other: str
) -> None:
    path = tmp_path / "a.safetensors"
    saved(path, dataset)
    with pytest.raises(AlexNetError, match=f"recipe small, not of {wanted}: ".replace("+", r"\+")) as caught:
        first(path, dataset, recipes.chosen(wanted, settings))
    assert any(part in caught.value.message for part in other.split("|"))
    assert caught.value.hint == f"alexnet train --recipe small --set network.width=0.05 --init-from {path}"


def test_how_it_was_and_will_be_trained_may_differ(tmp_path: Path, dataset: Dataset) -> None:
    before = saved(tmp_path / "a.safetensors", dataset)
    recipe = recipes.chosen("small+no-colour", ["width=0.05", "rate=0.001", "sigma=0.1,0,0,0,0,0,0,1", "epochs=2"])
    assert_layers(first(tmp_path / "a.safetensors", dataset, recipe)[0], before.weights, ("fc8",), 2)


def test_torchvisions_file_is_fine_tuned_by_its_recipe(tmp_path: Path, dataset: Dataset) -> None:
    from alexnet_cli.network.interchange import torchvision

    narrow = recipes.chosen("torchvision", ["kernels=8,12,12,12,8", "hidden=16"])
    weights = drawn(narrow, 1000, 3)
    torchvision.write(tmp_path / "alexnet.pth", narrow, weights)
    found, said = first(tmp_path / "alexnet.pth", dataset, narrow)
    assert_layers(found, weights, ("fc8",), 2)
    assert "(torchvision's weights)" in said[0]
    with pytest.raises(AlexNetError) as caught:
        first(tmp_path / "alexnet.pth", dataset, recipes.paper())
    assert "--recipe torchvision --set network.kernels=8,12,12,12,8 --set network.hidden=16" in caught.value.hint


def test_what_has_no_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(AlexNetError, match=r"none\.safetensors cannot be read") as caught:
        starting.source(tmp_path / "none.safetensors")
    assert "--resume RUN" in caught.value.hint


# --- layers that stand still, or go at their own rate


def test_one_step_of_frozen_and_slowed_layers_is_that_of_float64() -> None:
    """v ← 0.9·v - decay·ε·f·w - ε·f·g;  w ← w + v, with the factor f of each layer; nothing where f is 0."""
    recipe = recipes.chosen("original", ["width=0.02", "layer_rates=conv3:0.1,fc8:10", "frozen=conv1,fc6"])
    model = AlexNet(recipe.network, 3)
    initialise(model, recipe.network, 2)
    generator = torch.Generator().manual_seed(3)
    velocity = {n: torch.randn(p.shape, generator=generator) * 0.01 for n, p in model.named_parameters()}
    before, expected = {}, {}
    for name, parameter in model.named_parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        w, v, g = (t.detach().double().numpy() for t in (parameter, velocity[name], parameter.grad))
        factor = {"conv3": 0.1, "fc8": 10.0, "conv1": 0.0, "fc6": 0.0}.get(name.partition(".")[0], 1.0)
        rate, decay = (0.02, 0.0) if name.endswith("bias") else (0.01, 0.0005)
        before[name] = parameter.detach().clone()
        moved = 0.9 * v - decay * rate * factor * w - rate * factor * g
        expected[name] = w + moved if factor else w
    optimizer.update(model, velocity, optimizer.rows(expected, recipe.optimizer, 0.01), 0.9)
    for name, parameter in model.named_parameters():
        assert np.allclose(parameter.detach().numpy(), expected[name], rtol=1e-5, atol=1e-7), name
        assert torch.equal(parameter, before[name]) == name.startswith(("conv1", "fc6"))


# --- the command


@pytest.fixture
def train(alexnet: Command, net: tuple[str, ...], place: Path) -> Command:
    return lambda *options: alexnet("train", *net, "--data", place / "dataset", *options)


@pytest.fixture
def begun(train: Command, place: Path) -> Path:
    """A run on other classes."""
    for number, name in enumerate(OTHERS):
        for split in ("train", "val"):
            (place / "others" / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 20), (80 * number, 90, 40)).save(place / "others" / split / name / "1.png")
    list(prepare(open_source("others"), place / "prepared"))
    train("--data", "prepared", "--name", "before", "--max-steps", 2).succeeded()
    return Path("runs/before")


FROZEN = ("--set", "frozen=conv1,conv2,conv3,conv4,conv5", "--set", "layer_rates=fc6:0.1")


def test_fine_tuning_is_one_command_that_goes_on_without_its_source(
    train: Command, begun: Path, alexnet: Command
) -> None:
    tune = ("--init-from", begun, *FROZEN)
    outcome = train(*tune, "--name", "whole", "--max-steps", 4).succeeded()
    assert "begins with runs/before/best.safetensors" in outcome.err and "fc8 is new" in outcome.err
    whole, source = load_file("runs/whole/last.safetensors"), load_file(begun / "best.safetensors")
    taken = [name for name in source if "." in name and not name.startswith("fc8")]
    moved = {name for name in taken if not torch.equal(whole[name], source[name])}
    assert {name.partition(".")[0] for name in moved} == {"fc6", "fc7"}
    assert torch.equal(whole["mean"], source["mean"])
    config = json.loads(Path("runs/whole/config.json").read_text())
    assert config["about"]["start"]["file"] == str((begun / "best.safetensors").resolve())
    assert config["config"]["start"] == starting.source(begun).sha256

    train(*tune, "--name", "parts", "--max-steps", 2).succeeded()
    again = train(*tune, "--name", "parts", "--max-steps", 3).succeeded()
    assert "begins with" not in again.err and "from step 2" in again.err
    shutil.rmtree(begun)
    train(*tune, "--name", "parts").failed("before", "")
    alexnet("train", "--resume", "runs/parts", "--max-steps", 4).succeeded()
    parts = load_file("runs/parts/last.safetensors")
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_a_run_has_its_first_weights_or_is_none(
    train: Command, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise AlexNetError("the disk is full", "free some space")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", full)
        train("--init-from", begun, "--name", "tuned").failed("the disk is full", "free some")
    assert [path.name for path in Path("runs").iterdir()] == ["before"]
    train("--init-from", begun, "--dry-run").succeeded()
    assert [path.name for path in Path("runs").iterdir()] == ["before"]


def test_another_source_is_another_training(train: Command, begun: Path) -> None:
    train("--max-steps", 1, "--name", "plain").succeeded()
    train("--init-from", begun, "--max-steps", 1).succeeded()
    train("--init-from", begun / "last.safetensors", "--max-steps", 1).succeeded()
    assert {path.name for path in Path("runs").iterdir()} >= {"before", "plain", "small-1"}
    train("--resume", "runs/plain", "--init-from", begun).failed(
        "the run runs/plain has start = ", "its own options"
    )


def test_two_ranks_begin_as_one(train: Command, begun: Path, net: tuple[str, ...]) -> None:
    options = ("--init-from", str(begun), *FROZEN, "--max-steps", "3")
    train(*options, "--name", "one").succeeded()
    assert on_ranks(2, "train", *net, "--data", "dataset", *options, "--name", "two", "--device", "cpu") == [0, 0]
    said = "".join(Path(f"stderr-{rank}").read_text() for rank in range(2))
    assert said.count("begins with runs/before/best.safetensors") == 1
    one, two = (load_file(f"runs/{name}/last.safetensors") for name in ("one", "two"))
    for name in one:
        assert (one[name] - two[name]).abs().max() <= 1e-4 * one[name].abs().max(), name
    assert runs.open_run(Path("runs/two")).config.start
