"""When two runs are the same: bit for bit, in all but wall time."""

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from alexnet_cli import runs

# Six steps an epoch, the last with five pictures. No validation is better than the first, so each is a plateau.
OPTIONS = ("--batch-size", "7", "--set", "patience=1")
STEPS = 20
WALL_TIME = ("seconds", "waited", "took", "metrics_size")


def state(run: Path, file: str = "last") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All tensors of a checkpoint, and what it says of itself apart from wall time."""
    path = run / f"{file}.safetensors"
    facts = runs.checkpoint_header(path)
    return load_file(path), {key: value for key, value in facts.items() if key not in WALL_TIME}


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = runs.read_metrics(runs.open_run(run))
    return [{key: value for key, value in line.items() if key not in WALL_TIME} for line in lines]


def assert_same_tensors(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def assert_same(run: Path, whole: Path) -> None:
    """Weights, velocity, position and metrics, bit for bit; the best may be from a validation at a pause."""
    (ours, our_facts), (theirs, their_facts) = state(run), state(whole)
    assert our_facts == their_facts
    assert_same_tensors(ours, theirs)
    assert metrics(run) == metrics(whole)
    assert state(run, "best")[1]["best_error"] <= state(whole, "best")[1]["best_error"]


def wait_for(lines: int, path: Path, command: Any) -> None:
    while command.process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= lines):
        time.sleep(0.002)
