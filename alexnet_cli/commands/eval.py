"""`alexnet eval`: top-1 and top-5 errors of trained models on a split."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_cli import console
from alexnet_cli.options import Crops, Data, Device, Json, Runs

if TYPE_CHECKING:
    import torch

    from alexnet_cli.dataset.manifest import Dataset


def eval(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MODEL", help="Runs or model files; the newest run if none.", show_default=False),
    ] = None,
    data: Data = Path("dataset"),
    runs: Runs = Path("runs"),
    crops: Crops = 1,
    split: Annotated[str, typer.Option(help="val, test or train.")] = "val",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many pictures, evenly spaced.", show_default=False)
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure the top-1 and top-5 error of trained models.

    Example: alexnet eval runs/paper-1 --crops 10 --split test
    """
    from alexnet_cli import runs as directories
    from alexnet_cli.dataset.manifest import open_squares
    from alexnet_cli.engine import launch

    dataset = open_squares(data)
    paths = [directories.model_file(model) for model in models or [directories.newest_model(runs)]]
    where = launch.device(device)
    scores = [_score(path, dataset, split, crops, limit, where) for path in paths]
    if as_json:
        console.result_json({"split": split, "crops": crops, "dataset": dataset.fingerprint, "models": scores})
        return
    with_top5 = len(dataset.classes) > 5
    columns = ("model", "top-1 error", *(["top-5 error"] if with_top5 else []), "cross-entropy", "pictures")
    rows = [
        (
            score["model"],
            f"{score['top1_error']:.2f} %",
            *([f"{score['top5_error']:.2f} %"] if with_top5 else []),
            f"{score['cross_entropy']:.4f}",
            f"{score['pictures']:,}",
        )
        for score in scores
    ]
    title = f"{split}, {'centre patch' if crops == 1 else f'{crops} patches averaged'}"
    console.table(title, columns, rows, right=tuple(range(1, len(columns))))


def _score(
    path: Path, dataset: "Dataset", split: str, crops: int, limit: int | None, device: "torch.device"
) -> dict[str, Any]:
    from alexnet_cli.engine import models
    from alexnet_cli.engine.evaluation import split_for, tallies
    from alexnet_cli.engine.parallel import Ranks
    from alexnet_cli.engine.prediction import treatment_for
    from alexnet_cli.loading.loader import threads

    model = models.load(path)
    if model.origin:
        console.note(f"{path}: {model.origin}")
    pictures = split_for(model.subject, dataset, split).part(limit)
    trained, here = treatment_for(model.subject).geometry, dataset.treatment.geometry
    if trained != here:
        console.warn(f"{path} was trained on pictures of --geometry {trained}, {dataset.root} has {here}")
    with console.progress(f"evaluating {path}", len(pictures.index), "pictures") as bar:
        for tally in tallies(model.classifier(crops, device), pictures, Ranks(0, 1, device), threads()):
            bar.update(tally.pictures)
    return {
        "model": str(path),
        "recipe": model.recipe.name,
        "epochs": model.position.epoch,
        "steps": model.position.steps,
        "pictures": tally.pictures,
        "top1_wrong": tally.wrong1,
        "top5_wrong": tally.wrong5,
        "top1_error": tally.top1_error,
        "top5_error": tally.top5_error,
        "cross_entropy": tally.cross_entropy,
    }
