"""Learning curves: the training loss and the validation errors, against epochs and against minutes."""

from typing import TYPE_CHECKING, Any

from alexnet_cli.report import plotting
from alexnet_cli.report.history import Change, History, Numbers, smoothed, window_for
from alexnet_cli.report.plotting import BLUE, GREEN, GREY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MARKS = 12
"""Changes of the rate that are marked one by one; a schedule without steps has thousands."""


def draw(figure: "Figure", history: History, name: str) -> None:
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for column, unit in enumerate((history.unit, "minutes")):
        losses, errors = axes[0][column], axes[1][column]
        minutes = unit == "minutes"
        _losses(losses, history, history.minutes if minutes else history.epochs(history.steps))
        _errors(errors, history, history.validated_minutes if minutes else history.epochs(history.validated))
        if len(history.changes) <= MOST_MARKS:
            for change in history.changes:
                _mark(losses, errors, change, change.minutes if minutes else history.epochs(change.step - 1))
        errors.set_xlabel(f"{unit} of training")
    axes[0][0].set_ylabel("training loss (cross-entropy)")
    axes[1][0].set_ylabel("validation error, %")
    for row in axes:
        if row[1].get_legend_handles_labels()[0]:
            row[1].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    figure.suptitle(f"Learning curves of {plotting.shown(name)}")


def _losses(axis: "Axes", history: History, x: Numbers) -> None:
    window = window_for(len(history.losses))
    axis.plot(x, history.losses, color=BLUE, alpha=0.25, lw=0.6, label="each logged step")
    axis.plot(x, smoothed(history.losses, window), color=BLUE, lw=1.6, label=f"mean of {window} logged steps")


def _errors(axis: "Axes", history: History, x: Numbers) -> None:
    if not len(x):
        return
    axis.plot(x, history.top1, "o-", color=VERMILION, ms=4, lw=1.4, label="top-1")
    if history.classes > 5:
        axis.plot(x, history.top5, "s--", color=GREEN, ms=4, lw=1.4, label="top-5")
    axis.set_ylim(bottom=0)


def _mark(losses: "Axes", errors: "Axes", change: Change, x: float) -> None:
    """A line where the rate changed: dashed if by the schedule, dotted if by a person."""
    for axis in (losses, errors):
        axis.axvline(x, color=GREY, lw=1.0, ls=":" if change.by_hand else "--")
    how: dict[str, Any] = {"color": GREY, "fontsize": 8, "rotation": 90, "va": "top"}
    at = losses.get_xaxis_transform()
    losses.annotate(
        f"rate {change.words}", (x, 0.98), xycoords=at, xytext=(3, 0), textcoords="offset points", **how
    )
