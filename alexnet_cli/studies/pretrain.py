"""The shape of "1 CNN*" on one dataset: a net is trained on every other class first, then on the rest (§6).

The paper's CNN* had a sixth convolution and was trained on all of Fall 2011 before it was fine-tuned on
ILSVRC-2012; here the net is the same with and without. From scratch it is trained twice: for the steps of the
fine-tuning, and for twice these, which is what the pre-trained net has done in all.
"""

from typing import TYPE_CHECKING, Any

from alexnet_cli import paper
from alexnet_cli.studies import noise
from alexnet_cli.studies.plan import Plan, Point, Results, Trial, finals
from alexnet_cli.studies.tables import Table, about, compared, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST, REST = "pre-training", "fine-tuning"
"""The parts of the dataset: the classes with even labels, and those with odd ones."""
SCRATCH, TUNED, LONGER = "from scratch", "pre-trained, then fine-tuned", "from scratch, twice the steps"


def labels(part: str, classes: int) -> list[int]:
    return [*range(0 if part == FIRST else 1, classes, 2)]


def trials(plan: Plan, _: Results) -> list[Trial]:
    short, long = (plan.scheduled(plan.base, n * plan.steps) for n in (1, 2))
    found = []
    for seed in range(1, plan.seeds + 1):
        first = f"pretraining-seed{seed}"
        found += [
            Trial(first, FIRST, seed, short, (plan.steps,), FIRST),
            Trial(f"finetuning-seed{seed}", TUNED, seed, short, (plan.steps,), REST, start=first),
            Trial(f"scratch-seed{seed}", SCRATCH, seed, short, (plan.steps,), REST),
            Trial(f"longer-seed{seed}", LONGER, seed, long, (2 * plan.steps,), REST),
        ]
    return found


foreseen = trials


def table(plan: Plan, results: Results) -> Table:
    there = trials(plan, results)
    points: dict[str, dict[int, Point]] = {}
    for trial, point in finals(there, results):
        points.setdefault(trial.row, {})[trial.seed] = point
    records = [_record(row, points) for row in (SCRATCH, TUNED, LONGER)]
    done = sum(results[trial.name].finished(trial) for trial in there if trial.name in results)
    each, batch = plan.used // 2, plan.base.optimizer.batch_size
    steps = f"{plan.steps:,} steps each, about {plan.steps * batch / max(1, each):.1f} epochs of half the pictures"
    first, rest = (len(labels(part, plan.classes)) for part in (FIRST, REST))
    return Table(
        "Pre-training on the other classes",
        ("", "training", "validation", "against from scratch", "the paper, top-1 / top-5"),
        [_cells(record) for record in records],
        records,
        (
            *about(plan, steps, (done, len(there))),
            f"pre-trained on the {first} classes with even labels; fine-tuned, from scratch and measured on the "
            f"{rest} with odd ones",
            noise.CRITERION,
            "the paper's: 1 CNN, and 1 CNN* with a sixth convolution, pre-trained on Fall 2011; ILSVRC-2012, "
            "validation, ten patches",
        ),
        (1, 2),
    )


def _record(row: str, points: dict[str, dict[int, Point]]) -> dict[str, Any]:
    own, scratch = points.get(row, {}), points.get(SCRATCH, {})
    train = [point.train.top1_error for point in own.values()]
    val = [point.val.top1_error for point in own.values()]
    errors = ({seed: p.val.top1_error for seed, p in found.items()} for found in (own, scratch))
    against = noise.paired(*errors) if row != SCRATCH else None
    name = {SCRATCH: "1 CNN", TUNED: "1 CNN*"}.get(row)
    papers = next((numbers for title, *numbers in paper.TABLE2 if title == name), (None, None))
    return {
        "net": row,
        "seeds": len(own),
        "training": noise.mean(train) if train else None,
        "training_deviation": noise.spread(train) if train else None,
        "validation": noise.mean(val) if val else None,
        "validation_deviation": noise.spread(val) if val else None,
        "against": against and against.mean,
        "against_reach": against and against.reach,
        "verdict": against and against.verdict,
        "paper_top1": papers[0],
        "paper_top5": papers[1],
    }


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    measured = [
        "" if record[name] is None else spread([record[name]], record[f"{name}_deviation"])
        for name in ("training", "validation")
    ]
    against = compared(record["against"], record["against_reach"], record["verdict"])
    papers = "" if record["paper_top1"] is None else f"{record['paper_top1']:g} / {record['paper_top5']:g}"
    return (record["net"], *measured, against, papers)


def draw(figure: "Figure", plan: Plan, results: Results) -> None:
    """Validation errors of the three ways, seed by seed, those of one seed joined."""
    from alexnet_cli.report.plotting import BLUE, GREY, VERMILION

    points: dict[int, dict[str, float]] = {}
    for trial, point in finals(trials(plan, results), results):
        points.setdefault(trial.seed, {})[trial.row] = point.val.top1_error
    axis, rows = figure.subplots(), (SCRATCH, TUNED, LONGER)
    for errors in points.values():
        there = [place for place, row in enumerate(rows) if row in errors]
        axis.plot(there, [errors[rows[place]] for place in there], "o-", color=GREY, lw=0.8, ms=3)
    for place, (row, colour) in enumerate(zip(rows, (VERMILION, BLUE, VERMILION), strict=True)):
        values = [errors[row] for errors in points.values() if row in errors]
        if values:
            axis.plot(place, noise.mean(values), "o", color=colour, ms=9)
    axis.set_xticks(range(len(rows)), [row.replace(", ", ",\n") for row in rows])
    axis.set(ylabel="top-1 validation error, %", xlim=(-0.5, 2.5))
    axis.set_title(f"{plan.recipe}, {plan.steps:,} steps, half the classes first")
