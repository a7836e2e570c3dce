"""The training loop: batch, forward, loss, backward, step, log, validate, save.

`train` is a generator of what happens; showing it is the caller's business. The same code runs on one CPU, one
GPU or many ranks: with one rank the exchanges are skipped.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_cli.dataset.manifest import Dataset
from alexnet_cli.dataset.treatment import described
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine import optimizer
from alexnet_cli.engine.checkpoint import Checkpoint, Position, Subject
from alexnet_cli.engine.evaluation import Tally, tallies
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.prediction import NetworkClassifier, autocast
from alexnet_cli.engine.schedule import rows
from alexnet_cli.engine.signals import Stop
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import disk_errors
from alexnet_cli.loading.augmentation import Colours, patches_for
from alexnet_cli.loading.loader import Reader, TrainingBatches, ahead
from alexnet_cli.loading.plan import Plan, shard_lengths
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.layout import lay_out
from alexnet_cli.runs import Layout, Run, tidy


@dataclass(frozen=True)
class Limits:
    """Where this call ends, short of the schedule's own end."""

    max_steps: int | None = None
    max_seconds: float | None = None
    save_seconds: float = 600.0
    """Checkpoints are saved this often, and at each validation."""


@dataclass(frozen=True)
class Note:
    """Something the user should know."""

    text: str


@dataclass(frozen=True)
class Started:
    run: Path
    position: Position
    steps: int
    """Where this call ends at the latest, counted over the whole run."""
    max_seconds: float | None
    layout: Layout


@dataclass(frozen=True)
class Step:
    epoch: int
    """From 1, as people count."""
    step: int
    """Of the whole run, from 1."""
    loss: float
    rate: float
    """Of the weights of the last layer, which has no rules of its own."""
    pictures: int
    seconds: float = 0.0
    """Wall time of the run so far."""
    waited: float = 0.0
    """Seconds of this step spent waiting for its batch."""


@dataclass(frozen=True)
class Validating:
    done: int
    pictures: int


@dataclass(frozen=True)
class Validated:
    step: int
    tally: Tally
    classes: int
    best: bool
    plateaus: int
    seconds: float


@dataclass(frozen=True)
class Ended:
    run: Path
    said: str
    signal: int
    position: Position


EVERY_STEP_UNTIL = 1000
"""Steps that are all logged."""

Event = Note | Started | Step | Validating | Validated | Ended


def train(run: Run, dataset: Dataset, ranks: Ranks, limits: Limits, stop: Stop, threads: int) -> Iterator[Event]:
    """Train `run` from where it stands until its schedule ends, a limit is reached or `stop` is asked for."""
    recipe = run.config.recipe
    index, batch_size = dataset.splits["train"].index, recipe.optimizer.batch_size
    shards = shard_lengths(index["shard"])
    plan = Plan(len(index), batch_size, run.config.seed, recipe.augmentation.reshuffled, shards)
    every = max(1, round(run.config.eval_every * plan.steps))
    with Reader(dataset.splits["train"]) as reader, _Session(run, dataset, ranks, threads) as session:
        model, velocity = session.model, session.velocity
        replicas = ranks.wrapped(model)
        colours, seed = session.subject.colours, run.config.seed
        build = TrainingBatches(reader, plan, recipe, colours, seed, ranks.rank, ranks.size, ranks.device)
        places = _places(session.position, plan.steps, recipe.schedule.epochs)
        steps = min(plan.steps * recipe.schedule.epochs, limits.max_steps or sys.maxsize)
        if session.problem:
            yield Note(session.problem)
        yield Started(run.root, session.position, steps, limits.max_seconds, run.config.machine.layout)
        with closing(ahead(build, places, threads)) as batches:
            while True:
                if session.validation_due(every):
                    yield from session.validate(stop, judge=True)
                    session.save()
                if end := _end(session, limits, stop):
                    break
                position = session.position
                asked = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - asked

                model.train()
                with autocast(ranks.device, run.config.precision):
                    logits = replicas(batch.pixels, batch.masks)
                losses = F.cross_entropy(logits.float(), batch.labels, reduction="none")
                pictures = plan.pictures_in(position.step)
                loss = (losses * batch.weights).sum() / pictures
                torch.autograd.backward(loss * ranks.size)  # ranks average gradients; the loss is their sum
                value = _finite(ranks.summed(loss.detach()).item(), position)

                table = rows(velocity, recipe, position.epoch, position.steps, position.plateau.count)
                optimizer.update(model, velocity, table, recipe.optimizer.momentum, recipe.optimizer.velocity)

                session.advance(plan.steps)
                rate = table["fc8.weight"].rate
                done = Step(position.epoch + 1, position.steps + 1, value, rate, pictures, waited=waited)
                yield session.log(done)
                if ranks.any(session.save_due(limits)):
                    session.save()

        session.save()
        if not end.stopped and session.position.judged < session.position.steps:
            # For the reader, not for the schedule: a continuation forgets it, as if the run had not paused here.
            yield from session.validate(stop, judge=False)
        if end.finished:
            session.position = replace(session.position, finished=end.finished)
            session.save()
        yield Ended(run.root, end.said, stop.signal, session.position)


class _Session:
    """What a run holds while it trains: the model and its velocity, its position, its log and its clock."""

    def __init__(self, run: Run, dataset: Dataset, ranks: Ranks, threads: int) -> None:
        self.run, self.dataset, self.ranks, self.threads = run, dataset, ranks, threads
        saved, self.problem = checkpoints.newest(run)
        if saved is None:
            self.position, self.subject = Position(), _subject(dataset)
            self.model = AlexNet(run.config.recipe.network, len(dataset.classes))
            initialise(self.model, run.config.recipe.network, run.config.seed)
            self.velocity = optimizer.still(self.model)
        else:
            self.position, self.subject = saved.position, saved.subject
            self.model, self.velocity = checkpoints.model_of(saved, torch.device("cpu")), saved.velocity
        self.model.to(ranks.device)
        lay_out(self.model, run.config.machine.layout)
        self.velocity = {name: v.to(ranks.device) for name, v in self.velocity.items()}
        self.subject = replace(self.subject, colours=self.subject.colours.on(ranks.device))
        self._started = self._saved = time.monotonic()
        self._seconds_before = self.position.seconds
        self._on_disk = self.position if saved else None

    def __enter__(self) -> "_Session":
        if self.ranks.rank == 0:
            tidy(self.run, self.position.metrics_size)
            self._metrics = self.run.metrics.open("ab", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ranks.rank == 0:
            self._metrics.close()

    def elapsed(self) -> float:
        """Seconds of this call."""
        return time.monotonic() - self._started

    def seconds(self) -> float:
        """Seconds of the run, over all its calls."""
        return self._seconds_before + self.elapsed()

    def validation_due(self, every: int) -> bool:
        """Whether the schedule waits for one here: also first of all, when a stop came in its middle."""
        position = self.position
        return "val" in self.dataset.splits and position.judged < position.steps and position.steps % every == 0

    def advance(self, steps_per_epoch: int) -> None:
        epoch, step = divmod(self.position.epoch * steps_per_epoch + self.position.step + 1, steps_per_epoch)
        self.position = replace(self.position, epoch=epoch, step=step, steps=self.position.steps + 1)

    def log(self, step: Step) -> Step:
        """Every step at first, each tenth later: a pure function of the step, so a resumed log is the same."""
        step = replace(step, seconds=self.seconds())
        if step.step <= EVERY_STEP_UNTIL or step.step % 10 == 0:
            self._write("step", asdict(step))
        return step

    def validate(self, stop: Stop, judge: bool) -> Iterator[Event]:
        """Errors on the validation split; `judge` lets the schedule know of them. A stop breaks it off."""
        split = self.dataset.splits.get("val")
        if split is None:
            return
        recipe, position = self.run.config.recipe, self.position
        patches = patches_for(recipe, self.subject.colours.mean)
        classifier = NetworkClassifier(self.model, patches, 1, self.ranks.device, self.run.config.precision)
        for tally in tallies(classifier, split, self.ranks, self.threads):
            if stop.signal and self.ranks.size == 1:  # several would have to agree, and they have begun together
                return
            yield Validating(tally.pictures, len(split.index))
        error = tally.top1_error
        best = position.best_error is None or error < position.best_error
        if judge:
            plateau = position.plateau.after(error, recipe.schedule)
            position = replace(position, plateau=plateau, judged=position.steps)
        self.position = replace(position, best_error=error if best else position.best_error)
        if self.ranks.rank == 0 and error < self.run.best_saved_error():
            checkpoints.save(self.run.best, self._checkpoint(velocity=False))
        event = Validated(
            position.steps, tally, len(self.dataset.classes), best, position.plateau.count, self.seconds()
        )
        self._write("validation", asdict(event))
        yield event

    def save_due(self, limits: Limits) -> bool:
        return time.monotonic() - self._saved >= limits.save_seconds

    def save(self) -> None:
        """Write `last`, keeping the one before as `previous`; nothing if it is there already."""
        if self.position == self._on_disk:
            return
        run, size = self.run, 0
        if self.ranks.rank == 0:
            os.fsync(self._metrics.fileno())
            size = self._metrics.tell()
        self.position = replace(self.position, seconds=self.seconds(), metrics_size=size)
        if self.ranks.rank == 0:
            checkpoints.save(run.last, self._checkpoint(velocity=True), keep=run.previous)
        self.ranks.wait()
        self._saved, self._on_disk = time.monotonic(), self.position

    def _checkpoint(self, velocity: bool) -> Checkpoint:
        weights: dict[str, Tensor] = dict(self.model.named_parameters())
        moving = self.velocity if velocity else {}
        return Checkpoint(self.run.config.recipe, self.subject, self.position, weights, moving)

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        if self.ranks.rank == 0:
            with disk_errors(self.run.metrics):
                self._metrics.write(json.dumps({"kind": kind, **values}).encode() + b"\n")


@dataclass(frozen=True)
class _End:
    said: str
    finished: str = ""
    stopped: bool = False


def _end(session: _Session, limits: Limits, stop: Stop) -> _End | None:
    """Why to stop before the next step, if there is a reason; all ranks give the same answer."""
    position, schedule = session.position, session.run.config.recipe.schedule
    if session.ranks.any(bool(stop.signal)):
        return _End("stopped by a signal", stopped=True)
    if position.plateau.ended(schedule):
        return _End("the validation error stopped improving", "plateau")
    if position.epoch >= schedule.epochs:
        return _End(f"all {schedule.epochs} epochs are done", "epochs")
    if limits.max_steps is not None and position.steps >= limits.max_steps:
        return _End(f"{limits.max_steps} steps are done")
    if session.ranks.any(limits.max_seconds is not None and session.elapsed() >= limits.max_seconds):
        return _End(f"the time is up after {session.elapsed() / 60:.1f} minutes")
    return None


def _places(start: Position, steps_per_epoch: int, epochs: int) -> Iterator[tuple[int, int]]:
    """(epoch, step) of every batch still to come."""
    first = start.epoch * steps_per_epoch + start.step
    return (divmod(n, steps_per_epoch) for n in range(first, epochs * steps_per_epoch))


def _finite(loss: float, position: Position) -> float:
    if not math.isfinite(loss):
        raise AlexNetError(
            f"the loss became {loss} at step {position.steps + 1}",
            "the update was not made and the last checkpoint is as it was; try a lower rate, --lr",
        )
    return loss


def _subject(dataset: Dataset) -> Subject:
    colours = Colours(torch.from_numpy(np.array(dataset.mean)), dataset.eigenvalues, dataset.eigenvectors)
    preparation = {key: dataset.manifest[key] for key in ("filter", "decoder")} | described(dataset.treatment)
    return Subject(dataset.classes, dataset.wnids, colours, preparation, dataset.fingerprint)
