"""From what a user asked for to a run that trains: which run goes on, on which ranks, with which threads."""

import math
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alexnet_cli import __version__, settings
from alexnet_cli import runs as run_directories
from alexnet_cli.dataset.far.address import without_secrets
from alexnet_cli.dataset.manifest import Dataset
from alexnet_cli.dataset.space import size
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine import guards, parallel, placed, starting, tensorboard
from alexnet_cli.engine.arithmetic import check_compiler, check_parts, check_precision, emulated, set_up
from alexnet_cli.engine.events import Event, Note
from alexnet_cli.engine.launch import Placement, threads_per_rank
from alexnet_cli.engine.loop import train
from alexnet_cli.engine.session import Every, Limits
from alexnet_cli.engine.signals import Stop
from alexnet_cli.engine.starting import Source
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading import kept
from alexnet_cli.loading.loader import threads
from alexnet_cli.loading.plan import WINDOW
from alexnet_cli.machine import keep_freed_memory
from alexnet_cli.network.layout import usual_layout
from alexnet_cli.recipes import Recipe
from alexnet_cli.runs import Config, Machine, Parallel, Run


def described(recipe: Recipe) -> str:
    """Every setting as `key = value` lines that --set understands."""
    lines = (f"{key} = {_written(value)}" for key, value in settings.flat(recipe).items())
    return "\n".join(lines)


def _written(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def limits(max_steps: int | None, max_time: str | None, save_every: str, keep_every: str | None) -> Limits:
    """What the options of these names say."""
    longest = None if max_time is None else seconds_of(max_time)
    if max_time is not None and longest is None:
        raise AlexNetError(f"--max-time {max_time}: not a time", "write 90s, 30m, 5h or 1h30m")
    keep = None if keep_every is None else _every("--keep-every", keep_every)
    if keep is not None and keep.unit == "seconds":
        raise AlexNetError(f"--keep-every {keep_every}: a time", "write steps or epochs: 1000steps, 10epochs")
    return Limits(max_steps, longest, _every("--save-every", save_every), keep)


def _every(option: str, text: str) -> Every:
    """30m, 500steps or 2epochs."""
    if seconds := seconds_of(text):
        return Every(seconds, "seconds")
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(step|epoch)s?", text.strip())
    if not match or float(match[1]) == 0 or (match[2] == "step" and "." in match[1]):
        raise AlexNetError(
            f"{option} {text}: not understood", "write a time, steps or epochs: 30m, 1000steps, 2epochs"
        )
    return Every(float(match[1]), "steps" if match[2] == "step" else "epochs")


def seconds_of(text: str) -> float | None:
    """90s, 30m, 5h or 1h30m in seconds; None if it is no time."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    if not match or not any(match.groups()):
        return None
    hours, minutes, rest = (float(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + rest


def config(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    eval_every: float,
    precision: str,
    place: Placement,
    source: Source | None = None,
) -> Config:
    check_precision(precision, place.device)
    if not math.isfinite(eval_every):
        raise AlexNetError(f"--eval-every {eval_every}: not a number of epochs", "give a number above 0")
    if "train" not in dataset.splits:
        raise AlexNetError(f"the dataset in {dataset.place} has no training pictures", "prepare one that has")
    start = source.sha256 if source else ""
    return Config(recipe, dataset.fingerprint, seed, eval_every, precision, _machine(place), start)  # type: ignore[arg-type]


def config_of(run: Path, dataset: Dataset, place: Placement) -> Config:
    """What a run was started with, here and on this dataset."""
    return replace(run_directories.open_run(run).config, dataset=dataset.fingerprint, machine=_machine(place))


def _machine(place: Placement) -> Machine:
    threads, layout = threads_per_rank(place.ranks), usual_layout(place.device)
    return Machine(device=place.device, ranks=place.ranks, threads=threads, layout=layout)


@dataclass(frozen=True)
class Asked:
    """How to compute a step, as far as this call says; for the rest a run goes on as it began."""

    compiled: bool | None = None
    accumulate: int | None = None
    deterministic: bool | None = None
    parallel: Parallel | None = None

    def of(self, machine: Machine) -> Machine:
        return replace(machine, **{name: value for name, value in asdict(self).items() if value is not None})


@dataclass(frozen=True)
class Job:
    dataset: Dataset
    config: Config
    limits: Limits
    place: Placement
    asked: Asked = Asked()
    tensorboard: bool = False
    source: Source | None = None
    """Where the first weights come from, if they are not drawn."""
    cache: str = "none"
    """Where decoded pictures stay: in this process's `memory` or on its `device`."""

    def started(self, folder: Path, name: str | None, resume: Path | None, new: bool) -> Iterator[Event]:
        """Train a new run, or go on with the one these options mean."""
        with parallel.joined(self.place.device, self.place.each) as ranks:
            dataset = self._kept(ranks)
            chosen, said = self._chosen(folder, name, resume, new) if ranks.rank == 0 else (None, [])
            run = run_directories.open_run(Path(ranks.told(str(chosen.root) if chosen else "")))
            yield from map(Note, said)
            yield from self._trained(run, dataset, ranks, self.limits)

    def rehearsed(self) -> Iterator[Event]:
        """One batch of everything (training, validation, checkpoint) in a directory that is thrown away."""
        batch = self.config.recipe.optimizer.batch_size
        where = self.place.device, self.place.each
        with tempfile.TemporaryDirectory(prefix="alexnet-") as folder, parallel.joined(*where) as ranks:
            dataset = self._kept(ranks)
            little = replace(dataset, splits={n: s.first(batch) for n, s in dataset.splits.items()})
            run, said = self._created(Path(folder), "dry-run")
            yield from map(Note, said)
            yield from self._trained(run, little, ranks, replace(self.limits, max_steps=1))

    def _kept(self, ranks: parallel.Ranks) -> Dataset:
        if self.cache == "memory":
            return kept.in_memory(self.dataset, int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size)))
        return kept.on_device(self.dataset, ranks.device) if self.cache == "device" else self.dataset

    def _chosen(self, folder: Path, name: str | None, resume: Path | None, new: bool) -> tuple[Run, list[str]]:
        run = self._existing(folder, name, resume, new)
        return (run, []) if run else self._created(folder, name)

    def _created(self, folder: Path, name: str | None) -> tuple[Run, list[str]]:
        """A new run, and what there is to say of the weights that it begins with."""
        config, about = self._new_config(), _about(self.dataset)
        if self.source is None:
            return run_directories.create_run(folder, name, config, about), []
        first, said = starting.first(self.source, config.recipe, config.seed, self.dataset)
        about["start"] = {"file": str(self.source.file.resolve()), "said": said}

        def fill(run: Run) -> None:
            checkpoints.save(run.last, first)

        return run_directories.create_run(folder, name, config, about, fill), said

    def _new_config(self) -> Config:
        machine = self.asked.of(self.config.machine)
        check_parts(self.config.recipe.optimizer.batch_size, machine)
        placed.check(machine, self.place, self.config.recipe.network)
        return replace(self.config, machine=machine)

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
        machine = self._machine_for(run)
        check_parts(run.config.recipe.optimizer.batch_size, machine)
        placed.check(machine, self.place, run.config.recipe.network)
        if said := _change(run.config.machine, machine):
            yield Note(f"{said}: equal to rounding, not bit for bit")
        run = replace(run, config=replace(run.config, machine=machine))
        set_up(machine, run.config.precision)
        if machine.compiled:
            check_compiler(machine.device)
            yield Note("the step is compiled: the first takes a minute or two")
        if ranks.rank == 0:
            if emulated(half := run.config.precision, machine.device):
                slow = (
                    f"torch has no quick {half} on this processor, and a step takes many times as long as in fp32"
                )
                yield Note(f"{slow}: start another run with --precision fp32", warning=True)
            if lost := guards.unjudged(self.dataset, run.config.recipe):
                again = "to have some, prepare the dataset again with --val-fraction 0.05"
                yield Note(f"validation pictures: {lost}; {again}", warning=True)
            for text in guards.misfits(self.dataset, run.config.recipe):
                yield Note(text, warning=True)
            far = dataset.splits["train"].far
            if far is not None and (first := sorted(far.missing())[-WINDOW:]):
                shards = f"{len(first)} shard{'s' * (len(first) > 1)} ({size(sum(first))})"
                yield Note(f"the first step waits for up to {shards} from {far.address}")
        with run_directories.locked(run, ranks.rank == 0), Stop() as stop:
            ranks.wait()  # the others read the run when it is ours
            events = train(run, dataset, ranks, limits, stop, threads())
            yield from tensorboard.recorded(events) if self.tensorboard and ranks.rank == 0 else events

    def _machine_for(self, run: Run) -> Machine:
        """What the run was computed with, as far as this place has it and nothing else is asked for."""
        here, machine = self.config.machine, run.config.machine
        if (here.device, here.ranks) != (machine.device, machine.ranks):
            machine = replace(
                machine, device=here.device, ranks=here.ranks, threads=here.threads, layout=here.layout
            )
        return self.asked.of(machine)


def _change(before: Machine, now: Machine) -> str:
    """In words what is computed otherwise than when the run began."""
    place = f"on {before.ranks} × {before.device} and goes on with {now.ranks} × {now.device}"
    changes = [f"began {place}"] if (before.device, before.ranks) != (now.device, now.ranks) else []
    for name, value, then in settings.differences(now, before):
        if name in Asked.__dataclass_fields__:
            changes.append(f"began with {name} = {then} and goes on with {value}")
    return f"the run {', '.join(changes)}" if changes else ""


def _about(dataset: Dataset) -> dict[str, Any]:
    """For people: how the run was started, with what and where."""
    return {
        "command": ["alexnet", *map(without_secrets, sys.argv[1:])],
        "dataset": dataset.url or str(dataset.root.resolve()),
        "host": platform.node(),
        "versions": {
            "alexnet-cli": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
