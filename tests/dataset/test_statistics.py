import numpy as np
import pytest

from alexnet_cli.dataset.shards import EXACT, Totals
from alexnet_cli.dataset.statistics import SIZE, Sums, no_sums, principal_components, statistics


def squares(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)


def sums_of(pictures: np.ndarray, cut: int = 2) -> Sums:
    parts = []
    for part in (pictures[:cut], pictures[cut:]):
        totals = Totals()
        for picture in part:
            totals.add(picture.transpose(1, 2, 0))
        parts.append(totals.sums())
    return sum(parts, no_sums())


def test_sums_are_exact_integers() -> None:
    pictures = squares(5)
    sums = sums_of(pictures)
    flat = pictures.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.int64)
    assert (sums.pictures, sums.pixels) == (5, 5 * SIZE * SIZE)
    assert sums.rgb == tuple(flat.sum(1).tolist())
    assert np.array_equal(sums.squares, pictures.astype(np.uint64).sum(0))
    assert np.array_equal(np.array(sums.products), flat @ flat.T)


def test_sums_of_white_do_not_round() -> None:
    count = EXACT + 3
    sums = sums_of(np.full((count, 3, SIZE, SIZE), 255, dtype=np.uint8), cut=EXACT + 1)
    assert sums.products == ((count * SIZE * SIZE * 255**2,) * 3,) * 3
    assert (sums.squares == count * 255).all()


def test_against_numpy_over_all_pixels() -> None:
    pictures = squares(4, seed=1)
    pictures[:, 1] = (pictures[:, 0] // 2 + pictures[:, 1] // 3).astype(np.uint8)
    found = statistics(sums_of(pictures))
    flat = pictures.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(flat, bias=True))
    assert np.allclose(found.mean, pictures.mean(0), atol=1e-5) and found.mean.dtype == np.float32
    assert np.allclose(found.rgb_mean, flat.mean(1), rtol=1e-12)
    assert np.allclose(found.covariance, np.cov(flat, bias=True), rtol=1e-10)
    assert np.allclose(found.eigenvalues, values[::-1], rtol=1e-9)
    for ours, theirs in zip(np.array(found.eigenvectors).T, vectors[:, ::-1].T, strict=True):
        assert abs(ours @ theirs) == pytest.approx(1, abs=1e-9)
        assert ours[np.abs(ours).argmax()] > 0


def test_grey_pictures_have_one_direction() -> None:
    grey = np.repeat(squares(3)[:, :1], 3, axis=1)
    found = statistics(sums_of(grey))
    assert found.eigenvalues[1:] == [0.0, 0.0] and found.eigenvalues[0] > 0
    assert np.allclose(np.array(found.eigenvectors)[:, 0], 3**-0.5)


def test_one_colour_has_no_direction_and_no_nan() -> None:
    found = statistics(sums_of(np.full((3, 3, SIZE, SIZE), 90, dtype=np.uint8)))
    assert found.eigenvalues == [0.0, 0.0, 0.0]
    assert np.isfinite(found.eigenvectors).all()


def test_components_of_random_matrices() -> None:
    generator = np.random.default_rng(2)
    for _ in range(200):
        root = generator.normal(size=(3, 3)) * generator.uniform(0.1, 100, 3)
        matrix = root @ root.T
        values, vectors = principal_components(matrix.tolist())
        assert values == sorted(values, reverse=True)
        v = np.array(vectors)
        assert np.allclose(v @ np.diag(values) @ v.T, matrix, rtol=1e-9, atol=1e-9 * values[0])
        assert np.allclose(v.T @ v, np.eye(3), atol=1e-12)


def sums_over(pictures: list[np.ndarray], size: int, cut: int = 2) -> Sums:
    """Of (H, W, 3) pictures of any shapes."""
    parts = []
    for part in (pictures[:cut], pictures[cut:]):
        totals = Totals(size)
        for picture in part:
            totals.add(picture)
        parts.append(totals.sums())
    return sum(parts, no_sums(size))


@pytest.mark.parametrize("size", [1, 16, 64, 100, 257])
@pytest.mark.parametrize("longest", [1, 3])
def test_any_size_and_any_shape_against_numpy(size: int, longest: int) -> None:
    generator = np.random.default_rng(size)
    shapes = [(size, size + int(extra)) for extra in generator.integers(0, (longest - 1) * size + 1, 9)]
    pictures = [
        generator.integers(0, 256, (*shape[:: 1 - 2 * (n % 2)], 3), np.uint8) for n, shape in enumerate(shapes)
    ]
    sums = sums_over(pictures, size)
    flat = np.concatenate([picture.reshape(-1, 3) for picture in pictures]).astype(np.int64)
    squares = [middle(picture, size) for picture in pictures]
    assert (sums.pictures, sums.pixels) == (9, len(flat))
    assert sums.rgb == tuple(flat.sum(0).tolist())
    assert np.array_equal(np.array(sums.products), flat.T @ flat)
    assert np.array_equal(sums.squares, np.sum(squares, axis=0, dtype=np.uint64).transpose(2, 0, 1))
    found = statistics(sums)
    assert found.mean.shape == (3, size, size)
    assert np.allclose(found.mean, np.mean(squares, axis=0).transpose(2, 0, 1), atol=1e-4)
    assert np.allclose(found.rgb_mean, flat.mean(0), rtol=1e-12)
    assert np.allclose(found.covariance, np.cov(flat.T, bias=True), rtol=1e-9, atol=1e-9)


def middle(picture: np.ndarray, size: int) -> np.ndarray:
    top, left = (picture.shape[0] - size) // 2, (picture.shape[1] - size) // 2
    return picture[top : top + size, left : left + size]


@pytest.mark.parametrize(
    "size, height, count", [(4, 19, 600), (64, 64, EXACT + 2), (64, 1024, 40), (250, 300, 60)]
)
def test_white_does_not_round_at_any_size(size: int, height: int, count: int) -> None:
    """The small numbers are emptied in time also where they are filled up in the middle of a picture."""
    white = np.full((height, size, 3), 255, dtype=np.uint8)
    sums = sums_over([white] * count, size, cut=count // 2)
    assert sums.products == ((count * height * size * 255**2,) * 3,) * 3
    assert sums.rgb == (count * height * size * 255,) * 3
    assert (sums.squares == count * 255).all()


def test_the_small_numbers_hold_what_they_are_given() -> None:
    assert EXACT * 255**2 <= 2**24 and EXACT * 255 <= 65535
