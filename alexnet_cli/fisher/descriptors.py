"""Local descriptors on a regular grid at several scales: SIFT by OpenCV, and statistics of colour.

As in Sánchez & Perronnin, "High-dimensional signature compression for large-scale image classification" (CVPR
2011): patches of 24×24 pixels every 4 pixels at five scales, here the picture made smaller by √2 each time; SIFT
(Lowe, IJCV 2004) without a search for places or directions, and mean and standard deviation of R, G and B in each
of a patch's 4×4 cells (Clinchant, Csurka, Perronnin & Renders, ImageEval 2007).
"""

from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alexnet_cli import paper
from alexnet_cli.errors import AlexNetError

Kind = Literal["sift", "colour"]
LENGTHS: dict[Kind, int] = {"sift": 128, "colour": 96}

PATCH = 24  # pixels
CELLS = 4  # of a patch, in each direction
SCALES = 5
RATIO = 2**0.5  # of one scale to the next
KEYPOINT = PATCH / 6  # OpenCV's `size`: each of the four bins of a histogram is 1.5 of it wide

Floats = NDArray[np.float32]


def needed(training: bool = False) -> None:
    """Refuse to go on without the packages of the extra: OpenCV to see, scikit-learn to learn."""
    packages = {"cv2": "opencv-python-headless"} | ({"sklearn": "scikit-learn"} if training else {})
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if missing:
        raise AlexNetError(
            f"the Fisher-vector baseline needs {' and '.join(missing)}, which is not installed",
            "pip install 'alexnet-cli[baseline]'",
        )


def dense(kind: Kind, square: NDArray[np.uint8], step: int) -> tuple[Floats, Floats]:
    """Descriptors of a picture (256, 256, 3), one a row, and where their patches have their middle.

    (T, 128) of SIFT, 0..255, or (T, 96) of colour, in grey levels; the middles (T, 2) are row and column as shares
    of the picture's side. The grid is the same for both kinds.
    """
    import cv2

    if cv2.getNumThreads() != 1:  # whoever wants more cores sees several pictures at once
        cv2.setNumThreads(1)
    described, middles = [], []
    for side in sides():
        scaled: Any = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
        corners = np.arange(0, side - PATCH + 1, step)
        described.append(_sift(scaled, step) if kind == "sift" else _colour(scaled, corners))
        places = (corners + PATCH / 2) / side
        middles.append(np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2))
    return np.concatenate(described), np.concatenate(middles).astype(np.float32)


def sides() -> list[int]:
    """Of the picture at each scale, in pixels."""
    return [round(paper.IMAGE_SIZE / RATIO**scale) for scale in range(SCALES)]


def _sift(picture: NDArray[np.uint8], step: int) -> Floats:
    import cv2

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    _, found = cv2.SIFT.create().compute(grey, _keypoints(len(picture), step))
    return found.astype(np.float32, copy=False)


@lru_cache
def _keypoints(side: int, step: int) -> list[Any]:
    """Upright, of the first octave's first layer: the patch is seen as it is."""
    import cv2

    middles = np.arange(PATCH / 2 - 0.5, side - PATCH / 2, step).tolist()
    return [cv2.KeyPoint(x, y, KEYPOINT, 0, 0, 0) for y in middles for x in middles]


def _colour(picture: NDArray[np.uint8], corners: NDArray[np.int64]) -> Floats:
    import cv2

    cell = PATCH // CELLS
    # Of the cell that has its upper left corner at each pixel.
    means = cv2.boxFilter(picture, cv2.CV_32F, (cell, cell), anchor=(0, 0))
    squares = cv2.sqrBoxFilter(picture, cv2.CV_32F, (cell, cell), anchor=(0, 0))
    deviations = np.sqrt(np.maximum(squares - means**2, 0))
    places = corners[:, None] + cell * np.arange(CELLS)  # (grid, cells)
    rows, columns = places[:, None, :, None], places[None, :, None, :]
    both = np.stack([means[rows, columns], deviations[rows, columns]])  # (2, grid, grid, 4, 4, 3)
    found: Floats = np.moveaxis(both, 0, 2).reshape(len(corners) ** 2, LENGTHS["colour"])
    return found
