"""How every figure is drawn: matplotlib, opened when it is needed, in one style, into files written whole."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart (jfly.uni-koeln.de/color).
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6b6b6b"
HEAT = "cividis"
"""A scale of colours that grows in lightness, and looks alike to the colour-blind (Nuñez and others, 2018)."""

DOTS = 150  # of PNG files, to an inch
FORMATS = ("png", "svg")
LONGEST_NAME = 24

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called $x$
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "alexnet",  # equal data, equal file
}


def needed() -> None:
    """Raise AlexNetError where there is no matplotlib: before anything long is done for a figure."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        missing = "figures need matplotlib, which is not installed"
        raise AlexNetError(missing, "pip install 'alexnet-cli[figures]'") from error


@contextmanager
def figure(width: float, height: float) -> Iterator["Figure"]:
    """A figure of that many inches, to be filled and saved inside the block; AlexNetError without matplotlib."""
    needed()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a class name in another script: boxes
        yield Figure(figsize=(width, height), layout="constrained")


def save(drawn: "Figure", path: Path, title: str = "") -> None:
    """Write the figure in the format that the name ends in, whole or not at all."""
    kind = path.suffix.removeprefix(".").lower()
    if kind not in (*FORMATS, "pdf"):
        raise AlexNetError(f"{path}: no format of a figure", "let the name end in .png, .svg or .pdf")
    # Without the date and versions: equal data, equal file.
    about: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with whole_file(path) as temporary:
        drawn.savefig(temporary, format=kind, dpi=DOTS, metadata={"Title": title, **about})


def picture(axis: "Axes", pixels: NDArray[Any], title: str = "", **how: Any) -> None:
    """An image (H, W, 3) or (H, W) without ticks, each pixel a square of one colour."""
    axis.imshow(pixels, interpolation=how.pop("interpolation", "nearest"), **how)
    axis.set_axis_off()
    if title:
        axis.set_title(title)


def shown(name: str, longest: int = LONGEST_NAME) -> str:
    """A name out of data as a figure can have it: no control characters, not too long."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def mosaic(tiles: NDArray[Any], columns: int, gap: int = 1, between: float = 1.0) -> NDArray[Any]:
    """Tiles (N, h, w, …) in rows of `columns`, with gaps of the value `between`: (H, W, …)."""
    count, height, width, *rest = tiles.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *rest)
    sheet = np.full(shape, between, dtype=tiles.dtype)
    for place, tile in enumerate(tiles):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def columns_for(count: int, most: int = 16) -> int:
    """How many tiles a row has: the paper's 16 for 48, and no torn last row where there is a way around it."""
    even = next(columns for columns in range(min(most, count), 0, -1) if count % columns == 0)
    return even if 2 * even >= min(most, count) else min(most, count)


def columns_of_square(count: int) -> int:
    """The same where the whole sheet should be about as wide as high."""
    root = math.ceil(math.sqrt(count))
    return next((columns for columns in range(root, 2 * root) if count % columns == 0), root)
