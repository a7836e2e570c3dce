"""The draws: against the same hash in plain Python, their distributions, and what they may depend on."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_cli.loading import draws

PURPOSES: tuple[draws.Purpose, ...] = (
    *("order", "row", "column", "reflection", "colour", "fc6", "fc7"),
    *("area", "ratio", "shards"),
)
MANY = np.arange(20_000)


# -- the hash, once more, with Python's own integers ----------------------------------------------------------


def mixed(x: int) -> int:
    """SplitMix64's finaliser."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def word(seed: int, purpose: draws.Purpose, epoch: int, position: int, unit: int) -> int:
    value = 0
    for coordinate in (seed, PURPOSES.index(purpose), epoch, position, unit):
        value = mixed((value + (coordinate + 1) * 0x9E3779B97F4A7C15) % 2**64)
    return value


def test_the_finaliser_is_splitmix64s() -> None:
    """The first outputs of the published generator for the state 0."""
    assert mixed(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    assert mixed(2 * 0x9E3779B97F4A7C15 % 2**64) == 0x6E789E6AA1B965F4


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**63),
    purpose=st.sampled_from(PURPOSES),
    epoch=st.integers(0, 10_000),
    positions=st.lists(st.integers(0, 2**40), max_size=5),
    units=st.integers(1, 5),
)
def test_bits_are_the_hash_of_their_coordinates(
    seed: int, purpose: draws.Purpose, epoch: int, positions: list[int], units: int
) -> None:
    found = draws.bits(seed, purpose, epoch, np.array(positions, dtype=np.int64), units)
    assert found.shape == (len(positions), units)
    assert found.tolist() == [[word(seed, purpose, epoch, p, u) for u in range(units)] for p in positions]


def test_a_mask_takes_sixteen_bits_a_unit_from_the_low_end() -> None:
    words = [word(1, "fc7", 2, 3, n) for n in range(3)]
    chances = [words[unit // 4] >> 16 * (unit % 4) & 0xFFFF for unit in range(10)]
    kept = draws.kept(1, "fc7", 2, np.array([3]), 10, 0.3)[0]
    assert kept.tolist() == [chance >= 0.3 * 65536 for chance in chances]


GOLDEN_BITS = [[0xF2A11B6519DF9DD3, 0xE2263EAA28C94879], [0x0A73C798002E13BC, 0x84ADCDEDE031985F]]
GOLDEN_ORDER = [1, 9, 2, 4, 8, 7, 6, 5, 0, 3]
GOLDEN_ROWS = [28, 14, 10, 26, 14, 21, 26, 14]
GOLDEN_NORMALS = [0.09536372109090713, 0.8196533945755043, 0.33122665282108615]
GOLDEN_KEPT = [0, 0, 0, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1]


def test_golden_values() -> None:
    """A change of these would change every run: old checkpoints could not go on."""
    assert draws.bits(1, "order", 0, np.arange(2), 2).tolist() == GOLDEN_BITS
    assert draws.permutation(1, 0, 10).tolist() == GOLDEN_ORDER
    assert draws.integers(1, "row", 2, np.arange(8), 33).tolist() == GOLDEN_ROWS
    assert draws.normals(1, "colour", 3, np.arange(1), 3)[0] == pytest.approx(GOLDEN_NORMALS, rel=1e-12)
    assert draws.kept(1, "fc6", 0, np.arange(1), 24, 0.5)[0].astype(int).tolist() == GOLDEN_KEPT


# -- pure functions of the position ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda positions: draws.bits(1, "row", 2, positions, 3),
        lambda positions: draws.uniforms(1, "row", 2, positions, 3),
        lambda positions: draws.integers(1, "row", 2, positions, 33),
        lambda positions: draws.normals(1, "colour", 2, positions, 3),
        lambda positions: draws.kept(1, "fc6", 2, positions, 37, 0.5),
    ],
    ids=["bits", "uniforms", "integers", "normals", "kept"],
)
def test_a_position_draws_the_same_whatever_it_is_drawn_with(draw) -> None:
    whole = draw(np.arange(300))
    for some in (np.array([7]), np.array([299, 0, 5, 5]), np.arange(0, 300, 7), np.arange(128, 131)):
        assert np.array_equal(draw(some), whole[some])
    assert len(draw(np.arange(0))) == 0


def test_more_units_leave_the_first_as_they_were() -> None:
    assert np.array_equal(draws.bits(1, "row", 2, MANY[:9], 7)[:, :3], draws.bits(1, "row", 2, MANY[:9], 3))
    assert np.array_equal(
        draws.kept(1, "fc6", 2, MANY[:9], 70, 0.5)[:, :33], draws.kept(1, "fc6", 2, MANY[:9], 33, 0.5)
    )


def test_seeds_purposes_epochs_positions_and_units_share_no_word() -> None:
    words = [
        draws.bits(seed, purpose, epoch, np.arange(50), 8)
        for seed in (0, 1, 2, 2**63)
        for purpose in PURPOSES
        for epoch in range(5)
    ]
    assert len(np.unique(np.concatenate(words))) == 4 * len(PURPOSES) * 5 * 50 * 8


def test_seeds_purposes_and_epochs_are_uncorrelated() -> None:
    streams = [
        draws.uniforms(seed, purpose, epoch, MANY, 1)[:, 0]
        for seed in (0, 1)
        for purpose in PURPOSES
        for epoch in (0, 1)
    ]
    # And with the same stream one place on.
    correlations = np.corrcoef([*streams, *(np.roll(stream, 1) for stream in streams)])
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 5 / np.sqrt(len(MANY))


# -- distributions --------------------------------------------------------------------------------------------


def chi_square(counts: np.ndarray) -> float:
    """In standard deviations from what is expected of so many equally likely cells."""
    expected, freedom = counts.sum() / counts.size, counts.size - 1
    return float((((counts - expected) ** 2).sum() / expected - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("purpose", PURPOSES)
def test_each_purpose_is_uniform_over_positions_units_and_epochs(purpose: draws.Purpose) -> None:
    for drawn in (
        draws.uniforms(8, purpose, 0, MANY, 2),
        draws.uniforms(8, purpose, 0, MANY[:2], 20_000),
        np.concatenate([draws.uniforms(8, purpose, epoch, MANY[:20], 1) for epoch in range(1000)]),
    ):
        assert abs(chi_square(np.bincount((drawn * 100).astype(int).ravel(), minlength=100))) < 4


def test_each_two_purposes_are_independent() -> None:
    """Pairs of tenths, which would show what correlation does not."""
    tenths = [(draws.uniforms(8, purpose, 3, MANY, 1)[:, 0] * 10).astype(int) for purpose in PURPOSES]
    for one, other in combinations(tenths, 2):
        assert abs(chi_square(np.bincount(one * 10 + other, minlength=100))) < 4
    assert chi_square(np.bincount(tenths[0] * 10 + tenths[0], minlength=100)) > 1000


@pytest.mark.parametrize("below", [2, 33, 1000])
def test_integers_are_uniform(below: int) -> None:
    drawn = draws.integers(3, "column", 1, MANY, below)
    assert drawn.min() == 0
    assert drawn.max() == below - 1
    assert abs(chi_square(np.bincount(drawn, minlength=below))) < 4


def test_each_position_can_have_a_bound_of_its_own() -> None:
    bounds = np.tile([1, 5, 33], 1000)
    drawn = draws.integers(3, "row", 1, np.arange(3000), bounds)
    for place, bound in enumerate((1, 5, 33)):
        alone = draws.integers(3, "row", 1, np.arange(place, 3000, 3), bound)
        assert np.array_equal(drawn[place::3], alone)
        assert set(alone) == set(range(bound))


def test_pairs_of_neighbours_are_uniform() -> None:
    """Rows with columns, and each row with that of the next position."""
    rows, columns = (draws.integers(3, purpose, 1, MANY, 33) for purpose in ("row", "column"))
    for others in (columns, np.roll(rows, 1)):
        assert abs(chi_square(np.bincount(rows * 33 + others, minlength=33 * 33))) < 4


def test_each_bit_is_set_half_of_the_time() -> None:
    words = draws.bits(4, "fc7", 0, MANY, 1)
    set_bits = ((words >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).mean(0)
    assert np.abs(set_bits - 0.5).max() < 4.5 * 0.5 / np.sqrt(len(MANY))


def test_uniforms_lie_in_the_half_open_interval() -> None:
    drawn = draws.uniforms(5, "row", 0, MANY, 3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert drawn.mean() == pytest.approx(0.5, abs=5 * np.sqrt(1 / 12 / drawn.size))


def test_normals_have_the_normal_moments_and_quantiles() -> None:
    drawn = draws.normals(6, "colour", 0, MANY, 3)
    error = 1 / np.sqrt(drawn.size)
    assert abs(drawn.mean()) < 5 * error
    assert drawn.var() == pytest.approx(1, abs=5 * np.sqrt(2) * error)
    assert (drawn**4).mean() == pytest.approx(3, abs=5 * np.sqrt(96) * error)
    for quantile, below in ((-1.959964, 0.025), (-0.674490, 0.25), (0.674490, 0.75), (2.575829, 0.995)):
        assert (drawn < quantile).mean() == pytest.approx(below, abs=5 * 0.5 * error)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 5 / np.sqrt(len(MANY))


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 0.99])
def test_masks_drop_at_their_rate_in_every_unit(dropout: float) -> None:
    kept = draws.kept(7, "fc6", 0, MANY[:4000], 50, dropout)
    assert kept.shape == (4000, 50)
    deviation = np.sqrt(dropout * (1 - dropout))
    assert kept.mean() == pytest.approx(1 - dropout, abs=5 * deviation / np.sqrt(kept.size) + 2**-17)
    assert np.abs(kept.mean(0) - (1 - dropout)).max() <= 5 * deviation / np.sqrt(4000) + 2**-17
    if dropout == 0.5:  # the four units of one word too are independent
        assert np.abs(np.corrcoef(kept.T) - np.eye(50)).max() < 5 / np.sqrt(4000)


# -- the order of an epoch ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 1000), count=st.integers(0, 300))
def test_a_permutation_has_every_index_once(seed: int, epoch: int, count: int) -> None:
    assert sorted(draws.permutation(seed, epoch, count).tolist()) == list(range(count))


def test_a_permutation_is_its_positions_sorted_by_their_words() -> None:
    words = [word(3, "shards", 4, position, 0) for position in range(100, 120)]
    expected = sorted(range(20), key=words.__getitem__)
    assert draws.permutation(3, 4, 20, "shards", first=100).tolist() == expected


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = {tuple(draws.permutation(seed, epoch, 20).tolist()) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_every_order_of_four_is_equally_likely() -> None:
    orders = [tuple(draws.permutation(seed, epoch, 4)) for seed in range(50) for epoch in range(40)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert abs(chi_square(counts)) < 4
