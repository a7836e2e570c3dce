"""The RGB principal components of the training pictures, and what the paper's noise along them does (§4.1)."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexnet_cli import paper
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.recipes import Augmentation
from alexnet_cli.report import plotting
from alexnet_cli.report.plotting import BLUE, GREEN, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

SIGMAS = (-3, -1, 0, 1, 3)
"""Of α."""


def noise(colours: Colours, augmentation: Augmentation) -> NDArray[np.float64]:
    """What one standard deviation of α adds to R, G and B along each axis, (axis, 3), in units of 0..255.

    A recipe without colour noise is shown what the paper's would do.
    """
    printed = augmentation.colour_scale == "eigenvalue"  # which is meant for pixels in 0..1
    strengths = colours.eigenvalues / 255 if printed else np.sqrt(colours.eigenvalues)
    sigma = augmentation.colour_noise or paper.COLOUR_NOISE
    along: NDArray[np.float64] = sigma * (strengths * colours.eigenvectors).T
    return along


def shifted(picture: NDArray[np.uint8], shift: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The picture (H, W, 3) with `shift` (3,) added, cut off at black and white; for the network it is not."""
    moved: NDArray[np.uint8] = np.clip(np.rint(picture + shift), 0, 255).astype(np.uint8)
    return moved


def draw(
    figure: "Figure", colours: Colours, augmentation: Augmentation, picture: NDArray[np.uint8], whose: str
) -> None:
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 2.1))
    top, below = parts
    _axes(top, colours)
    along, deviations = noise(colours, augmentation), np.sqrt(colours.eigenvalues)
    axes = below.subplots(3, len(SIGMAS))
    for row, shift in enumerate(along):
        for axis, sigma in zip(axes[row], SIGMAS, strict=True):
            title = "" if row else f"{sigma:+d}σ" if sigma else "as it is"
            plotting.picture(axis, shifted(picture, sigma * shift), title, interpolation="antialiased")
        said = f"axis {row + 1}\nσ = {deviations[row]:.1f}\nnoise {np.linalg.norm(shift):.1f}"
        axes[row][0].text(-0.08, 0.5, said, transform=axes[row][0].transAxes, ha="right", va="center")
    deviation = augmentation.colour_noise or paper.COLOUR_NOISE
    used = "" if augmentation.colour_noise else "this recipe adds none; here "
    used += f"α of deviation {deviation:g}, in grey levels of 0..255"
    below.suptitle(f"Colour noise on {plotting.shown(whose, 40)}: {used}", fontsize=11)


def _axes(top: "SubFigure", colours: Colours) -> None:
    left, right = top.subplots(1, 2)
    places = np.arange(3)
    for channel, (name, colour) in enumerate(zip("RGB", (VERMILION, GREEN, BLUE), strict=True)):
        parts = colours.eigenvectors[channel]
        left.bar(places + 0.25 * (channel - 1), parts, width=0.22, color=colour, label=name)
    left.axhline(0, color="black", lw=0.8)
    left.set_xticks(places, ["axis 1", "axis 2", "axis 3"])
    left.set(title="Principal components of RGB", ylabel="part of the unit vector", ylim=(-1.05, 1.05))
    left.legend(loc="lower left", bbox_to_anchor=(1, 0))
    deviations = np.sqrt(colours.eigenvalues)
    bars = right.bar(places, deviations, width=0.5, color=plotting.GREY)
    right.bar_label(bars, [f"{value:.1f}" for value in deviations])
    right.set_xticks(places, ["axis 1", "axis 2", "axis 3"])
    right.margins(y=0.15)
    right.set(title="Standard deviations √λ", ylabel="grey levels of 0..255")
