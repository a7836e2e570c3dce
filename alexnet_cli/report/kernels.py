"""The first layer's kernels as in the paper's Figure 3: by tower, and all scaled together."""

from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexnet_cli.engine.checkpoint import Checkpoint
from alexnet_cli.report import plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = 1


def scaled(checkpoint: Checkpoint) -> tuple[str, NDArray[np.float32], float, float]:
    """The first layer's name, its kernels (K, size, size, 3) in 0..1, and the weights that are 0 and 1 there.

    One scale for all kernels and colours, as in the authors' shownet.py.
    """
    name = checkpoint.recipe.network.layers[0]
    weights = checkpoint.weights[f"{name}.weight"].detach().float().cpu().numpy()
    low, high = float(weights.min()), float(weights.max())
    span = high - low or 1.0
    return name, (weights.transpose(0, 2, 3, 1) - low) / span, low, high


def towers(checkpoint: Checkpoint) -> list[NDArray[np.float32]]:
    """The kernels of each tower as one image (H, W, 3) in 0..1: 16 a row, as in the paper, where that fits."""
    kernels = scaled(checkpoint)[1]
    parts = np.split(kernels, checkpoint.recipe.network.towers)
    return [plotting.mosaic(part, plotting.columns_for(len(part)), GAP) for part in parts]


def letter(tower: int) -> str:
    """Tower a is number 0; more than 26 towers begin anew."""
    return ascii_lowercase[tower % len(ascii_lowercase)]


def size(checkpoint: Checkpoint) -> tuple[float, float]:
    """Inches."""
    images = towers(checkpoint)
    height, width, _ = images[0].shape
    return 10.0, len(images) * (9.6 * height / width + 0.45) + 0.5


def draw(figure: "Figure", checkpoint: Checkpoint) -> None:
    name, kernels, low, high = scaled(checkpoint)
    images = towers(checkpoint)
    axes: Any = figure.subplots(len(images), 1, squeeze=False)[:, 0]
    for number, (axis, image) in enumerate(zip(axes, images, strict=True)):
        said = f"tower {letter(number)}: " if len(images) > 1 else ""
        plotting.picture(axis, image, f"{said}{len(kernels) // len(images)} kernels")
    size = kernels.shape[1]
    figure.suptitle(
        f"{name}: {len(kernels)} kernels of {size}×{size}×3, weights from {low:.3g} (black) to {high:.3g} (white)"
    )
