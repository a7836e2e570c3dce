"""`alexnet predict`: what a trained model sees in pictures."""

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from alexnet_cli import console
from alexnet_cli.files import csv_line
from alexnet_cli.options import Crops, Device, Devkit, Gpus, Json, Processes, Runs, Submission

if TYPE_CHECKING:
    from torch import Tensor

    from alexnet_cli.engine.gathering import Picture
    from alexnet_cli.engine.models import Model
    from alexnet_cli.engine.parallel import Ranks
    from alexnet_cli.engine.prediction import Seen

FEW = 20
"""Pictures that get bars; of more, each gets a line."""
MANY = 64
"""Pictures that are worth a progress bar."""
CSV = ("file", "place", "label", "wnid", "name", "probability")


class _Taker(Protocol):
    """What is done with each picture as it comes, and when there are no more."""

    def take(self, one: "Seen") -> None: ...

    def close(self) -> None: ...


def predict(
    pictures: Annotated[
        list[str],
        typer.Argument(
            metavar="PICTURE",
            help="Files, folders, patterns in quotes; - is a picture or a list of paths on standard input.",
            show_default=False,
        ),
    ],
    model: Annotated[
        Path | None, typer.Option(help="A run or a model file; the newest run if none.", show_default=False)
    ] = None,
    runs: Runs = Path("runs"),
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    crops: Crops = 1,
    device: Device = None,
    gpus: Gpus = None,
    processes: Processes = None,
    as_json: Json = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="A JSON document a line, as it goes.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A line of CSV for each picture and class.")] = False,
    features: Annotated[
        str | None,
        typer.Option(help="Only write a layer's outputs: conv5, pool5, fc6, fc7, fc8.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .safetensors file for --features.", show_default=False)
    ] = None,
    panel: Annotated[
        Path | None,
        typer.Option(help="Draw the pictures over their classes: .png, .svg or .pdf.", show_default=False),
    ] = None,
    submission: Submission = None,
    devkit: Devkit = None,
) -> None:
    """Name what is in pictures: the most probable classes of each.

    A picture that cannot be used is reported, the others are done, and the exit code is 1. In a --panel the right
    class is marked where it is known: of a picture in a folder that has the name or the WNID of a class.

    Example: alexnet predict cat.jpg --top 3
    """
    from alexnet_cli.engine import gathering, launch, parallel, prediction
    from alexnet_cli.loading.loader import threads

    form = _form(json=as_json, jsonl=as_jsonl, csv=as_csv)
    _check_features(features, out, crops, other=bool(form or panel or submission))
    place = launch.placement(device, gpus, processes)
    if place.ranks > 1 and not launch.launched():
        raise typer.Exit(launch.relaunch(place.ranks))
    with parallel.joined(place.device) as ranks:
        found = gathering.gathered(pictures, lambda: _stdin(ranks))
        loaded = _loaded(model, runs)
        classify = loaded.features(features, ranks.device) if features else loaded.classifier(crops, ranks.device)
        takers: list[_Taker] = [] if features else [_Printed(loaded, crops, top, form, len(found) <= FEW)]
        if panel:
            takers.append(_Panel(panel, loaded, len(found)))
        if submission:
            takers.append(_Submission(submission, devkit, loaded))
        answers = prediction.seen(found, prediction.treatment_for(loaded.subject), classify, threads(), ranks)
        if ranks.rank > 0:
            bad = len([*answers])  # none: the first has them all
        else:
            if features and out:
                answers = _written(out, answers, found, loaded, features)
            bad = _given_out(answers, takers, len(found))
    raise typer.Exit(1 if bad else 0)


def _stdin(ranks: "Ranks") -> bytes:
    """Read by the first rank for all."""
    return ranks.told(sys.stdin.buffer.read() if ranks.rank == 0 else b"")


def _form(**given: bool) -> str:
    """json, jsonl, csv, or empty for people."""
    forms = [name for name, wanted in given.items() if wanted]
    if len(forms) > 1:
        raise typer.BadParameter(f"--{forms[0]} and --{forms[1]} do not go together")
    return forms[0] if forms else ""


def _check_features(features: str | None, out: Path | None, crops: int, other: bool) -> None:
    if (features is None) != (out is None):
        raise typer.BadParameter("--features LAYER and -o FILE.safetensors go together")
    if features is not None and (crops != 1 or other):
        raise typer.BadParameter("--features writes one file, of the centre patches: no other output goes with it")


def _loaded(given: Path | None, runs: Path) -> "Model":
    from alexnet_cli import runs as directories
    from alexnet_cli.engine import models, published

    path = directories.model_file(given) if given else published.newest_or_published(runs, console.note)
    model = models.load(path)
    console.note(f"with {path}" + (f": {model.origin}" if model.origin else ""))
    return model


def _written(
    out: Path, answers: Iterator["Seen"], found: list["Picture"], model: "Model", layer: str
) -> Iterator["Seen"]:
    from alexnet_cli.engine import extraction

    return extraction.saved(out, answers, found, {"layer": layer, "model": str(model.path)})


def _given_out(answers: Iterator["Seen"], takers: list["_Taker"], count: int) -> int:
    """Give each picture to all that want it; the number of those that could not be used."""
    bad = 0
    # Where the results go to a terminal, as they come, a bar would be in their way.
    barred = count > MANY and not sys.stdout.isatty()
    with console.progress("predicting", count, "pictures") if barred else nullcontext() as bar:
        for done, one in enumerate(answers, 1):
            if one.problem is not None:
                bad += 1
                console.error(one.problem.message, one.problem.hint)
            for taker in takers:
                taker.take(one)
            if bar is not None:
                bar.update(done, f"{bad} unusable" if bad else "")
    for taker in takers:
        taker.close()
    if bad and count > 1:
        console.note(f"{bad:,} of {count:,} pictures could not be used")
    return bad


class _Printed:
    """The answers on stdout: for people, or in one of the forms for programs."""

    def __init__(self, model: "Model", crops: int, top: int, form: str, few: bool) -> None:
        self._model, self._crops, self._top, self._form, self._few = model, crops, top, form, few
        self._answers: list[dict[str, Any]] = []
        self._unusable: list[dict[str, Any]] = []
        if form == "csv":
            console.result(csv_line(CSV))

    def take(self, one: "Seen") -> None:
        from alexnet_cli.engine.prediction import top

        if one.output is not None:
            answer = {"file": one.name, "top": top(self._model.subject, one.output, self._top)}
            if self._form == "json":
                self._answers.append(answer)
            else:
                self._print(answer)
        elif one.problem is not None:
            problem = {"file": one.name, "error": one.problem.message}
            if self._form == "json":
                self._unusable.append(problem)
            elif self._form == "jsonl":
                console.result(json.dumps(problem))

    def close(self) -> None:
        if self._form == "json":
            named = {"model": str(self._model.path), "crops": self._crops}
            console.result_json(named | {"pictures": self._answers, "unusable": self._unusable})

    def _print(self, answer: dict[str, Any]) -> None:
        name, guesses = answer["file"], answer["top"]
        if self._form == "jsonl":
            console.result(json.dumps(answer))
        elif self._form == "csv":
            for place, guess in enumerate(guesses, 1):
                cells = [console.escaped(name), place, *(guess[key] for key in CSV[2:])]
                console.result(csv_line(cells))
        elif self._few:
            console.bars(name, [(guess["name"], guess["probability"]) for guess in guesses])
        else:
            said = ", ".join(f"{guess['name']} {100 * guess['probability']:.1f} %" for guess in guesses)
            console.result(console.escaped(f"{name}: {said}"))


class _Panel:
    """The pictures over their five most probable classes, as in the paper's Figure 4."""

    def __init__(self, path: Path, model: "Model", count: int) -> None:
        from alexnet_cli.report import panel

        panel.check(path, count)
        self._path, self._subject = path, model.subject
        self._entries: list[panel.Entry] = []

    def take(self, one: "Seen") -> None:
        from alexnet_cli.engine.prediction import known_label, top
        from alexnet_cli.report.panel import Entry

        if one.output is None or one.square is None:
            return
        guesses = [(guess["name"], guess["probability"]) for guess in top(self._subject, one.output, 5)]
        label = known_label(self._subject, one.name)
        right = None if label is None else self._subject.classes[label]
        self._entries.append(Entry(one.name, one.square.permute(1, 2, 0).numpy(), guesses, right))

    def close(self) -> None:
        from alexnet_cli.report import panel

        if self._entries:
            panel.draw(self._path, self._entries)
            console.note(f"drawn: {self._path}")


class _Submission:
    """A line for each picture; a missing one would shift all after it, so then there is no file."""

    def __init__(self, path: Path, devkit: Path | None, model: "Model") -> None:
        from alexnet_cli.engine.submission import ids

        self._path, self._ids = path, ids(devkit, "", model.subject.wnids)
        self._best: list[Tensor] = []
        self._bad = ""

    def take(self, one: "Seen") -> None:
        from alexnet_cli.engine.submission import best

        if one.output is None:
            self._bad = self._bad or one.name
        else:
            self._best.append(best(one.output[None]))

    def close(self) -> None:
        import torch

        from alexnet_cli.engine.submission import write
        from alexnet_cli.errors import AlexNetError

        if self._bad:
            raise AlexNetError(
                f"{self._path} is not written: it needs a line for {self._bad}", "mend that picture"
            )
        write(self._path, torch.cat(self._best), self._ids)
