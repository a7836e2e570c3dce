import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset import forms
from safetensors.numpy import load_file

from alexnet_cli import imagenet, recipes, runs
from alexnet_cli.dataset.manifest import open_squares
from alexnet_cli.engine import checkpoint, examination
from alexnet_cli.engine.checkpoint import Subject
from alexnet_cli.engine.evaluation import split_for
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading import reader
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.network.alexnet import AlexNet, initialise

Run = Callable[..., Any]


def document(alexnet: Run, *arguments: object) -> dict[str, Any]:
    return json.loads(alexnet("eval", *arguments, "--json").succeeded().out)


def test_json_is_a_stable_document(trained: Path, alexnet: Run) -> None:
    found = document(alexnet)
    assert set(found) == {"split", "crops", "dataset", "label_order", "models", "ensemble", "paper"}
    assert (found["split"], found["crops"], found["ensemble"], found["paper"]) == ("val", 1, None, None)
    assert found["label_order"] == hashlib.sha256(b"bars\ndiscs\n").hexdigest()
    assert found["dataset"] == runs.open_run(trained).config.dataset
    (score,) = found["models"]
    assert set(score) == {
        *("model", "recipe", "epochs", "steps", "pictures", "top1_wrong", "top5_wrong"),
        *("top1_error", "top5_error", "cross_entropy", "calibration", "by_class"),
    }
    assert [(row["name"], row["wnid"], row["pictures"]) for row in score["by_class"]] == [
        ("bars", None, 9),
        ("discs", None, 9),
    ]
    assert sum(row["top1_wrong"] for row in score["by_class"]) == score["top1_wrong"]
    assert sum(part["pictures"] for part in score["calibration"]["bins"]) == 18
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
    assert outcome.out.startswith("val, centre patch, 18 pictures\n") and "50.00 %" in outcome.out
    assert "of 2 classes, label order " in outcome.err
    assert "top-1 error" in outcome.out and "cross-entropy" in outcome.out
    assert "top-5" not in outcome.out, "two classes have no fifth"
    assert "evaluating" not in outcome.out
    assert alexnet("eval", "--crops", 10).succeeded().out.startswith("val, 10 patches averaged, 18 pictures\n")


def test_top_5_is_shown_from_six_classes(six: Path, alexnet: Run, net: tuple[str, ...]) -> None:
    alexnet("train", *net, "--data", six, "--max-steps", 1).succeeded()
    assert "top-5 error" in alexnet("eval", "--data", six).succeeded().out


@pytest.mark.usefixtures("trained")
def test_another_datasets_classes_are_refused(six: Path, alexnet: Run) -> None:
    outcome = alexnet("eval", "--data", six)
    outcome.failed("the model knows 2 classes (bars, discs)", "the same classes in the same order")
    assert (
        "2 classes (bars, discs) only the model has, 6 classes (class 0, class 1, class 2, …) only" in outcome.err
    )


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


@pytest.fixture
def three(trained: Path, alexnet: Run, net: tuple[str, ...]) -> tuple[str, ...]:
    """Nets whose answers differ: of two recipes, which are fed differently too."""
    for recipe, name in (("caffe", "second"), ("torchvision", "third")):
        options = ("--recipe", recipe, *net[2:], "--max-steps", 2, "--name", name)
        alexnet("train", *options).succeeded()
    return str(trained), "runs/second", "runs/third"


def test_an_ensemble_is_the_mean_and_each_picture_is_decoded_once(
    three: tuple[str, ...], alexnet: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against numpy on the probabilities that each net alone gives."""
    decoded, read = [], reader.read_stored
    monkeypatch.setattr(reader, "read_stored", lambda *given: decoded.append(1) or read(*given))
    options = ("--ensemble-weights", "1,1,2", "--save-probs", "mean.safetensors")
    found = document(alexnet, *three, *options)
    assert len(decoded) == 18
    for number, model in enumerate(three):
        alone = document(alexnet, model, "--save-probs", f"{number}.safetensors")
        assert alone["models"] == [found["models"][number]]
    saved = [load_file(f"{number}.safetensors") for number in range(3)]
    labels = saved[0]["labels"]
    mean = np.average([one["probabilities"] for one in saved], axis=0, weights=[1, 1, 2])
    assert np.allclose(load_file("mean.safetensors")["probabilities"], mean, rtol=1e-6)
    assert labels.tolist() == [0] * 9 + [1] * 9 and found["ensemble"]["weights"] == [1, 1, 2]
    assert found["ensemble"]["top1_wrong"] == int((mean.argmax(1) != labels).sum())
    loss = -np.log(mean[np.arange(18), labels].astype(np.float64)).mean()
    assert found["ensemble"]["cross_entropy"] == pytest.approx(loss, rel=1e-6)
    outcome = alexnet("eval", *three, *options[:2]).succeeded()
    assert "averaged with weights 1, 1, 2" in " ".join(outcome.out.split())
    # As the authors did it: nets that were asked at different times.
    files = [f"{number}.safetensors" for number in range(3)]
    again = document(alexnet, "--from-probs", *files, "--ensemble-weights", "1,1,2")
    assert again["ensemble"] == found["ensemble"] and again["crops"] == 1
    assert [m["top1_wrong"] for m in again["models"]] == [m["top1_wrong"] for m in found["models"]]


@pytest.mark.usefixtures("trained")
def test_weights_must_fit_the_models(alexnet: Run) -> None:
    for text in ("1,x", "", "-1", "nan", "0"):
        alexnet("eval", "--ensemble-weights", text).failed("--ensemble-weights", "as 1,1,2")
    alexnet("eval", "--ensemble-weights", "1,2").failed("has 2 weights, and there are 1 models", "one for each")


@pytest.mark.usefixtures("trained")
def test_saved_probabilities_of_other_pictures_are_refused(alexnet: Run) -> None:
    for split in ("val", "test"):
        alexnet("eval", "--split", split, "--save-probs", f"{split}.safetensors").succeeded()
    alexnet("eval", "--limit", 5, "--save-probs", "few.safetensors").succeeded()
    alexnet("eval", "--from-probs", "val.safetensors", "test.safetensors").failed("differ in split", "one dataset")
    alexnet("eval", "--from-probs", "val.safetensors", "few.safetensors").failed("differ in pictures", "one split")
    alexnet("eval", "--from-probs", "none.safetensors").failed("there is no file", "--save-probs")
    alexnet("eval", "--from-probs").failed("no files", "--save-probs")
    wrong = alexnet("eval", "--from-probs", "runs/small-1/best.safetensors")
    wrong.failed("does not hold saved probabilities", "--save-probs")


@pytest.mark.usefixtures("trained")
def test_a_confusion_matrix_and_a_table_of_classes(alexnet: Run) -> None:
    outcome = alexnet("eval", "--confusion", "taken.csv", "--by-class").succeeded()
    with Path("taken.csv").open(newline="") as file:
        (head, *rows) = csv.reader(file)
    assert head == ["right class", "bars", "discs"] and [row[0] for row in rows] == ["bars", "discs"]
    counted = np.array([[int(cell) for cell in row[1:]] for row in rows])
    assert counted.sum(1).tolist() == [9, 9] and np.trace(counted) == 9, "half of 18 are right"
    assert "top-1 error" in outcome.out.rpartition("class ")[2] and "100.0 %" in outcome.out


@pytest.mark.usefixtures("trained")
def test_what_cannot_be_written_costs_no_scores(alexnet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for option in ("--confusion", "--save-probs", "--submission"):
        alexnet("eval", option, ".").failed(". is a folder", "name a file")

    def full(path: Path, _: bytes) -> None:
        raise AlexNetError(f"the disk is full: {path} could not be written", "free some space")

    monkeypatch.setattr(examination, "write_bytes", full)
    outcome = alexnet("eval", "--confusion", "taken.csv")
    assert outcome.code == 1 and "50.00 %" in outcome.out and "the disk is full: taken.csv" in outcome.err


IMAGENET = imagenet.class_names([*imagenet.classes()], imagenet.classes())


@pytest.fixture
def ilsvrc(tiny: Path, place: Path) -> Path:
    """A dataset directory that says it is ILSVRC-2012's, with the 18 pictures to validate."""
    shutil.copytree(tiny, place / "ilsvrc")
    facts = json.loads((tiny / "manifest.json").read_text())
    facts["classes"] = [
        {"name": name, "wnid": wnid} for name, wnid in zip(IMAGENET, imagenet.classes(), strict=True)
    ]
    facts["form"] = "ILSVRC-2012, official archives"
    (place / "ilsvrc" / "manifest.json").write_text(json.dumps(facts))
    return Path("ilsvrc")


def untrained(path: Path, recipe: str, dataset: Path, seed: int) -> None:
    chosen = recipes.chosen(recipe, ["width=0.05"])
    model = AlexNet(chosen.network, 1000)
    initialise(model, chosen.network, seed)
    opened = open_squares(dataset)
    colours = Colours(torch.from_numpy(np.array(opened.mean)), opened.eigenvalues, opened.eigenvectors)
    subject = Subject(opened.classes, opened.wnids, colours, {}, opened.fingerprint)
    weights = dict(model.named_parameters())
    checkpoint.save(path, checkpoint.Checkpoint(chosen, subject, checkpoint.Position(), weights, {}))


def test_the_papers_rows_stand_beside_ours(ilsvrc: Path, alexnet: Run) -> None:
    for seed in range(2):
        untrained(Path(f"{seed}.safetensors"), "paper", ilsvrc, seed)
    untrained(Path("six.safetensors"), "paper+six-conv", ilsvrc, 3)
    given = ("0.safetensors", "1.safetensors", "six.safetensors", "--data", ilsvrc)
    found = document(alexnet, *given)
    assert found["paper"]["table"].startswith("the paper's Table 2, ILSVRC-2012")
    rows = {row["name"]: row for row in found["paper"]["rows"]}
    assert [*rows] == ["SIFT + FVs", "1 CNN", "5 CNNs", "1 CNN*", "7 CNNs*"]
    first, star = found["models"][0], found["models"][2]
    assert rows["1 CNN"]["ours"] == [first["top1_error"], first["top5_error"]]
    assert rows["1 CNN*"]["ours"] == [star["top1_error"], star["top5_error"]]
    assert rows["1 CNN"]["paper"] == [40.7, 18.2, None]
    assert "--crops 10" in rows["1 CNN"]["missing"] and "49,982 of the 50,000 pictures" in rows["1 CNN"]["missing"]
    assert rows["5 CNNs"]["ours"] is None and rows["5 CNNs"]["missing"] == ["3 more CNN"]
    outcome = alexnet("eval", *given).succeeded()
    assert "Table 2" in outcome.out and f"{first['top1_error'] - 40.7:+.1f} / " in outcome.out
    assert "\n5 CNNs: still missing: 3 more CNN\n" in outcome.out
    assert "7 CNNs*: still missing: 3 more CNN; 1 more CNN*\n" in outcome.out


def test_a_submission_has_the_kits_ids(ilsvrc: Path, alexnet: Run) -> None:
    untrained(Path("net.safetensors"), "paper", ilsvrc, 1)
    given = ("net.safetensors", "--data", ilsvrc, "--submission", "answers.txt")
    alexnet("eval", *given).failed("--submission needs the development kit", "add --devkit")
    Path("kit/data").mkdir(parents=True)
    alexnet("eval", *given, "--devkit", "kit").failed(
        "there is no development kit of ILSVRC-2012", "data/meta.mat"
    )
    order = np.random.default_rng(1).permutation(1000)
    ids = {wnid: int(order[label]) + 1 for label, wnid in enumerate(imagenet.classes())}
    Path("kit/data/meta.mat").write_bytes(forms.meta(2012, ids))
    alexnet("eval", *given, "--devkit", "kit", "--save-probs", "probs.safetensors").succeeded()
    probabilities = load_file("probs.safetensors")["probabilities"]
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    lines = Path("answers.txt").read_text().splitlines()
    assert [[int(part) for part in line.split(" ")] for line in lines] == (order[best] + 1).tolist()
    limited = alexnet("eval", *given, "--devkit", "kit", "--limit", 3)
    limited.failed("--submission needs the whole split", "do without --limit")


@pytest.mark.usefixtures("trained")
def test_a_submission_is_for_ilsvrc(alexnet: Run) -> None:
    outcome = alexnet("eval", "--submission", "answers.txt")
    outcome.failed("is for the 1000 classes of ILSVRC-2010 or 2012", "leave it away")


def test_a_submission_lacks_no_picture(ilsvrc: Path, alexnet: Run) -> None:
    untrained(Path("net.safetensors"), "paper", ilsvrc, 1)
    facts = json.loads((ilsvrc / "manifest.json").read_text())
    facts["splits"]["val"]["rejects"] = [{"name": "val/ILSVRC2012_val_00000003.JPEG", "reason": "empty file"}]
    (ilsvrc / "manifest.json").write_text(json.dumps(facts))
    outcome = alexnet("eval", "net.safetensors", "--data", ilsvrc, "--submission", "answers.txt")
    outcome.failed("1 val pictures could not be prepared, val/ILSVRC2012_val_00000003.JPEG", "prepare the dataset")
