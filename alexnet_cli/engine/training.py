"""From what a user asked for to a run that trains: which run goes on, on which ranks, with which threads."""

import math
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from alexnet_cli import __version__, settings
from alexnet_cli import runs as run_directories
from alexnet_cli.dataset.manifest import Dataset
from alexnet_cli.engine import parallel
from alexnet_cli.engine.launch import Placement, threads_per_rank
from alexnet_cli.engine.loop import Event, Limits, Note, train
from alexnet_cli.engine.signals import Stop
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.loader import threads
from alexnet_cli.machine import keep_freed_memory
from alexnet_cli.network.layout import usual_layout
from alexnet_cli.recipes import Recipe
from alexnet_cli.runs import Config, Machine, Precision, Run


def described(recipe: Recipe) -> str:
    """Every setting as `key = value` lines that --set understands."""
    lines = (f"{key} = {_written(value)}" for key, value in settings.flat(recipe).items())
    return "\n".join(lines)


def _written(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def seconds(text: str | None) -> float | None:
    """90s, 30m, 5h or 1h30m in seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    if not match or not any(match.groups()):
        raise AlexNetError(f"--max-time {text}: not a time", "write 90s, 30m, 5h or 1h30m")
    hours, minutes, rest = (float(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + rest


def config(
    recipe: Recipe, dataset: Dataset, seed: int, eval_every: float, precision: str, place: Placement
) -> Config:
    if precision not in get_args(Precision):
        raise AlexNetError(f"there is no precision '{precision}'", f"it is {' or '.join(get_args(Precision))}")
    if not math.isfinite(eval_every):
        raise AlexNetError(f"--eval-every {eval_every}: not a number of epochs", "give a number above 0")
    if "train" not in dataset.splits:
        raise AlexNetError(f"the dataset in {dataset.root} has no training pictures", "prepare one that has")
    return Config(recipe, dataset.fingerprint, seed, eval_every, precision, _machine(place))  # type: ignore[arg-type]


def config_of(run: Path, dataset: Dataset, place: Placement) -> Config:
    """What a run was started with, here and on this dataset."""
    return replace(run_directories.open_run(run).config, dataset=dataset.fingerprint, machine=_machine(place))


def _machine(place: Placement) -> Machine:
    return Machine(place.device, place.ranks, threads_per_rank(place.ranks), usual_layout(place.device))


@dataclass(frozen=True)
class Job:
    dataset: Dataset
    config: Config
    limits: Limits
    place: Placement

    def started(self, folder: Path, name: str | None, resume: Path | None, new: bool) -> Iterator[Event]:
        """Train a new run, or go on with the one these options mean."""
        ranks = parallel.join(self.place.device)
        chosen = self._chosen(folder, name, resume, new) if ranks.rank == 0 else None
        run = run_directories.open_run(Path(ranks.told(str(chosen.root) if chosen else "")))
        yield from self._trained(run, self.dataset, ranks, self.limits)

    def rehearsed(self) -> Iterator[Event]:
        """One batch of everything (training, validation, checkpoint) in a directory that is thrown away."""
        ranks = parallel.join(self.place.device)
        batch = self.config.recipe.optimizer.batch_size
        little = replace(self.dataset, splits={n: s.part(batch) for n, s in self.dataset.splits.items()})
        with tempfile.TemporaryDirectory(prefix="alexnet-") as folder:
            run = run_directories.create_run(Path(folder), "dry-run", self.config, {})
            yield from self._trained(run, little, ranks, replace(self.limits, max_steps=1))

    def _chosen(self, folder: Path, name: str | None, resume: Path | None, new: bool) -> Run:
        run = self._existing(folder, name, resume, new)
        return run or run_directories.create_run(folder, name, self.config, _about(self.dataset))

    def _existing(self, folder: Path, name: str | None, resume: Path | None, new: bool) -> Run | None:
        if resume is not None:
            return self._continued(run_directories.open_run(resume))
        if new:
            return None
        if name is not None and (folder / name / "config.json").exists():
            return self._continued(run_directories.open_run(folder / name))
        return run_directories.unfinished(folder, self.config) if name is None else None

    def _continued(self, run: Run) -> Run:
        """The run itself, if these options go on with it; else an error that names the difference."""
        if run.finished():
            raise AlexNetError(f"the run {run.root} is finished", "start another with --new")
        for name, ours, theirs in settings.differences(self.config, run.config):
            if not name.startswith("machine."):
                raise AlexNetError(
                    f"the run {run.root} has {name} = {_written(theirs)}, not {_written(ours)}",
                    "give its own options, or start another with --new",
                )
        return run

    def _trained(self, run: Run, dataset: Dataset, ranks: parallel.Ranks, limits: Limits) -> Iterator[Event]:
        keep_freed_memory()
        here, before = self.config.machine, run.config.machine
        if (here.device, here.ranks) == (before.device, before.ranks):
            here = before
        else:
            run = replace(run, config=replace(run.config, machine=here))
            yield Note(
                f"the run began on {before.ranks} × {before.device} and goes on with "
                f"{here.ranks} × {here.device}: equal to rounding, not bit for bit"
            )
        torch.set_num_threads(here.threads)
        if dataset.treatment.geometry == "warp":
            yield Note("the pictures are warped to squares, as in Caffe's tutorial; the paper cuts out the middle")
        with run_directories.locked(run, ranks.rank == 0), Stop() as stop:
            yield from train(run, dataset, ranks, limits, stop, threads())
        parallel.leave()


def _about(dataset: Dataset) -> dict[str, Any]:
    """For people: how the run was started, with what and where."""
    return {
        "command": ["alexnet", *sys.argv[1:]],
        "dataset": str(dataset.root.resolve()),
        "host": platform.node(),
        "versions": {
            "alexnet-cli": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
