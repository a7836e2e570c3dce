"""The runs of a folder, each in a line: how far it is, what came of it, who is at it. Damaged ones are among them.

This page needs no torch: it reads the JSON of configurations, logs and checkpoints.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import read_json
from alexnet_cli.runs import Run, checkpoint_header, is_locked, open_run

State = Literal["running", "paused", "finished", "no checkpoint", "damaged"]

TAIL = 1 << 16
"""Bytes at the end of a log in which its last step is looked for."""


@dataclass(frozen=True)
class Entry:
    """What there is to say of a run; None is what cannot be told."""

    path: Path
    state: State
    said: str
    """Why it is finished, or what is damaged."""
    changed: float
    """When something in it was last written, in seconds since 1970."""
    recipe: str | None = None
    dataset: str | None = None
    epoch: int | None = None
    """That of the last step, from 1."""
    epochs: int | None = None
    """Of the schedule."""
    step: int | None = None
    rate: float | None = None
    best_error: float | None = None
    """Top-1, in percent, over all validations."""


def entries(folder: Path) -> Iterator[Entry]:
    """Of all runs in the folder, the one that was written to last first."""
    roots = [path.parent for path in folder.glob("*/config.json") if not path.parent.name.startswith(".")]
    yield from sorted(map(entry, roots), key=lambda entry: (-entry.changed, entry.path))


def entry(root: Path) -> Entry:
    changed = _changed(root)
    try:
        run = open_run(root)
        about = read_json(root / "config.json").get("about", {})
    except (AlexNetError, KeyError, TypeError, AttributeError, ValueError) as error:
        return Entry(root, "damaged", error.message if isinstance(error, AlexNetError) else "config.json", changed)
    state, said, position = _state(run)
    step = _last_step(run) if state == "running" else {}
    best = run.best_saved_error()  # a pause's own validation is in no other checkpoint
    return Entry(
        root,
        state,
        said,
        changed,
        recipe=run.config.recipe.name,
        dataset=about.get("dataset") if isinstance(about, dict) else None,
        epoch=step.get("epoch") or position.get("epoch", 0) + (1 if position.get("step") else 0),
        epochs=run.config.recipe.schedule.epochs,
        step=max(step.get("step", 0), position.get("steps", 0)),
        rate=(step or _last_step(run)).get("rate"),
        best_error=best if math.isfinite(best) else position.get("best_error"),
    )


def _state(run: Run) -> tuple[State, str, dict[str, Any]]:
    """With why or what, and what the newest readable checkpoint says of itself."""
    problems = []
    for path in (run.last, run.previous):
        if path.exists():
            try:
                found = checkpoint_header(path)
            except AlexNetError as error:
                problems.append(error.message)
                continue
            said = problems[0] if problems else str(found.get("finished") or "")
            state: State = "finished" if found.get("finished") else "running" if is_locked(run) else "paused"
            return state, said, found
    if is_locked(run):
        return "running", "", {}
    return ("damaged", problems[0], {}) if problems else ("no checkpoint", "", {})


def _last_step(run: Run) -> dict[str, Any]:
    """The last step in the log, which may be ahead of all checkpoints; empty if there is none."""
    try:
        with run.metrics.open("rb") as file:
            file.seek(max(0, run.metrics.stat().st_size - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and found.get("kind") == "step":
                return found
    return {}


def _changed(root: Path) -> float:
    times = [0.0]
    with suppress(OSError), os.scandir(root) as found:
        times += [entry.stat().st_mtime for entry in found if entry.name != ".lock"]
    return max(times)
