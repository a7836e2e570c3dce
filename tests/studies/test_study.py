"""Studies as a user carries them out: killed and continued, measured as `eval` does, shown at any time."""

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_cli.dataset.manifest import open_dataset, open_squares
from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources.prepared import some_classes
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.engine import launch
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.reader import Reader
from alexnet_cli.runs import open_run
from alexnet_cli.studies import carrying, directory
from alexnet_cli.studies.plan import Asked

SHORT = ("--width", 0.05, "--set", "batch_size=8", "--measure", 18)
ABLATIONS = ("study", "ablations", *SHORT, "--only", "no-lrn,no-dropout", "--seeds", 2)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset directory of four classes."""
    root = tmp_path_factory.mktemp("four")
    for split, count in (("train", 8), ("val", 4)):
        for label in range(4):
            folder = root / "pictures" / split / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((40, 40, 3), (60 * label, 8 * number, 200 - 40 * label), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    list(prepare(open_source(str(root / "pictures")), root / "dataset"))
    return root / "dataset"


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of ABLATIONS with three steps."""
    dataset, root = open_squares(tiny), tmp_path_factory.mktemp("finished") / "study"
    ablations = ("no-lrn", "no-dropout")
    asked = Asked("ablations", "small", None, 3, 0.05, 2, None, 18, "fp32", ["batch_size=8"], 1, ablations)
    list(
        carrying.carried_out(
            directory.created(root, asked.plan(dataset)), dataset, launch.placement("cpu", None, None)
        )
    )
    return root


@pytest.fixture
def study(finished: Path, place: Path) -> Path:
    """The same, where `dataset` is that it is of."""
    assert (place / "dataset").exists()
    return finished


def evaluated(alexnet: Callable[..., Any], *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(alexnet("eval", *arguments, "--json").succeeded().out)
    return found


def test_a_tables_numbers_are_those_of_eval(study: Path, alexnet: Callable[..., Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.glob("*/last.safetensors")}
    document = json.loads(alexnet(*ABLATIONS, "--steps", 3, "--out", study, "--json").succeeded().out)
    assert before == {path: path.stat().st_mtime_ns for path in study.glob("*/last.safetensors")}, "run once"
    for row in document["rows"]:
        errors = {}
        for split, column in (("train", "training"), ("val", "validation")):
            models = [
                evaluated(alexnet, study / f"{row['net']}-seed{seed}", "--split", split, "--limit", 18)["models"][
                    0
                ]
                for seed in (1, 2)
            ]
            errors[column] = [model["top1_error"] for model in models]
            assert row[column] == pytest.approx(np.mean(errors[column]))
            assert row[f"{column}_deviation"] == pytest.approx(np.std(errors[column], ddof=1))
            assert all(model["steps"] == 3 for model in models)
        gaps = np.subtract(errors["validation"], errors["training"])
        assert (row["seeds"], row["gap"]) == (2, pytest.approx(gaps.mean()))
    with (study / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation"]) for row in rows] == [row["validation"] for row in document["rows"]]
    said = (study / "table.md").read_text()
    for words in ("3 steps (0.6 epochs) each", "seeds 1 to 2", "width 0.05", "40 training", "not the paper's"):
        assert words in said
    assert (study / "plot.svg").stat().st_size and (study / "plot.png").stat().st_size


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_study_that_was_stopped_and_killed_ends_as_if_it_had_not_been(
    place: Path, alexnet: Callable[..., Any], spawn: Callable[..., Any]
) -> None:
    command = (*ABLATIONS[:-1], 1, "--steps", 25, "--out")
    log = place / "disturbed" / "no-lrn-seed1" / "metrics.jsonl"
    process = spawn(*command, "disturbed")
    wait_for(lambda: log.exists() and log.read_text().count("\n") > 3)
    os.kill(process.process.pid, signal.SIGINT)
    outcome = process.outcome()
    assert outcome.code == 130 and "the same command goes on" in outcome.err and "Traceback" not in outcome.err
    run = open_run(log.parent)
    assert 3 < (run.state() or {})["steps"] < 25
    halfway = json.loads(alexnet("study", "show", "disturbed", "--json").succeeded().out)
    assert "NOT FINISHED: 1 of 3 runs" in halfway["notes"]
    assert [row["seeds"] for row in halfway["rows"]] == [1, 0, 0]

    process = spawn(*command, "disturbed")
    wait_for((place / "disturbed" / "no-dropout-seed1" / "config.json").exists)
    process.process.kill()
    assert process.outcome().code == -signal.SIGKILL

    alexnet(*command, "disturbed").succeeded()
    alexnet(*command, "undisturbed").succeeded()
    for name in ("results.json", "table.md", "table.csv", "plot.svg"):
        assert (place / "disturbed" / name).read_bytes() == (place / "undisturbed" / name).read_bytes(), name


def test_another_study_in_the_same_folder_is_refused(study: Path, alexnet: Callable[..., Any]) -> None:
    again = (*ABLATIONS, "--out", study)
    alexnet(*again, "--steps", 4).failed("was begun with steps = 3, not 4", "another --out")
    alexnet(*again, "--steps", 3, "--pictures", 20).failed("was begun with limit = 0, not 20", "--out")
    alexnet("study", "relu", *SHORT, "--steps", 3, "--out", study).failed("kind = ablations, not relu", "--out")
    alexnet("study", "show", study / "whole-seed1").failed("is not the directory of a study", "study ablations")
    Path("full").mkdir()
    Path("full", "notes.txt").touch()
    alexnet(*ABLATIONS, "--steps", 3, "--out", "full").failed("holds no study", "another folder")


def test_options_without_sense_are_refused(place: Path, alexnet: Callable[..., Any]) -> None:
    alexnet(*ABLATIONS, "--steps", 3, "--budget", "1m").failed("--budget and --steps", "leave one")
    alexnet(*ABLATIONS, "--budget", "soon").failed("--budget soon: not a time", "30m")
    alexnet("study", "ablations", "--only", "no-such").failed("there is no variant 'no-such'", "no-lrn")
    alexnet("study", "pretrain", *SHORT, "--steps", 3).failed("has 2 classes, too few", "at least four")
    assert not (place / "studies").exists()


def test_a_budget_becomes_steps_that_stay(tiny: Path, tmp_path: Path) -> None:
    dataset, cpu = open_squares(tiny), launch.placement("cpu", None, None)
    asked = Asked("ablations", "small", "1h", None, 0.05, 1, None, 18, "fp32", ["batch_size=8"], 1, ("no-lrn",))
    wanted = asked.plan(dataset)
    *said, steps = carrying.steps_within(wanted, dataset, cpu)
    assert len(said) == 2 and isinstance(steps, int) and steps > 100
    begun = directory.created(tmp_path, replace(wanted, steps=steps))
    assert directory.existing(tmp_path, wanted) == begun  # though a pace measured now would be another
    assert f"{steps:,} steps" in begun.table().markdown() and "(from --budget 1h)" in begun.table().markdown()
    with pytest.raises(AlexNetError) as caught:
        list(carrying.steps_within(replace(wanted, budget="0.1s"), dataset, cpu))
    assert "leave 0 steps for each" in caught.value.message and "for 50" in caught.value.hint


def test_runs_that_diverge_are_said_and_left_out(place: Path, alexnet: Callable[..., Any]) -> None:
    alexnet(*ABLATIONS[:-1], 1, "--steps", 8, "--set", "optimizer.rate=1e6").succeeded()
    found = directory.open_study(place / "studies" / "ablations-dataset")
    assert all(result.diverged for result in found.results.values()) and len(found.results) == 3
    assert [record["seeds"] for record in found.table().records] == [0, 0, 0]
    assert "whole-seed1: " in found.table().markdown()


@pytest.mark.usefixtures("place")
def test_only_so_many_pictures_are_trained_on(alexnet: Callable[..., Any]) -> None:
    alexnet("study", "ensemble", *SHORT, "--seeds", 1, "--steps", 5, "--pictures", 16, "--out", "few").succeeded()
    lines = map(json.loads, Path("few/seed1/metrics.jsonl").read_text().splitlines())
    assert [line["epoch"] for line in lines if line["kind"] == "step"] == [1, 1, 2, 2, 3]
    assert directory.open_study(Path("few")).results["seed1"].points[0].train.pictures == 16
    alexnet("train", "--resume", "few/seed1", "--max-steps", 6).failed("has dataset = ", "")


@pytest.mark.usefixtures("place")
def test_an_ensembles_numbers_are_those_of_eval(alexnet: Callable[..., Any]) -> None:
    command = ("study", "ensemble", *SHORT, "--seeds", 3, "--steps", 12, "--json")
    rows = json.loads(alexnet(*command).succeeded().out)["rows"]
    runs = [Path("studies/ensemble-dataset") / f"seed{seed}" for seed in (1, 2, 3)]
    found = evaluated(alexnet, *runs)
    singles = [model["top1_error"] for model in found["models"]]
    assert rows[0]["top1"] == pytest.approx(np.mean(singles))
    assert rows[2]["top1"] == found["ensemble"]["top1_error"]
    assert rows[1]["top1"] == evaluated(alexnet, *runs[:2])["ensemble"]["top1_error"]
    assert [row["nets"] for row in rows] == [1, 2, 3] and rows[0]["paper_top1"] == 40.7


@pytest.mark.usefixtures("place")
def test_pretraining_is_on_other_classes_and_its_weights_are_taken(
    four: Path, alexnet: Callable[..., Any]
) -> None:
    short = ("--width", 0.05, "--set", "batch_size=8", "--seeds", 1, "--steps", 3, "--out", "pretrained")
    alexnet("study", "pretrain", "--data", four, *short).succeeded()
    root = Path("pretrained")
    first, rest = (open_dataset(root / name) for name in ("pre-training", "fine-tuning"))
    assert (first.classes, rest.classes) == (("class 0", "class 2"), ("class 1", "class 3"))
    alexnet("verify", root / "fine-tuning").succeeded()
    tuned, scratch = (open_run(root / f"{name}-seed1").config for name in ("finetuning", "scratch"))
    assert tuned.dataset == scratch.dataset == rest.fingerprint and tuned.start and not scratch.start
    said = json.loads((root / "finetuning-seed1" / "config.json").read_text())["about"]["start"]
    assert said["file"].endswith("pretraining-seed1/last.safetensors") and "fc8 is new" in " ".join(said["said"])
    records = {record["net"]: record for record in directory.open_study(root).table().records}
    assert records["from scratch"]["paper_top1"] == 40.7 and len(records) == 3
    model = evaluated(alexnet, root / "finetuning-seed1", "--data", root / "fine-tuning")["models"][0]
    assert records["pre-trained, then fine-tuned"]["validation"] == model["top1_error"]


def test_some_classes_of_a_dataset_are_its_own_pictures(four: Path, tmp_path: Path) -> None:
    whole = open_dataset(four)
    list(prepare(some_classes(whole, [3, 1]), tmp_path / "some"))
    some = open_dataset(tmp_path / "some")
    assert some.classes == ("class 3", "class 1") and len(some.splits["train"].index) == 16
    means: dict[int, list[float]] = {0: [], 1: []}
    with Reader(some.splits["train"]) as reader:
        for row, label in enumerate(some.splits["train"].index["label"].tolist()):
            means[label].append(float(reader.picture(row)[0].float().mean()))
    assert np.allclose(means[0], 180, atol=2) and np.allclose(means[1], 60, atol=2)


def test_without_matplotlib_there_is_the_table(
    study: Path, alexnet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def needed() -> None:
        raise AlexNetError("figures need matplotlib, which is not installed", "pip install 'alexnet-cli[figures]'")

    monkeypatch.setattr("alexnet_cli.report.plotting.needed", needed)
    outcome = alexnet("study", "show", study).succeeded()
    assert "no plot: figures need matplotlib" in outcome.err and "the net" in outcome.out


@pytest.mark.slow
def test_figure_1_from_search_to_plot(place: Path, alexnet: Callable[..., Any]) -> None:
    alexnet("study", "relu", *SHORT, "--steps", 2, "--error", 60).succeeded()
    found = directory.open_study(place / "studies" / "relu-dataset")
    assert all(found.results[trial.name].finished(trial) for trial in found.trials(found.results))
    assert [record["seeds"] for record in found.table().records] == [1, 1, 1]
    curve = found.results["tanh-seed1"].points
    assert [point.steps for point in curve] == [1, 2]
    assert "NOT FINISHED" not in found.table().markdown() and (found.root / "plot.png").exists()
