"""What is said, or stops a training, before it is lost: with the layer, the pictures and the likely cause."""

import math
import os
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_cli.dataset.manifest import Dataset, Split
from alexnet_cli.engine.arithmetic import autocast, enough_memory, parts
from alexnet_cli.errors import Diverged
from alexnet_cli.loading.loader import TrainingBatch
from alexnet_cli.recipes import Recipe
from alexnet_cli.runs import Config

SHOWN = 3
"""Pictures or classes that a message names."""

AT_ONCE = 1 << 20  # index rows


# --- out of memory


def memory(batch_size: int, parts: int) -> AbstractContextManager[None]:
    """Say what to do where a step does not fit into the memory of its device."""
    return enough_memory(
        f"for a step of {batch_size} pictures" + (f" in {parts} parts" if parts > 1 else ""),
        f"--accumulate {2 * parts} computes it in {2 * parts} parts, with the same result; or take a smaller "
        "--batch-size",
    )


# --- numbers that are none


def blame(model: nn.Module, batch: TrainingBatch, split: Split, config: Config, classes: tuple[str, ...]) -> str:
    """Where the numbers of this batch first are none, and at which pictures; empty if not among this rank's.

    The forward pass is made again, layer by layer watched; the gradients of the first one are still there.
    """
    spoilt = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    if spoilt:
        return f"the weights {', '.join(spoilt[:SHOWN])} are no numbers any more"
    if found := _first_overflow(model, batch, config):
        layer, samples = found
        return f"the outputs of {layer} are no numbers at {_named(split, samples, classes)}"
    wrong = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.norm().isfinite()]
    if wrong:  # the backward pass begins at the last layer, so there it went wrong first
        return f"the gradient of {wrong[-1]} is too large; the batch has {_named(split, batch.samples, classes)}"
    return ""


@torch.no_grad()
def _first_overflow(
    model: nn.Module, batch: TrainingBatch, config: Config
) -> tuple[str, NDArray[np.int64]] | None:
    """The first layer, as they run, whose outputs are not finite, and the pictures where they are not."""
    seen: list[tuple[str, Tensor]] = []

    def watch(_module: nn.Module, _inputs: Any, output: Tensor, name: str) -> None:
        seen.append((name, ~output.isfinite().flatten(1).all(1)))

    model.train()  # with the batch's dropout, as the step was
    layers = [(name, module) for name, module in model.named_modules() if name]
    hooks = [module.register_forward_hook(partial(watch, name=name)) for name, module in layers]
    try:
        for part, _ in parts(batch, config.machine.accumulate, model):
            seen.clear()
            with autocast(batch.labels.device, config.precision):
                model(part.pixels, part.masks)
            for name, bad in seen:
                rows = (bad & (part.weights > 0)).cpu().numpy()[: len(part.samples)]
                if rows.any():
                    return name, part.samples[rows]
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _named(split: Split, samples: NDArray[np.int64], classes: tuple[str, ...]) -> str:
    """A few of the pictures, by shard, key and class."""
    few = [_picture(split, int(sample), classes) for sample in samples[:SHOWN]]
    more = f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else ""
    return ", ".join(few) + more


def _picture(split: Split, sample: int, classes: tuple[str, ...]) -> str:
    shard, offset, _, label = split.index[sample].item()
    path = split.shards[shard]
    try:
        with path.open("rb") as file:  # a member's name begins the block before its data
            name = os.pread(file.fileno(), 100, offset - 512).split(b"\0")[0].decode("utf-8", "replace")
    except OSError:  # the shard is far away
        name = f"byte {offset}"
    return f"{path.name}:{name} ({classes[label]})"


def check_weights(model: nn.Module, velocity: dict[str, Tensor], step: int) -> None:
    """Raise AlexNetError for numbers that must not take the place of good ones on the disk."""
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    tensors |= {f"velocity of {name}": v for name, v in velocity.items()}
    if not torch.nn.utils.get_total_norm(tensors.values()).isfinite():
        wrong = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if wrong:
            raise Diverged(
                f"after step {step} the weights are no numbers any more: {', '.join(wrong[:SHOWN])}",
                "they were not saved, and the last checkpoint is as it was; try a lower rate, --lr",
            )


# --- a loss that stays where it is

LOOKED_AT = 300
"""Steps whose mean loss is compared with chance."""
SOONEST = 500
"""Steps before it is."""


class Chance:
    """Says once that the loss has stayed at what guessing gives.

    With 1000 classes a healthy run may sit there for thousands of steps (BVLC/caffe issues 59 and 401), with ten
    for some thirty (docs/initialisation.md).
    """

    def __init__(self, dataset: Dataset, recipe: Recipe) -> None:
        self._dataset, self._recipe = dataset, recipe
        self._losses: deque[float] = deque(maxlen=LOOKED_AT)
        self._after, self._said = max(SOONEST, 5 * len(dataset.classes)), False

    @cached_property
    def _guessing(self) -> float:
        """The lowest mean loss without looking at the pictures: the entropy of their labels, in nats."""
        counts = label_counts(self._dataset, "train")
        shares = counts[counts > 0] / counts.sum()
        return -math.fsum(shares * np.log(shares))

    def said_of(self, step: int, loss: float) -> str:
        """What to tell the user after this step, mostly nothing."""
        self._losses.append(loss)
        if self._said or step < self._after or len(self._losses) < LOOKED_AT:
            return ""
        mean, guessing = sum(self._losses) / LOOKED_AT, self._guessing
        if mean < 0.99 * guessing or guessing == 0:
            return ""
        self._said = True
        return (
            f"the loss has been {mean:.3f} for {LOOKED_AT} steps, and guessing by the classes' frequencies gives "
            f"{guessing:.3f}: nothing is learnt. {self._cause()}"
        )

    def _cause(self) -> str:
        net = self._recipe.network
        others = "labels that do not belong to their pictures, or a rate too low"
        if net.dropout_scaling == "training" and net.dropout and net.initial == "gaussian" and net.bias >= 1:
            return (
                "Likely: dropout that doubles what it keeps with biases of 1, which throws the last layer off at "
                f"the start; --set dropout_scaling=test is the paper's. Else a rate too high, --lr, or {others}"
            )
        tenth = self._recipe.optimizer.rate / 10
        return f"Likely: a rate too high at the start; try a tenth, --lr {tenth:g}. Else {others}"


def label_counts(dataset: Dataset, split: str) -> NDArray[np.int64]:
    """(classes,): pictures of each."""
    index, classes = dataset.splits[split].index, len(dataset.classes)
    counts = np.zeros(classes, dtype=np.int64)
    for start in range(0, len(index), AT_ONCE):  # memory-mapped, and may be large
        counts += np.bincount(index["label"][start : start + AT_ONCE], minlength=classes)
    return counts


# --- a dataset that does not fit


def unjudged(dataset: Dataset, recipe: Recipe) -> str:
    """What is amiss in a dataset without validation pictures; empty where it has some, in use or not."""
    if "val" in dataset.manifest["splits"]:
        return ""
    waits = not (recipe.schedule.drop_epochs or recipe.schedule.drop_steps)
    return "there are none: " + "the rate is never divided and " * waits + "no best checkpoint is kept"


def misfits(dataset: Dataset, recipe: Recipe) -> Iterator[str]:
    """What of the dataset is otherwise than the recipe or the net's outputs need."""
    absent = np.flatnonzero(label_counts(dataset, "train") == 0)
    if len(absent):
        few = ", ".join(dataset.classes[label] for label in absent[:SHOWN]) + (
            ", …" if len(absent) > SHOWN else ""
        )
        lost = label_counts(dataset, "val")[absent].sum() if "val" in dataset.splits else 0
        yield (
            f"{len(absent)} of {len(dataset.classes)} classes have no training picture ({few}): they are never "
            f"the answer{f', and {lost:,} validation pictures will be wrong' if lost else ''}. Was the dataset "
            "prepared with a small --limit, or are folders empty?"
        )
    geometry, by_caffe = dataset.treatment.geometry, recipe.name.split("+")[0] == "caffe"
    if geometry == "warp" and not by_caffe:
        yield "the pictures are warped to squares, as in Caffe's tutorial; the paper cuts out the middle"
    if geometry != "warp" and by_caffe:
        yield (
            "the pictures are cut to squares, as in the paper; Caffe's tutorial warps them, which alexnet prepare "
            "--geometry warp does"
        )
