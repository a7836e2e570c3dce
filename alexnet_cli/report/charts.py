"""Learning curves as inline SVG: places on the paper, ticks, and few enough points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from alexnet_cli.report.history import Numbers

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 42
POINTS = 400
"""Of a line, at most: more than there are pixels help nobody."""


@dataclass(frozen=True)
class Line:
    run: str
    name: str
    place: int
    """Which of the runs it is of: that tells its colour."""
    x: Numbers
    y: Numbers
    kind: str
    """`faint`, `solid` or `dashed`."""
    path: str = ""


@dataclass(frozen=True)
class Mark:
    """Where a rate changed."""

    x: float
    words: str
    by_hand: bool


@dataclass(frozen=True)
class Chart:
    name: str
    unit: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]
    """Their x in pixels."""
    x_ticks: tuple[tuple[float, str], ...]
    """Pixels and words."""
    y_ticks: tuple[tuple[float, str], ...]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    data: list[dict[str, object]] = field(default_factory=list)
    """What a pointer is told: run, name, x and y of each line that is not faint."""


def chart(
    name: str,
    unit: str,
    title: str,
    y_label: str,
    lines: Sequence[Line],
    marks: Sequence[Mark],
    top: float | None = None,
) -> Chart:
    """Lay the lines out; `top` is where the y axis ends, if the largest value is of no interest."""
    lines = [thinned(line) for line in lines if len(line.x)]
    x_ticks = ticks(0.0, max((float(line.x.max()) for line in lines), default=1.0))
    y_ticks = ticks(0.0, top or max((float(line.y.max()) for line in lines), default=1.0))
    x_range, y_range = (0.0, x_ticks[-1]), (0.0, y_ticks[-1])
    drawn = [Line(**{**vars(line), "path": _path(line, x_range, y_range)}) for line in lines]
    data = [
        {"run": line.run, "name": line.name, "place": line.place, "x": _short(line.x), "y": _short(line.y)}
        for line in drawn
        if line.kind != "faint"
    ]
    return Chart(
        name,
        unit,
        title,
        f"{unit} of training",
        y_label,
        tuple(drawn),
        tuple(Mark(across(mark.x, x_range), mark.words, mark.by_hand) for mark in marks),
        tuple((across(value, x_range), f"{value:g}") for value in x_ticks),
        tuple((down(value, y_range), f"{value:g}") for value in y_ticks),
        x_range,
        y_range,
        data,
    )


def ticks(low: float, high: float) -> list[float]:
    """Some five round numbers that begin with `low` and reach `high`."""
    span = high - low if math.isfinite(high) and high > low else 1.0
    unit = 10.0 ** math.floor(math.log10(span / 5))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor * 6 >= span)
    count = math.ceil(span / step - 1e-9)
    return [low + step * n for n in range(count + 1)]


def thinned(line: Line) -> Line:
    """At most POINTS: of a faint line the extremes of each stretch, of another points evenly spaced."""
    count = len(line.x)
    if count <= POINTS:
        return line
    if line.kind == "faint":
        stretches = np.array_split(np.arange(count), POINTS // 2)
        pairs = [sorted({int(s[line.y[s].argmin()]), int(s[line.y[s].argmax()])}) for s in stretches]
        kept = np.concatenate([np.array(pair) for pair in pairs])
    else:
        kept = np.unique(np.linspace(0, count - 1, POINTS).round().astype(np.int64))
    return Line(line.run, line.name, line.place, line.x[kept], line.y[kept], line.kind)


def across(value: float, limits: tuple[float, float]) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (value - limits[0]) / (limits[1] - limits[0]), 1)


def down(value: float, limits: tuple[float, float]) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - limits[0]) / (limits[1] - limits[0]), 1)


def _path(line: Line, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    """Points that are not finite are passed over; what is above the chart is cut by its frame."""
    pairs = zip(line.x.tolist(), line.y.tolist(), strict=True)
    finite = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    points = [f"{across(x, x_range)},{down(y, y_range)}" for x, y in finite]
    return "M" + "L".join(points) if points else ""


def _short(values: Numbers) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist() if math.isfinite(value)]
