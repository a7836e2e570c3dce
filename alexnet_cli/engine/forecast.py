"""How long a training will take here, and what disk and memory it needs, by a few steps at a small batch.

A step costs so much for each picture, and the update once; on a CPU the loader's work is shared by the same cores.
What else runs meanwhile is in the numbers, so they hold for a machine as busy as now.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F

from alexnet_cli import paper
from alexnet_cli.dataset.manifest import Dataset
from alexnet_cli.engine import optimizer
from alexnet_cli.engine.arithmetic import autocast, multiply_in
from alexnet_cli.engine.evaluation import BATCH_SIZE
from alexnet_cli.engine.launch import Placement
from alexnet_cli.engine.session import Every, subject_of
from alexnet_cli.loading.loader import Reader, TrainingBatches, threads
from alexnet_cli.loading.plan import Plan, shard_lengths
from alexnet_cli.machine import cores, keep_freed_memory
from alexnet_cli.network import describe
from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.network.layout import lay_out, usual_layout
from alexnet_cli.recipes import Recipe
from alexnet_cli.runs import Precision

PICTURES = 16
"""Of a measured step; in larger batches a picture costs a tenth less."""
ROUNDS = 3
LIBRARIES = 10**9
"""Bytes: torch and what it brings, the loader's buffers."""


@dataclass(frozen=True)
class Size:
    """What a training goes over."""

    classes: int
    training: int
    validation: int
    said: str
    """Whose pictures they are."""


@dataclass(frozen=True)
class Speed:
    """Seconds, for one picture if nothing else is said."""

    training: float
    update: float
    """Once a step."""
    validating: float
    loading: float
    """Of one thread; 0 if there was no dataset to measure it on."""
    share: float
    """Of all cores that the steps had."""


@dataclass(frozen=True)
class Forecast:
    steps: int
    """Of an epoch."""
    step_seconds: float
    epoch_seconds: float
    """With its validation."""
    share: float
    """Of the cores that this took while it was measured, where other programs wanted them too; else 1."""
    epochs: int
    """At most: a schedule that waits for plateaus may end before."""

    @property
    def seconds(self) -> float:
        return self.epochs * self.epoch_seconds


def busy() -> bool:
    """Whether more threads want the cores than there are; of the last minute."""
    return os.getloadavg()[0] > cores() + 0.5


def size_of(dataset: Dataset | None) -> Size:
    """Without a dataset that of ILSVRC-2012."""
    if dataset is None:
        return Size(paper.CLASSES, 1_281_167, 50_000, "ILSVRC-2012's 1,281,167 pictures")
    counts = {name: len(split.index) for name, split in dataset.splits.items()}
    training = counts.get("train", 0)
    return Size(len(dataset.classes), training, counts.get("val", 0), f"{dataset.place}'s {training:,} pictures")


def made(recipe: Recipe, size: Size, precision: Precision, place: Placement, dataset: Dataset | None) -> Forecast:
    """A few seconds' work."""
    speed = measured(recipe, size.classes, precision, torch.device(place.device), dataset)
    return forecast(recipe, size, speed, place.device == "cpu")


def forecast(recipe: Recipe, size: Size, speed: Speed, on_cpu: bool) -> Forecast:
    batch = recipe.optimizer.batch_size
    steps = -(-size.training // batch)
    loading = speed.loading / (cores() if on_cpu else threads())

    def both(work: float, rows: int, pictures: int) -> float:
        """All rows of a batch are computed, also where there are fewer pictures."""
        return rows * work + pictures * loading if on_cpu else max(rows * work, pictures * loading)

    step = both(speed.training, batch, max(1, min(batch, size.training))) + speed.update
    validated = -(-size.validation // BATCH_SIZE) * BATCH_SIZE
    # What the steps were kept from the cores was other programs' only where there are such.
    share = speed.share if on_cpu and busy() else 1.0
    return Forecast(share=share, step_seconds=step, steps=steps, epochs=recipe.schedule.epochs,
                    epoch_seconds=steps * step + both(speed.validating, validated, size.validation))  # fmt: skip


def kept(recipe: Recipe, size: Size, every: Every | None) -> int:
    """How many checkpoints stay, besides last, previous and best, if all epochs are trained."""
    steps = -(-size.training // recipe.optimizer.batch_size)
    each = every.steps(steps) if every else 0
    return each and recipe.schedule.epochs * steps // each


def checkpoint_bytes(recipe: Recipe, classes: int, kept: int = 0) -> int:
    """What a run takes on the disk at most: last, previous and the one being written, best and its next, the kept.

    Each has the mean image, and all but the best have the velocity.
    """
    weights = 4 * sum(layer.parameters for layer in describe.layers(recipe.network, classes))
    mean = 4 * 3 * paper.IMAGE_SIZE**2
    return (3 + kept) * (2 * weights + mean) + 2 * (weights + mean)


def step_bytes(recipe: Recipe, classes: int, precision: Precision, parts: int = 1) -> int:
    """Memory of a step: what a part of it keeps for the backward pass, and weights, gradients and velocity."""
    found = describe.layers(recipe.network, classes)
    kept = -(-recipe.optimizer.batch_size // parts) * sum(layer.kept for layer in found)
    half = 2 if precision in ("bf16", "fp16") else 1
    return 2 * kept // half + 3 * 4 * sum(layer.parameters for layer in found)


def measured(
    recipe: Recipe, classes: int, precision: Precision, device: torch.device, dataset: Dataset | None = None
) -> Speed:
    """By steps on random pixels, and by batches of the dataset where there is one."""
    keep_freed_memory()
    multiply_in(precision)
    net = recipe.network
    with torch.device("meta"):
        model = AlexNet(net, classes)
    model.to_empty(device=device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.01, 0.01)
    lay_out(model, usual_layout(device.type))
    velocity = optimizer.still(model)
    table = optimizer.rows(velocity, recipe.optimizer, 1e-6)
    optimizer.freeze(model, table)
    pixels = torch.randn(PICTURES, 3, net.crop, net.crop, device=device) * 50
    labels = torch.arange(PICTURES, device=device) % classes
    masks = tuple((torch.rand(PICTURES, width, device=device) > 0.5).float() for width in net.mask_widths)

    def step() -> None:
        with autocast(device, precision):
            logits = model(pixels, masks)
        torch.autograd.backward(F.cross_entropy(logits.float(), labels))

    def update() -> None:
        optimizer.update(model, velocity, table, recipe.optimizer.momentum, recipe.optimizer.velocity)

    @torch.no_grad()
    def validate() -> None:
        with autocast(device, precision):
            model(pixels)

    model.train()
    step()  # to warm up
    update()
    wall, cpu = time.perf_counter(), time.process_time()
    rounds = [(_seconds(step, device), _seconds(update, device)) for _ in range(ROUNDS)]
    share = (time.process_time() - cpu) / (time.perf_counter() - wall) / cores()
    stepping, updating = (median(column) for column in zip(*rounds, strict=True))
    model.eval()
    validating = median(_seconds(validate, device) for _ in range(ROUNDS))
    loading = _loading(recipe, dataset) if dataset and "train" in dataset.splits else 0.0
    return Speed(stepping / PICTURES, updating, validating / PICTURES, loading, min(1.0, share))


def _loading(recipe: Recipe, dataset: Dataset) -> float:
    """Seconds of one thread for a picture of the dataset, from the disk's cache to the net's input."""
    split = dataset.splits["train"]
    plan = Plan(len(split.index), PICTURES, 1, True, shard_lengths(split.index["shard"]))
    cpu = torch.device("cpu")
    with Reader(split) as reader:
        build = TrainingBatches(reader, plan, recipe, subject_of(dataset).colours, 1, 0, 1, cpu)
        places = range(min(ROUNDS + 1, plan.steps))
        seconds = [_seconds(partial(build, (0, step)), cpu) / plan.pictures_in(step) for step in places]
    return median(seconds[1:] or seconds)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start
