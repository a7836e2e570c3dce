"""Patches, reflections, mean and colour noise against explicit slicing and the printed formulas, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from alexnet_cli.loading import augmentation, draws
from alexnet_cli.loading.augmentation import Colours, Views, colour_noise, cut, evaluation_views, training_views
from alexnet_cli.recipes import Augmentation

PLAIN = Augmentation()
POSITIONS = np.arange(4000)
CORNERS = [(0, 0), (0, 32), (32, 0), (32, 32)]


def pictures(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, 3, 256, 256), dtype=np.uint8))


def mean() -> Tensor:
    return torch.from_numpy(np.random.default_rng(2).uniform(90, 140, (3, 256, 256)).astype(np.float32))


def colours(*eigenvalues: float) -> Colours:
    """Orthonormal axes that are no coordinate axes."""
    axes, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return Colours(mean(), np.array(eigenvalues or (14830.4, 1376.0, 388.9)), axes)


def views(*places: tuple[int, int, bool]) -> Views:
    rows, columns, reflected = zip(*places, strict=True)
    return Views(np.array(rows), np.array(columns), np.array(reflected))


def by_hand(picture: Tensor, average: Tensor, row: int, column: int, reflected: bool) -> np.ndarray:
    """The patch less the mean at its place, then reflected."""
    window = np.s_[:, row : row + 224, column : column + 224]
    patch = picture.numpy()[window].astype(np.float64) - average.numpy()[window].astype(np.float64)
    return patch[:, :, ::-1] if reflected else patch


PLACES = [(0, 0, False), (0, 0, True), (32, 32, False), (32, 32, True), (5, 19, False), (31, 1, True)]


@pytest.mark.parametrize("noisy", [False, True], ids=["plain", "with noise"])
def test_a_cut_is_the_patch_less_the_mean_there_then_reflected_then_coloured(noisy: bool) -> None:
    given, average = pictures(len(PLACES)), mean()
    noise = torch.from_numpy(np.random.default_rng(4).normal(0, 12, (len(PLACES), 3)).astype(np.float32))
    found = cut(given, average, views(*PLACES), noise if noisy else None)
    assert found.shape == (len(PLACES), 3, 224, 224)
    assert found.dtype == torch.float32
    for i, place in enumerate(PLACES):
        expected = by_hand(given[i], average, *place)
        if noisy:
            expected = expected + noise[i].double().numpy()[:, None, None]
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=0, atol=3e-5)  # of 255, rounded twice


def test_the_ways_of_the_cpu_and_of_accelerators_are_bit_equal() -> None:
    positions = np.arange(12)
    given, average, where = pictures(12), mean(), training_views(PLAIN, 5, 0, positions)
    assert where.reflected.any()
    assert not where.reflected.all()
    for noise in (None, colour_noise(PLAIN, colours(), 5, 0, positions)):
        by_slices = augmentation._cut_by_slices(given, average, where, noise)
        by_index = augmentation._cut_by_index(given, average, where, noise)
        assert torch.equal(by_slices, by_index)


@pytest.mark.parametrize("way", [augmentation._cut_by_slices, augmentation._cut_by_index])
def test_a_cut_leaves_the_pictures_and_the_mean_alone(way) -> None:
    given, average = pictures(2), mean()
    way(given, average, views((1, 2, True), (3, 4, False)), torch.ones(2, 3))
    assert torch.equal(given, pictures(2))
    assert torch.equal(average, mean())


# -- where is cut ---------------------------------------------------------------------------------------------


def test_ten_views_are_the_corners_and_the_centre_then_their_reflections() -> None:
    given, average = pictures(2), mean()
    found = [cut(given, average, view) for view in evaluation_views(10, 2)]
    assert len(found) == 10
    expected = [(*place, reflected) for reflected in (False, True) for place in [*CORNERS, (16, 16)]]
    for patch, place in zip(found, expected, strict=True):
        for i in range(2):
            exact = by_hand(given[i], average, *place)
            assert np.array_equal(patch[i].numpy(), exact.astype(np.float32))
    for i in range(5):  # a reflected view is the mirror image of the mean-subtracted patch
        assert torch.equal(found[i].flip(3), found[5 + i])


def test_one_view_is_the_centre() -> None:
    (view,) = evaluation_views(1, 3)
    assert view.rows.tolist() == view.columns.tolist() == [16, 16, 16]
    assert view.reflected.tolist() == [False, False, False]


def test_training_views_reach_all_33_by_33_places_and_their_reflections_alike() -> None:
    found = training_views(PLAIN, 1, 0, np.arange(40_000))
    counts = np.bincount((found.rows * 33 + found.columns) * 2 + found.reflected, minlength=33 * 33 * 2)
    assert counts.size == 33 * 33 * 2
    expected = 40_000 / counts.size
    deviations = (((counts - expected) ** 2).sum() / expected - counts.size) / np.sqrt(2 * counts.size)
    assert abs(deviations) < 4


def test_training_views_are_the_draws_of_their_purposes() -> None:
    found = training_views(PLAIN, 6, 3, POSITIONS)
    assert np.array_equal(found.rows, draws.integers(6, "row", 3, POSITIONS, 33))
    assert np.array_equal(found.columns, draws.integers(6, "column", 3, POSITIONS, 33))
    assert np.array_equal(found.reflected, draws.integers(6, "reflection", 3, POSITIONS, 2) == 1)


def test_crops_and_reflections_can_be_switched_off_apart_from_each_other() -> None:
    plain = training_views(PLAIN, 1, 0, POSITIONS)
    no_crops = training_views(replace(PLAIN, crops="centre"), 1, 0, POSITIONS)
    assert set(no_crops.rows) == set(no_crops.columns) == {16}
    assert np.array_equal(no_crops.reflected, plain.reflected)
    no_reflections = training_views(replace(PLAIN, reflections=False), 1, 0, POSITIONS)
    assert not no_reflections.reflected.any()
    assert np.array_equal(no_reflections.rows, plain.rows)


# -- colour ---------------------------------------------------------------------------------------------------


def formula(alphas: np.ndarray, found: Colours, scale: str) -> np.ndarray:
    """Σ pᵢ αᵢ √λᵢ; or [p1 p2 p3][α1λ1 α2λ2 α3λ3]ᵀ of pixels in [0, 1], in grey levels."""
    noise = np.zeros((len(alphas), 3))
    for i in range(3):
        strength = np.sqrt(found.eigenvalues[i]) if scale == "deviation" else found.eigenvalues[i] / 255**2 * 255
        noise += alphas[:, i, None] * strength * found.eigenvectors[:, i]
    return noise


@pytest.mark.parametrize("scale", ["deviation", "eigenvalue"])
def test_colour_noise_is_the_formula(scale) -> None:
    found = colour_noise(replace(PLAIN, colour_scale=scale), colours(), 2, 1, POSITIONS)
    expected = formula(0.1 * draws.normals(2, "colour", 1, POSITIONS, 3), colours(), scale)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("scale", "grey_levels"), [("deviation", 12.18), ("eigenvalue", 5.82)])
def test_the_noise_of_the_2012_datas_main_axis_is_so_many_grey_levels(scale, grey_levels: float) -> None:
    found = colours(121.7801**2, 37.0939**2, 19.7208**2)
    noise = colour_noise(replace(PLAIN, colour_scale=scale), found, 2, 1, POSITIONS).double().numpy()
    along = noise @ found.eigenvectors[:, 0]
    assert along.std() == pytest.approx(grey_levels, rel=5 / np.sqrt(2 * len(POSITIONS)))


def test_grey_data_gets_grey_noise() -> None:
    """Rank 1: all of the variance along (1, 1, 1), and two eigenvalues of 0."""
    axis, _ = np.linalg.qr(np.array([[1.0, 0, 0], [1, 1, 0], [1, 0, 1]]))
    grey = Colours(mean(), np.array([16_000.0, 0.0, 0.0]), axis)
    noise = colour_noise(PLAIN, grey, 2, 1, POSITIONS)
    assert torch.isfinite(noise).all()
    assert noise.std() > 1
    np.testing.assert_allclose(noise[:, 1:], noise[:, :1].expand(-1, 2), atol=1e-5)


def test_no_colour_noise_is_none() -> None:
    assert not colour_noise(replace(PLAIN, colour_noise=0.0), colours(), 2, 1, POSITIONS).any()


def test_a_position_is_coloured_the_same_whatever_it_is_drawn_with() -> None:
    """Even where the terms cancel, so that the way in which a sum is rounded would show."""
    for position in range(20):
        a1, a2, a3 = 0.1 * draws.normals(1, "colour", 0, np.array([position]), 3)[0]
        axes = np.array([[a2, -a1, 0.0], [0.0, a3, -a2], [a3, 0.0, -a1]])
        cancelling = Colours(mean(), np.array([2.0, 2.0, 2.0]), axes)
        together = colour_noise(PLAIN, cancelling, 1, 0, np.arange(20))
        for some in (np.array([position]), np.array([position, 3]), np.arange(position, position + 3)):
            assert torch.equal(colour_noise(PLAIN, cancelling, 1, 0, some)[0], together[position])
