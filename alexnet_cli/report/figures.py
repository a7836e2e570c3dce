"""The figures of a run by name: what each needs, and the files that it becomes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from alexnet_cli.engine.checkpoint import Checkpoint
from alexnet_cli.errors import AlexNetError
from alexnet_cli.report import colours, confusion, curves, kernels, maps, panel, plotting
from alexnet_cli.report.answers import Answers, evenly
from alexnet_cli.report.sources import Source, picture_of, pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = 8
"""Of the panel."""

NAMES = {
    "kernels": "the first layer's kernels, as in Figure 3",
    "curves": "losses and errors against epochs and minutes",
    "panel": "pictures with their five most probable classes, as in Figure 4",
    "confusion": "what was taken for what",
    "colours": "the principal components of RGB and their noise",
    "maps": "what each layer makes of one picture",
}
ASKED = ("panel", "confusion")
"""Those that need the model's answers over a split."""


@dataclass(frozen=True)
class Subject:
    source: Source
    split: str
    answers: Answers | None
    limit: int | None
    picture: tuple[str, Tensor] | None
    """A name and (3, 256, 256) uint8, for `colours` and `maps`."""


def chosen(only: str | None) -> tuple[str, ...]:
    """kernels,curves → their names, in our order; all of them if None."""
    if only is None:
        return tuple(NAMES)
    names = {name.strip() for name in only.split(",")}
    if unknown := sorted(names - {*NAMES}):
        raise AlexNetError(f"there is no figure '{unknown[0]}'", f"--only takes {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in names)


def possible(source: Source, split: str, has_picture: bool) -> dict[str, str]:
    """Why a figure cannot be made, of those that cannot."""
    lacking = {} if source.run else {"curves": f"{source.path} is a model file and has no curves"}
    if source.dataset is None or split not in source.dataset.splits:
        reason = source.without or f"the dataset has no split '{split}'"
        lacking |= dict.fromkeys(ASKED if has_picture else (*ASKED, "colours", "maps"), reason)
    return lacking


def picture(source: Source, split: str, given: Path | None) -> tuple[str, Tensor]:
    """The picture that the user gave, or the first of the split."""
    if given is not None:
        return given.name, picture_of(given, source.checkpoint)
    pixels = pictures(source.split(split), [0])[0]
    label = int(source.split(split).index["label"][0])
    return f"the first {split} picture ({source.checkpoint.subject.classes[label]})", pixels


def write(name: str, subject: Subject, folder: Path) -> list[Path]:
    """Draw one figure into `folder`, as PNG and as SVG."""
    paths = [folder / f"{name}.{kind}" for kind in plotting.FORMATS]
    if name == "panel":
        for path in paths:
            panel.draw(path, entries(subject))
        return paths
    checkpoint = subject.source.checkpoint
    with plotting.figure(*_size(name, checkpoint)) as figure:
        _draw(figure, name, subject)
        for path in paths:
            plotting.save(figure, path, f"{NAMES[name]}: {subject.source.name}")
    return paths


def entries(subject: Subject) -> list[panel.Entry]:
    """Some pictures of the split with what the model says of them."""
    source, answers = subject.source, subject.answers
    assert answers is not None
    classes, rows = source.checkpoint.subject.classes, evenly(answers, PICTURES)
    split = source.split(subject.split).part(subject.limit)
    found = []
    for row, pixels in zip(rows, pictures(split, answers.samples[rows].tolist()), strict=True):
        names = [classes[guess] for guess in answers.guesses[row]]
        guesses = [*zip(names, answers.shares[row].tolist(), strict=True)]
        found.append(panel.Entry("", pixels.permute(1, 2, 0).numpy(), guesses, classes[answers.labels[row]]))
    return found


def _draw(figure: "Figure", name: str, subject: Subject) -> None:
    source, checkpoint = subject.source, subject.source.checkpoint
    classes = checkpoint.subject.classes
    match name:
        case "kernels":
            kernels.draw(figure, checkpoint)
        case "curves":
            curves.draw(figure, source.history(), source.name)
        case "confusion":
            assert subject.answers is not None
            confusion.draw(figure, subject.answers, classes)
        case "colours":
            assert subject.picture is not None
            whose, pixels = subject.picture
            axes, noise = checkpoint.subject.colours, checkpoint.recipe.augmentation
            colours.draw(figure, axes, noise, pixels.permute(1, 2, 0).numpy(), whose)
        case "maps":
            assert subject.picture is not None
            whose, pixels = subject.picture
            maps.draw(figure, maps.activations(checkpoint, pixels), pixels, classes, whose)


def _size(name: str, checkpoint: Checkpoint) -> tuple[float, float]:
    """Inches."""
    if name == "kernels":
        return kernels.size(checkpoint)
    if name == "confusion":
        return confusion.size(len(checkpoint.subject.classes))
    return {"curves": (11.0, 7.0), "colours": (10.0, 9.5), "maps": (11.0, 11.0)}[name]
