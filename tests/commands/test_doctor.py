"""`alexnet doctor`: what it finds, and that it finds what is wrong."""

import json
import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_cli import recipes
from alexnet_cli.engine import checkup, forecast, inspection
from alexnet_cli.engine.forecast import Size, Speed
from alexnet_cli.engine.session import Every
from alexnet_cli.errors import AlexNetError

Command = Callable[..., Any]

NET = ("--recipe", "small", "--set", "width=0.05", "--set", "batch_size=8", "--device", "cpu")


def findings(outcome: Any) -> dict[str, dict[str, str]]:
    return {finding["what"]: finding for finding in json.loads(outcome.out)["findings"]}


def test_of_a_machine_a_dataset_and_a_run(trained: Path, alexnet: Command) -> None:
    outcome = alexnet("doctor", *NET, "--json").succeeded()  # ./dataset, as it is there
    found = findings(outcome)
    for what in ("libraries", "device", "cores", "memory", "disk", "open files", "compiler", "JPEG decoder"):
        assert what in found
    assert found["memory"]["verdict"] == found["libraries"]["verdict"] == "good"
    assert "2 classes; pictures: 40 train, 18 val, 10 test" in found["dataset"]["said"]
    assert found["chance"]["said"].endswith("is right for 50.00 %; guessing has a loss of 0.693")
    assert found["balance"]["said"] == "20 to 20 training pictures a class"
    assert found["decoder"]["verdict"] == found["order"]["verdict"] == "good"
    estimate = json.loads(outcome.out)["estimate"]
    assert (estimate["recipe"], estimate["steps"], estimate["epochs"], estimate["classes"]) == ("small", 5, 90, 2)
    assert estimate["seconds"] == pytest.approx(90 * estimate["epoch_seconds"])

    outcome = alexnet("doctor", trained, "--device", "cpu", "--json").succeeded()
    found = findings(outcome)
    assert found["run"]["said"] == "paused: small, epoch 1 of 90, step 3, best error 50.00 %"
    assert found["last.safetensors"]["said"] == "whole, of step 3" and "best.safetensors" in found
    assert any("is the one that it began with" in f["said"] for f in json.loads(outcome.out)["findings"])
    text = alexnet("doctor", trained, "--device", "cpu", "--epochs", 7).succeeded().out
    assert "✓ run: paused" in text and "at most 7 epochs" in text and "an estimate" in text
    assert re.search(r"\d and up to \d+\.\d MB of checkpoints\n", text)
    outcome = alexnet("doctor", trained, "--device", "cpu", "--epochs", 7, "--keep-every", "3epochs")
    assert " MB of checkpoints, 2 of which stay\n" in outcome.succeeded().out
    alexnet("doctor", "--keep-every", "3h").failed("--keep-every 3h: a time", "10epochs")


def test_a_damaged_run_and_dataset_fail(trained: Path, tiny: Path, alexnet: Command) -> None:
    path = trained / "last.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4  # one bit, which only the checksum tells
    path.write_bytes(data)
    (trained / "rates.jsonl").write_text("?\n")
    outcome = alexnet("doctor", trained, "--device", "cpu", "--json")
    found = findings(outcome)
    assert outcome.code == 1 and found["last.safetensors"]["verdict"] == found["rates"]["verdict"] == "bad"
    assert "checksum" in found["last.safetensors"]["said"] and found["last.safetensors"]["fix"]
    outcome = alexnet("doctor", trained, "--device", "cpu")
    assert outcome.code == 1 and "✗ last.safetensors: " in outcome.out and "\n  → delete it" in outcome.out

    (trained / "config.json").write_text("{}")
    outcome = alexnet("doctor", trained, *NET, "--json")
    assert outcome.code == 1 and findings(outcome)["run"]["verdict"] == "bad"

    shutil.copytree(tiny, "cut")
    Path("cut/mean.npy").write_bytes(b"")
    outcome = alexnet("doctor", "cut", *NET, "--json")
    assert outcome.code == 1 and "cut/mean.npy is missing or damaged" in findings(outcome)["dataset"]["said"]
    outcome = alexnet("doctor", "nothing", *NET, "--json")
    assert outcome.code == 1 and findings(outcome)["dataset"]["fix"].startswith("make one: alexnet prepare")


def test_a_dataset_by_other_libraries_or_without_validation_is_odd(
    pictures: Path, place: Path, alexnet: Command
) -> None:
    alexnet("prepare", pictures / "train", "--val-fraction", 0, "--out", "own").succeeded()
    manifest = json.loads(Path("own/manifest.json").read_text())
    manifest["decoder"] |= {"fingerprint": "other", "pillow": "1.0"}
    Path("own/manifest.json").write_text(json.dumps(manifest))
    found = {f.what: f for f in inspection.patient("own", "small", ["width=0.05"]).findings()}
    assert found["decoder"].verdict == "odd" and "pillow 1.0 → " in found["decoder"].said
    assert "the rate is never divided" in found["validation pictures"].said
    assert place.exists()


def test_what_is_short_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from alexnet_cli.engine.launch import placement

    disk = namedtuple("disk", "total used free")(10**12, 10**12, 10**9)
    monkeypatch.setattr(checkup, "free_memory", lambda: 2 * 10**9)
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda _: disk)
    monkeypatch.setattr(checkup.shutil, "which", lambda _: None)
    monkeypatch.setattr(checkup.resource, "getrlimit", lambda _: (256, 256))
    monkeypatch.setattr(
        checkup.metadata, "requires", lambda _: ["torch>=99", "nothing-such>=1", "onnx>=99; extra"]
    )
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    needed, place = forecast.checkpoint_bytes(recipes.paper(), 1000), placement("cpu", None, None)
    found = {f.what: f for f in checkup.examined(recipes.paper(), 1000, "fp32", place, tmp_path, needed)}
    assert {name for name, f in found.items() if f.verdict == "bad"} == {"memory", "disk", "libraries"}
    assert {"compiler", "open files", "OpenMP"} <= {name for name, f in found.items() if f.verdict == "odd"}
    assert all(f.fix for f in found.values() if f.verdict != "good")
    (parts,) = re.findall(r"--accumulate (\d+)", found["memory"].fix)
    fits = [
        forecast.step_bytes(recipes.paper(), 1000, "fp32", n) + forecast.LIBRARIES < 2e9
        for n in (int(parts) // 2, int(parts))
    ]
    assert fits == [False, True] and "2.0 GB" in found["disk"].said
    in_parts = checkup._memory(recipes.paper(), 1000, "fp32", place, int(parts))
    assert in_parts.verdict == "good" and f"in {parts} parts" in in_parts.said
    monkeypatch.setattr(checkup, "free_memory", lambda: 10**9)
    hopeless = checkup._memory(recipes.paper(), 1000, "fp32", place, 1)
    assert hopeless.verdict == "bad" and hopeless.fix == "parts of a batch do not help: free some"
    assert found["libraries"].said.startswith("torch ") and "nothing-such is missing" in found["libraries"].said
    assert "onnx" not in found["libraries"].said


def test_what_train_refuses_is_bad(alexnet: Command, place: Path) -> None:
    outcome = alexnet("doctor", "--recipe", "small", "--device", "cpu", "--precision", "tf32", "--json")
    finding = findings(outcome)["precision"]
    assert outcome.code == 1 and finding["verdict"] == "bad" and "only CUDA GPUs have it" in finding["said"]
    assert place.exists()


def test_labels_in_order_or_out_of_balance_are_odd(six: Path) -> None:
    from dataclasses import replace

    import numpy as np

    from alexnet_cli.dataset.manifest import open_dataset

    dataset = open_dataset(six)
    index = np.zeros(200, dtype=dataset.splits["train"].index.dtype)
    index["label"][100:190], index["label"][190:] = 1, 2

    def odd(labels: Any) -> set[str]:
        index["label"] = labels
        split, facts = replace(dataset.splits["train"], index=index), dataset.manifest["splits"]
        manifest = dataset.manifest | {"splits": {"train": facts["train"]}}
        changed = replace(dataset, splits={"train": split}, manifest=manifest)
        return {
            finding.what for finding in inspection.of_dataset(changed, recipes.paper()) if finding.verdict == "odd"
        }

    assert {"order", "balance", "fit", "validation pictures"} <= odd(np.repeat([0, 1, 2], [100, 95, 5]))
    mixed = odd(np.arange(200) % 6)
    assert "order" not in mixed and "balance" not in mixed and "fit" not in mixed


def test_a_forecast_adds_up_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "cores", lambda: 2)
    monkeypatch.setattr(forecast, "busy", lambda: True)
    speed = Speed(training=0.02, update=0.5, validating=0.005, loading=0.004, share=0.25)
    size = Size(10, 1000, 100, "")
    found = forecast.forecast(recipes.chosen("paper", ["batch_size=100", "epochs=3"]), size, speed, on_cpu=True)
    assert found.steps == 10 and found.step_seconds == pytest.approx(100 * 0.022 + 0.5)
    # A validation computes 128 rows at a time, and a batch all of its rows, whether or not there are pictures.
    assert found.epoch_seconds == pytest.approx(10 * 2.7 + 128 * 0.005 + 100 * 0.002)
    few = forecast.forecast(recipes.chosen("paper", ["batch_size=100"]), Size(10, 40, 0, ""), speed, on_cpu=True)
    assert few.step_seconds == pytest.approx(100 * 0.02 + 40 * 0.002 + 0.5) and few.steps == 1
    assert found.seconds == pytest.approx(3 * found.epoch_seconds) and found.share == 0.25
    beside = forecast.forecast(recipes.chosen("paper", ["batch_size=100"]), size, speed, on_cpu=False)
    assert beside.step_seconds == pytest.approx(100 * 0.02 + 0.5) and beside.share == 1


def test_what_a_run_takes_is_what_it_took(trained: Path, alexnet: Command) -> None:
    """The bound on the disk beside the files of a run that has all of them, with those that it keeps."""
    from alexnet_cli import runs

    keeping = ("--keep-every", "2epochs")
    alexnet("train", "--resume", trained, "--max-steps", 20, *keeping).succeeded()
    files = {path.name: path.stat().st_size for path in trained.glob("*.safetensors")}
    assert {name for name in files if "step" in name} == {f"step-{5 * n:08}.safetensors" for n in (2, 4)}
    outcome = alexnet("doctor", trained, "--device", "cpu", "--epochs", 4, *keeping, "--json").succeeded()
    estimate = json.loads(outcome.out)["estimate"]
    # At the worst last and best are there twice, while they are written; the rest are JSON headers.
    most = sum(files.values()) + files["last.safetensors"] + files["best.safetensors"]
    assert len(files) == 5 and estimate["kept"] == 2
    assert estimate["disk"] < most < estimate["disk"] + 7 * 20_000

    recipe = runs.open_run(trained).config.recipe
    size = Size(2, 40, 18, "")
    assert forecast.kept(recipe, size, None) == 0
    assert forecast.kept(recipe, size, Every(7, "steps")) == recipe.schedule.epochs * 5 // 7
    with pytest.raises(AlexNetError):
        inspection.patient(None, "none", [])
