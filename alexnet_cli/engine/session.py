"""What a run holds while it trains: model and velocity, its position, its log, its clock, its checkpoints."""

import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alexnet_cli.dataset.manifest import Dataset
from alexnet_cli.dataset.treatment import described
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine import optimizer, rates, schedule
from alexnet_cli.engine.checkpoint import Checkpoint, Position, Subject
from alexnet_cli.engine.evaluation import tallies
from alexnet_cli.engine.events import Event, Note, Saved, Step, Validated, Validating
from alexnet_cli.engine.guards import check_weights
from alexnet_cli.engine.optimizer import Row
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.placed import Placed
from alexnet_cli.engine.prediction import NetworkClassifier
from alexnet_cli.engine.rates import Change
from alexnet_cli.engine.signals import STOPPING, Stop
from alexnet_cli.errors import AlexNetError, Diverged
from alexnet_cli.files import whole_file
from alexnet_cli.loading.augmentation import Colours, patches_for
from alexnet_cli.loading.loader import GivenUp
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.layout import lay_out
from alexnet_cli.recipes import Recipe
from alexnet_cli.runs import Log, Run, tidy

RETRY_SECONDS = 60.0
"""After a save that failed."""


@dataclass(frozen=True)
class Every:
    count: float
    unit: Literal["seconds", "steps", "epochs"]

    def steps(self, steps_per_epoch: int) -> int:
        """0 if it is a time."""
        each = {"seconds": 0, "steps": 1, "epochs": steps_per_epoch}[self.unit]
        return each and max(1, round(self.count * each))


@dataclass(frozen=True)
class Limits:
    """Where this call ends, short of the schedule's own end, and what it saves on the way."""

    max_steps: int | None = None
    max_seconds: float | None = None
    save: Every = Every(600, "seconds")
    """Checkpoints are saved this often, and at each validation."""
    keep: Every | None = None
    """Those that no later one takes the place of."""


@dataclass(frozen=True)
class Wanted:
    """What one of the ranks wants, so that all do it together."""

    signal: int
    time_up: bool
    save: bool
    rates: bool
    """That a request for other rates be looked at."""


class Session:
    def __init__(
        self, run: Run, dataset: Dataset, ranks: Ranks, threads: int, limits: Limits, steps_per_epoch: int
    ) -> None:
        self.run, self.dataset, self.ranks, self.threads, self.limits = run, dataset, ranks, threads, limits
        self.steps_per_epoch = steps_per_epoch
        saved, self.problem = checkpoints.newest(run)
        self._last_is_good = not self.problem and run.last.exists()
        _check_together(ranks, saved.position if saved else Position())
        if saved is None:
            self.position, self.subject = Position(), subject_of(dataset)
            self.model = AlexNet(run.config.recipe.network, len(dataset.classes))
            initialise(self.model, run.config.recipe.network, run.config.seed)
            self.velocity = optimizer.still(self.model)
        else:
            self.position, self.subject = saved.position, saved.subject
            self.model, self.velocity = checkpoints.model_of(saved, torch.device("cpu")), saved.velocity
        self.model.to(ranks.device)
        lay_out(self.model, run.config.machine.layout)
        self.velocity = {name: v.to(ranks.device) for name, v in self.velocity.items()}
        self.placed = Placed(
            self.model, self.velocity, run.config.recipe.network, run.config.machine.parallel, ranks,
            run.config.machine.layout,
        )  # fmt: skip
        self.subject = replace(self.subject, colours=self.subject.colours.on(ranks.device))
        self._started = self._tried = time.monotonic()
        self._seconds_before = self.position.seconds
        self._on_disk = self.position if saved else None
        self._save_failed = self._ending = False
        self._kept = 0
        self._rates, (self.changes, _) = rates.Watch(run), rates.read(run)

    def __enter__(self) -> "Session":
        if self.ranks.rank == 0:
            tidy(self.run, self.position.metrics_size)
            self._log = Log(self.run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ranks.rank == 0:
            self._log.close()

    @contextmanager
    def rescued(self) -> Iterator[None]:
        """Save the steps that were done before an error, of a shard say, before anything else is left.

        Not numbers that are none; and of several ranks the others are in an exchange.
        """
        try:
            yield
        except Diverged:
            raise
        except AlexNetError as error:
            saved = self._on_disk.steps if self._on_disk else 0
            if self.ranks.size == 1 and not self._ending and self.position.steps > saved:
                self.placed.gather()
                check_weights(self.model, self.velocity, self.position.steps)
                if problem := _problem(self.run.last, self._save):
                    raise AlexNetError(f"{error.message}; and {problem.message}", error.hint) from error
            raise

    def seconds(self) -> float:
        """Wall time of the run, over all its calls."""
        return self._seconds_before + self.elapsed()

    def elapsed(self) -> float:
        """Seconds of this call."""
        return time.monotonic() - self._started

    def wanted(self, stop: Stop) -> Wanted:
        limit = self.limits.max_seconds
        asked = self.ranks.rank == 0 and self._rates.asked()
        flags = [limit is not None and self.elapsed() >= limit, self._save_due(), asked]
        flags += [stop.signal == number for number in STOPPING]
        if self.ranks.size > 1:
            flags = self.ranks.summed(torch.tensor(flags, dtype=torch.float32, device=self.ranks.device)).tolist()
        time_up, save, asked, *signals = map(bool, flags)
        signal = next((n for n, sent in zip(STOPPING, signals, strict=True) if sent), 0)
        return Wanted(signal, time_up, save, asked)

    # --- rates

    def rows(self) -> dict[str, Row]:
        """How each parameter moves in the next step."""
        return schedule.rows(self.velocity, *self._place())

    def rate(self) -> float:
        """Of the next step, in the layers without rules of their own."""
        return schedule.rate(*self._place())

    def _place(self) -> tuple[Recipe, int, int, int, list[Change]]:
        position = self.position
        return self.run.config.recipe, position.epoch, position.steps, position.plateau.count, self.changes

    def rates_changed(self) -> Iterator[Event]:
        """What there is to say of changes by hand with which this step was made: new ones, or again an old one.

        The schedule sees what the new rate does before it divides again: its wait begins here.
        """
        for change in self.changes:
            if change.step == self.position.steps:
                self._wait_anew()
                rate, words = self.rate(), change.request.words
                if self.ranks.rank == 0:
                    self._log.write("rate", {"step": change.step, "rate": rate, "by_hand": words})
                yield Note(f"after step {change.step:,} the rate is {words} by hand: {rate:g}")

    def _wait_anew(self) -> None:
        """Below 0 by what the next validation will add for the steps before this one."""
        waited = (self.position.judged - self.position.steps) / self.steps_per_epoch
        self.position = replace(self.position, plateau=replace(self.position.plateau, waited=waited))

    def place_requests(self) -> Iterator[Event]:
        """Have the changes by hand that were asked for begin with the next step."""
        position, said = self.position, {"problem": "", "changes": ""}
        if self.ranks.rank == 0:
            drops = schedule.drops(self.run.config.recipe.schedule, *self._place()[1:4])
            try:
                said["changes"] = rates.packed(self._rates.placed(position.steps, drops))
            except AlexNetError as error:
                said["problem"] = error.message
        said = json.loads(self.ranks.told(json.dumps(said)))
        if said["problem"]:
            yield Note(f"the rate stays as it is: {said['problem']}", warning=True)
        else:
            self.changes = rates.unpacked(said["changes"])

    def advance(self, updated: bool) -> None:
        """The step is over; `updated` unless its gradients overflowed fp16."""
        done = self.position.epoch * self.steps_per_epoch + self.position.step + 1
        epoch, step = divmod(done, self.steps_per_epoch)
        self.position = replace(self.position, epoch=epoch, step=step, steps=self.position.steps + 1)
        if self.run.config.precision == "fp16":
            self.position = replace(self.position, scaling=self.position.scaling.after(updated))

    def log(self, step: Step) -> Step:
        step = replace(step, seconds=self.seconds())
        if step.logged:
            self._write("step", step)
        return step

    def _write(self, kind: str, event: Step | Validated) -> None:
        if self.ranks.rank == 0:
            self._log.write(kind, asdict(event))

    # --- validation

    def validation_due(self, every: int) -> bool:
        """Whether the schedule waits for one here: also first of all, when a stop came in its middle."""
        position = self.position
        return "val" in self.dataset.splits and position.judged < position.steps and position.steps % every == 0

    def validate(self, stop: Stop, judge: bool) -> Generator[Event, None, bool]:
        """Errors on the validation split; `judge` lets the schedule know them. False if a stop broke it off."""
        split = self.dataset.splits.get("val")
        if split is None:
            return True
        if split.far is not None:  # its shards may not come for minutes, and a scheduler may not wait as long
            yield from self.save()
        began = time.monotonic()
        self.placed.gather()
        recipe, position = self.run.config.recipe, self.position
        patches = patches_for(recipe, self.subject.colours.mean)
        classifier = NetworkClassifier(self.model, patches, 1, self.ranks.device, self.run.config.precision)
        # One process alone need not go on; several would have to agree, and they have begun together.
        given_up = (lambda: bool(stop.signal)) if self.ranks.size == 1 else None
        try:
            for tally in tallies(classifier, split, self.ranks, self.threads, given_up):
                if given_up is not None and given_up():
                    return False
                yield Validating(tally.pictures, len(split.index))
        except GivenUp:
            return False
        error = tally.top1_error
        best = position.best_error is None or error < position.best_error
        if judge:
            epochs = (position.steps - position.judged) / self.steps_per_epoch
            plateau = position.plateau.after(error, recipe.schedule, epochs)
            position = replace(position, plateau=plateau, judged=position.steps)
        self.position = replace(position, best_error=error if best else position.best_error)
        if self.ranks.rank == 0 and error < self.run.best_saved_error():
            best_one = self._checkpoint(velocity=False)
            if problem := _problem(self.run.best, partial(checkpoints.save, self.run.best, best_one)):
                yield Note(f"{problem.message}; training goes on without this one", warning=True)
        event = Validated(
            position.steps, tally, len(self.dataset.classes), best, position.plateau.count, self.seconds(),
            time.monotonic() - began,
        )  # fmt: skip
        self._write("validation", event)
        yield event
        return True

    # --- checkpoints

    def _save_due(self) -> bool:
        waited, every = time.monotonic() - self._tried, self.limits.save
        if self._save_failed:
            return waited >= min(RETRY_SECONDS, every.count if every.unit == "seconds" else RETRY_SECONDS)
        steps = every.steps(self.steps_per_epoch)
        return self.position.steps > 0 and (self.position.steps % steps == 0 if steps else waited >= every.count)

    def save(self, last: bool = False) -> Iterator[Event]:
        """Write `last`, keeping the one before as `previous`; nothing if it is there already.

        If that fails a warning says so, training goes on and it is tried again; `last` makes it an error.
        """
        self._ending |= last
        if self._is_saved():
            return
        began = time.monotonic()
        self.placed.gather()
        if self.ranks.rank == 0:
            check_weights(self.model, self.velocity, self.position.steps)
        problem = _problem(self.run.last, self._save) if self.ranks.rank == 0 else None
        message, hint = self.ranks.told(f"{problem.message}\n{problem.hint}" if problem else "\n").split("\n", 1)
        self._tried, self._save_failed = time.monotonic(), bool(message)
        if not message:
            self._on_disk, self._last_is_good = self.position, True
            yield Saved(self.position.steps, self._tried - began)
            return
        on_disk = f"that of step {self._on_disk.steps:,} is the newest" if self._on_disk else "there is none yet"
        if last:
            raise AlexNetError(
                f"{message}: the checkpoint of step {self.position.steps:,} is lost, {on_disk}", hint
            )
        yield Note(f"{message}: training goes on, and this is tried again; of checkpoints {on_disk}", warning=True)

    def _save(self) -> None:
        """Write all that the run is now."""
        self.position = replace(self.position, seconds=self.seconds(), metrics_size=self._log.sync())
        keep = self.run.previous if self._last_is_good else None  # not in the place of the good one before
        checkpoints.save(self.run.last, self._checkpoint(velocity=True), keep)

    def _is_saved(self) -> bool:
        return self.position == self._on_disk and self._last_is_good

    def keep_due(self) -> bool:
        every = self.limits.keep.steps(self.steps_per_epoch) if self.limits.keep else 0
        steps = self.position.steps
        return bool(every) and steps > 0 and steps % every == 0 and steps != self._kept

    def keep(self) -> Iterator[Event]:
        """Save, and give the file a name of its own for good: of the same bytes, where a file may have two."""
        yield from self.save()
        path = self.run.kept(self.position.steps)
        if self._save_failed:  # it is tried again
            return
        self._kept = self.position.steps
        if self.ranks.rank or path.exists():
            return
        if problem := _problem(path, partial(_name_too, path, self.run.last)):
            yield Note(f"{problem.message}; training goes on without it", warning=True)

    def _checkpoint(self, velocity: bool) -> Checkpoint:
        weights: dict[str, Tensor] = dict(self.model.named_parameters())
        moving = self.velocity if velocity else {}
        return Checkpoint(self.run.config.recipe, self.subject, self.position, weights, moving)


def _check_together(ranks: Ranks, position: Position) -> None:
    """That all ranks have read the same checkpoint, however their disks are."""
    other = torch.tensor(float(ranks.told(position) != position), device=ranks.device)
    if ranks.summed(other):
        raise AlexNetError(
            "the processes of this job have read different checkpoints of the run",
            "see that nobody else trains it and that all see the same disk, then give the same command again",
        )


def _name_too(path: Path, file: Path) -> None:
    """Give a file another name, or write it again where a file has one name only."""
    with whole_file(path) as temporary:
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)


def _problem(path: Path, write: Callable[[], None]) -> AlexNetError | None:
    """Write, and give back what was in the way."""
    try:
        write()
    except OSError as error:
        return AlexNetError(f"{path} could not be written: {error.strerror}", "see to that disk")
    except AlexNetError as error:
        return error
    return None


def subject_of(dataset: Dataset) -> Subject:
    """What a model trained on this dataset is of."""
    colours = Colours(torch.from_numpy(np.array(dataset.mean)), dataset.eigenvalues, dataset.eigenvectors)
    preparation = {key: dataset.manifest[key] for key in ("filter", "decoder")} | described(dataset.treatment)
    return Subject(dataset.classes, dataset.wnids, colours, preparation, dataset.fingerprint)
