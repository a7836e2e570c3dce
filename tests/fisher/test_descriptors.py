import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_cli.errors import AlexNetError
from alexnet_cli.fisher import descriptors
from alexnet_cli.fisher.descriptors import CELLS, PATCH, dense, sides

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def square() -> NDArray[np.uint8]:
    """Noise that has been made smooth, so that its gradients are not those of pixels alone."""
    import cv2

    return cv2.GaussianBlur(RNG.integers(0, 256, (256, 256, 3), dtype=np.uint8), (0, 0), 3)


def test_the_scales_are_a_root_of_two_apart() -> None:
    assert sides() == [256, 181, 128, 91, 64]


@pytest.mark.parametrize("step", [4, 7, 300])
def test_both_kinds_lie_on_the_same_grid(square: NDArray[np.uint8], step: int) -> None:
    sift, places = dense("sift", square, step)
    colour, same = dense("colour", square, step)
    count = sum(len(range(0, side - PATCH + 1, step)) ** 2 for side in sides())
    assert sift.shape == (count, 128) and colour.shape == (count, 96) and places.shape == (count, 2)
    assert (places == same).all() and (places > 0).all() and (places < 1).all()
    assert places[0] == pytest.approx([12 / 256, 12 / 256])
    assert sift.dtype == colour.dtype == places.dtype == np.float32


def test_colour_is_the_mean_and_the_deviation_of_each_cell(square: NDArray[np.uint8]) -> None:
    found, places = dense("colour", square, 20)
    count = len(range(0, 256 - PATCH + 1, 20)) ** 2
    for row in (0, 5, count - 1):  # of the first scale, which is the picture itself
        top, left = (round(256 * float(place)) - PATCH // 2 for place in places[row])
        patch = square[top : top + PATCH, left : left + PATCH].astype(np.float64)
        cells = patch.reshape(CELLS, PATCH // CELLS, CELLS, PATCH // CELLS, 3)
        means, deviations = found[row].reshape(2, CELLS, CELLS, 3)
        assert means == pytest.approx(cells.mean(axis=(1, 3)), abs=1e-3)
        assert deviations == pytest.approx(cells.std(axis=(1, 3)), abs=1e-2)


def test_sift_sees_the_patch_that_the_grid_names() -> None:
    """A bright spot is in the descriptor of the patch around it, and in none that it is far from."""
    square = np.full((256, 256, 3), 100, dtype=np.uint8)
    square[58:62, 98:102] = 255
    found, places = dense("sift", square, 4)
    first = len(range(0, 256 - PATCH + 1, 4)) ** 2
    distances = np.abs(256 * places[:first] - [60, 100]).max(1)
    felt = found[:first].any(1)
    assert felt[distances < 10].all() and not felt[distances > 40].any()


@pytest.mark.parametrize(("turned", "expected"), [(0, {0, 4}), (1, {2, 6})])
def test_sift_tells_directions(turned: int, expected: set[int]) -> None:
    """Stripes: their gradients point to both sides of them, and nowhere else."""
    stripes = (127 + 100 * np.sin(np.arange(256) / 3)).astype(np.uint8)
    square = np.repeat(np.tile(stripes, (256, 1))[:, :, None], 3, axis=2)
    found, _ = dense("sift", np.ascontiguousarray(np.rot90(square, turned)), 32)
    directions = found[: len(range(0, 256 - PATCH + 1, 32)) ** 2].reshape(-1, 16, 8).sum((0, 1))
    assert {*np.argsort(directions)[-2:].tolist()} == expected
    assert directions[[*expected]].sum() > 0.95 * directions.sum()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "find_spec", lambda name: None if name == "sklearn" else object())
    descriptors.needed()
    with pytest.raises(AlexNetError, match="needs scikit-learn, which is not installed") as caught:
        descriptors.needed(training=True)
    assert caught.value.hint == "pip install 'alexnet-cli[baseline]'"
    monkeypatch.setattr(descriptors, "find_spec", lambda _: None)
    with pytest.raises(AlexNetError, match="needs opencv-python-headless and scikit-learn"):
        descriptors.needed(training=True)
