"""Draw the plots of these pages from the run directories that the pages' commands write; needs matplotlib.

python docs/plots.py initialisation RUNS docs/initialisation.svg
python docs/plots.py fashion RUNS docs/fashion-mnist.svg
python docs/plots.py long RUNS docs/fashion-mnist-long.svg
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, VERMILION = "#0072B2", "#D55E00"
DROPOUT = {
    "training": ("inverted: × 2 in training", VERMILION),
    "test": ("the paper's: masks in training, × ½ at test", BLUE),
}
SMOOTHING = 5  # steps


def initialisation(runs: Path, out: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, recipe in zip(axes, ("text", "paper"), strict=True):
        for scaling, (words, colour) in DROPOUT.items():
            for number, run in enumerate(sorted(runs.glob(f"full-{recipe}-{scaling}-s?"))):
                losses = smooth([row["loss"] for row in metrics(run, "step")])[:400]
                axis.plot(
                    range(1, len(losses) + 1), losses, color=colour, lw=1.0, label=words if number == 0 else None
                )
        axis.axhline(2.303, color="grey", lw=0.8, ls=":", label="chance, ln 10")
        axis.set(title=f"recipe {recipe}", xlabel="step (128 pictures each)", yscale="log")
        axis.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
        axis.minorticks_off()
    axes[0].set_ylabel(f"training loss, mean of {SMOOTHING} steps")
    axes[0].legend(title="dropout")
    save(figure, out)


def fashion(runs: Path, out: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for name, words, colour in (("paper", "paper, fp32", BLUE), ("small", "small, bf16", VERMILION)):
        steps, validations = metrics(runs / name, "step"), metrics(runs / name, "validation")
        minutes = [row["seconds"] / 60 for row in steps]
        left.plot(minutes, smooth([row["loss"] for row in steps]), color=colour, lw=1.2, label=words)
        errors = [100 * row["tally"]["wrong1"] / row["tally"]["pictures"] for row in validations]
        right.plot([row["seconds"] / 60 for row in validations], errors, "o-", color=colour, ms=4, label=words)
    left.set(title="training", xlabel="minutes", ylabel=f"loss, mean of {SMOOTHING} steps", ylim=(0, 2.8))
    right.set(title="validation, centre patch", xlabel="minutes", ylabel="top-1 error, %", ylim=(0, 40))
    left.legend()
    right.legend()
    save(figure, out)


def long(runs: Path, out: Path) -> None:
    """`runs` also holds memory.txt: seconds, MB and processor seconds of the training, a line now and then."""
    run = runs / "two-hours"
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4))
    steps, validations = metrics(run, "step"), metrics(run, "validation")
    errors = [100 * row["tally"]["wrong1"] / row["tally"]["pictures"] for row in validations]
    left.plot([row["seconds"] / 60 for row in validations], errors, "o-", color=BLUE, ms=3)
    for before, after in pairwise(steps):
        if after["rate"] < before["rate"]:
            left.axvline(after["seconds"] / 60, color="grey", lw=0.8, ls=":")
    left.set(title="validation, centre patch", xlabel="minutes", ylabel="top-1 error, %", ylim=(0, 30))
    watched = [tuple(map(float, line.split())) for line in (runs / "memory.txt").open()]
    middle.plot([row[0] / 60 for row in watched], [row[1] for row in watched], color=BLUE, lw=1.2)
    middle.set(title="memory", xlabel="minutes", ylabel="MB (PSS)", ylim=(0, None))
    every = [*watched[:-1:10], watched[-1]]  # five minutes
    done = [next((row["step"] for row in reversed(steps) if row["seconds"] <= row_[0]), 0) for row_ in every]
    for words, column, colour in (("a second", 0, VERMILION), ("a processor second", 2, BLUE)):
        rates = [128 * (b - a) / (then[column] - now[column])
                 for (a, now), (b, then) in pairwise(zip(done, every, strict=True))]  # fmt: skip
        right.plot([row[0] / 60 for row in every[1:]], rates, "o-", color=colour, ms=3, label=words)
    right.set(title="pictures trained on", xlabel="minutes", ylabel="pictures", ylim=(0, None))
    right.legend()
    save(figure, out)


def metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    rows = map(json.loads, (run / "metrics.jsonl").open())
    return [row for row in rows if row["kind"] == kind]


def smooth(values: list[float]) -> list[float]:
    windows = (values[max(0, i - SMOOTHING + 1) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def save(figure: plt.Figure, out: Path) -> None:
    figure.tight_layout()
    figure.savefig(out)


PLOTS = {"initialisation": initialisation, "fashion": fashion, "long": long}

if __name__ == "__main__":
    PLOTS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
