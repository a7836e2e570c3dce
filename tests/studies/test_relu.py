"""The search of a rate, and what is read off the curves, from results that are made up."""

import math
from dataclasses import replace

import pytest

from alexnet_cli.engine.evaluation import Tally
from alexnet_cli.studies import relu
from alexnet_cli.studies.plan import Plan, Point, Result

PLAN = Plan(
    kind="relu", recipe="small", settings=("network.width=0.05",), data="x", fingerprint="f", classes=10,
    pictures=1280, limit=0, validation=100, measured=100, seeds=2, precision="fp32", error=25.0, steps=400,
)  # fmt: skip


def point(steps: int, error: float) -> Point:
    tally = Tally(1000, round(10 * error), 0, 10 * error)
    return Point(steps, tally, tally)


def searched(errors: dict[float, float]) -> dict[str, Result]:
    """Of ReLU, by rate; an infinite error is a run that diverged."""
    return {
        f"relu-rate{rate:g}": Result(diverged="so it did") if math.isinf(error) else Result((point(100, error),))
        for rate, error in errors.items()
    }


def rates(results: dict[str, Result]) -> list[float]:
    return [t.recipe.optimizer.rate for t in relu.trials(PLAN, results) if t.name.startswith("relu-rate")]


def test_a_search_goes_on_while_the_best_rate_is_an_outermost_one() -> None:
    assert rates({}) == [0.01, 0.03, 0.1]
    falling = {0.01: 40.0, 0.03: 50.0, 0.1: math.inf}
    assert rates(searched(falling)) == [0.003, 0.01, 0.03, 0.1]
    assert relu.rate_of(PLAN, "relu", searched(falling)) is None
    decided = searched(falling | {0.003: 45.0})
    assert rates(decided) == [0.003, 0.01, 0.03, 0.1] and relu.rate_of(PLAN, "relu", decided) == 0.01
    curves = [trial for trial in relu.trials(PLAN, decided) if trial.name.startswith("relu-seed")]
    assert [trial.seed for trial in curves] == [1, 2]
    assert all(trial.recipe.optimizer.rate == 0.01 and trial.marks[-1] == 400 for trial in curves)


def test_a_search_ends_where_there_are_no_more_rates() -> None:
    worse = {rate: 10.0 + place for place, rate in enumerate(relu.RATES)}
    tried = searched({rate: error for rate, error in worse.items() if rate <= 0.1})
    assert relu.rate_of(PLAN, "relu", tried) == relu.RATES[0]


def test_nothing_regularizes_and_the_rate_stays() -> None:
    for trial in relu.foreseen(PLAN, {}):
        net, recipe = trial.recipe.network, trial.recipe
        assert net.layers == ("conv1", "conv2", "conv3", "fc8") and net.towers == 1
        assert (net.dropout, net.normalization.size, recipe.optimizer.decay) == (0, 0, 0)
        assert recipe.augmentation.crops == "centre" and not recipe.augmentation.reflections
        assert recipe.augmentation.colour_noise == 0 and recipe.schedule.drop_steps >= 400


def test_a_setting_keeps_the_studys_schedule_unless_it_says_when_the_rate_drops() -> None:
    for setting, drops in (("dropout=0.3", 267), ("schedule.epochs=3", 267), ("drop_epochs=2", 0), ("drops=1", 0)):
        plan = replace(PLAN, settings=(*PLAN.settings, setting))
        assert plan.scheduled(plan.base, 400).schedule.drop_steps == drops, setting


def test_steps_to_an_error_lie_straight_between_two_points() -> None:
    curve = (point(10, 90.0), point(40, 45.0), point(90, 20.0), point(160, 30.0))
    assert relu.reaching(curve, 25.0) == pytest.approx(40 + 50 * 20 / 25)
    assert relu.reaching(curve, 95.0) == 10 and relu.reaching(curve, 10.0) is None


def test_times_are_to_the_lowest_error_that_all_reached() -> None:
    results = {}
    for name, ends in (("relu", (20.0, 10.0)), ("tanh", (40.0, 20.0))):
        for rate, error in ((0.01, 60.0), (0.03, 50.0), (0.1, 70.0)):
            results[f"{name}-rate{rate:g}"] = Result((point(100, error),))
        for seed, end in enumerate(ends, start=1):
            trial = next(t for t in relu.trials(PLAN, results) if t.name == f"{name}-seed{seed}")
            marks = trial.marks
            points = [point(mark, 90 - (90 - end) * mark / 400) for mark in marks]
            results[trial.name] = Result(tuple(points))
    by_name = {record["activation"]: record for record in relu.table(PLAN, results).records}
    # On straight lines to 20, 10 and 40, 20 the error is 40 after 400·50/70, 400·50/80 and 400, 400·50/70 steps.
    first, second = 70 / 50, (50 / 70) / (50 / 80)
    assert by_name["tanh"]["times_relu_to"] == 40.0
    assert by_name["tanh"]["times_relu"] == pytest.approx((first + second) / 2, rel=2e-3)
    assert by_name["tanh"]["steps_to_error"] is None and by_name["relu"]["times_relu"] is None
    assert by_name["relu"]["steps_to_error"] == pytest.approx((400 * 65 / 70 + 400 * 65 / 80) / 2, rel=2e-3)
