"""A run that begins with the weights of another model: fine-tuning, and the chain of "1 CNN*" (paper §6).

The network must be the recipe's own. Its classifier is taken too where the classes are the same, and drawn anew
where they are not. The mean that is subtracted stays that of the weights, which have learnt to see pictures less
just that; the colour noise is the new pictures' own, since it imitates how their light varies: grey stays grey.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from alexnet_cli import recipes
from alexnet_cli.dataset.manifest import Dataset
from alexnet_cli.engine import models
from alexnet_cli.engine.checkpoint import Checkpoint, Position, Subject
from alexnet_cli.engine.prediction import treatment_for
from alexnet_cli.engine.session import subject_of
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import sha256
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.interchange.fitting import essence
from alexnet_cli.recipes import BOTTLENECK, Network, Recipe
from alexnet_cli.runs import model_file
from alexnet_cli.settings import differences


@dataclass(frozen=True)
class Source:
    """A file with the weights that a run begins with."""

    file: Path
    sha256: str


def source(given: Path) -> Source:
    """The best checkpoint of a run directory, or a file of any kind that holds weights."""
    file = model_file(given)
    try:
        return Source(file, sha256(file))
    except OSError as error:
        raise AlexNetError(
            f"--init-from {given}: {file} cannot be read: {error.strerror}",
            "a run that has begun needs it no more: `alexnet train --resume RUN` goes on without",
        ) from error


def first(found: Source, recipe: Recipe, seed: int, dataset: Dataset) -> tuple[Checkpoint, list[str]]:
    """The checkpoint of step 0 that a run begins with, and in words what was taken and what was not."""
    given, origin = models.load_weights(found.file)
    _check(found.file, given.recipe, recipe)
    order = _order(given.subject, dataset)
    weights = _drawn(recipe.network, len(dataset.classes), seed)
    taken = [*_taken(given.recipe.network, recipe.network, order)]
    for name in weights:
        layer = name.partition(".")[0]
        if layer in taken:
            weights[name] = given.weights[name][order] if layer == "fc8" else given.weights[name]
    subject = subject_of(dataset)
    subject = replace(subject, colours=replace(subject.colours, mean=given.subject.colours.mean))
    velocity = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    origin = origin or f"recipe {given.recipe.name}, step {given.position.steps:,}"
    said = [
        f"begins with {found.file} ({origin}): {', '.join(taken)}",
        *_said(recipe, taken, order, given, dataset),
    ]
    return Checkpoint(recipe, subject, Position(), weights, velocity), said


def _check(file: Path, found: Recipe, wanted: Recipe) -> None:
    """The weights must be those of a network that computes the same, apart from its classifier."""
    ours, theirs = (essence(replace(recipe.network, bottleneck=0)) for recipe in (wanted, found))
    wrong = [f"network.{key}" for key, _, _ in differences(ours, theirs)]
    wrong += ["the numbers of kernels and units"] * (not wrong and wanted.network.widths != found.network.widths)
    wrong += [f"preprocessing.{key}" for key, _, _ in differences(wanted.preprocessing, found.preprocessing)]
    if wrong:
        raise AlexNetError(
            f"{file} holds the weights of recipe {found.name}, not of {wanted.name}: other {', '.join(wrong[:3])}",
            f"alexnet train {_options(found)} --init-from {file}",
        )


def _options(recipe: Recipe) -> str:
    """What gives a net of the recipe, which may be of another version or have settings of its own."""
    try:
        named = recipes.named(recipe.name)
    except AlexNetError:
        return f"--recipe {recipe.name}"
    own = [(key, value) for key, value, _ in differences(recipe, named) if key.startswith(("network.", "preproc"))]
    written = ((key, ",".join(map(str, value)) if isinstance(value, tuple) else value) for key, value in own)
    return " ".join([f"--recipe {recipe.name}", *(f"--set {key}={value}" for key, value in written)])


def _order(theirs: Subject, ours: Dataset) -> list[int] | None:
    """For each class of the dataset its row in their classifier; None if the classes are not the same.

    WNIDs tell classes where both sides have them, names otherwise.
    """
    if None in (*theirs.wnids, *ours.wnids):
        before, now = theirs.classes, ours.classes
    else:
        before, now = theirs.wnids, ours.wnids  # type: ignore[assignment]
    if before == now:
        return [*range(len(now))]
    places = {name: row for row, name in enumerate(before)}
    if len(before) != len(now) or len(places) < len(before) or set(now) != set(before):
        return None
    return [places[name] for name in now]


def _drawn(net: Network, classes: int, seed: int) -> dict[str, Tensor]:
    model = AlexNet(net, classes)
    initialise(model, net, seed)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _taken(theirs: Network, ours: Network, order: list[int] | None) -> Iterator[str]:
    """The layers whose weights are taken: all but a bottleneck of another width, and what does not fit then."""
    same = (theirs.bottleneck > 0, theirs.last_inputs) == (ours.bottleneck > 0, ours.last_inputs)
    for layer in ours.layers:
        if (same or layer not in (BOTTLENECK, "fc8")) and (layer != "fc8" or order is not None):
            yield layer


def _said(
    recipe: Recipe, taken: list[str], order: list[int] | None, given: Checkpoint, dataset: Dataset
) -> Iterator[str]:
    for layer in recipe.network.layers:
        if layer not in taken and layer != "fc8":
            yield f"{layer} is new, drawn as the recipe says"
    classes, before = len(dataset.classes), len(given.subject.classes)
    if "fc8" not in taken:
        why = f"its {classes} classes are not the {before} of these weights" if order is None else "other inputs"
        yield f"fc8 is new, drawn as the recipe says: {why}"
    elif order != sorted(order or []):
        yield f"fc8 has the same {classes} classes, and its rows are put into this dataset's order"
    else:
        yield f"fc8 has the same {classes} classes"
    yield "the mean that is subtracted stays that of these weights; colour noise is of this dataset"
    trained, here = treatment_for(given.subject).geometry, dataset.treatment.geometry
    if trained != here:
        yield f"the weights were trained on pictures of --geometry {trained}, and these are of {here}"
