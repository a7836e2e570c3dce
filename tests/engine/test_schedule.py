"""The plateau rule, validation by validation, and the rate it means."""

from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_cli.engine.schedule import Plateau
from alexnet_cli.recipes import Schedule

PAPER = Schedule()  # ÷10, three drops, patience 5, threshold 0.1


def after(errors: list[float], schedule: Schedule = PAPER) -> Plateau:
    plateau = Plateau()
    for error in errors:
        plateau = plateau.after(error, schedule)
    return plateau


def test_the_first_validation_is_the_best_so_far() -> None:
    assert after([90.0]) == Plateau(best=90.0, waited=0, count=0)


def test_an_improvement_by_the_threshold_starts_the_wait_anew() -> None:
    assert after([50.0, 51.0, 50.0]) == Plateau(50.0, waited=2)
    assert after([50.0, 51.0, 50.0, 49.75]) == Plateau(49.75, waited=0)
    assert after([50.0, 49.5], replace(PAPER, threshold=0.5)) == Plateau(49.5, waited=0)  # by just as much


def test_less_than_the_threshold_is_no_improvement_but_adds_up() -> None:
    assert after([50.0, 49.95]) == Plateau(50.0, waited=1)
    assert after([50.0, 49.95, 49.92, 49.85]) == Plateau(49.85, waited=0)


def test_five_validations_without_improvement_are_a_plateau() -> None:
    assert after([50.0, *[50.0] * 4]) == Plateau(50.0, waited=4, count=0)
    assert after([50.0, *[50.0] * 5]) == Plateau(50.0, waited=0, count=1)
    assert after([50.0, *[60.0] * 5]) == Plateau(50.0, waited=0, count=1)  # the best is not forgotten
    assert after([50.0, *[60.0] * 4, 49.97]) == Plateau(49.97, waited=0, count=1)


def test_a_whole_training_drops_three_times_and_ends_at_the_fourth_plateau() -> None:
    plateau, rates, ends = Plateau(), [], []
    for _ in range(21):
        plateau = plateau.after(40.0, PAPER)
        rates.append(plateau.rate(0.01, PAPER))
        ends.append(plateau.ended(PAPER))
    assert rates == pytest.approx([0.01] * 5 + [0.001] * 5 + [0.0001] * 5 + [0.00001] * 6, rel=1e-12)
    assert ends == [False] * 20 + [True]


def test_the_numbers_are_the_recipes() -> None:
    schedule = Schedule(drop=2.0, drops=1, patience=2, threshold=1.0)
    assert after([50.0, 49.5, 49.2], schedule) == Plateau(49.2, count=1)
    assert Plateau(count=1).rate(0.08, schedule) == 0.04
    assert Plateau(count=2).rate(0.08, schedule) == 0.04
    assert not Plateau(count=1).ended(schedule)
    assert Plateau(count=2).ended(schedule)


def test_without_drops_the_first_plateau_ends_the_training() -> None:
    schedule = replace(PAPER, drops=0)
    assert Plateau().rate(0.01, schedule) == 0.01
    assert after([50.0] * 6, schedule).ended(schedule)


def test_a_plateau_is_a_value_that_no_step_changes() -> None:
    plateau = after([50.0, 51.0])
    plateau.after(51.0, PAPER)
    plateau.rate(0.01, PAPER)
    assert plateau == after([50.0, 51.0])
    with pytest.raises(FrozenInstanceError):
        plateau.count = 3  # type: ignore[misc]


@settings(deadline=None, max_examples=60)
@given(errors=st.lists(st.integers(0, 1000), max_size=60), cut=st.integers(0, 60))
def test_it_can_be_stored_anywhere_and_gone_on_from_and_the_rate_never_rises(errors: list[int], cut: int) -> None:
    percent = [error / 10 for error in errors]
    plateau = after(percent[:cut])
    stored = Plateau(plateau.best, plateau.waited, plateau.count)
    before = stored.rate(0.01, PAPER)
    for error in percent[cut:]:
        stored = stored.after(error, PAPER)
        assert stored.rate(0.01, PAPER) <= before
        assert 0 <= stored.waited < PAPER.patience
        before = stored.rate(0.01, PAPER)
    assert stored == after(percent)
    assert stored.count <= len(percent) // PAPER.patience
