"""What of a dataset or of a run will go wrong in a training, before it does: one finding a line, with its fix."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_cli import recipes
from alexnet_cli.dataset.fingerprint import decoder
from alexnet_cli.dataset.manifest import Dataset, open_squares
from alexnet_cli.dataset.space import size
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine import guards, rates
from alexnet_cli.engine.checkup import Finding, judged
from alexnet_cli.engine.overview import Entry, entry
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import read_json
from alexnet_cli.loading.kept import PICTURE, RESERVE, USED
from alexnet_cli.machine import free_memory
from alexnet_cli.recipes import Recipe
from alexnet_cli.runs import Precision, Run, open_run
from alexnet_cli.settings import changed


@dataclass(frozen=True)
class Patient:
    """What is looked at beside the machine: a run, a dataset, or a recipe alone."""

    recipe: Recipe
    precision: Precision
    run: Path | None = None
    dataset: Dataset | None = None
    parts: int = 1
    """Of a batch: the run's --accumulate."""
    problem: AlexNetError | None = None
    """Why the dataset that was named cannot be opened."""

    def findings(self) -> Iterator[Finding]:
        if self.run is not None:
            yield from of_run(self.run, self.dataset)
        if self.problem is not None:
            yield Finding("bad", "dataset", self.problem.message, self.problem.hint)
        if self.dataset is not None:
            yield from of_dataset(self.dataset, self.recipe)


def patient(
    target: str | None, recipe: str | None, assignments: list[str], precision: Precision | None = None
) -> Patient:
    """What `target` is, a dataset or a run, and what is to be trained; where that is not said, as the run is."""
    run = Path(target) if target and (Path(target) / "config.json").exists() else None
    if run is not None:
        dataset, own = None, None
        with suppress(AlexNetError, KeyError, TypeError):
            own = open_run(run).config
            dataset = open_squares(str(read_json(run / "config.json")["about"]["dataset"]))
        base = own.recipe if own is not None and recipe is None else recipes.named(recipe or "paper")
        precision = precision or (own.precision if own else "fp32")
        parts = own.machine.accumulate if own else 1
        return Patient(recipes.checked(changed(base, assignments)), precision, run, dataset, parts)
    precision = precision or "fp32"
    chosen = recipes.chosen(recipe or "paper", assignments)
    if target is None:
        return Patient(chosen, precision)
    try:
        return Patient(chosen, precision, dataset=open_squares(target))
    except AlexNetError as error:
        return Patient(chosen, precision, problem=error)


def of_dataset(dataset: Dataset, recipe: Recipe) -> Iterator[Finding]:
    counts = {name: len(split.index) for name, split in dataset.splits.items()}
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    yield Finding("good", "dataset", f"{dataset.place}: {len(dataset.classes):,} classes; pictures: {said}")
    if "train" not in counts:
        yield Finding("bad", "training pictures", "there are none", "prepare a source that has some")
        return
    fix = "prepare it again with --val-fraction 0.05"
    if lost := guards.unjudged(dataset, recipe):
        yield Finding("odd", "validation pictures", lost, fix)
    yield from _labels(dataset)
    for text in guards.misfits(dataset, recipe):
        yield Finding("odd", "fit", text, "train on it all the same if that is meant")
    yield _same_decoder(dataset)
    needed, free = sum(counts.get(name, 0) for name in USED) * PICTURE, free_memory()
    fits = "fits" if needed <= free - RESERVE else f"does not fit into the {size(free)} that are free"
    said = f"decoded, training and validation pictures take {size(needed)}: --cache memory {fits}"
    yield Finding("good", "cache", said)


def _labels(dataset: Dataset) -> Iterator[Finding]:
    counts = guards.label_counts(dataset, "train")
    there, total = counts[counts > 0], counts.sum()
    guess = int(counts.argmax())
    entropy = float(-(there / total * np.log(there / total)).sum())
    yield Finding(
        "good",
        "chance",
        f"always saying {dataset.classes[guess]} is right for {100 * counts[guess] / total:.2f} %; "
        f"guessing has a loss of {entropy:.3f}",
    )
    few, many = int(there.min()), int(there.max())
    said = f"{few:,} to {many:,} training pictures a class"
    fix = "classes with few pictures will be answered seldom; more of these, or fewer of the others"
    yield judged("balance", many > 10 * few, said, fix)
    labels = dataset.splits["train"].index["label"][: 1 << 20]
    if len(labels) > 1 and len(there) > 1:
        alike = float((labels[1:] == labels[:-1]).mean())
        expected = float(((there / total) ** 2).sum())
        said = f"{100 * alike:.1f} % of neighbours are of one class, and {100 * expected:.1f} % would be by chance"
        fix = "batches would be of few classes: prepare it with `alexnet prepare`, which mixes"
        yield judged("order", alike > 0.5 + expected / 2, said, fix)


def _same_decoder(dataset: Dataset) -> Finding:
    then, now = dataset.manifest.get("decoder", {}), decoder()
    if then.get("fingerprint") == now["fingerprint"]:
        return Finding("good", "decoder", "makes the same pixels as when the dataset was prepared")
    others = [f"{name} {then.get(name)} → {now[name]}" for name in now if then.get(name) != now[name]]
    changed = ", ".join(name for name in others if not name.startswith("fingerprint")) or "another processor"
    return Finding(
        "odd",
        "decoder",
        f"makes other pixels than when the dataset was prepared ({changed})",
        "training is as good, but predict sees pictures a little otherwise; prepare again with these libraries",
    )


def of_run(root: Path, dataset: Dataset | None) -> Iterator[Finding]:
    """`dataset` is the one it was trained on, if that is there."""
    found = entry(root)
    if found.state == "damaged" and found.recipe is None:
        yield Finding(
            "bad", "run", found.said, "its checkpoints may still serve: alexnet eval its best.safetensors"
        )
        return
    run = open_run(root)
    yield Finding("good", "run", _progress(found))
    yield from _checkpoints(run)
    yield _same_dataset(run, dataset)
    yield from _hand_changes(run)


def _progress(found: Entry) -> str:
    best = f", best error {found.best_error:.2f} %" if found.best_error is not None else ""
    said = f" ({found.said})" if found.said and found.state == "finished" else ""
    return f"{found.state}{said}: {found.recipe}, epoch {found.epoch} of {found.epochs}, step {found.step:,}{best}"


def _checkpoints(run: Run) -> Iterator[Finding]:
    """Each read whole: names, shapes and checksum."""
    paths = [path for path in (run.last, run.previous, run.best) if path.exists()]
    if not paths:
        yield Finding(
            "odd", "checkpoints", "there is none yet", "the first comes with a validation or after --save-every"
        )
    for path in paths:
        try:
            steps = checkpoints.load(path).position.steps
            yield Finding("good", path.name, f"whole, of step {steps:,}")
        except AlexNetError as error:
            others = "a run goes on from the other one" if path != run.best else "the next better one replaces it"
            yield Finding("bad", path.name, error.message, f"delete it: {others}")


def _same_dataset(run: Run, dataset: Dataset | None) -> Finding:
    if dataset is None:
        return Finding(
            "odd", "dataset", "the one that it was trained on is not there", "name it: train --data DIR"
        )
    other = dataset.fingerprint != run.config.dataset
    said = f"{dataset.place} is {'not ' if other else ''}the one that it began with"
    return judged("dataset", other, said, "put that back: the run cannot go on with another", "bad")


def _hand_changes(run: Run) -> Iterator[Finding]:
    try:
        changes, waiting = rates.read(run)
    except AlexNetError as error:
        yield Finding("bad", "rates", error.message, error.hint)
        return
    said = [f"{change.request.words} after step {change.step:,}" for change in changes]
    said += [f"{request.words} when it goes on" for request in waiting]
    if said:
        yield Finding("good", "rates", "by hand: " + ", ".join(said))
