import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_cli import recipes, runs
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.network.alexnet import AlexNet

Run = Callable[..., Any]

CLASSES = ("bee", "cat", "dog")


@pytest.fixture
def a_run(tmp_path: Path) -> Path:
    """A run of a narrow net that was stopped at its start."""
    recipe = recipes.chosen("small", ["hidden=16"])
    run = runs.create_run(tmp_path / "runs", None, runs.Config(recipe, "fingerprint"), {})
    model = AlexNet(recipe.network, len(CLASSES))
    colours = Colours(torch.zeros(3, 256, 256), np.ones(3), np.eye(3))
    subject = checkpoints.Subject(CLASSES, (None,) * 3, colours, {}, "fingerprint")
    weights = dict(model.named_parameters())
    checkpoints.save(run.last, checkpoints.Checkpoint(recipe, subject, checkpoints.Position(), weights, {}))
    return run.root


def document(alexnet: Run, *arguments: object) -> dict[str, Any]:
    return json.loads(alexnet("describe", *arguments, "--json").succeeded().out)


def test_json_is_a_stable_document(alexnet: Run) -> None:
    found = document(alexnet)
    assert set(found) == {"recipe", "classes", "layers", "totals", "departures"}
    groups = {"name", "network", "preprocessing", "augmentation", "optimizer", "schedule"}
    assert set(found["recipe"]) == groups
    assert all(set(d) == {"what", "printed", "here", "why"} for d in found["departures"])
    keys = {"name", "kind", "output", "parameters", "multiply_adds", "kept"}
    assert all(set(e) == keys for e in found["layers"])


def test_the_papers_net_has_sixty_million_parameters(alexnet: Run) -> None:
    layers = document(alexnet, "paper")["layers"]
    counts = {layer["name"]: layer["parameters"] for layer in layers if layer["parameters"]}
    assert counts == {
        "conv1": 96 * (3 * 121 + 1),
        "conv2": 256 * (48 * 25 + 1),
        "conv3": 384 * (256 * 9 + 1),
        "conv4": 384 * (192 * 9 + 1),
        "conv5": 256 * (192 * 9 + 1),
        "fc6": 4096 * (256 * 36 + 1),
        "fc7": 4096 * (4096 + 1),
        "fc8": 1000 * (4096 + 1),
    }
    assert sum(counts.values()) == 60_965_224
    assert [layer["output"] for layer in layers if layer["name"] == "conv1"] == [[96, 55, 55]]
    assert sum(layer["multiply_adds"] for layer in layers) == 724_406_816


def test_totals_are_the_sums(alexnet: Run) -> None:
    found = document(alexnet, "paper", "--batch", 10)
    layers, totals = found["layers"], found["totals"]
    assert totals["batch"] == 10 and totals["kept_for_batch"] == 10 * totals["kept"]
    for key in ("parameters", "multiply_adds", "kept"):
        assert totals[key] == sum(layer[key] for layer in layers)
    assert document(alexnet, "caffe")["totals"]["batch"] == 256


def test_the_table_adds_up(alexnet: Run) -> None:
    outcome = alexnet("describe", "paper").succeeded()
    assert "60,965,224" in outcome.out and "724.4 M" in outcome.out and outcome.err == ""
    kinds = {layer["kind"] for layer in document(alexnet, "paper")["layers"]}
    assert {"max pooling 3×3 / 2", "convolution 5×5, 2 towers", "normalization, 2 towers"} <= kinds
    assert "pca_stdevs" in outcome.out and "856.9 MB" in outcome.out, "departures have a source"


def test_classes_and_settings_change_it(alexnet: Run) -> None:
    (last,) = (e for e in document(alexnet, "small", "--classes", 8, "--set", "hidden=40")["layers"][-1:])
    assert (last["name"], last["parameters"]) == ("fc8", 8 * (10 + 1))


def test_a_variant_has_its_own_net(alexnet: Run) -> None:
    found = document(alexnet, "paper+six-conv+no-lrn")
    names = [layer["name"] for layer in found["layers"]]
    assert "conv6" in names and "norm1" not in names
    assert found["totals"]["parameters"] == 60_965_224 + 590_080
    alexnet("describe", "paper+tanh+sigmoid").failed(
        "makes no sense: tanh is in place of ReLU already", "leave out"
    )


def test_departures_name_a_changed_setting(alexnet: Run) -> None:
    plain = [d["what"] for d in document(alexnet, "text")["departures"]]
    changed = [d["what"] for d in document(alexnet, "text", "--set", "momentum=0.8")["departures"]]
    assert changed == [*plain, "optimizer.momentum"]
    paper = document(alexnet, "paper")["departures"]
    assert all(departure["why"] not in ("", "set by hand") for departure in paper)


def test_against_shows_the_differences_only(alexnet: Run) -> None:
    said = alexnet("describe", "small", "--against", "paper").succeeded().out.partition("Differences")[2]
    assert "network.width" in said and "0.25" in said and "1.0" in said
    assert said.count("network.") + said.count("optimizer.") == 1
    assert "60,965,224" in said and "multiply-adds" in said


def test_a_run_and_its_checkpoint_are_described_with_their_classes(alexnet: Run, a_run: Path) -> None:
    for given in (a_run, a_run / "last.safetensors"):
        found = document(alexnet, given)
        assert found["recipe"]["name"] == "small" and found["classes"] == len(CLASSES)
        assert found["layers"][-1]["output"] == [len(CLASSES)]
    against = document(alexnet, "paper", "--against", a_run)["differences"]
    assert ["network.width", 1.0, 0.25] in against
    assert document(alexnet, a_run, "--classes", 5)["classes"] == 5
    (a_run / "last.safetensors").unlink()
    assert document(alexnet, a_run)["classes"] == 1000


def test_what_is_neither_recipe_nor_run_is_refused(alexnet: Run, tmp_path: Path) -> None:
    alexnet("describe", tmp_path).failed("is not a run directory", "alexnet train")
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    alexnet("describe", tmp_path / "x.safetensors").failed("is not a checkpoint of alexnet", "give a run")
    alexnet("describe", tmp_path / "y").failed("there is no recipe", "the recipes are")


def test_it_needs_no_dataset_and_leaves_nothing(alexnet: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    alexnet("describe").succeeded()
    assert not list(tmp_path.iterdir())


def test_an_unknown_recipe_or_variant_names_the_known(alexnet: Run) -> None:
    known = (
        "the recipes are paper, text, original, caffe, torchvision, small; a variant is added with a +: six-conv"
    )
    alexnet("describe", "papper").failed("there is no recipe 'papper'", known)
    alexnet("describe", "paper+six").failed("there is no variant 'six'", known)
    alexnet("describe", "--against", "resnet").failed("there is no recipe 'resnet'", known)
