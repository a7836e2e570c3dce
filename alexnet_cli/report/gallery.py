"""Queries and their nearest pictures, as in the right half of the paper's Figure 4."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from alexnet_cli.report import plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Row:
    name: str
    query: Tensor  # (3, 256, 256) uint8
    found: Sequence[tuple[str, float, Tensor]]
    """Class, distance and picture, the nearest first."""


def size(rows: int, columns: int) -> tuple[float, float]:
    """Inches."""
    return 1.75 * (columns + 1) + 0.3, 2.1 * rows + 0.6


def draw(figure: "Figure", rows: Sequence[Row]) -> None:
    columns = max(len(row.found) for row in rows)
    axes = figure.subplots(len(rows), columns + 1, squeeze=False, width_ratios=[1.15, *[1] * columns])
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        plotting.picture(line[0], _pixels(row.query), plotting.shown(row.name, 22), interpolation="antialiased")
        for axis, (name, distance, picture) in zip(line[1:], row.found, strict=False):
            title = f"{plotting.shown(name, 18)}\n{distance:.4g}"
            plotting.picture(axis, _pixels(picture), title, interpolation="antialiased")
            axis.title.set_fontsize(9)
    figure.suptitle("Query, and the nearest pictures with their distance (L2) in the last hidden layer")


def _pixels(picture: Tensor) -> Any:
    return picture.permute(1, 2, 0).numpy()
