"""`alexnet runs`: every run in its line, whatever state it is in."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_cli import runs

Command = Callable[..., Any]


def listed(alexnet: Command) -> dict[str, dict[str, Any]]:
    return {Path(entry["path"]).name: entry for entry in json.loads(alexnet("runs", "--json").succeeded().out)}


@pytest.mark.usefixtures("place")
def test_no_runs_are_no_mistake(alexnet: Command) -> None:
    assert json.loads(alexnet("runs", "--json").succeeded().out) == []
    outcome = alexnet("runs", "--runs", "nowhere").succeeded()
    assert outcome.out == "" and "there are no runs in nowhere" in outcome.err


def test_each_state_is_told(trained: Path, alexnet: Command, net: tuple[str, ...]) -> None:
    alexnet("train", *net, "--name", "whole", "--epochs", 1).succeeded()
    for name in ("running", "broken", "halved", "odd", "none"):
        shutil.copytree(trained, f"runs/{name}")
    Path("runs/none/last.safetensors").unlink()
    Path("runs/broken/config.json").write_text('{"format": 1, "config": {"machine": 3}}')
    Path("runs/odd/config.json").write_text("[]")
    for path in Path("runs/halved").glob("last*"):
        path.write_bytes(path.read_bytes()[:100])
    with Path("runs/running/metrics.jsonl").open("a") as file:  # ahead of its checkpoint
        file.write('{"kind": "step", "epoch": 2, "step": 9, "rate": 0.001}\n{"kind": "st')
    with runs.locked(runs.open_run(Path("runs/running"))):
        found = listed(alexnet)
        shown = alexnet("runs").succeeded()
    states = {name: entry["state"] for name, entry in found.items()}
    assert states == {
        "small-1": "paused", "whole": "finished", "running": "running", "broken": "damaged", "odd": "damaged",
        "halved": "damaged", "none": "no checkpoint",
    }  # fmt: skip
    assert found["small-1"] | {"changed": ""} == {
        "path": "runs/small-1", "state": "paused", "said": "", "changed": "", "recipe": "small",
        "dataset": str(Path("dataset").resolve()), "epoch": 1, "epochs": 90, "step": 3, "rate": 0.01,
        "best_error": 50.0,
    }  # fmt: skip
    assert found["whole"]["said"] == "epochs" and found["whole"]["epoch"] == found["whole"]["epochs"] == 1
    running = found["running"]
    assert (running["epoch"], running["step"], running["rate"]) == (2, 9, 0.001)
    assert "last.safetensors is not a checkpoint" in found["halved"]["said"]
    assert found["broken"]["recipe"] is None
    for text in (
        "runs/odd",
        "paused",
        "finished",
        "checkpoint",
        "running",
        "damaged",
        "2/90",
        "50.00 %",
        "now",
    ):
        assert text in shown.out, text
    assert "warning: runs/halved: " in shown.err and "warning: runs/broken: " in shown.err


def test_the_checkpoint_before_serves_when_the_last_is_damaged(
    trained: Path, alexnet: Command, net: tuple[str, ...]
) -> None:
    alexnet("train", *net, "--max-steps", 4).succeeded()
    (trained / "last.safetensors").write_bytes(b"damaged")
    entry = listed(alexnet)["small-1"]
    assert (entry["state"], entry["step"]) == ("paused", 3) and "last.safetensors" in entry["said"]


def test_names_from_data_cannot_write_to_the_terminal(trained: Path, alexnet: Command) -> None:
    evil = trained.with_name("a\x1b[31mb")
    trained.rename(evil)
    outcome = alexnet("runs").succeeded()
    assert "\x1b" not in outcome.out and "\\x1b" in outcome.out.replace("\n", "")
