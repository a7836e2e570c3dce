"""From 256×256 squares to what the network sees: patches, reflections, the mean, colour noise (paper §2, §4.1)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli import paper, recipes
from alexnet_cli.loading import draws, resizing

# torchvision: ImageNet's mean colour and its standard deviations, of R, G and B in 0..1
# (references/classification/presets.py).
CHANNEL_MEANS = (0.485, 0.456, 0.406)
CHANNEL_DEVIATIONS = (0.229, 0.224, 0.225)

# torchvision's RandomResizedCrop: shares of the picture's area, ratios of width to height, and tries.
AREAS = (0.08, 1.0)
RATIOS = (3 / 4, 4 / 3)
TRIES = 10

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Colours:
    """What the training pictures say of colour: mean image (3, 256, 256) and the RGB covariance's axes.

    `eigenvalues` (3,) are variances in units of 0..255, `eigenvectors` (3, 3) has a column for each.
    """

    mean: Tensor
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]

    def on(self, device: torch.device) -> "Colours":
        return replace(self, mean=self.mean.to(device))


@dataclass(frozen=True)
class Patches:
    """What becomes of every patch x, (3, side, side), in training and at test: (x - mean) · scale."""

    side: int
    mean: Tensor
    """(3, 256, 256), of which the patch's own place counts; else for every patch the same, reflected or not."""
    scale: Tensor | None = None  # (3, 1, 1)

    @property
    def fixed(self) -> bool:
        """Whether the mean is the same for every patch."""
        return self.mean.shape[-1] < paper.IMAGE_SIZE

    def divided(self, by: float) -> "Patches":
        scale = self.mean.new_ones(3, 1, 1) if self.scale is None else self.scale
        return replace(self, scale=scale / by)


def patches_for(recipe: recipes.Recipe, mean: Tensor) -> Patches:
    """The recipe's preprocessing with the dataset's mean image."""
    side = recipe.network.crop
    if recipe.preprocessing.mean == "pixel":
        return Patches(side, mean)
    if recipe.preprocessing.mean == "centre":  # convdata_jpeg.py, data_mean_crop
        first = (paper.IMAGE_SIZE - side) // 2
        return Patches(side, mean[:, first : first + side, first : first + side])
    means, deviations = (mean.new_tensor(v).view(3, 1, 1) * 255 for v in (CHANNEL_MEANS, CHANNEL_DEVIATIONS))
    return Patches(side, means, 1 / deviations)


@dataclass(frozen=True)
class Views:
    """Where each picture of a batch is cut, (B,) each: upper left corner, and whether it is reflected."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    reflected: NDArray[np.bool_]
    sizes: NDArray[np.int64] | None = None
    """(B, 2): height and width of a box that is resized to the patch; None if it has the patch's size."""


def training_views(
    recipe: recipes.Augmentation,
    seed: int,
    epoch: int,
    positions: NDArray[np.int64],
    side: int = paper.CROP_SIZE,
) -> Views:
    """The drawn patches: 33×33 places, each reflected or not, as the 2012 code (the paper counts 32×32×2)."""
    shared = positions // recipe.sharing  # the neighbours that share a patch have one place to draw it for
    reflected = (draws.integers(seed, "reflection", epoch, shared, 2) * recipe.reflections).astype(bool)
    if recipe.crops == "centre":
        middle = np.full(len(positions), (paper.IMAGE_SIZE - side) // 2)
        return Views(middle, middle, reflected)
    sizes = _resized_sizes(seed, epoch, shared) if recipe.crops == "resized" else None
    heights, widths = (side, side) if sizes is None else sizes.T
    rows = draws.integers(seed, "row", epoch, shared, paper.IMAGE_SIZE + 1 - heights)
    columns = draws.integers(seed, "column", epoch, shared, paper.IMAGE_SIZE + 1 - widths)
    return Views(rows, columns, reflected, sizes)


def _resized_sizes(seed: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Heights and widths, (B, 2), as RandomResizedCrop.get_params draws them: the first try that fits."""
    shares = draws.uniforms(seed, "area", epoch, positions, TRIES) * (AREAS[1] - AREAS[0]) + AREAS[0]
    low, high = np.log(RATIOS)
    ratios = np.exp(draws.uniforms(seed, "ratio", epoch, positions, TRIES) * (high - low) + low)
    areas = shares * paper.IMAGE_SIZE**2
    tries = np.rint(np.sqrt(np.stack([areas / ratios, areas * ratios], 2))).astype(np.int64)  # (B, TRIES, 2)
    fits = (tries <= paper.IMAGE_SIZE).all(2)
    first = tries[np.arange(len(positions)), fits.argmax(1)]
    return np.where(fits.any(1)[:, None], first, paper.IMAGE_SIZE)


def evaluation_views(crops: int, batch: int, side: int = paper.CROP_SIZE) -> list[Views]:
    """The centre patch, or the paper's ten: four corners and the centre, then their reflections (§4.1)."""
    margin = paper.IMAGE_SIZE - side
    middle = (margin // 2, margin // 2)
    corners = [(0, 0), (0, margin), (margin, 0), (margin, margin)]
    places = [middle] if crops == 1 else [*corners, middle]
    return [
        Views(np.full(batch, row), np.full(batch, column), np.full(batch, reflected))
        for reflected in ([False] if crops == 1 else [False, True])
        for row, column in places
    ]


def colour_noise(
    recipe: recipes.Augmentation, colours: Colours, seed: int, epoch: int, positions: NDArray[np.int64]
) -> Tensor:
    """What is added to each picture's R, G and B, (B, 3) float32: Σ p_i α_i √λ_i, or α_i λ_i as printed (§4.1)."""
    alphas = draws.normals(seed, "colour", epoch, positions, 3) * recipe.colour_noise
    # The printed formula only makes sense for pixels in [0, 1]: λ/255², and the noise times 255 again.
    printed = recipe.colour_scale == "eigenvalue"
    strengths = colours.eigenvalues / 255 if printed else np.sqrt(colours.eigenvalues)
    # Not a matrix product: BLAS rounds a batch of one otherwise, and a rank may have one row.
    noise = ((alphas * strengths)[:, None] * colours.eigenvectors).sum(2)
    return torch.from_numpy(noise.astype(np.float32))


def cut(
    pictures: Tensor,
    patches: Patches,
    views: Views,
    noise: Tensor | None = None,
    memory: NDArray[np.float32] | None = None,
) -> Tensor:
    """uint8 (B, 3, 256, 256) → float32 (B, 3, side, side): the views less the mean, plus noise, all scaled.

    The same numbers, bit for bit, on any device; all tensors are on one. On a CPU they lie in channels_last, as
    decoded pictures do, and in `memory` (B, side, side, 3), if given.
    """
    if pictures.device.type != "cpu":
        return _cut_by_index(pictures, patches, views, noise)
    if memory is None:
        memory = np.empty((len(pictures), patches.side, patches.side, 3), dtype=np.float32)
    _cut_by_rows(memory.reshape(len(pictures), patches.side, -1), pictures, patches, views, noise)
    return torch.from_numpy(memory).permute(0, 3, 1, 2)


def _cut_by_rows(targets: Rows, pictures: Tensor, patches: Patches, views: Views, noise: Tensor | None) -> None:
    """Picture by picture in the cache."""
    side, mean = patches.side, patches.mean
    average = rows_of(mean.expand(3, side, side) if patches.fixed else mean)
    mirrored = None if patches.fixed else rows_of(mean.flip(2))
    scale = None if patches.scale is None else np.tile(patches.scale.numpy().ravel(), side)
    for i, view in enumerate(each_view(views, side)):
        target = targets[i]
        view.put(target, rows_of(pictures[i]))
        target -= average if mirrored is None else view.of(average, mirrored)
        if noise is not None:
            target += np.tile(noise[i].numpy(), side)
        if scale is not None:
            target *= scale


def rows_of(image: Tensor) -> NDArray[Any]:
    """(3, height, width) as rows of pixels, (height, width · 3); no copy of a decoded picture."""
    return image.permute(1, 2, 0).flatten(1).numpy()


@dataclass(frozen=True)
class _Crop:
    row: int
    column: int
    reflected: bool
    side: int

    def put(self, target: NDArray[Any], image: NDArray[np.uint8]) -> None:
        """Fill `target` (side, side · 3) with the patch of an image (256, 256 · 3)."""
        patch = self._window(image, self.column)
        target[:] = _reflected(patch) if self.reflected else patch

    def of(self, image: Rows, mirrored: Rows) -> Rows:
        """The patch of an image that is there in both ways."""
        if not self.reflected:
            return self._window(image, self.column)
        return self._window(mirrored, paper.IMAGE_SIZE - self.column - self.side)

    def _window(self, image: NDArray[Any], column: int) -> NDArray[Any]:
        return image[self.row : self.row + self.side, 3 * column : 3 * (column + self.side)]


def _reflected(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """By torch, which turns pixels of three bytes with vector instructions: a sixth of numpy's time.

    numpy makes the views: each that torch makes costs a turn at the interpreter, which other threads want too.
    """
    pixels = rows.reshape(1, len(rows), -1, 3).transpose(0, 3, 1, 2)  # what torch calls channels_last
    turned = torch.from_numpy(pixels).flip(3).numpy().transpose(0, 2, 3, 1)
    result: NDArray[np.uint8] = turned.reshape(rows.shape)
    return result


@dataclass(frozen=True)
class _Box:
    down: resizing.Sums
    across: resizing.Sums

    def put(self, target: NDArray[Any], image: NDArray[np.uint8]) -> None:
        target[:] = resizing.resized(image, self.down, self.across)

    def of(self, image: Rows, _mirrored: Rows) -> Rows:
        return resizing.resized(image, self.down, self.across)


def each_view(views: Views, side: int) -> Iterator[_Crop | _Box]:
    """Picture by picture, what puts its patch in a place."""
    if views.sizes is not None:
        return (_Box(down, across) for down, across in zip(*_taps(views, side), strict=True))
    places = zip(views.rows.tolist(), views.columns.tolist(), views.reflected.tolist(), strict=True)
    return (_Crop(row, column, reflected, side) for row, column, reflected in places)


def _cut_by_index(pictures: Tensor, patches: Patches, views: Views, noise: Tensor | None) -> Tensor:
    """The whole batch in a few launches."""
    take = _gathered if views.sizes is None else _gathered_and_resized
    average = patches.mean[None]
    result = take(pictures, views, patches.side).to(torch.float32)
    result -= average if patches.fixed else take(average, views, patches.side)
    if noise is not None:
        result += noise[:, :, None, None]
    if patches.scale is not None:
        result *= patches.scale
    return result


def _gathered(images: Tensor, views: Views, side: int) -> Tensor:
    """The patches of B images or of one, (B or 1, 3, 256, 256)."""
    batch, device = len(views.rows), images.device
    rows, columns, reflected = (
        torch.from_numpy(v).to(device) for v in (views.rows, views.columns, views.reflected)
    )
    steps = torch.arange(side, device=device)
    down = rows[:, None] + steps  # (B, side)
    across = columns[:, None] + torch.where(reflected[:, None], side - 1 - steps, steps)
    places = (down[:, :, None] * paper.IMAGE_SIZE + across[:, None, :]).view(batch, 1, -1).expand(-1, 3, -1)
    return images.flatten(2).expand(batch, -1, -1).gather(2, places).view(batch, 3, side, side)


def _gathered_and_resized(images: Tensor, views: Views, side: int) -> Tensor:
    down, across = _taps(views, side)
    return resizing.resized_batch(images.expand(len(views.rows), -1, -1, -1), down, across)


def _taps(views: Views, side: int) -> tuple[resizing.Taps, resizing.Taps]:
    """Of each picture's box, down its rows and across its columns."""
    assert views.sizes is not None
    heights, widths = views.sizes.T
    across = resizing.taps(views.columns, widths, side)
    return resizing.taps(views.rows, heights, side), across.reversed_where(views.reflected)
