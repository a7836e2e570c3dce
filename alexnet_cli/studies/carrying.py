"""Carrying a study out: run after run by the ordinary engine, each measured at its marks, until nothing is left.

Everything follows from what is on the disk: which run is next from results.json, where it stands from its
checkpoint. So a study that was killed goes on as if nothing had been.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch

from alexnet_cli.dataset.manifest import Dataset, open_squares
from alexnet_cli.dataset.preparation import Options, prepare, usual_workers
from alexnet_cli.dataset.sources.prepared import some_classes
from alexnet_cli.engine import examination, models, probabilities, starting, training
from alexnet_cli.engine.evaluation import Tally
from alexnet_cli.engine.events import Ended, Event, Step
from alexnet_cli.engine.examination import Wanted
from alexnet_cli.engine.launch import Placement, launched
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.session import Every, Limits
from alexnet_cli.errors import AlexNetError, Diverged
from alexnet_cli.files import locked
from alexnet_cli.runs import model_file, open_run
from alexnet_cli.studies import pretrain
from alexnet_cli.studies.directory import KINDS, Study
from alexnet_cli.studies.plan import Plan, Point, Result, Trial

SAVE = Every(120, "seconds")
"""Between checkpoints: of a study little is lost by a kill."""
PACE_STEPS = 4
"""Of which the first, where memory is new, does not count."""
LEAST = 4
"""Steps of a run, below which a budget is refused."""
EVALUATION = 0.5
"""Time of a picture that is only looked at, beside one that is trained on."""


@dataclass(frozen=True)
class Begun:
    """A run begins or goes on, or a part of the dataset is prepared."""

    what: str


@dataclass(frozen=True)
class Going:
    """Steps of all runs together."""

    done: int
    total: int
    said: str = ""


@dataclass(frozen=True)
class Measured:
    trial: Trial
    point: Point


def part(dataset: Dataset, limit: int) -> Dataset:
    """The dataset with so many of its training pictures, evenly spaced, under a fingerprint of its own."""
    train = dataset.splits["train"]
    if not limit or limit >= len(train.index):
        return dataset
    fingerprint = sha256(f"{dataset.fingerprint} {limit}".encode()).hexdigest()
    return replace(dataset, splits=dataset.splits | {"train": train.part(limit)}, fingerprint=fingerprint)


def check_alone() -> None:
    if launched():
        raise AlexNetError(
            "a study runs in one process", "begin several, with an --out of their own, on devices of their own"
        )


def check_splits(dataset: Dataset) -> None:
    for name in ("train", "val"):
        if name not in dataset.splits:
            raise AlexNetError(f"the dataset in {dataset.place} has no split '{name}'", "prepare one that has")


# --- from a budget to steps


def steps_within(plan: Plan, dataset: Dataset, place: Placement) -> Iterator[Begun | int]:
    """How many steps each run may have, so that all of them and their measurements take about so long.

    The pace of each kind of net is measured over a few steps. At last gives the number.
    """
    seconds, began = training.seconds_of(plan.budget), time.monotonic()
    if seconds is None:
        raise AlexNetError(f"--budget {plan.budget}: not a time", "write 90s, 30m, 5h or 1h30m")
    nominal = replace(plan, steps=1200)
    trials: list[Trial] = KINDS[plan.kind].foreseen(nominal, {})
    paces: dict[str, float] = {}
    per_step = looking = 0.0
    for trial in trials:
        kind = repr((trial.recipe.network, trial.recipe.augmentation))
        if kind not in paces:
            yield Begun(f"measuring the pace of {trial.name}")
            paces[kind] = _pace(trial, plan, dataset, place)
        per_step += paces[kind] * trial.marks[-1] / nominal.steps
        pictures = (min(plan.measured, plan.used) + min(plan.measured, plan.validation)) * plan.crops
        looking += len(trial.marks) * pictures * EVALUATION * paces[kind] / trial.recipe.optimizer.batch_size
    steps = int((seconds - (time.monotonic() - began) - looking) / per_step)
    if steps < LEAST:
        raise AlexNetError(
            f"--budget {plan.budget}: {len(trials)} runs, {per_step:.2f} s for a step of all, and {looking:.0f} s "
            f"for measuring errors leave {max(0, steps)} steps for each",
            f"give {math.ceil((looking + 50 * per_step) / 60)}m for 50, or smaller --width, --seeds or --measure",
        )
    yield steps


def _pace(trial: Trial, plan: Plan, dataset: Dataset, place: Placement) -> float:
    """Seconds of a step."""
    seconds: list[float] = []
    with tempfile.TemporaryDirectory(prefix="alexnet-") as folder:
        job = _job(trial, plan, part(dataset, plan.limit), place, Limits(max_steps=PACE_STEPS), None)
        for event in job.started(Path(folder), "pace", None, True):
            if isinstance(event, Step):
                seconds.append(event.seconds)
            if isinstance(event, Ended) and event.signal:
                raise stopped(event.signal)
    return (seconds[-1] - seconds[0]) / max(1, len(seconds) - 1)


def stopped(signal: int) -> AlexNetError:
    return AlexNetError("stopped", "the same command goes on where the study is", exit_code=128 + signal)


# --- the runs


def carried_out(study: Study, dataset: Dataset, place: Placement) -> Iterator[Event | Begun | Going | Measured]:
    """Train and measure until all runs have what they need; a signal is an AlexNetError with its exit code."""
    message = f"the study {study.root} is being carried out by another process"
    with locked(study.root / ".lock", message, "wait for it, or look at it: alexnet study show", patience=0.2):
        parts: dict[str, Dataset] = {}
        while (trial := _next(study)) is not None:
            if trial.data not in parts:
                yield from _prepared(study, trial.data, dataset)
                parts[trial.data] = _opened(study, trial.data, dataset)
            yield from _carried_out(study, trial, parts[trial.data], place)


def _next(study: Study) -> Trial | None:
    results = study.results
    there = study.trials(results)
    return next((trial for trial in there if not results.get(trial.name, Result()).finished(trial)), None)


def _opened(study: Study, name: str, dataset: Dataset) -> Dataset:
    return open_squares(study.root / name) if name else part(dataset, study.plan.limit)


def _prepared(study: Study, name: str, dataset: Dataset) -> Iterator["Going"]:
    """Write the dataset of some classes, or go on with it; nothing where it is there, or all classes are meant."""
    out = study.root / name
    if not name or (out / "manifest.json").exists():
        return
    wanted = pretrain.labels(name, len(dataset.classes))
    used = part(dataset, study.plan.limit)
    listing = some_classes(replace(used, splits={split: used.splits[split] for split in ("train", "val")}), wanted)
    workers = usual_workers(listing)
    options = Options(treatment=dataset.treatment)
    for progress in prepare(listing, out, options, workers=workers if workers > 1 else 0):
        yield Going(progress.done, progress.total, f"preparing {name}: {len(wanted)} of the classes")


def _carried_out(
    study: Study, trial: Trial, dataset: Dataset, place: Placement
) -> Iterator[Event | Begun | Going | Measured]:
    """One run from where it is to its end."""
    done = study.results.get(trial.name, Result()).points
    yield Begun(trial.name)
    try:
        for mark in trial.marks[len(done) :]:
            yield from _trained(study, trial, mark, dataset, place)
            point = _measured(study, trial, mark, dataset, place)
            study.record(trial, point)
            yield Measured(trial, point)
    except Diverged as error:
        study.record(trial, None, error.message)


def _trained(study: Study, trial: Trial, mark: int, dataset: Dataset, place: Placement) -> Iterator[Event | Going]:
    root = study.root / trial.name
    if (root / "config.json").exists() and ((open_run(root).state() or {}).get("steps", 0)) >= mark:
        return
    source = starting.source(study.root / trial.start) if trial.start else None
    before, total = _steps(study)
    job = _job(trial, study.plan, dataset, place, Limits(max_steps=mark, save=SAVE), source)
    for event in job.started(study.root, trial.name, None, False):
        if isinstance(event, Step):
            yield Going(before + event.step, total, f"{trial.name}  loss {event.loss:.3f}")
        elif isinstance(event, Ended) and event.signal:
            raise stopped(event.signal)
        else:
            yield event


def _steps(study: Study) -> tuple[int, int]:
    """Of the finished runs, and of all that are known."""
    results = study.results
    trials = study.trials(results)
    done = sum(other.marks[-1] for other in trials if results.get(other.name, Result()).finished(other))
    return done, sum(other.marks[-1] for other in trials)


def _job(
    trial: Trial, plan: Plan, dataset: Dataset, place: Placement, limits: Limits, source: starting.Source | None
) -> training.Job:
    """What `alexnet train` would start, without validations on the way: they would cost more than they tell."""
    train_only = replace(dataset, splits={"train": dataset.splits["train"]})
    config = training.config(trial.recipe, train_only, trial.seed, 1.0, plan.precision, place, source)
    return training.Job(train_only, config, limits, place, source=source)


# --- what they are worth


def _measured(study: Study, trial: Trial, mark: int, dataset: Dataset, place: Placement) -> Point:
    """The errors as `alexnet eval RUN --limit …` gives them, on --split train too."""
    model = models.load(model_file(study.root / trial.name))
    ranks, plan = Ranks(0, 1, torch.device(place.device)), study.plan
    averaged = plan.kind == "ensemble"
    saved = _saved(study.root / trial.name) if averaged else None

    def tally(split: str, wanted: Wanted) -> Tally:
        exam = examination.of_models([model], dataset, split, plan.crops, plan.measured, wanted, ranks)
        return _last(exam)

    train, val = tally("train", Wanted()), tally("val", Wanted(save_probs=saved))
    if not trial.beside:
        return Point(mark, train, val)
    files = [probabilities.read(_saved(study.root / name)) for name in (*trial.beside, trial.name)]
    return Point(mark, train, val, _last(examination.of_files(files, Wanted())))


def _last(exam: examination.Examination) -> Tally:
    """Of one model, or of the mean of several."""
    *_, scores = exam.scored()
    assert isinstance(scores, list)
    return scores[-1].tally


def _saved(run: Path) -> Path:
    return run / "probabilities-val.safetensors"
