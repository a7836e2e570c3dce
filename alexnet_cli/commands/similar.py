"""`alexnet similar`: the pictures of a dataset that are nearest to others in the last hidden layer."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_cli import console
from alexnet_cli.options import Device, Json, OwnData, Runs

if TYPE_CHECKING:
    import torch

    from alexnet_cli.dataset.manifest import Dataset, Split
    from alexnet_cli.engine.models import Model
    from alexnet_cli.report.neighbours import Index, Nearest


def similar(
    queries: Annotated[
        list[str],
        typer.Argument(metavar="QUERY", help="Pictures, folders of them, or - for stdin.", show_default=False),
    ],
    model: Annotated[
        Path | None, typer.Option(help="A run or a model file; the newest run if none.", show_default=False)
    ] = None,
    runs: Runs = Path("runs"),
    data: OwnData = None,
    split: Annotated[str, typer.Option(help="Of the dataset, to search in: train, val or test.")] = "train",
    index: Annotated[
        Path | None,
        typer.Option(help="Where the features lie or shall lie; beside the model.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Search only so many pictures, evenly spaced.", show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Pictures to find for each query.")] = 6,
    panel: Annotated[
        Path | None, typer.Option(help="Draw them into FILE.png, .svg or .pdf.", show_default=False)
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find the pictures whose features in the last hidden layer are nearest (L2), as in Figure 4.

    The first search computes the features of all pictures of the split and keeps them in a file for the next.

    Example: alexnet similar cat.jpg --data dataset --panel similar.png
    """
    from alexnet_cli import runs as directories
    from alexnet_cli.dataset.manifest import open_squares
    from alexnet_cli.engine import launch, models
    from alexnet_cli.engine.evaluation import split_for
    from alexnet_cli.report import panel as panels
    from alexnet_cli.report import sources

    if panel is not None:
        panels.check(panel, top)
    path = directories.model_file(model) if model else directories.newest_model(runs)
    found, where = models.load(path), launch.device(device)
    dataset = open_squares(data or sources.dataset_of(path))
    pictures = split_for(found.subject, dataset, split).part(limit)
    table = _index(found, dataset, pictures, index, limit, where)
    names, squares, features, bad = _queries(found, queries, where)
    if panel is not None:
        panels.check(panel, len(names))
    nearest = _searched(features, table, top) if names else []
    if as_json:
        console.result_json(_document(path, table, dataset, pictures, names, nearest))
    else:
        _show(dataset, pictures, names, nearest)
    if panel is not None and names:
        _draw(panel, dataset, pictures, names, squares, nearest)
        console.note(f"drawn: {panel}")
    raise typer.Exit(int(bad))


def _index(
    model: "Model",
    dataset: "Dataset",
    pictures: "Split",
    given: Path | None,
    limit: int | None,
    device: "torch.device",
) -> "Index":
    """The index of these pictures; made if there is none, or if the one beside the model is of something else."""
    from alexnet_cli.errors import AlexNetError
    from alexnet_cli.report import neighbours

    path = given or model.path.parent / f"neighbours-{pictures.name}.safetensors"
    wanted = neighbours.about(model, dataset, pictures, limit)
    found = neighbours.opened(path)
    if found is not None and found.about == wanted:
        return found
    if found is not None:
        changed = ", ".join(neighbours.differences(found.about, wanted))
        if given is not None:
            raise AlexNetError(f"{path} is of another {changed}", "remove it, or name another --index")
        console.note(f"{path} is of another {changed} and is made anew")
    size = 4 * wanted.units * wanted.pictures
    console.note(f"features of {wanted.pictures:,} pictures go to {path}, {size / 1e6:,.0f} MB")
    with console.progress("indexing", wanted.pictures, "pictures") as bar:
        for done in neighbours.built(path, wanted, model.features(neighbours.LAYER, device), pictures):
            bar.update(done)
    made = neighbours.opened(path)
    assert made is not None
    return made


def _queries(model: "Model", queries: list[str], device: "torch.device") -> tuple[list[str], list[Any], Any, bool]:
    """Names, pictures and features of what can be read, and whether there is something that cannot."""
    import torch

    from alexnet_cli.engine.gathering import gathered
    from alexnet_cli.engine.prediction import seen, treatment_for
    from alexnet_cli.loading.loader import threads
    from alexnet_cli.report.neighbours import LAYER

    names, squares, bad = [], [], False
    rows: list[Any] = []
    pictures = gathered(queries, sys.stdin.buffer.read)
    for found in seen(pictures, treatment_for(model.subject), model.features(LAYER, device), threads()):
        if found.problem is not None:
            console.error(found.problem.message, found.problem.hint)
            bad = True
        else:
            names.append(found.name)
            squares.append(found.square)
            rows.append(found.output)
    return names, squares, torch.stack(rows).numpy() if rows else None, bad


def _searched(features: Any, index: "Index", count: int) -> "list[Nearest]":
    from alexnet_cli.report import neighbours

    with console.progress("searching", index.about.pictures, "pictures") as bar:
        for found in neighbours.nearest(features, index, count):
            if isinstance(found, list):
                return found
            bar.update(found)
    raise AssertionError("the nearest come last")


def _document(
    model: Path, index: "Index", dataset: "Dataset", split: "Split", names: list[str], nearest: "list[Nearest]"
) -> dict[str, Any]:
    from dataclasses import asdict

    answers = [
        {"file": name, "nearest": [_facts(dataset, split, *pair) for pair in _pairs(found)]}
        for name, found in zip(names, nearest, strict=True)
    ]
    return {"model": str(model), "index": {"file": str(index.path)} | asdict(index.about), "queries": answers}


def _pairs(found: "Nearest") -> list[tuple[int, float]]:
    return [*zip(found.places.tolist(), found.distances.tolist(), strict=True)]


def _facts(dataset: "Dataset", split: "Split", place: int, distance: float) -> dict[str, Any]:
    from alexnet_cli.report.neighbours import key

    label = int(split.index["label"][place])
    shard, name = key(split, place)
    named = {"label": label, "name": dataset.classes[label], "wnid": dataset.wnids[label]}
    return {"place": place, "distance": distance, **named, "shard": shard, "key": name}


def _show(dataset: "Dataset", split: "Split", names: list[str], nearest: "list[Nearest]") -> None:
    for name, found in zip(names, nearest, strict=True):
        facts = [_facts(dataset, split, *pair) for pair in _pairs(found)]
        rows = [
            (rank, fact["name"], f"{fact['distance']:.5g}", f"{fact['shard']}: {fact['key']}")
            for rank, fact in enumerate(facts, 1)
        ]
        console.table(name, ("", "class", "distance", "picture"), rows, right=(0, 2))


def _draw(
    path: Path, dataset: "Dataset", split: "Split", names: list[str], squares: list[Any], nearest: "list[Nearest]"
) -> None:
    from alexnet_cli.report import gallery, plotting
    from alexnet_cli.report.sources import pictures

    rows = []
    for name, square, found in zip(names, squares, nearest, strict=True):
        labels = split.index["label"][found.places].tolist()
        shown = zip(labels, found.distances.tolist(), pictures(split, found.places.tolist()), strict=True)
        rows.append(gallery.Row(Path(name).name, square, [(dataset.classes[n], d, p) for n, d, p in shown]))
    with plotting.figure(*gallery.size(len(rows), max(len(row.found) for row in rows))) as figure:
        gallery.draw(figure, rows)
        plotting.save(figure, path, "Nearest pictures in the last hidden layer")
