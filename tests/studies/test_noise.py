"""What is called noise, beside numpy and scipy."""

import numpy as np
import pytest
from scipy import stats

from alexnet_cli.studies.noise import T975, mean, paired, spread


def test_the_quantiles_are_students() -> None:
    assert np.allclose(T975, stats.t.ppf(0.975, np.arange(1, 31)), atol=6e-4)


@pytest.mark.parametrize("seeds", [2, 3, 5, 9])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 0.4, 2.0])
def test_a_difference_is_there_where_the_paired_test_says_so(seeds: int, shift: float) -> None:
    generator = np.random.default_rng(seeds)
    theirs = generator.normal(20, 5, seeds)
    ours = theirs + shift + generator.normal(0, 0.5, seeds)
    found = paired(dict(enumerate(ours)), dict(enumerate(theirs)))
    assert found is not None and found.error is not None and found.reach is not None
    assert found.mean == pytest.approx(np.mean(ours - theirs))
    assert found.error == pytest.approx(np.std(ours - theirs, ddof=1) / np.sqrt(seeds))
    test = stats.ttest_rel(ours, theirs)
    low, high = test.confidence_interval(0.95)
    assert (found.mean - found.reach, found.mean + found.reach) == pytest.approx((low, high), abs=2e-2, rel=2e-3)
    there = "higher" if test.statistic > 0 else "lower"
    assert found.verdict == (there if test.pvalue < 0.05 else "within the noise")


def test_only_seeds_that_both_have_are_paired() -> None:
    found = paired({1: 5.0, 2: 7.0, 4: 100.0}, {1: 4.0, 2: 4.0, 3: 50.0})
    assert found is not None and (found.seeds, found.mean) == (2, 2.0)
    assert paired({1: 5.0}, {2: 5.0}) is None


def test_one_seed_says_nothing() -> None:
    found = paired({1: 5.0}, {1: 4.0})
    assert found is not None and found.reach is None and found.verdict == "one seed"
    assert spread([3.0]) is None


def test_mean_and_deviation_are_numpys() -> None:
    values = [3.5, 9.25, 1.0, 4.0]
    assert (mean(values), spread(values)) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
