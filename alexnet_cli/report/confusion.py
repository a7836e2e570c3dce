"""The confusion matrix: every number where classes are few, groups and frequent mistakes where they are many."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from alexnet_cli.report import plotting
from alexnet_cli.report.answers import Answers, confusion, most_confused

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 40
"""Classes whose names still can be read at the sides of a matrix."""
WRITTEN = 20
"""Classes whose numbers still can be read in it."""
PAIRS = 20


def size(classes: int) -> tuple[float, float]:
    """Inches."""
    return (3.5 + 0.42 * classes, 2.3 + 0.42 * classes) if classes <= NAMED else (14, 6.5)


def draw(figure: "Figure", answers: Answers, classes: Sequence[str]) -> None:
    error = f"{len(answers):,} pictures, top-1 error {answers.error(1):.2f} %"
    if len(classes) <= NAMED:
        axis = figure.subplots()
        _matrix(axis, answers, classes)
        figure.suptitle(f"What was taken for what: {error}")
        return
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    _groups(left, answers, len(classes))
    _pairs(right, answers, classes)
    figure.suptitle(f"{len(classes):,} classes: {error}")


def _matrix(axis: "Axes", answers: Answers, classes: Sequence[str]) -> None:
    count = len(classes)
    table = confusion(answers, count)
    shares = 100 * table / np.maximum(1, table.sum(1, keepdims=True))
    image = axis.imshow(shares, cmap=plotting.HEAT, vmin=0, vmax=100)
    names = [plotting.shown(name) for name in classes]
    axis.set_xticks(range(count), names, rotation=0 if max(map(len, names)) <= 2 else 90)
    axis.set_yticks(range(count), names)
    axis.set(xlabel="predicted class", ylabel="right class")
    axis.spines[:].set_visible(False)
    if count <= WRITTEN:
        for row, column in zip(*np.nonzero(table), strict=True):
            dark = shares[row, column] < 50
            axis.text(
                column, row, str(table[row, column]), ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
    axis.figure.colorbar(image, ax=axis, label="of the right class's pictures, %", shrink=0.8)


def _groups(axis: "Axes", answers: Answers, classes: int) -> None:
    from matplotlib.colors import LogNorm

    table = confusion(answers, classes)
    image = axis.imshow(
        np.ma.masked_equal(table, 0),
        cmap=plotting.HEAT,
        norm=LogNorm(1, max(2, int(table.max()))),
        extent=(0, classes, classes, 0),
        interpolation="nearest",
    )
    together = "" if len(table) == classes else f"; {len(table)} groups of neighbouring labels"
    axis.set(xlabel="predicted label", ylabel="right label", title=f"pictures{together}")
    ticks = _ticks(int(table.max()))
    label = "pictures (white: none)"
    bar = axis.figure.colorbar(image, ax=axis, label=label, shrink=0.8, ticks=ticks, format="{x:g}")
    bar.ax.minorticks_off()


def _ticks(largest: int) -> list[int]:
    """1, 2, 5, 10, … up to the largest count."""
    found = [unit * 10**power for power in range(len(str(largest))) for unit in (1, 2, 5)]
    return [tick for tick in found if tick <= largest]


def _pairs(axis: "Axes", answers: Answers, classes: Sequence[str]) -> None:
    pairs = most_confused(answers, PAIRS)
    totals = np.bincount(answers.labels, minlength=len(classes))
    places = range(len(pairs))
    axis.barh(places, [100 * times / totals[right] for right, _, times in pairs], color=plotting.BLUE)
    names = [f"{plotting.shown(classes[a], 20)} → {plotting.shown(classes[b], 20)}" for a, b, _ in pairs]
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_title(f"the {len(pairs)} most frequent mistakes: right → predicted")
    axis.set_xlabel("of the right class's pictures, %")
