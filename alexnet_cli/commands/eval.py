"""`alexnet eval`: errors of trained models and of their ensemble on a split, beside the paper's."""

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_cli import console
from alexnet_cli.options import Crops, Data, Device, Devkit, Gpus, Json, Processes, Runs, Submission

if TYPE_CHECKING:
    from alexnet_cli.dataset.manifest import Dataset
    from alexnet_cli.engine.comparison import Row
    from alexnet_cli.engine.examination import Examination
    from alexnet_cli.engine.models import Model
    from alexnet_cli.engine.scoring import Score


def eval(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="MODEL",
            help="Runs or model files, several for an ensemble; the newest run if none.",
            show_default=False,
        ),
    ] = None,
    data: Data = "dataset",
    runs: Runs = Path("runs"),
    crops: Crops = 1,
    split: Annotated[str, typer.Option(help="val, test or train.")] = "val",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many pictures, evenly spaced.", show_default=False)
    ] = None,
    ensemble_weights: Annotated[
        str | None, typer.Option(help="1,1,2: one for each model; equal if not given.", show_default=False)
    ] = None,
    save_probs: Annotated[
        Path | None,
        typer.Option(
            help="Write the probabilities, of several models their mean, to FILE.safetensors.", show_default=False
        ),
    ] = None,
    from_probs: Annotated[
        bool, typer.Option("--from-probs", help="The MODELs are files that --save-probs wrote: average those.")
    ] = False,
    by_class: Annotated[bool, typer.Option("--by-class", help="Show the errors of each class too.")] = False,
    confusion: Annotated[
        Path | None, typer.Option(help="Write what was taken for what to FILE.csv.", show_default=False)
    ] = None,
    submission: Submission = None,
    devkit: Devkit = None,
    device: Device = None,
    gpus: Gpus = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Measure the errors of trained models, and of their ensemble.

    Each picture is decoded once for all models. Of equally probable classes the one with the lower label ranks
    first. The counts are the same on any number of GPUs or processes.

    Example: alexnet eval runs/paper-1 runs/paper-2 --crops 10 --split test
    """
    from alexnet_cli.dataset.manifest import open_squares
    from alexnet_cli.engine import examination, launch, parallel, probabilities
    from alexnet_cli.files import check_place

    for path in filter(None, (save_probs, confusion, submission)):
        check_place(path)
    weights = examination.parsed_weights(ensemble_weights)
    wanted = examination.Wanted(weights, save_probs, confusion, submission, devkit)
    if from_probs:
        exam = examination.of_files([probabilities.read(path) for path in models or []], wanted)
        _show(exam, [{"model": name} for name in exam.names], by_class, as_json)
        return
    dataset, place = open_squares(data), launch.placement(device, gpus, processes)
    paths = _paths(models or [], runs)
    if place.ranks > 1 and not launch.launched():
        raise typer.Exit(launch.relaunch(place.ranks))
    loaded = [_loaded(path, dataset) for path in paths]
    with parallel.joined(place.device) as ranks:
        exam = examination.of_models(loaded, dataset, split, crops, limit, wanted, ranks)
        _show(exam, [_facts(model) for model in loaded], by_class, as_json)


def _paths(models: Sequence[Path], runs: Path) -> list[Path]:
    from alexnet_cli import runs as directories
    from alexnet_cli.engine import published

    if not models:
        return [published.newest_or_published(runs, console.note)]
    return [directories.model_file(model) for model in models]


def _loaded(path: Path, dataset: "Dataset") -> "Model":
    from alexnet_cli.engine import models
    from alexnet_cli.engine.prediction import treatment_for

    model = models.load(path)
    if model.origin:
        console.note(f"{path}: {model.origin}")
    trained, here = treatment_for(model.subject).geometry, dataset.treatment.geometry
    if trained != here:
        console.warn(f"{path} was trained on pictures of --geometry {trained}, {dataset.place} has {here}")
    return model


def _facts(model: "Model") -> dict[str, Any]:
    position = model.position
    return {
        "model": str(model.path),
        "recipe": model.name,
        "epochs": position.epoch,
        "steps": position.steps,
    }


def _show(exam: "Examination", models: list[dict[str, Any]], by_class: bool, as_json: bool) -> None:
    """Score the models, and give the result as a document or as tables."""
    what = models[0]["model"] if len(models) == 1 else f"{len(models)} models"
    scores: list[Score] = []
    events = exam.scored()
    with console.progress(f"evaluating {what}", exam.pictures, "pictures") as bar:
        while not scores:
            event = next(events)
            if isinstance(event, int):
                bar.update(event)
            else:
                scores = event
    _show_all(exam, models, scores, by_class, as_json)
    deque(events, maxlen=0)  # files that cannot be written cost no scores


def _show_all(
    exam: "Examination", models: list[dict[str, Any]], scores: list["Score"], by_class: bool, as_json: bool
) -> None:
    if as_json:
        console.result_json(_document(exam, models, scores))
        return
    _show_scores(exam, scores)
    if by_class:
        _show_classes(exam, scores)
    _show_paper(exam, scores)
    console.note(f"of {len(exam.about.classes):,} classes, label order {exam.about.label_order[:16]}")


def _document(exam: "Examination", models: list[dict[str, Any]], scores: list["Score"]) -> dict[str, Any]:
    from alexnet_cli.engine.examination import described

    about, documents = exam.about, [described(score, exam.about) for score in scores]
    singles, means = documents[: len(models)], documents[len(models) :]
    beside = exam.beside_the_paper(scores)
    return {
        "split": about.split,
        "crops": about.crops,
        "dataset": about.dataset,
        "label_order": about.label_order,
        "models": [facts | score for facts, score in zip(models, singles, strict=True)],
        "ensemble": {"weights": exam.weights, **means[0]} if means else None,
        "paper": beside and {"table": beside[0], "rows": [asdict(row) for row in beside[1]]},
    }


def _show_scores(exam: "Examination", scores: list["Score"]) -> None:
    from alexnet_cli.fisher.model import NAME

    top5 = len(exam.about.classes) > 5
    columns = ("model", "top-1 error", *["top-5 error"] * top5, "cross-entropy", "calibration")
    rows = [
        (
            name,
            f"{score.tally.top1_error:.2f} %",
            *[f"{score.tally.top5_error:.2f} %"] * top5,
            f"{score.tally.cross_entropy:.4f}",
            f"{score.calibration_error:.2f} %",
        )
        for name, score in zip(_names(exam), scores, strict=False)
    ]
    crops = exam.about.crops
    how = "centre patch" if crops == 1 else f"{crops} patches averaged" if crops else "saved probabilities"
    if crops and all(model["recipe"] == NAME for model in exam.about.models):
        how = "whole pictures"
    title = f"{exam.about.split}, {how}, {exam.pictures:,} pictures"
    console.table(title, columns, rows, right=tuple(range(1, len(columns))))


def _names(exam: "Examination") -> list[str]:
    """Of the rows of scores: each model, and their mean if there are several."""
    weights = ", ".join(f"{weight:g}" for weight in exam.weights)
    equal = len(set(exam.weights)) == 1
    mean = f"all {len(exam.names)}, averaged" if equal else f"averaged with weights {weights}"
    return [*exam.names, mean] if len(exam.names) > 1 else [*exam.names]


def _show_classes(exam: "Examination", scores: list["Score"]) -> None:
    """The errors of each class by the last of the models, the largest first."""
    top5 = len(exam.about.classes) > 5
    columns = ("class", "pictures", "top-1 error", *["top-5 error"] * top5)
    counted = sorted(zip(exam.about.classes, *scores[-1].of_class.tolist(), strict=True), key=_by_error)
    rows = [
        (name, f"{all_of_it:,}", *(f"{100 * wrong / all_of_it:.1f} %" for wrong in (wrong1, wrong5)[: 1 + top5]))
        for name, all_of_it, wrong1, wrong5 in counted
        if all_of_it
    ]
    console.table(_names(exam)[-1], columns, rows, right=tuple(range(1, len(columns))))


def _by_error(row: tuple[str, int, int, int]) -> tuple[float, float]:
    _, pictures, wrong1, wrong5 = row
    return -wrong1 / max(1, pictures), -wrong5 / max(1, pictures)


def _show_paper(exam: "Examination", scores: list["Score"]) -> None:
    """The paper's rows beside ours, for the pictures that the paper has rows of."""
    beside = exam.beside_the_paper(scores)
    if beside is None:
        return
    title, rows = beside
    columns = ["", "top-1", "top-5", *["top-5 test"] * (len(rows[0].paper) > 2), "ours", "gap"]
    cells = [(row.name, *map(_number, row.paper), *_ours(row)) for row in rows]
    console.table(f"{title}, errors in %", columns, cells, right=tuple(range(1, len(columns))))
    for row in rows:
        if row.missing:
            console.result(f"{row.name}: still missing: {'; '.join(row.missing)}")


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f}"


def _ours(row: "Row") -> tuple[str, str]:
    """Our top-1 and top-5 error, and by how much they are above the paper's."""
    if row.ours is None:
        return "—", ""
    gaps = (
        f"{ours - theirs:+.1f}" for ours, theirs in zip(row.ours, row.paper, strict=False) if theirs is not None
    )
    return " / ".join(map(_number, row.ours)), " / ".join(gaps)
