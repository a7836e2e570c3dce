"""The plateau rule, validation by validation, and every recipe's rates against its source's own table."""

from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_cli import recipes
from alexnet_cli.engine.optimizer import Row
from alexnet_cli.engine.schedule import Plateau, rows
from alexnet_cli.recipes import LAYERS, Recipe, Schedule

PAPER = Schedule()  # ÷10, three drops, patience 5, threshold 0.1
NAMES = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]


def after(errors: list[float], schedule: Schedule = PAPER, epochs: float = 1.0) -> Plateau:
    """So many epochs from one validation to the next."""
    plateau = Plateau()
    for error in errors:
        plateau = plateau.after(error, schedule, epochs)
    return plateau


def rate(plateau: Plateau, schedule: Schedule = PAPER, first: float = 0.01) -> float:
    """Of all weights and biases alike."""
    recipe = Recipe("any", optimizer=recipes.Optimizer(rate=first), schedule=schedule)
    (found,) = {row.rate for row in rows(NAMES, recipe, 3, 99, plateau.count).values()}
    return found


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


@pytest.mark.parametrize(
    ("epochs", "validations"), [(0.1, 50), (0.5, 10), (1 / 3, 15), (2.0, 3), (5.0, 1), (7.0, 1)]
)
def test_a_plateau_is_as_long_however_often_one_validates(epochs: float, validations: int) -> None:
    assert after([50.0, *[50.0] * (validations - 1)], epochs=epochs).count == 0
    assert after([50.0, *[50.0] * validations], epochs=epochs) == Plateau(50.0, waited=0, count=1)


@pytest.mark.parametrize("pictures", [10, 500, 1000, 3000, 50_000])
def test_a_tenth_of_a_point_is_one_whatever_binary_makes_of_it(pictures: int) -> None:
    schedule = replace(PAPER, threshold=100 / pictures)
    for wrong in range(1, pictures + 1, max(1, pictures // 500)):
        plateau = after([100 * wrong / pictures, 100 * (wrong - 1) / pictures], schedule)
        assert plateau.best == 100 * (wrong - 1) / pictures
        assert after([100 * wrong / pictures] * 2, schedule).waited == 1


def test_a_whole_training_drops_three_times_and_ends_at_the_fourth_plateau() -> None:
    plateau, rates, ends = Plateau(), [], []
    for _ in range(21):
        plateau = plateau.after(40.0, PAPER, 1.0)
        rates.append(rate(plateau))
        ends.append(plateau.ended(PAPER))
    assert rates == pytest.approx([0.01] * 5 + [0.001] * 5 + [0.0001] * 5 + [0.00001] * 6, rel=1e-12)
    assert ends == [False] * 20 + [True]


def test_the_numbers_are_the_recipes() -> None:
    schedule = Schedule(drop=2.0, drops=1, patience=2, threshold=1.0)
    assert after([50.0, 49.5, 49.2], schedule) == Plateau(49.2, count=1)
    assert rate(Plateau(count=1), schedule, 0.08) == 0.04
    assert rate(Plateau(count=2), schedule, 0.08) == 0.04
    assert not Plateau(count=1).ended(schedule)
    assert Plateau(count=2).ended(schedule)


def test_without_drops_the_first_plateau_ends_the_training() -> None:
    schedule = replace(PAPER, drops=0)
    assert rate(Plateau(), schedule) == 0.01
    assert after([50.0] * 6, schedule).ended(schedule)


def test_a_plateau_is_a_value_that_no_step_changes() -> None:
    plateau = after([50.0, 51.0])
    plateau.after(51.0, PAPER, 1.0)
    assert plateau == after([50.0, 51.0])
    with pytest.raises(FrozenInstanceError):
        plateau.count = 3  # type: ignore[misc]


@settings(deadline=None, max_examples=60)
@given(errors=st.lists(st.integers(0, 1000), max_size=60), cut=st.integers(0, 60))
def test_it_can_be_stored_anywhere_and_gone_on_from_and_the_rate_never_rises(errors: list[int], cut: int) -> None:
    percent = [error / 10 for error in errors]
    plateau = after(percent[:cut])
    stored = Plateau(plateau.best, plateau.waited, plateau.count)
    before = rate(stored)
    for error in percent[cut:]:
        stored = stored.after(error, PAPER, 1.0)
        assert rate(stored) <= before
        assert 0 <= stored.waited < PAPER.patience
        before = rate(stored)
    assert stored == after(percent)
    assert stored.count <= len(percent) // PAPER.patience


@pytest.mark.parametrize("places", [{"drop_epochs": (2,)}, {"drop_steps": 100}], ids=str)
def test_a_schedule_with_places_leaves_plateaus_alone(places: dict[str, object]) -> None:
    schedule = replace(PAPER, **places)
    plateau = after([50.0] * 60, schedule)
    assert plateau == Plateau()
    assert not plateau.ended(schedule)
    assert rate(plateau, schedule) == rate(Plateau(count=3), schedule)


# -- the rates of the recipes ---------------------------------------------------------------------------------

# Run #145 on ILSVRC-2012 (layer-params-145.cfg): from these epochs on, the rates of conv1's weights and of the
# other weights; biases have twice the first rate. At 72 all of conv1 stops, and the run was killed at 91.
ORIGINAL = {
    0: (0.01, 0.01),
    25: (0.001, 0.001),
    51: (0.0001, 0.0001),
    67: (0.00001, 0.0001),
    72: (0.0, 0.0001),
    79: (0.0, 0.00001),
}


def test_the_rates_of_original_are_those_of_the_2012_run() -> None:
    recipe = recipes.original()
    assert recipe.schedule.epochs == 91
    for epoch in range(91):
        conv1, others = ORIGINAL[max(place for place in ORIGINAL if place <= epoch)]
        found = rows(NAMES, recipe, epoch, epoch * 9_385, 0)
        for name, row in found.items():
            layer, kind = name.split(".")
            biases = 0.0 if layer == "conv1" and epoch >= 72 else 0.02
            expected = {"weight": conv1 if layer == "conv1" else others, "bias": biases}[kind]
            assert row.rate == pytest.approx(expected, rel=1e-12), (epoch, name)
            assert row.decay == (0.0005 if kind == "weight" else 0)


def test_the_rates_of_caffe_fall_each_100_000_steps() -> None:
    """solver.prototxt: base_lr 0.01, stepsize 100000, gamma 0.1, max_iter 450000 of 256 pictures."""
    recipe = recipes.caffe()
    for steps, expected in ((0, 1e-2), (99_999, 1e-2), (100_000, 1e-3), (299_999, 1e-4), (449_999, 1e-6)):
        found = rows(NAMES, recipe, steps // 5_005, steps, 0)
        for name, row in found.items():
            times, decay = (2, 0) if name.endswith(".bias") else (1, 0.0005)
            assert row == Row(pytest.approx(times * expected, rel=1e-12), decay)


def test_the_rates_of_torchvision_fall_each_30_epochs() -> None:
    """references/classification: lr 0.01, step 30, gamma 0.1, weight decay 1e-4 on everything, 90 epochs."""
    recipe = recipes.torchvision()
    assert recipe.schedule.epochs == 90
    for epoch in range(90):
        expected = Row(pytest.approx(0.01 * 0.1 ** (epoch // 30), rel=1e-12), 0.0001)
        assert all(row == expected for row in rows(NAMES, recipe, epoch, epoch * 5_005, 0).values())


@pytest.mark.parametrize("name", ["paper", "text", "small"])
def test_the_rates_of_the_paper_fall_at_plateaus_for_all_layers_alike(name: str) -> None:
    recipe = recipes.named(name)
    for plateaus, expected in enumerate((0.01, 0.001, 0.0001, 0.00001, 0.00001)):
        for epoch in (0, 68, 89):
            found = rows(NAMES, recipe, epoch, 1000 * epoch, plateaus)
            assert [row.rate for row in found.values()] == pytest.approx([expected] * 16, rel=1e-12)


def test_conv1_can_slow_down_and_stop_at_plateaus_too() -> None:
    schedule = Schedule(conv1_drop=2, conv1_freeze=4, biases_drop=False, drop=2)
    recipe = Recipe("any", optimizer=recipes.Optimizer(rate=1.0, bias_rate=3.0), schedule=schedule)
    names = ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    for epoch, expected in ((1, [0.5, 3, 0.5, 3]), (2, [0.25, 3, 0.5, 3]), (4, [0, 0, 0.5, 3])):
        assert [row.rate for row in rows(names, recipe, epoch, 0, 1).values()] == expected
