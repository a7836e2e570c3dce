"""The training loop: batch, forward, loss, backward, step, log, validate, save.

`train` is a generator of what happens; showing it is the caller's business. The same code runs on one CPU, one
GPU or many ranks: with one rank the exchanges are skipped.
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from alexnet_cli.dataset.manifest import Dataset
from alexnet_cli.engine import guards
from alexnet_cli.engine.arithmetic import autocast, compiled, parts
from alexnet_cli.engine.checkpoint import Position
from alexnet_cli.engine.events import Ended, Event, Note, Started, Step
from alexnet_cli.engine.pace import Pace
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.session import Limits, Session, Wanted
from alexnet_cli.engine.signals import Stop
from alexnet_cli.errors import AlexNetError, Diverged
from alexnet_cli.loading.loader import Reader, TrainingBatch, TrainingBatches, ahead, taken
from alexnet_cli.loading.plan import Plan, shard_lengths
from alexnet_cli.runs import Run


def train(run: Run, dataset: Dataset, ranks: Ranks, limits: Limits, stop: Stop, threads: int) -> Iterator[Event]:
    """Train `run` from where it stands until its schedule ends, a limit is reached or `stop` is asked for."""
    recipe, machine, precision = run.config.recipe, run.config.machine, run.config.precision
    index, batch_size = dataset.splits["train"].index, recipe.optimizer.batch_size
    plan = Plan(
        len(index), batch_size, run.config.seed, recipe.augmentation.reshuffled, shard_lengths(index["shard"])
    )
    every = max(1, round(run.config.eval_every * plan.steps))
    with (
        Reader(dataset.splits["train"], ranks.device) as reader,
        Session(run, dataset, ranks, threads, limits, plan.steps) as session,
    ):
        placed, chance = session.placed, guards.Chance(dataset, recipe)
        pace = Pace(placed, recipe, len(dataset.classes))
        colours, seed = session.subject.colours, run.config.seed
        build = TrainingBatches(reader, plan, recipe, colours, seed, ranks.rank, ranks.size, ranks.device)
        places = _places(session.position, plan.steps, recipe.schedule.epochs)
        steps = min(plan.steps * recipe.schedule.epochs, limits.max_steps or sys.maxsize)
        if session.problem:
            yield Note(session.problem, warning=True)
        yield Started(run.root, session.position, steps, limits.max_seconds, machine.layout)
        forward = compiled(placed.net, machine)
        # One process alone need not wait for a batch when it is to stop; several agree on it between steps.
        given_up = (lambda: bool(stop.signal)) if ranks.size == 1 else None
        # The reader is closed first, so that no batch waits for a shard from afar any more.
        with closing(ahead(build, places, threads, given_up)) as batches, closing(reader), session.rescued():
            while True:
                if session.validation_due(every):
                    yield from session.validate(stop, judge=True)
                    yield from session.save()
                if session.keep_due():
                    yield from session.keep()
                wanted = session.wanted(stop)
                if wanted.save:
                    yield from session.save()
                if end := _end(session, wanted):
                    yield from session.save(last=True)  # here: leaving waits for batches that are being built
                    break
                asked = time.perf_counter()
                with guards.memory(batch_size, machine.accumulate):
                    batch = taken(next(batches))
                if batch is None:
                    continue
                waited = time.perf_counter() - asked
                if wanted.rates:
                    yield from session.place_requests()
                position, table = session.position, session.rows()
                if placed.freeze(table):
                    forward = compiled(placed.net, machine)

                placed.net.train()
                pictures, loss = plan.pictures_in(position.step), torch.zeros((), device=ranks.device)
                scale = position.scaling.scale if precision == "fp16" else 1.0
                for part, exchanged in parts(batch, machine.accumulate, placed.net):
                    with exchanged, guards.memory(batch_size, machine.accumulate):
                        with autocast(ranks.device, precision):
                            logits = forward(part.pixels, part.masks)
                        losses = F.cross_entropy(logits.float(), part.labels, reduction="none")
                        share = (losses * part.weights).sum() / pictures
                        torch.autograd.backward(share * scale)
                        loss += share.detach()
                value, square = ranks.summed(torch.stack([loss, placed.gradient_square()])).tolist()
                gradient = math.sqrt(square) / scale

                updated = math.isfinite(gradient)
                if not math.isfinite(value) or (not updated and scale <= 1):
                    raise _overflow(session, batch, value)
                if updated:
                    placed.update(table, recipe.optimizer, scale)
                else:
                    placed.spend()
                    yield Note(
                        f"step {position.steps + 1:,} left out: its gradients overflow fp16 at scale {scale:g}"
                    )
                yield from session.rates_changed()
                rate, length = session.rate(), gradient if updated else None
                session.advance(updated)
                done = Step(position.epoch + 1, position.steps + 1, value, length, rate, pictures, waited=waited)
                yield session.log(done)
                if warning := chance.said_of(done.step, value):
                    yield Note(warning, warning=True)
                for said in pace.said_of(pictures, time.perf_counter() - asked):
                    yield Note(said)

        if not end.stopped and session.position.judged < session.position.steps:
            # For the reader, not for the schedule: a continuation forgets it, as if the run had not paused here.
            whole = yield from session.validate(stop, judge=False)
            wanted = session.wanted(stop)
            if not whole:  # a stop has broken it off: the run is not finished
                end = _end(session, wanted) or end
        if end.finished:
            session.position = replace(session.position, finished=end.finished)
            yield from session.save(last=True)
        yield Ended(run.root, end.said, wanted.signal, session.position, session.seconds())


@dataclass(frozen=True)
class _End:
    said: str
    finished: str = ""
    stopped: bool = False


def _end(session: Session, wanted: Wanted) -> _End | None:
    """Why to stop before the next step, if there is a reason; all ranks give the same answer."""
    position, schedule, limits = session.position, session.run.config.recipe.schedule, session.limits
    if wanted.signal:
        return _End("stopped by a signal", stopped=True)
    if position.plateau.ended(schedule):
        return _End("the validation error stopped improving", "plateau")
    if position.epoch >= schedule.epochs:
        return _End(f"all {schedule.epochs} epochs are done", "epochs")
    if limits.max_steps is not None and position.steps >= limits.max_steps:
        return _End(f"{limits.max_steps} steps are done")
    if wanted.time_up:
        return _End(f"the time is up after {session.elapsed() / 60:.1f} minutes")
    return None


def _places(start: Position, steps_per_epoch: int, epochs: int) -> Iterator[tuple[int, int]]:
    """(epoch, step) of every batch still to come."""
    first = start.epoch * steps_per_epoch + start.step
    return (divmod(n, steps_per_epoch) for n in range(first, epochs * steps_per_epoch))


def _overflow(session: Session, batch: TrainingBatch, loss: float) -> AlexNetError:
    """What to raise before an update with numbers that are none; every rank says what one of them found."""
    ranks, config, dataset = session.ranks, session.run.config, session.dataset
    session.placed.gather()
    session.placed.gather_gradients()
    found = guards.blame(session.model, batch, dataset.splits["train"], config, dataset.classes)
    who = ranks.summed(torch.eye(ranks.size, device=ranks.device)[ranks.rank] * bool(found))
    found = ranks.told(found, int(who.argmax()))
    what = f"the loss became {loss}" if not math.isfinite(loss) else "the gradients became infinite or no numbers"
    half = " or whole numbers, --precision fp32" if config.precision == "fp16" else ""
    return Diverged(
        f"{what} at step {session.position.steps + 1}" + (f": {found}" if found else ""),
        f"the update was not made and the last checkpoint is as it was; try a lower rate, --lr{half}",
    )
