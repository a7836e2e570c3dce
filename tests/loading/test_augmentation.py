"""Patches, reflections, mean and colour noise against explicit slicing and the printed formulas, in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, Normalize, RandomResizedCrop
from torchvision.transforms import functional as torchvision

from alexnet_cli import recipes
from alexnet_cli.loading import augmentation, draws
from alexnet_cli.loading.augmentation import (
    Colours,
    Patches,
    Views,
    colour_noise,
    cut,
    evaluation_views,
    patches_for,
    training_views,
)
from alexnet_cli.recipes import Augmentation

PLAIN, SHARED, RESIZED = Augmentation(), Augmentation(sharing=32), Augmentation(crops="resized")
POSITIONS = np.arange(4000)


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


def by_hand(
    picture: Tensor, average: Tensor, row: int, column: int, reflected: bool, side: int = 224
) -> np.ndarray:
    """The patch less the mean at its place, then reflected."""
    window = np.s_[:, row : row + side, column : column + side]
    patch = picture.numpy()[window].astype(np.float64) - average.numpy()[window].astype(np.float64)
    return patch[:, :, ::-1] if reflected else patch


def recipe_with(mean: str = "pixel", side: int = 224) -> recipes.Recipe:
    paper = recipes.paper()
    preprocessing = recipes.Preprocessing(mean=mean)
    return replace(paper, network=replace(paper.network, crop=side), preprocessing=preprocessing)


PLACES = [(0, 0, False), (0, 0, True), (29, 29, False), (29, 29, True), (5, 19, False), (28, 1, True)]


@pytest.mark.parametrize("side", [224, 227])
@pytest.mark.parametrize("noisy", [False, True], ids=["plain", "with noise"])
def test_a_cut_is_the_patch_less_the_mean_there_then_reflected_then_coloured(noisy: bool, side: int) -> None:
    given, average = pictures(len(PLACES)), mean()
    noise = torch.from_numpy(np.random.default_rng(4).normal(0, 12, (len(PLACES), 3)).astype(np.float32))
    found = cut(given, Patches(side, average), views(*PLACES), noise if noisy else None)
    assert found.shape == (len(PLACES), 3, side, side)
    assert found.dtype == torch.float32
    for i, place in enumerate(PLACES):
        expected = by_hand(given[i], average, *place, side)
        if noisy:
            expected = expected + noise[i].double().numpy()[:, None, None]
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=0, atol=3e-5)  # of 255, rounded twice


@pytest.mark.parametrize(("side", "margin"), [(224, 16), (227, 14)])
def test_the_2012_code_takes_the_means_central_patch_from_every_patch_and_never_reflects_it(
    side: int, margin: int
) -> None:
    given, average = pictures(len(PLACES)), mean()
    found = cut(given, patches_for(recipe_with("centre", side), average), views(*PLACES))
    central = average[:, margin : margin + side, margin : margin + side].double().numpy()
    for i, place in enumerate(PLACES):
        expected = by_hand(given[i], torch.zeros_like(average), *place, side) - central
        assert np.array_equal(found[i].numpy(), expected.astype(np.float32))


def test_the_mean_colour_is_torchvisions_normalization() -> None:
    given = pictures(2)
    found = cut(given, patches_for(recipe_with("channel"), mean()), views((16, 16, False), (3, 4, True)))
    normalized = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(given / 255)
    assert torch.allclose(found[0], normalized[0, :, 16:240, 16:240], rtol=0, atol=1e-6)
    assert torch.allclose(found[1], normalized[1, :, 3:227, 4:228].flip(2), rtol=0, atol=1e-6)


def test_a_noisy_patch_can_be_divided_as_in_the_2012_code() -> None:
    given, average, noise = pictures(len(PLACES)), mean(), torch.full((len(PLACES), 3), 7.0)
    for mean_of in ("centre", "channel"):
        patches = patches_for(recipe_with(mean_of), average)
        whole, divided = (cut(given, p, views(*PLACES), noise) for p in (patches, patches.divided(1.1)))
        assert torch.allclose(divided, whole / 1.1, rtol=1e-6, atol=0)


@pytest.mark.parametrize("side", [224, 227])
@pytest.mark.parametrize("mean_of", ["pixel", "centre", "channel"])
@pytest.mark.parametrize(
    "augmentations", [PLAIN, replace(PLAIN, sharing=4), RESIZED], ids=["random", "shared", "resized"]
)
def test_the_ways_of_the_cpu_and_of_accelerators_are_bit_equal(
    augmentations: Augmentation, mean_of: str, side: int
) -> None:
    positions = np.arange(26, 38)
    given, where = pictures(12), training_views(augmentations, 5, 0, positions, side)
    assert where.reflected.any()
    assert not where.reflected.all()
    patches = patches_for(recipe_with(mean_of, side), mean())
    noise = colour_noise(PLAIN, colours(), 5, 0, positions)
    for how in ((patches, where, None), (patches.divided(1.1), where, noise)):
        by_rows, by_index = augmentation.cut(given, *how), augmentation._cut_by_index(given, *how)
        assert by_rows.shape == (12, 3, side, side)
        assert torch.equal(by_rows, by_index)
        memory = np.full((12, side, side, 3), np.nan, dtype=np.float32)
        assert torch.equal(augmentation.cut(given, *how, memory), by_index)
        assert torch.equal(torch.from_numpy(memory).permute(0, 3, 1, 2), by_index)


@pytest.mark.parametrize("way", [augmentation.cut, augmentation._cut_by_index])
def test_a_cut_leaves_the_pictures_and_the_mean_alone(way) -> None:
    given, average = pictures(2), mean()
    way(given, Patches(224, average).divided(2), views((1, 2, True), (3, 4, False)), torch.ones(2, 3))
    assert torch.equal(given, pictures(2))
    assert torch.equal(average, mean())


# -- where is cut ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "margin"), [(224, 32), (227, 29)])
def test_ten_views_are_the_corners_and_the_centre_then_their_reflections(side: int, margin: int) -> None:
    given, average = pictures(2), mean()
    found = [cut(given, Patches(side, average), view) for view in evaluation_views(10, 2, side)]
    assert len(found) == 10
    corners = [(0, 0), (0, margin), (margin, 0), (margin, margin)]
    places = [*corners, (margin // 2, margin // 2)]
    expected = [(*place, reflected) for reflected in (False, True) for place in places]
    for patch, place in zip(found, expected, strict=True):
        for i in range(2):
            exact = by_hand(given[i], average, *place, side)
            assert np.array_equal(patch[i].numpy(), exact.astype(np.float32))
    for i in range(5):  # a reflected view is the mirror image of the mean-subtracted patch
        assert torch.equal(found[i].flip(3), found[5 + i])


@pytest.mark.parametrize(("side", "middle"), [(224, 16), (227, 14)])
def test_one_view_is_the_centre(side: int, middle: int) -> None:
    (view,) = evaluation_views(1, 3, side)
    assert view.rows.tolist() == view.columns.tolist() == [middle] * 3
    assert view.reflected.tolist() == [False, False, False]


@pytest.mark.parametrize(("side", "places"), [(224, 33), (227, 30)])
def test_training_views_reach_all_places_and_their_reflections_alike(side: int, places: int) -> None:
    found = training_views(PLAIN, 1, 0, np.arange(40_000), side)
    counts = np.bincount((found.rows * places + found.columns) * 2 + found.reflected, minlength=places**2 * 2)
    assert counts.size == places**2 * 2
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


def test_neighbours_share_a_patch_and_a_reflection() -> None:
    alone, shared = (training_views(a, 1, 4, np.arange(60, 200)) for a in (PLAIN, SHARED))
    first = training_views(PLAIN, 1, 4, np.arange(60, 200) // 32)
    for name in ("rows", "columns", "reflected"):
        assert np.array_equal(getattr(shared, name), getattr(first, name))
        assert not np.array_equal(getattr(shared, name), getattr(alone, name))
    changes = np.flatnonzero(np.diff(shared.rows * 33 + shared.columns)) + 61
    assert changes.tolist() == [64, 96, 128, 160, 192]


def test_neighbours_share_a_resized_box_too() -> None:
    shared = training_views(replace(RESIZED, sharing=4), 1, 4, np.arange(16))
    boxes = np.column_stack([shared.rows, shared.columns, shared.sizes])
    assert len(np.unique(boxes, axis=0)) == 4
    assert np.array_equal(boxes, boxes[::4].repeat(4, 0))


# -- boxes that are resized -----------------------------------------------------------------------------------


def box_by_hand(seed: int, epoch: int, position: int) -> tuple[int, int]:
    """RandomResizedCrop.get_params, line by line, for a square of 256."""
    place = np.array([position])
    shares, logs = (draws.uniforms(seed, name, epoch, place, 10)[0] for name in ("area", "ratio"))
    for share, log in zip(shares, logs, strict=True):
        area = 256 * 256 * (0.08 + share * 0.92)
        ratio = math.exp(math.log(3 / 4) + log * (math.log(4 / 3) - math.log(3 / 4)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if width <= 256 and height <= 256:
            return height, width
    return 256, 256


def test_boxes_are_drawn_as_torchvision_draws_them() -> None:
    found = training_views(RESIZED, 3, 1, POSITIONS)
    assert found.sizes is not None
    assert [tuple(size) for size in found.sizes.tolist()] == [box_by_hand(3, 1, n) for n in POSITIONS]
    assert (found.rows >= 0).all() and (found.rows + found.sizes[:, 0] <= 256).all()
    assert (found.columns >= 0).all() and (found.columns + found.sizes[:, 1] <= 256).all()


def test_boxes_are_distributed_as_torchvisions() -> None:
    found = training_views(RESIZED, 3, 1, POSITIONS)
    assert found.sizes is not None
    ours = np.column_stack([found.rows, found.columns, found.sizes])
    torch.manual_seed(1)
    picture = torch.empty(3, 256, 256)
    theirs = np.array([RandomResizedCrop.get_params(picture, (0.08, 1), (3 / 4, 4 / 3)) for _ in POSITIONS])
    for name, a, b in (
        *zip(("row", "column", "height", "width"), ours.T, theirs.T, strict=True),
        ("area", ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]),
        ("ratio", ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]),
        ("room", ours[:, 0] / (257 - ours[:, 2]), theirs[:, 0] / (257 - theirs[:, 2])),
    ):
        steps = np.unique(np.concatenate([a, b]))
        gaps = [np.searchsorted(np.sort(v), steps, "right") / len(v) for v in (a, b)]
        assert np.abs(gaps[0] - gaps[1]).max() < 1.95 * np.sqrt(2 / len(POSITIONS)), name  # Kolmogorov-Smirnov


def test_where_no_try_fits_the_box_is_the_whole_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "AREAS", (1.5, 1.6))
    found = training_views(RESIZED, 3, 1, np.arange(50))
    assert found.sizes is not None and (found.sizes == 256).all()
    assert not found.rows.any() and not found.columns.any()


BOXES = [
    (0, 0, 256, 256),
    (0, 0, 63, 84),
    (100, 3, 156, 253),
    (17, 30, 224, 224),
    (1, 200, 255, 56),
    (9, 9, 81, 80),
]


def boxes(*, reflected: bool) -> Views:
    rows, columns, heights, widths = np.array(BOXES).T
    return Views(rows, columns, np.full(len(BOXES), reflected), np.column_stack([heights, widths]))


@pytest.mark.parametrize("side", [224, 227])
def test_a_resized_patch_is_torchvisions(side: int) -> None:
    given = pictures(len(BOXES))
    plain = Patches(side, torch.zeros(3, 1, 1))
    found, turned = (cut(given, plain, boxes(reflected=reflected)) for reflected in (False, True))
    assert torch.allclose(turned, found.flip(3), rtol=0, atol=1e-4)
    for i, box in enumerate(BOXES):
        exact = torchvision.resized_crop(given[i].double(), *box, [side, side], antialias=True)
        assert torch.allclose(found[i].double(), exact, rtol=0, atol=1e-4)
        # Its training decodes with Pillow, which rounds to whole grey levels after the rows and after the columns.
        picture = torchvision.to_pil_image(given[i])
        rounded = torchvision.resized_crop(picture, *box, [side, side], InterpolationMode.BILINEAR)
        assert (found[i] - torchvision.pil_to_tensor(rounded)).abs().max() < 1.1


def test_a_resized_patch_is_less_the_mean_at_its_place() -> None:
    given, average, where = pictures(len(BOXES)), mean(), boxes(reflected=True)
    found = cut(given, Patches(224, average), where)
    nothing = Patches(224, torch.zeros(3, 1, 1))
    for i, (row, column, height, width) in enumerate(BOXES):
        difference = given[i].double() - average.double()
        exact = torchvision.resized_crop(difference, row, column, height, width, [224, 224], antialias=True)
        assert torch.allclose(found[i].double(), exact.flip(2), rtol=0, atol=1e-4)
    fixed = cut(given, patches_for(recipe_with("centre"), average), where)
    assert torch.equal(fixed, cut(given, nothing, where) - average[:, 16:240, 16:240])


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
