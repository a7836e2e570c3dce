"""What the trainer sees: the pictures of a training batch as they are stored, and as they reach the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli.dataset.manifest import Dataset
from alexnet_cli.loading.augmentation import Colours, Views, cut, patches_for, training_views
from alexnet_cli.loading.loader import Reader, TrainingBatches
from alexnet_cli.loading.plan import Plan, shard_lengths
from alexnet_cli.recipes import Recipe
from alexnet_cli.report import plotting
from alexnet_cli.report.plotting import VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4


@dataclass(frozen=True)
class Seen:
    """The first pictures of a batch, B of them."""

    stored: Tensor  # (B, 3, 256, 256) uint8
    trained: NDArray[np.float32]  # (B, side, side, 3), the mean added back and a recipe's scale undone
    views: Views
    labels: Tensor
    epoch: int
    step: int


def seen(dataset: Dataset, recipe: Recipe, seed: int, epoch: int, step: int, count: int) -> Seen:
    """What a run with this seed is given at `step` of `epoch`, both from 0, of the loader's own making."""
    split, size = dataset.splits["train"], recipe.optimizer.batch_size
    shards = shard_lengths(split.index["shard"])
    plan = Plan(len(split.index), size, seed, recipe.augmentation.reshuffled, shards)
    step %= plan.steps
    part = plan.part(epoch, step)
    count = min(count, len(part.positions))
    colours = Colours(torch.from_numpy(np.array(dataset.mean)), dataset.eigenvalues, dataset.eigenvectors)
    with Reader(split) as reader:
        batches = TrainingBatches(reader, plan, recipe, colours, seed, 0, 1, torch.device("cpu"))
        batch = batches((epoch, step))
        stored = torch.stack([reader.picture(sample) for sample in part.samples[:count].tolist()])
    patches = patches_for(recipe, colours.mean)
    views = training_views(recipe.augmentation, seed, epoch, part.positions[:count], patches.side)
    scale = torch.ones(()) if patches.scale is None else patches.scale
    if _shrinks(recipe, epoch):
        scale = scale / (1 + recipe.augmentation.colour_noise)
    # The same cut of black pictures is what was taken off: the mean, at its place.
    mean = -cut(torch.zeros_like(stored), patches, views) / (1.0 if patches.scale is None else patches.scale)
    trained = batch.pixels[:count] / scale + mean
    return Seen(stored, trained.permute(0, 2, 3, 1).numpy(), views, batch.labels[:count], epoch, step)


def _shrinks(recipe: Recipe, epoch: int) -> bool:
    noisy = recipe.augmentation.colour_noise and not 0 < recipe.schedule.colour_stop <= epoch
    return bool(noisy and recipe.augmentation.colour_shrinks)


def size(count: int) -> tuple[float, float]:
    """Inches."""
    return 2.6 * COLUMNS, 5.4 * -(-count // COLUMNS) + 0.6


def draw(figure: "Figure", found: Seen, classes: Sequence[str], recipe: Recipe) -> None:
    lines = -(-len(found.labels) // COLUMNS)
    axes = figure.subplots(2 * lines, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for place, label in enumerate(found.labels.tolist()):
        above, column = 2 * (place // COLUMNS), place % COLUMNS
        _stored(axes[above][column], found, place, plotting.shown(classes[label]))
        pixels = np.clip(np.rint(found.trained[place]), 0, 255).astype(np.uint8)
        plotting.picture(axes[above + 1][column], pixels, _done(found.views, place), interpolation="antialiased")
    figure.suptitle(
        f"Recipe {plotting.shown(recipe.name)}, epoch {found.epoch + 1}, batch {found.step + 1}: as stored, with "
        "the patch that was drawn;\nbelow as the network is given it, the mean added back"
    )


def _stored(axis: "Axes", found: Seen, place: int, title: str) -> None:
    from matplotlib.patches import Rectangle

    image = found.stored[place].permute(1, 2, 0).numpy()
    plotting.picture(axis, image, title, interpolation="antialiased")
    top, left, height, width = box(found.views, place, found.trained.shape[1])
    corner = left - 0.5, top - 0.5
    axis.add_patch(Rectangle(corner, width, height, fill=False, ec=VERMILION, lw=2, clip_on=False))
    if found.views.reflected[place]:
        axis.text(
            left + width / 2, top + 4, "⇄ mirrored", color="white", va="top", ha="center", fontsize=8,
            bbox={"fc": VERMILION, "ec": "none", "pad": 2},
        )  # fmt: skip


def box(views: Views, place: int, side: int) -> tuple[int, int, int, int]:
    """The patch of a picture: its upper row, left column, height and width in the stored picture."""
    height, width = (side, side) if views.sizes is None else views.sizes[place].tolist()
    return int(views.rows[place]), int(views.columns[place]), height, width


def _done(views: Views, place: int) -> str:
    where = f"from ({views.rows[place]}, {views.columns[place]})"
    return f"{where}, reflected" if views.reflected[place] else where
