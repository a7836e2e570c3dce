"""Draw docs/initialisation.svg from the runs that docs/initialisation.md names.

    python docs/plot_initialisation.py RUNS docs/initialisation.svg

RUNS is the folder that `alexnet train --runs` wrote; matplotlib is needed.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {"test": "#0072B2", "training": "#D55E00"}
WORDS = {"test": "the paper's: masks in training, × ½ at test", "training": "inverted: × 2 in training"}
SMOOTHING = 5  # steps


def main(runs: Path, out: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, recipe in zip(axes, ("text", "paper"), strict=True):
        for scaling in ("training", "test"):
            for number, run in enumerate(sorted(runs.glob(f"full-{recipe}-{scaling}-s?"))):
                losses = [
                    row["loss"] for row in map(json.loads, run.joinpath("metrics.jsonl").open()) if "loss" in row
                ]
                smooth = [
                    sum(losses[max(0, i - SMOOTHING + 1) : i + 1]) / min(SMOOTHING, i + 1)
                    for i in range(len(losses))
                ]
                label = WORDS[scaling] if number == 0 else None
                axis.plot(range(1, len(smooth) + 1), smooth, color=COLOURS[scaling], lw=1.4, label=label)
        axis.axhline(2.303, color="grey", lw=0.8, ls=":", label="chance, ln 10")
        axis.set(title=f"recipe {recipe}", xlabel="step (128 pictures each)", yscale="log")
        axis.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
        axis.minorticks_off()
    axes[0].set_ylabel(f"training loss, mean of {SMOOTHING} steps")
    axes[0].legend(title="dropout")
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
