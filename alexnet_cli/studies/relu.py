"""Figure 1: a net of four layers with ReLUs, and with the saturating tanh and logistic function (§3.1).

The paper: "A four-layer convolutional neural network with ReLUs reaches a 25% training error rate on CIFAR-10 six
times faster than an equivalent network with tanh neurons. The learning rates for each network were chosen
independently to make training as fast as possible. No regularization of any kind was employed."

Ours: variant `four-layer` without towers, normalization, decay, crops, reflections and colour noise, at one rate
to the end. Pixels are divided by their deviation and the first weights are torch's own, uniform within ±1/√fan-in.
With pixels that count to 255 the first layer alone would bound the rate of ReLUs (docs/studies.md), and with the
paper's σ of 0.01 tanh would begin saturated.
The rate of each activation is searched first, over a quarter of the steps: from 0.01, 0.03 and 0.1 outwards, as
long as the best is an outermost one.
"""

import math
from typing import TYPE_CHECKING, Any

from alexnet_cli import paper
from alexnet_cli.recipes import Recipe, chosen
from alexnet_cli.studies import noise
from alexnet_cli.studies.plan import Plan, Point, Result, Results, Trial, finals
from alexnet_cli.studies.tables import Table, about, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS = ("relu", "tanh", "sigmoid")
RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FIRST = (4, 5, 6)
"""Places among the rates."""
SEARCH = 4
"""The search of a rate takes one of so many parts of the steps."""
POINTS = 12
"""Of a curve: dense at its beginning, where the error falls."""
PLAIN = (
    *("network.towers=1", "network.normalization.size=0", "network.normalization.within=false"),
    *("network.initial=uniform", "preprocessing.mean=channel", "optimizer.decay=0"),
    *("augmentation.crops=centre", "augmentation.reflections=false"),
    *("augmentation.colour_noise=0", "augmentation.colour_shrinks=false"),
)

Curves = dict[int, tuple[Point, ...]]
"""By seed."""


def trials(plan: Plan, results: Results) -> list[Trial]:
    """For each activation the search, and once that is decided the curves."""
    found: list[Trial] = []
    for name in ACTIVATIONS:
        found += [*_search(plan, name, results), *_curves(plan, name, results)]
    return found


def foreseen(plan: Plan, _: Results) -> list[Trial]:
    """What it will be, as far as one can tell before: a fourth rate for each."""
    found = trials(plan, {})
    for name in ACTIVATIONS:
        found += [_trial(plan, name, RATES[FIRST[-1] + 1]), *_at_rate(plan, name, RATES[FIRST[0]])]
    return found


# --- the search


def _search(plan: Plan, activation: str, results: Results) -> list[Trial]:
    """The rates to try: the first ones, and what follows from results."""
    tried = [*FIRST]
    while (best := _best(plan, activation, tried, results)) in (tried[0], tried[-1]):
        beyond = best - 1 if best == tried[0] else best + 1
        if not 0 <= beyond < len(RATES):
            break
        tried = sorted({*tried, beyond})
    return [_trial(plan, activation, RATES[place]) for place in tried]


def _best(plan: Plan, activation: str, tried: list[int], results: Results) -> int:
    """The place of the rate with the lowest training error, of equals that with the lowest loss; -1 before all of
    them are measured."""
    found = []
    for place in tried:
        trial = _trial(plan, activation, RATES[place])
        result = results.get(trial.name, Result())
        if not result.finished(trial):
            return -1
        found.append((_error(result), place))
    return min(found)[1]


def _error(result: Result) -> tuple[float, float]:
    if result.diverged:
        return math.inf, math.inf
    tally = result.points[-1].train
    return tally.top1_error, tally.cross_entropy


def _trial(plan: Plan, activation: str, rate: float) -> Trial:
    net, steps = _net(plan, activation, rate), max(1, plan.steps // SEARCH)
    return Trial(f"{activation}-rate{rate:g}", activation, 1, net, (steps,))


def rate_of(plan: Plan, activation: str, results: Results) -> float | None:
    """The one that the search ended with."""
    searched = _search(plan, activation, results)
    if not all(results.get(trial.name, Result()).finished(trial) for trial in searched):
        return None
    return min(searched, key=lambda trial: _error(results[trial.name])).recipe.optimizer.rate


# --- the curves


def _curves(plan: Plan, activation: str, results: Results) -> list[Trial]:
    rate = rate_of(plan, activation, results)
    return [] if rate is None else _at_rate(plan, activation, rate)


def _at_rate(plan: Plan, activation: str, rate: float) -> list[Trial]:
    net = _net(plan, activation, rate)
    marks = sorted({max(1, round(plan.steps * (n / POINTS) ** 2)) for n in range(1, POINTS + 1)})
    seeds = range(1, plan.seeds + 1)
    return [Trial(f"{activation}-seed{seed}", activation, seed, net, tuple(marks)) for seed in seeds]


def _net(plan: Plan, activation: str, rate: float) -> Recipe:
    own = f"network.activation={activation}", f"optimizer.rate={rate:g}"
    variant = "" if "four-layer" in plan.recipe.split("+") else "+four-layer"
    return plan.scheduled(chosen(plan.recipe + variant, [*PLAIN, *own, *plan.settings]), plan.steps, dropped=False)


def reaching(points: tuple[Point, ...], error: float) -> float | None:
    """The steps after which the training error was that low for the first time, straight between two points."""
    before = None
    for point in points:
        if point.train.top1_error <= error:
            if before is None:
                return float(point.steps)
            fallen = before.train.top1_error - point.train.top1_error
            share = (before.train.top1_error - error) / fallen
            return before.steps + share * (point.steps - before.steps)
        before = point
    return None


# --- what came of it


def table(plan: Plan, results: Results) -> Table:
    curves = {name: _ended(plan, name, results) for name in ACTIVATIONS}
    records = [_record(plan, name, results, curves) for name in ACTIVATIONS]
    return Table(
        "Figure 1: ReLU, tanh and the logistic function",
        ("", "rate", "error at the end", f"steps to {plan.error:g} %", "times ReLU's"),
        [_cells(record) for record in records],
        records,
        (
            *about(plan, _steps(plan), _done(plan, results)),
            "errors in the table are training errors; four layers, no regularization of any kind",
            "times ReLU's: the steps to that error over those of ReLU, by straight lines between measurements",
            *(_searched(plan, name, results) for name in ACTIVATIONS),
            f"the paper: tanh took {paper.FIGURE1_TIMES:g} times as long to {paper.FIGURE1_ERROR:g} % on CIFAR-10",
        ),
        (1, 2, 3, 4),
    )


def _steps(plan: Plan) -> str:
    epochs = plan.epochs(plan.steps, plan.base.optimizer.batch_size)
    searched = max(1, plan.steps // SEARCH)
    return f"{plan.steps:,} steps ({epochs:.1f} epochs) each, rates searched over {searched:,}"


def _done(plan: Plan, results: Results) -> tuple[int, int]:
    """Runs that are finished, and those that are known of or to be expected."""
    there = trials(plan, results)
    undecided = sum(plan.seeds for name in ACTIVATIONS if rate_of(plan, name, results) is None)
    done = sum(results.get(trial.name, Result()).finished(trial) for trial in there)
    return done, len(there) + undecided


def _searched(plan: Plan, activation: str, results: Results) -> str:
    """The search in words."""
    tried = []
    for trial in _search(plan, activation, results):
        result = results.get(trial.name, Result())
        if result.finished(trial):
            error = "diverged" if result.diverged else f"{result.points[-1].train.top1_error:.1f} %"
            tried.append(f"{trial.recipe.optimizer.rate:g} {error}")
    return f"training error of {activation} at the end of the search, by rate: {', '.join(tried) or 'none yet'}"


def _ended(plan: Plan, activation: str, results: Results) -> Curves:
    """The curves that came to their end."""
    ended = finals(_curves(plan, activation, results), results)
    return {trial.seed: results[trial.name].points for trial, _ in ended}


def _record(plan: Plan, activation: str, results: Results, curves: dict[str, Curves]) -> dict[str, Any]:
    own = curves[activation]
    ends = [points[-1].train.top1_error for points in own.values()]
    reached = [steps for points in own.values() if (steps := reaching(points, plan.error)) is not None]
    times, error = _times(own, curves["relu"], plan.error) if activation != "relu" else (None, None)
    return {
        "activation": activation,
        "seeds": len(own),
        "rate": rate_of(plan, activation, results),
        "training_error": noise.mean(ends) if ends else None,
        "training_error_deviation": noise.spread(ends) if ends else None,
        "error": plan.error,
        "steps_to_error": noise.mean(reached) if reached and len(reached) == len(own) else None,
        "times_relu": times,
        "times_relu_to": error,
        "paper_times": paper.FIGURE1_TIMES if activation == "tanh" else None,
    }


def _times(own: Curves, relu: Curves, wanted: float) -> tuple[float | None, float | None]:
    """How many times ReLU's steps it took to a training error, mean over the seeds, and to which.

    That is the wanted one, or where not all came as far, the lowest to which all came.
    """
    both = own.keys() & relu.keys()
    if not both:
        return None, None
    lowest = [min(p.train.top1_error for p in curves[seed]) for curves in (own, relu) for seed in both]
    error = max(wanted, *lowest)
    pairs = [(reaching(own[seed], error), reaching(relu[seed], error)) for seed in sorted(both)]
    return noise.mean([ours / theirs for ours, theirs in pairs if ours and theirs]), error


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    end, steps, times = record["training_error"], record["steps_to_error"], record["times_relu"]
    return (
        record["activation"],
        "" if record["rate"] is None else f"{record['rate']:g}",
        "" if end is None else spread([end], record["training_error_deviation"]),
        "" if end is None else "not reached" if steps is None else f"{steps:.0f}",
        "" if times is None else f"{times:.1f} (to {record['times_relu_to']:.1f} %)",
    )


def draw(figure: "Figure", plan: Plan, results: Results) -> None:
    """Training error against epochs, as in Figure 1, a line for each seed."""
    from alexnet_cli.report.plotting import BLUE, GREEN, GREY, VERMILION

    axis, batch = figure.subplots(), plan.base.optimizer.batch_size
    for name, colour, dashes in zip(ACTIVATIONS, (BLUE, VERMILION, GREEN), ("-", "--", "-."), strict=True):
        for trial in _curves(plan, name, results):
            points = results.get(trial.name, Result()).points
            words = f"{name}, rate {trial.recipe.optimizer.rate:g}" if trial.seed == 1 else None
            epochs = [plan.epochs(point.steps, batch) for point in points]
            axis.plot(epochs, [p.train.top1_error for p in points], dashes, color=colour, lw=1.4, label=words)
    axis.axhline(plan.error, color=GREY, lw=0.8, ls=":")
    axis.set(xlabel="epochs", ylabel="training error, %", ylim=(0, 100))
    axis.set_title(f"Four layers, no regularization: {plan.used:,} pictures")
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
