import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_cli import runs

Run = Callable[..., Any]


def test_the_four_commands_chain_by_their_defaults(
    pictures: Path, tmp_path: Path, alexnet: Run, net: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Dataset in dataset" in alexnet("prepare", pictures).succeeded().out
    assert alexnet("train", *net, "--max-steps", 2).succeeded().out.startswith("runs/small-1")
    assert "runs/small-1/best" in alexnet("eval", "--crops", 10).succeeded().out.replace("\n", "")
    answer = alexnet("predict", pictures / "test" / "discs" / "1.png").succeeded()
    assert "with runs/small-1/best.safetensors" in answer.err and "discs" in answer.out and "%" in answer.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "runs"]


def lines(text: str) -> dict[str, str]:
    return dict(line.split(" = ", 1) for line in text.splitlines())


@pytest.mark.parametrize("recipe", ["paper", "text", "small"])
def test_print_config_is_accepted_back(alexnet: Run, tmp_path: Path, recipe: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    changes = ("--epochs", 7, "--batch-size", 64, "--lr", 0.5, "--set", "biased=", "--set", "crops=centre")
    printed = alexnet("train", "--recipe", recipe, *changes, "--print-config").succeeded()
    found = lines(printed.out)
    assert printed.err == "" and len(found) == len(printed.out.splitlines()) > 25
    assert found["schedule.epochs"] == "7" and found["optimizer.batch_size"] == "64" and found["name"] == recipe
    assert found["optimizer.rate"] == "0.5" and found["network.biased"] == ""
    given = [word for key, value in found.items() for word in ("--set", f"{key}={value}")]
    again = alexnet("train", "--recipe", "paper", *given, "--print-config").succeeded()
    assert again.out == printed.out
    assert not list(tmp_path.iterdir())


def test_a_dry_run_does_everything_once_and_leaves_nothing(
    place: Path, alexnet: Run, net: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place / "temporary"))
    outcome = alexnet("train", *net, "--dry-run").succeeded()
    assert "one batch of everything works; nothing was kept" in outcome.out
    assert "val loss" in outcome.err
    assert sorted(path.name for path in place.iterdir()) == ["dataset", "temporary"]
    assert not list((place / "temporary").iterdir())


def test_variables_stand_for_options_which_have_the_last_word(
    place: Path, alexnet: Run, net: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "dataset").rename("elsewhere")
    monkeypatch.setenv("ALEXNET_DATASET", "elsewhere")
    monkeypatch.setenv("ALEXNET_RUNS", "trainings")
    monkeypatch.setenv("ALEXNET_DEVICE", "cpu")
    assert alexnet("train", *net, "--max-steps", 1).succeeded().out.startswith("trainings/small-1")
    assert "trainings/small-1" in alexnet("eval", "--json").succeeded().out
    assert "no dataset in dataset" in alexnet("train", *net, "--data", "dataset").err
    assert alexnet("train", *net, "--max-steps", 1, "--runs", "own").succeeded().out.startswith("own/small-1")
    monkeypatch.setenv("ALEXNET_DEVICE", "tpu")
    alexnet("train", *net).failed("there is no device 'tpu'", "cpu")
    assert "on the CPU" in alexnet("train", *net, "--device", "cpu", "--max-steps", 2).succeeded().err


def test_metrics_are_stable_lines_of_json(trained: Path) -> None:
    *steps, validation = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    for number, step in enumerate(steps, 1):
        assert set(step) == {"kind", "epoch", "step", "loss", "gradient", "rate", "pictures", "seconds", "waited"}
        assert (step["kind"], step["epoch"], step["step"], step["pictures"]) == ("step", 1, number, 8)
        assert 0 <= step["waited"] <= step["seconds"] and step["rate"] == 0.01 and step["gradient"] > 0
    assert set(validation) == {"kind", "step", "tally", "classes", "best", "plateaus", "seconds", "took"}
    assert set(validation["tally"]) == {"pictures", "wrong1", "wrong5", "loss"}
    assert (validation["step"], validation["tally"]["pictures"], validation["classes"]) == (3, 18, 2)


def test_a_run_explains_itself(trained: Path, tiny: Path) -> None:
    stored = json.loads((trained / "config.json").read_text())
    assert set(stored) == {"format", "config", "about"}
    assert stored["about"]["command"][:3] == ["alexnet", "train", "--recipe"]
    assert stored["about"]["dataset"] == str(tiny.resolve())
    assert {"alexnet-cli", "python", "torch"} <= set(stored["about"]["versions"])
    config = runs.open_run(trained).config
    assert config.recipe.network.width == 0.05 and config.recipe.optimizer.batch_size == 8 and config.seed == 1
    assert sorted(path.name for path in trained.iterdir() if path.suffix != ".lock" and path.name != ".lock") == [
        *("best.safetensors", "config.json", "last.safetensors", "metrics.jsonl")
    ]


@pytest.mark.usefixtures("place")
def test_the_conversation_is_plain_lines_in_a_log(alexnet: Run, net: tuple[str, ...]) -> None:
    outcome = alexnet("train", *net, "--max-steps", 3).succeeded()
    first, validation, progress, spent, end = outcome.err.splitlines()
    assert first == "training runs/small-1 on the CPU, maps after-conv1"
    assert validation.startswith("step 3  0:0") and "top-1 50.00 %  best" in validation
    assert progress.startswith("training 100 %  3/3 steps") and end == "3 steps are done, at step 3"
    assert re.fullmatch(
        r"3 steps in 0:0\d  [\d.]+ pictures/s  waiting \d+ %  validating \d+ %  saving \d+ %", spent
    )
    assert outcome.out == "runs/small-1: lowest validation error 50.00 %\n"
    assert "\x1b" not in outcome.err and "top-5" not in outcome.err, "two classes have no fifth"


def test_top_5_is_shown_from_six_classes(six: Path, alexnet: Run, net: tuple[str, ...]) -> None:
    outcome = alexnet("train", *net, "--data", six, "--max-steps", 1).succeeded()
    assert "top-5 " in outcome.err


def test_without_validation_pictures_it_trains(
    pictures: Path, tmp_path: Path, alexnet: Run, net: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alexnet("prepare", pictures / "val", "--val-fraction", 0).succeeded()
    outcome = alexnet("train", *net, "--epochs", 1).succeeded()
    assert outcome.out == "runs/small-1\n" and "all 1 epochs are done" in outcome.err
    assert "warning: validation pictures: there are none: the rate is never divided" in outcome.err
    assert not Path("runs/small-1/best.safetensors").exists()
    # Without a best checkpoint the last one is the model.
    assert "with runs/small-1/last.safetensors" in alexnet("predict", pictures / "val/bars/1.png").succeeded().err


@pytest.mark.usefixtures("place")
def test_bf16_trains(alexnet: Run, net: tuple[str, ...]) -> None:
    alexnet("train", *net, "--precision", "bf16", "--max-steps", 1).succeeded()
    assert runs.open_run(Path("runs/small-1")).config.precision == "bf16"
    alexnet("train", *net, "--precision", "fp8").failed(
        "there is no precision 'fp8'", "one of fp32, tf32, bf16, fp16"
    )


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "options", [("--max-steps", 0), ("--batch-size", "many"), ("--no-such-option",), ("surplus",), ("--lr", -1)]
)
def test_wrong_usage_exits_with_2(alexnet: Run, options: tuple[object, ...]) -> None:
    outcome = alexnet("train", *options)
    assert outcome.code == 2 and outcome.out == "" and "Traceback" not in outcome.err
    assert "Usage: " in outcome.err and str(options[0]).strip("-") in outcome.err
    assert not Path("runs").exists()
