"""The net against itself without one of its parts (§3.2 to §3.4, §4, §7): same seeds, same steps.

The paper says of most parts that they reduce overfitting, so the gap between training and validation error is
given too. Both are measured in the same way: at test, on pictures as they are.
"""

from typing import TYPE_CHECKING, Any

from alexnet_cli import paper
from alexnet_cli.errors import AlexNetError
from alexnet_cli.recipes import Recipe, chosen
from alexnet_cli.studies import noise
from alexnet_cli.studies.plan import Plan, Point, Results, Trial, finals
from alexnet_cli.studies.tables import Table, about, compared, signed, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHOLE = "whole"
WORDS = {
    WHOLE: "the net",
    "no-lrn": "no normalization",
    "non-overlapping": "pooling without overlap",
    "no-dropout": "no dropout",
    "no-crops": "no crops or reflections",
    "no-colour": "no colour noise",
    **{f"no-conv{n}": f"no conv{n}" for n in range(1, 6)},
    "one-gpu": "one tower",
}
"""The variants in the order of the table."""


def trials(plan: Plan, _: Results) -> list[Trial]:
    """Seed by seed, so that what is finished can be compared at any time."""
    nets = {name: _net(plan, name) for name in _names(plan)}
    return [
        Trial(f"{name}-seed{seed}", name, seed, plan.scheduled(net, plan.steps), (plan.steps,))
        for seed in range(1, plan.seeds + 1)
        for name, net in nets.items()
    ]


foreseen = trials


def _names(plan: Plan) -> tuple[str, ...]:
    """The net and the variants of it; if none are named, those that make sense of this recipe."""
    return (WHOLE, *plan.only) if plan.only else tuple(name for name in WORDS if _sense(plan, name))


def _sense(plan: Plan, name: str) -> bool:
    try:
        _net(plan, name)
    except AlexNetError:
        return False
    return True


def _net(plan: Plan, name: str) -> Recipe:
    return plan.base if name == WHOLE else chosen(f"{plan.recipe}+{name}", [*plan.settings])


def table(plan: Plan, results: Results) -> Table:
    there = trials(plan, results)
    points = _by_row(there, results)
    records = [_record(row, points) for row in _names(plan)]
    rows = [_cells(record) for record in records]
    steps = f"{plan.steps:,} steps ({plan.epochs(plan.steps, plan.base.optimizer.batch_size):.1f} epochs) each"
    done = sum(results[trial.name].finished(trial) for trial in there if trial.name in results)
    lost = [f"{name}: {result.diverged}" for name, result in results.items() if result.diverged]
    return Table(
        "The net without one of its parts",
        ("", "training", "validation", "gap", "Δ validation", "Δ gap", "paper's Δ"),
        rows,
        records,
        (
            *about(plan, steps, (done, len(there))),
            "gap: validation less training; Δ: against the net",
            noise.CRITERION,
            "the paper's Δ: points of top-1 error, ten patches, one run; 2010: ILSVRC-2010, test; 2012: "
            "ILSVRC-2012, validation, as the logs of the 2012 code have it; of the rest it names no pictures",
            *lost,
        ),
        (1, 2, 3),
    )


def _by_row(there: list[Trial], results: Results) -> dict[str, dict[int, Point]]:
    found: dict[str, dict[int, Point]] = {}
    for trial, point in finals(there, results):
        found.setdefault(trial.row, {})[trial.seed] = point
    return found


def _record(row: str, points: dict[str, dict[int, Point]]) -> dict[str, Any]:
    own, whole = points.get(row, {}), points.get(WHOLE, {})
    columns = {
        "training": {seed: point.train.top1_error for seed, point in own.items()},
        "validation": {seed: point.val.top1_error for seed, point in own.items()},
        "gap": {seed: point.gap for seed, point in own.items()},
    }
    record: dict[str, Any] = {"net": row, "seeds": len(own)}
    for name, values in columns.items():
        record[name] = noise.mean([*values.values()]) if values else None
        record[f"{name}_deviation"] = noise.spread([*values.values()]) if values else None
    theirs = {
        "validation": {seed: point.val.top1_error for seed, point in whole.items()},
        "gap": {seed: point.gap for seed, point in whole.items()},
    }
    for name, values in theirs.items():
        found = noise.paired(columns[name], values) if row != WHOLE else None
        record |= {f"{name}_against": found and found.mean, f"{name}_against_error": found and found.error}
        record[f"{name}_against_reach"] = found and found.reach
        record[f"{name}_verdict"] = found and found.verdict
    record["paper_top1"], record["paper_top5"], record["paper_says"] = paper.ABLATIONS.get(row, (None, None, None))
    return record


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    measured = [_mean(record, name) for name in ("training", "validation")]
    gap = "" if record["gap"] is None else f"{record['gap']:.1f}"
    against = [_against(record, name) for name in ("validation", "gap")]
    return (WORDS.get(record["net"], record["net"]), *measured, gap, *against, _paper(record))


def _mean(record: dict[str, Any], name: str) -> str:
    middle, deviation = record[name], record[f"{name}_deviation"]
    return "" if middle is None else spread([middle], deviation)


def _against(record: dict[str, Any], name: str) -> str:
    return compared(*(record[f"{name}_{part}"] for part in ("against", "against_reach", "verdict")))


def _paper(record: dict[str, Any]) -> str:
    top1, says = record["paper_top1"], record["paper_says"]
    if says is None:
        return ""
    if top1 is None:
        return str(says)
    return f"{signed(top1)} ({says})" if says.isdigit() else f"{says} {signed(top1, 0)}"


def draw(figure: "Figure", plan: Plan, results: Results) -> None:
    """Each net a row: training and validation error, each seed a small mark and their mean a large one."""
    from alexnet_cli.report.plotting import BLUE, GREY, VERMILION

    points, names = _by_row(trials(plan, results), results), _names(plan)
    axis = figure.subplots()
    for place, row in enumerate(names):
        values = [*points.get(row, {}).values()]
        both = [point.train.top1_error for point in values], [point.val.top1_error for point in values]
        for errors, colour, words in zip(both, (BLUE, VERMILION), ("training", "validation"), strict=True):
            if errors:
                axis.plot(errors, [place] * len(errors), "|", color=colour, ms=9, alpha=0.7)
                axis.plot(noise.mean(errors), place, "o", color=colour, label=words if row == WHOLE else None)
        if values:
            axis.plot([*map(noise.mean, both)], [place] * 2, color=GREY, lw=1.0, zorder=0)
            if row == WHOLE:
                axis.axvline(noise.mean(both[1]), color=VERMILION, lw=0.8, ls=":")
    axis.set_yticks(range(len(names)), [WORDS.get(name, name) for name in names])
    axis.invert_yaxis()
    axis.set(xlabel="top-1 error, %", title=f"Without one part: {plan.steps:,} steps, {plan.used:,} pictures")
    if points:
        axis.legend(loc="best")
