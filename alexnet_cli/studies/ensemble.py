"""The shape of Table 2's first rows: nets of one recipe that differ by their seeds, and their average (§6)."""

from typing import TYPE_CHECKING, Any

from alexnet_cli import paper
from alexnet_cli.engine.evaluation import Tally
from alexnet_cli.studies import noise
from alexnet_cli.studies.plan import Plan, Results, Trial, finals
from alexnet_cli.studies.tables import Table, about, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPERS = {name: (top1, top5) for name, top1, top5, _ in paper.TABLE2}


def trials(plan: Plan, _: Results) -> list[Trial]:
    """Each net's probabilities are averaged with those of all before it."""
    recipe, names = plan.scheduled(plan.base, plan.steps), [f"seed{n}" for n in range(1, plan.seeds + 1)]
    return [
        Trial(name, "single", seed, recipe, (plan.steps,), beside=tuple(names[: seed - 1]))
        for seed, name in enumerate(names, start=1)
    ]


foreseen = trials


def table(plan: Plan, results: Results) -> Table:
    found = [*finals(trials(plan, results), results)]
    records = [_single([point.val for _, point in found])]
    records += [
        _record(f"{len(trial.beside) + 1} nets, averaged", len(trial.beside) + 1, point.mean)
        for trial, point in found
        if point.mean is not None
    ]
    top5 = plan.classes > 5
    steps = f"{plan.steps:,} steps ({plan.epochs(plan.steps, plan.base.optimizer.batch_size):.1f} epochs) each"
    return Table(
        "Nets of one recipe and their average",
        ("", "top-1 error", *["top-5 error"] * top5, "the paper, top-1 / top-5"),
        [_cells(record, top5) for record in records],
        records,
        (
            *about(plan, steps, (len(found), plan.seeds)),
            "averaged: the nets' probabilities with equal weights; ± is the deviation over the seeds",
            "the paper's Table 2: ILSVRC-2012, validation, ten patches",
        ),
        tuple(range(1, 3 + top5)),
    )


def _single(tallies: list[Tally]) -> dict[str, Any]:
    top1, top5 = [t.top1_error for t in tallies], [t.top5_error for t in tallies]
    record = _record("1 net, mean of all", 1, None)
    if tallies:
        record |= {"top1": noise.mean(top1), "top5": noise.mean(top5)}
        record |= {"top1_deviation": noise.spread(top1), "top5_deviation": noise.spread(top5)}
    return record


def _record(name: str, nets: int, tally: Tally | None) -> dict[str, Any]:
    top1, top5 = PAPERS.get("1 CNN" if nets == 1 else f"{nets} CNNs", (None, None))
    return {
        "nets": nets,
        "name": name,
        "top1": tally and tally.top1_error,
        "top1_deviation": None,
        "top5": tally and tally.top5_error,
        "top5_deviation": None,
        "paper_top1": top1,
        "paper_top5": top5,
    }


def _cells(record: dict[str, Any], top5: bool) -> tuple[str, ...]:
    errors = [
        "" if record[name] is None else spread([record[name]], record[f"{name}_deviation"])
        for name in ("top1", "top5")
    ]
    papers = "" if record["paper_top1"] is None else f"{record['paper_top1']:g} / {record['paper_top5']:g}"
    return (record["name"], *errors[: 1 + top5], papers)


def draw(figure: "Figure", plan: Plan, results: Results) -> None:
    """The error of the average against the number of nets, and each net by itself."""
    from alexnet_cli.report.plotting import BLUE, GREY, VERMILION

    found, axis = [*finals(trials(plan, results), results)], figure.subplots()
    singles = [point.val.top1_error for _, point in found]
    axis.plot([trial.seed for trial, _ in found], singles, "o", color=VERMILION, label="each net by itself")
    means = {len(trial.beside) + 1: (point.mean or point.val).top1_error for trial, point in found}
    axis.plot([*means], [*means.values()], ".-", color=BLUE, label="nets 1 to n, averaged")
    if singles:
        axis.axhline(noise.mean(singles), color=GREY, lw=0.8, ls=":", label="mean of the single nets")
        axis.legend()
    axis.set_xticks(range(1, plan.seeds + 1))
    axis.set(xlabel="net, and number of nets", ylabel="top-1 validation error, %")
    axis.set_title(f"{plan.recipe}, {plan.steps:,} steps, {plan.used:,} pictures")
