"""A run's metrics.jsonl as curves: losses, errors, and where the learning rate changed."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_cli.engine import rates
from alexnet_cli.runs import Run

Numbers = NDArray[np.float64]

CHANGED = 1.2
"""A rate that grew or fell by this factor between two steps was changed; a smooth schedule changes it less."""


@dataclass(frozen=True)
class Change:
    """From `step` on the rate is another."""

    step: int
    minutes: float
    before: float
    after: float
    by_hand: bool

    @property
    def words(self) -> str:
        ratio = self.before / self.after
        if self.by_hand:
            return f"set to {self.after:g}"
        return f"÷{ratio:.3g}" if ratio > 1 else f"×{1 / ratio:.3g}"


@dataclass(frozen=True)
class History:
    """Steps count from 1, minutes are the run's own, errors are percent; one row a logged step or validation."""

    steps: NDArray[np.int64]
    minutes: Numbers
    losses: Numbers
    validated: NDArray[np.int64]
    """The steps after which there was a validation."""
    validated_minutes: Numbers
    top1: Numbers
    top5: Numbers
    classes: int
    changes: tuple[Change, ...]
    steps_per_epoch: float | None

    def epochs(self, steps: NDArray[np.int64] | int) -> Any:
        """Epochs that are done after these steps; the steps themselves where an epoch's length is not known."""
        return np.asarray(steps) / (self.steps_per_epoch or 1)

    @property
    def unit(self) -> str:
        return "epochs" if self.steps_per_epoch else "steps"


def read(run: Run, training_pictures: int | None = None) -> History:
    """What the run has logged so far. Kinds of lines that are not known are passed over, and so is half a line."""
    lines = [*_lines(run.metrics)]
    steps = [row for row in lines if row.get("kind") == "step" and {"step", "loss", "rate", "seconds"} <= {*row}]
    checks = [row for row in lines if row.get("kind") == "validation" and {"step", "tally"} <= {*row}]
    tallies = [row["tally"] for row in checks]
    return History(
        steps=np.array([row["step"] for row in steps], dtype=np.int64),
        minutes=_column(row["seconds"] / 60 for row in steps),
        losses=_column(row["loss"] for row in steps),
        validated=np.array([row["step"] for row in checks], dtype=np.int64),
        validated_minutes=_column(row.get("seconds", math.nan) / 60 for row in checks),
        top1=_column(100 * tally["wrong1"] / tally["pictures"] for tally in tallies),
        top5=_column(100 * tally["wrong5"] / tally["pictures"] for tally in tallies),
        classes=max((row.get("classes", 0) for row in checks), default=0),
        changes=tuple(_changes(steps, {change.step for change in rates.read(run)[0]})),
        steps_per_epoch=_steps_per_epoch(run, training_pictures),
    )


def smoothed(values: Numbers, window: int) -> Numbers:
    """The mean of each value and those before it, `window` in all."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    stops = np.arange(1, len(values) + 1)
    starts = np.maximum(0, stops - window)
    means: Numbers = (sums[stops] - sums[starts]) / (stops - starts)
    return means


def window_for(count: int) -> int:
    """Logged steps that a smooth line averages over: a fiftieth of them, but not fewer than five."""
    return max(5, count // 50)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # a run that is being written
            continue
        if isinstance(row, dict):
            yield row


def _column(values: Any) -> Numbers:
    return np.array([*values], dtype=np.float64)


def _changes(steps: list[dict[str, Any]], by_hand: set[int]) -> Iterator[Change]:
    for before, row in pairwise(steps):
        values = before["rate"], row["rate"]
        if min(values) > 0 and max(values) / min(values) > CHANGED:
            # What has its place after a step is in force from the next one on.
            asked = any(before["step"] <= step < row["step"] for step in by_hand)
            yield Change(row["step"], row["seconds"] / 60, *values, asked)


def _steps_per_epoch(run: Run, training_pictures: int | None) -> float | None:
    if training_pictures is not None:
        return -(-training_pictures // run.config.recipe.optimizer.batch_size)
    state = run.state() or {}
    epoch, step, steps = (state.get(name, 0) for name in ("epoch", "step", "steps"))
    return (steps - step) / epoch if epoch else None
