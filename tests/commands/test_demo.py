import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("options", "error"),
    [(("--steps", 70), 75), pytest.param((), 20, marks=pytest.mark.slow)],  # chance is 87.5
    ids=["begun", "whole"],
)
def test_the_demo_learns_and_keeps_to_its_folder(
    options: tuple[Any, ...],
    error: float,
    tmp_path: Path,
    spawn: Callable[..., Any],
    alexnet: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    outcome = spawn("demo", "--out", tmp_path / "demo", *options).outcome(seconds=1500).succeeded()
    assert not list(Path.cwd().iterdir())
    shown = [line.split()[2] for line in outcome.err.splitlines() if line.startswith("$ alexnet ")]
    assert shown == ["prepare", "train", "eval", "predict"]
    assert "top-1 error" in outcome.out and "star" in outcome.out and "Traceback" not in outcome.err
    where = ("--data", tmp_path / "demo" / "dataset", "--runs", tmp_path / "demo" / "runs")
    (score,) = json.loads(alexnet("eval", *where, "--crops", 10, "--json").succeeded().out)["models"]
    assert score["pictures"] == 160 and score["top1_error"] <= error
    assert f"{score['top1_error']:.2f} %" in outcome.out
    # The other commands do not pick it up.
    alexnet("eval", "--data", tmp_path / "demo" / "dataset").failed(
        "there is no trained run in runs", "alexnet train"
    )
