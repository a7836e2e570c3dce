"""A study's result as a table: cells for people, records for programs, and what must be said beside them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_cli.files import csv_line, write_bytes
from alexnet_cli.studies.noise import Verdict
from alexnet_cli.studies.plan import Plan

Record = dict[str, Any]


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    records: list[Record]
    """The numbers of the rows, one each and under the same names."""
    notes: tuple[str, ...]
    right: tuple[int, ...] = field(default=())
    """Columns of numbers."""

    def markdown(self) -> str:
        rule = ("--:" if n in self.right else "---" for n in range(len(self.columns)))
        head = [_cells(self.columns), _cells(rule)]
        lines = [f"**{_plain(self.title)}**", "", *head, *map(_cells, self.rows), ""]
        return "\n".join([*lines, *(f"- {_plain(note)}" for note in self.notes), ""])

    def csv(self) -> str:
        names = [*self.records[0]] if self.records else []
        lines = [csv_line(names), *(csv_line(["" if v is None else v for v in r.values()]) for r in self.records)]
        return "".join(f"{line}\n" for line in lines)

    def write(self, folder: Path) -> None:
        """table.md and table.csv."""
        write_bytes(folder / "table.md", self.markdown().encode("utf-8", "backslashreplace"))
        write_bytes(folder / "table.csv", self.csv().encode("utf-8", "backslashreplace"))


def _cells(cells: Any) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """No mark-up, no line breaks: a dataset's folder may be called anything."""
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return printable.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def about(plan: Plan, steps: str, finished: tuple[int, int]) -> tuple[str, ...]:
    """What each table says: data, size, budget, seeds; and that it is not the paper's."""
    base = plan.base
    used = f"{plan.used:,} of its {plan.pictures:,}" if plan.used < plan.pictures else f"its {plan.pictures:,}"
    budget = f" (from --budget {plan.budget})" if plan.budget else ""
    seeds = "seed 1" if plan.seeds == 1 else f"seeds 1 to {plan.seeds}"
    patches = "the centre patch" if plan.crops == 1 else "ten patches averaged"
    own = f", {' '.join(plan.settings)}" if plan.settings else ""
    counts = [min(plan.measured, n) for n in (plan.used, plan.validation)]
    done, all_of_them = finished
    notes = [
        f"data: {plan.data}, {plan.classes} classes; trained on {used} training pictures",
        f"net: recipe {plan.recipe}{own}, width {base.network.width:g}, batches of {base.optimizer.batch_size}, "
        f"{plan.precision}",
        f"{steps}{budget}; {seeds}",
        f"errors: top-1, in percent, on {counts[0]:,} training and {counts[1]:,} validation pictures, {patches}",
        "not the paper's experiment: other pictures, another size and far fewer steps than its 90 epochs of 1.2 "
        "million pictures",
    ]
    if done < all_of_them:
        notes.insert(0, f"NOT FINISHED: {done} of {all_of_them} runs")
    return tuple(notes)


def signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}"


def compared(difference: float | None, reach: float | None, verdict: Verdict | None) -> str:
    """A difference with half its interval, and whether it is there."""
    if difference is None:
        return ""
    shown = signed(difference) if reach is None else f"{signed(difference)} ± {reach:.1f}"
    return f"{shown} {'noise' if verdict == 'within the noise' else verdict}"


def spread(values: list[float], deviation: float | None) -> str:
    """Mean ± standard deviation."""
    middle = sum(values) / len(values)
    return f"{middle:.1f}" if deviation is None else f"{middle:.1f} ± {deviation:.1f}"
