"""A study's directory: ordinary run directories, study.json (the plan) and results.json (what was measured).

    studies/<kind>-<dataset>/study.json     the plan, fixed when the study begins
    studies/<kind>-<dataset>/results.json   of each run the errors at its marks
    studies/<kind>-<dataset>/<run>/         as `alexnet train` writes them
    studies/<kind>-<dataset>/table.md, table.csv, plot.svg, plot.png

The last four are made anew of the first two whenever the study is shown.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from alexnet_cli import settings
from alexnet_cli.engine.evaluation import Tally
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import read_json, write_json
from alexnet_cli.report import plotting
from alexnet_cli.studies import ablations, ensemble, pretrain, relu
from alexnet_cli.studies.plan import Kind, Plan, Point, Result, Results, Trial
from alexnet_cli.studies.tables import Table

FORMAT = 1
KINDS: dict[Kind, ModuleType] = {
    "relu": relu,
    "ablations": ablations,
    "ensemble": ensemble,
    "pretrain": pretrain,
}
"""Each says which runs there are (`trials`; `foreseen` before any result) and makes `table` and `draw` of them."""


@dataclass(frozen=True)
class Study:
    root: Path
    plan: Plan

    @property
    def results(self) -> Results:
        """Measured so far, also while the study goes on."""
        path = self.root / "results.json"
        stored = read_json(path) if path.exists() else {}
        return {name: _result(found) for name, found in stored.items()}

    def trials(self, results: Results) -> list[Trial]:
        found: list[Trial] = KINDS[self.plan.kind].trials(self.plan, results)
        return found

    def record(self, trial: Trial, point: Point | None, diverged: str = "") -> None:
        """Another point of a run, or that it has come to a bad end."""
        results = dict(self.results)
        before = results.get(trial.name, Result())
        points = before.points if point is None else (*before.points, point)
        results[trial.name] = replace(before, points=points, diverged=diverged)
        write_json(self.root / "results.json", {name: asdict(result) for name, result in results.items()})

    def table(self) -> Table:
        found: Table = KINDS[self.plan.kind].table(self.plan, self.results)
        return found

    def draw(self) -> list[Path]:
        """Write the plot; AlexNetError without matplotlib."""
        paths = [self.root / f"plot.{kind}" for kind in plotting.FORMATS]
        wide = self.plan.kind == "ablations"
        with plotting.figure(8 if wide else 6.4, 5 if wide else 4.2) as figure:
            KINDS[self.plan.kind].draw(figure, self.plan, self.results)
            for path in paths:
                plotting.save(figure, path, f"alexnet study {self.plan.kind}")
        return paths


def _result(found: dict[str, Any]) -> Result:
    points = tuple(_point(point) for point in found["points"])
    return Result(points, found["diverged"])


def _point(found: dict[str, Any]) -> Point:
    mean = Tally(**found["mean"]) if found["mean"] else None
    return Point(found["steps"], Tally(**found["train"]), Tally(**found["val"]), mean)


def open_study(root: Path) -> Study:
    path = root / "study.json"
    if not path.exists():
        raise AlexNetError(f"{root} is not the directory of a study", "`alexnet study ablations` makes one")
    stored = read_json(path)
    if stored.get("format") != FORMAT:
        raise AlexNetError(f"the study {root} has a format this version does not know", "update alexnet-cli")
    return Study(root, settings.restored(Plan, stored["plan"]))


def existing(root: Path, wanted: Plan) -> Study | None:
    """The study that lies there, if it is the one that is wanted; its steps are those it began with."""
    if not (root / "study.json").exists():
        if root.is_dir() and any(root.iterdir()):
            raise AlexNetError(f"{root} is not empty and holds no study", "name another folder with --out")
        return None
    study = open_study(root)
    steps = wanted.steps or study.plan.steps
    for name, ours, theirs in settings.differences(replace(wanted, steps=steps), study.plan):
        raise AlexNetError(
            f"the study {root} was begun with {name} = {_shown(theirs)}, not {_shown(ours)}",
            "give the options it was begun with, or another --out",
        )
    return study


def _shown(value: object) -> str:
    return (" ".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "nothing"


def created(root: Path, plan: Plan) -> Study:
    write_json(root / "study.json", {"format": FORMAT, "plan": settings.nested(plan)})
    return Study(root, plan)
