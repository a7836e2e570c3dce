import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_cli import runs
from alexnet_cli.dataset.manifest import open_squares
from alexnet_cli.engine.checkpoint import Subject
from alexnet_cli.engine.evaluation import split_for
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.augmentation import Colours

Run = Callable[..., Any]


def document(alexnet: Run, *arguments: object) -> dict[str, Any]:
    return json.loads(alexnet("eval", *arguments, "--json").succeeded().out)


def test_json_is_a_stable_document(trained: Path, alexnet: Run) -> None:
    found = document(alexnet)
    assert set(found) == {"split", "crops", "dataset", "models"}
    assert (found["split"], found["crops"]) == ("val", 1)
    assert found["dataset"] == runs.open_run(trained).config.dataset
    (score,) = found["models"]
    assert set(score) == {
        *("model", "recipe", "epochs", "steps", "pictures", "top1_wrong", "top5_wrong"),
        *("top1_error", "top5_error", "cross_entropy"),
    }
    assert score["model"] == "runs/small-1/best.safetensors"
    assert (score["recipe"], score["steps"], score["pictures"]) == ("small", 3, 18)
    assert score["top1_error"] == 100 * score["top1_wrong"] / 18


def test_it_counts_what_the_training_counted(trained: Path, alexnet: Run) -> None:
    tally = runs.read_metrics(runs.open_run(trained))[-1]["tally"]
    (score,) = document(alexnet)["models"]
    assert (score["pictures"], score["top1_wrong"], score["top5_wrong"]) == (
        *(tally["pictures"], tally["wrong1"], tally["wrong5"]),
    )
    assert score["cross_entropy"] == pytest.approx(tally["loss"] / tally["pictures"], rel=1e-6)


@pytest.mark.usefixtures("trained")
def test_many_models_in_the_order_given(alexnet: Run, net: tuple[str, ...]) -> None:
    alexnet("train", *net, "--seed", 2, "--max-steps", 1, "--name", "other").succeeded()
    given = ("runs/other", "runs/small-1", "runs/small-1/last.safetensors")
    named = [score["model"] for score in document(alexnet, *given)["models"]]
    assert named == ["runs/other/best.safetensors", "runs/small-1/best.safetensors", given[2]]
    assert document(alexnet)["models"][0]["model"].startswith("runs/other"), "by default the newest run"


@pytest.mark.usefixtures("trained")
def test_splits_crops_and_a_limit(alexnet: Run) -> None:
    test = document(alexnet, "--split", "test", "--crops", 10)
    assert (test["split"], test["crops"], test["models"][0]["pictures"]) == ("test", 10, 10)
    assert document(alexnet, "--split", "train", "--limit", 5)["models"][0]["pictures"] == 5
    alexnet("eval", "--split", "holdout").failed("has no split 'holdout'", "test, train, val")
    outcome = alexnet("eval", "--crops", 3)
    assert outcome.code == 2 and "--crops" in outcome.err and "1 or 10" in outcome.err


@pytest.mark.usefixtures("trained")
def test_the_table(alexnet: Run) -> None:
    outcome = alexnet("eval").succeeded()
    assert outcome.out.startswith("val, centre patch\n") and "50.00 %" in outcome.out and " 18" in outcome.out
    assert "top-1 error" in outcome.out and "cross-entropy" in outcome.out
    assert "top-5" not in outcome.out, "two classes have no fifth"
    assert "evaluating" not in outcome.out
    assert alexnet("eval", "--crops", 10).succeeded().out.startswith("val, 10 patches averaged\n")


def test_top_5_is_shown_from_six_classes(six: Path, alexnet: Run, net: tuple[str, ...]) -> None:
    alexnet("train", *net, "--data", six, "--max-steps", 1).succeeded()
    assert "top-5 error" in alexnet("eval", "--data", six).succeeded().out


@pytest.mark.usefixtures("trained")
def test_another_datasets_classes_are_refused(six: Path, alexnet: Run) -> None:
    outcome = alexnet("eval", "--data", six)
    outcome.failed("the model knows 2 classes (bars, discs)", "the same classes in the same order")


@pytest.mark.usefixtures("trained")
def test_what_is_no_model_is_refused(alexnet: Run) -> None:
    alexnet("eval", "runs/none.safetensors").failed("there is no file runs/none.safetensors", "run directory")
    alexnet("eval", "runs").failed("runs is not a run directory", "alexnet train")
    alexnet("eval", "runs/small-1/config.json").failed("is not a checkpoint of alexnet", ".safetensors")


def test_classes_are_the_same_by_their_wnids(tiny: Path) -> None:
    """Whatever words a file and a dataset have for them."""
    dataset = replace(
        open_squares(tiny), classes=("tench, Tinca tinca", "goldfish"), wnids=("n01440764", "n01443537")
    )
    colours = Colours(torch.zeros(3, 256, 256), np.ones(3), np.eye(3))
    subject = Subject(("tench", "goldfish"), dataset.wnids, colours, {}, "")
    assert split_for(subject, dataset, "val") is dataset.splits["val"]
    for wnids in (dataset.wnids[::-1], (None, None), (None, "n01443537")):
        for other in (replace(subject, wnids=wnids), subject):
            with pytest.raises(AlexNetError, match="the model knows 2 classes"):
                split_for(other, replace(dataset, wnids=wnids if other is subject else dataset.wnids), "val")
