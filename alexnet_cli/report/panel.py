"""The left half of the paper's Figure 4: pictures, each over its most probable classes as bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import check_place
from alexnet_cli.report import plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
MOST = 48
"""Pictures in one panel."""
WIDTH, HEIGHT = 2.1, 3.3  # inches of one of them


@dataclass(frozen=True)
class Entry:
    name: str
    pixels: NDArray[np.uint8]  # (H, W, 3)
    guesses: Sequence[tuple[str, float]]
    """Classes and their probabilities, the most probable first."""
    right: str | None = None
    """The right class, where it is known."""


def check(path: Path, count: int) -> None:
    """Refuse what could not be drawn, before the work; raises AlexNetError."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise AlexNetError(f"{path}: no format of a figure", "let the name end in .png, .svg or .pdf")
    check_place(path)
    plotting.needed()
    if count > MOST:
        raise AlexNetError(f"--panel: {count} pictures are too many for one panel", f"give {MOST} at most")


def draw(path: Path, entries: Sequence[Entry]) -> None:
    """Write the panel as PNG, SVG or PDF."""
    columns = min(COLUMNS, len(entries))
    rows = -(-len(entries) // columns)
    with plotting.figure(WIDTH * columns, HEIGHT * rows + 0.4) as figure:
        figure.suptitle("The most probable classes" + _legend(entries), fontsize=11)
        grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[5, 3] * rows)
        for axis in grid.flat:
            axis.set_axis_off()
        for place, entry in enumerate(entries):
            row, column = divmod(place, columns)
            upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
            known = entry.right is not None
            title = plotting.shown(entry.right if entry.right is not None else Path(entry.name).name)
            plotting.picture(upper, entry.pixels)
            upper.set_title(title, fontsize=9, fontweight="bold" if known else "normal")
            _bars(lower, entry)
        plotting.save(figure, path, "Most probable classes")


def _legend(entries: Sequence[Entry]) -> str:
    if not any(entry.right is not None for entry in entries):
        return ""
    return "\nabove a picture in bold: its right class, which is marked ✓ and orange below"


def _bars(axis: "Axes", entry: Entry) -> None:
    """Horizontal bars from 0 to 1, each with its class written on it, as in the paper."""
    names = [name for name, _ in entry.guesses]
    shares = [share for _, share in entry.guesses]
    colours = [RIGHT if name == entry.right else OTHER for name in names]
    axis.set_axis_on()
    axis.barh(range(len(names)), shares, color=colours, height=0.86)
    for place, (name, share) in enumerate(entry.guesses):
        words: dict[str, Any] = {"fontsize": 8, "va": "center", "color": "black"}
        mark = "✓ " if name == entry.right else ""
        weight = "bold" if mark else "normal"
        axis.text(0.02, place, mark + plotting.shown(name, 22), fontweight=weight, **words)
        axis.text(1.0, place, f"{100 * share:.0f} %", ha="right", **words)
    axis.set(xlim=(0, 1), ylim=(max(len(names), 5) - 0.5, -0.5), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


# Light enough for black words on them; far apart in lightness and hue to every kind of eye.
RIGHT, OTHER = "#F5A26B", "#A9CCE8"
