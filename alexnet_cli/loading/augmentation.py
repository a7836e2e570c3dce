"""From 256×256 squares to what the network sees: patches, reflections, the mean, colour noise (paper §2, §4.1)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli import paper, recipes
from alexnet_cli.loading import draws

MARGIN = paper.IMAGE_SIZE - paper.CROP_SIZE


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
class Views:
    """Where each picture of a batch is cut, (B,) each: upper left corner, and whether it is reflected."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    reflected: NDArray[np.bool_]


def training_views(recipe: recipes.Augmentation, seed: int, epoch: int, positions: NDArray[np.int64]) -> Views:
    """The drawn patches: 33×33 places, each reflected or not, as the 2012 code (the paper counts 32×32×2)."""
    places = MARGIN + 1
    centre = np.full(len(positions), MARGIN // 2)
    rows = draws.integers(seed, "row", epoch, positions, places) if recipe.crops == "random" else centre
    columns = draws.integers(seed, "column", epoch, positions, places) if recipe.crops == "random" else centre
    reflected = draws.integers(seed, "reflection", epoch, positions, 2) * recipe.reflections
    return Views(rows, columns, reflected.astype(bool))


def evaluation_views(crops: int, batch: int) -> list[Views]:
    """The centre patch, or the paper's ten: four corners and the centre, then their reflections (§4.1)."""
    middle = (MARGIN // 2, MARGIN // 2)
    corners = [(0, 0), (0, MARGIN), (MARGIN, 0), (MARGIN, MARGIN)]
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


def cut(pictures: Tensor, mean: Tensor, views: Views, noise: Tensor | None = None) -> Tensor:
    """uint8 (B, 3, 256, 256) → float32 (B, 3, 224, 224): the views, less the mean at the same place, plus noise.

    The same numbers, bit for bit, on any device; all tensors are on one.
    """
    on_host = pictures.device.type == "cpu"
    return _cut_by_slices(pictures, mean, views, noise) if on_host else _cut_by_index(pictures, mean, views, noise)


def _cut_by_slices(pictures: Tensor, mean: Tensor, views: Views, noise: Tensor | None) -> Tensor:
    """Picture by picture in the cache, with numpy: torch would start a team of threads in each loader thread."""
    side = paper.CROP_SIZE
    result = torch.empty((len(pictures), 3, side, side))
    target, source, average = result.numpy(), pictures.numpy(), mean.numpy()
    for i, (row, column, reflected) in enumerate(zip(views.rows, views.columns, views.reflected, strict=True)):
        across = slice(column, column + side)
        if reflected:
            across = slice(column + side - 1, column - 1 if column else None, -1)
        np.subtract(
            source[i, :, row : row + side, across],
            average[:, row : row + side, across],
            target[i],
            dtype=np.float32,
        )
        if noise is not None:
            target[i] += noise[i, :, None, None].numpy()
    return result


def _cut_by_index(pictures: Tensor, mean: Tensor, views: Views, noise: Tensor | None) -> Tensor:
    """The whole batch in a few launches."""
    device, batch, side = pictures.device, len(pictures), paper.CROP_SIZE
    rows, columns, reflected = (
        torch.from_numpy(v).to(device) for v in (views.rows, views.columns, views.reflected)
    )
    steps = torch.arange(side, device=device)
    down = rows[:, None] + steps  # (B, 224)
    across = columns[:, None] + torch.where(reflected[:, None], side - 1 - steps, steps)
    places = (down[:, :, None] * paper.IMAGE_SIZE + across[:, None, :]).view(batch, 1, -1).expand(-1, 3, -1)
    result = pictures.reshape(batch, 3, -1).gather(2, places).to(torch.float32)
    result -= mean.view(1, 3, -1).expand(batch, -1, -1).gather(2, places)
    if noise is not None:
        result += noise[:, :, None]
    return result.view(batch, 3, side, side)
