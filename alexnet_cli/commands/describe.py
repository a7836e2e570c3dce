"""`alexnet describe`: what a recipe is, layer by layer, and where it leaves the printed text."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_cli import console
from alexnet_cli.options import Json, Settings

if TYPE_CHECKING:
    from alexnet_cli.network.describe import Layer
    from alexnet_cli.recipes import Recipe


def describe(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|RUN", help="A recipe, with variants: paper+six-conv; or a run.")
    ] = "paper",
    against: Annotated[
        str | None, typer.Option(help="Another to show the differences to.", show_default=False)
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Outputs of the last layer; the run's, or 1000.", show_default=False)
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures that memory is given for; the recipe's batch.", show_default=False),
    ] = None,
    assignments: Settings = None,
    as_json: Json = False,
) -> None:
    """Show a net's layers, parameters, multiply-adds and memory, and where it leaves the paper's text.

    Example: alexnet describe paper+six-conv --against original
    """
    from alexnet_cli import recipes
    from alexnet_cli.settings import differences, nested

    chosen, trained_on = _meant(recipe, assignments or [])
    outputs = classes or trained_on or 1000
    pictures = batch or chosen.optimizer.batch_size
    found = _layers(chosen, outputs)
    other = None if against is None else _meant(against, [])[0]
    if as_json:
        document = {
            "recipe": nested(chosen),
            "classes": outputs,
            "layers": [asdict(layer) for layer in found],
            "totals": _totals(found) | {"batch": pictures, "kept_for_batch": pictures * _totals(found)["kept"]},
            "departures": [asdict(departure) for departure in recipes.departures(chosen)],
        }
        if other is not None:
            document["differences"] = [list(row) for row in differences(chosen, other)]
        console.result_json(document)
        return
    _show_layers(chosen, found, pictures)
    if other is None:
        _show_departures(chosen)
    else:
        _show_differences(chosen, other, found, _layers(other, outputs))


COUNTS = ("parameters", "multiply-adds, one picture", "bytes kept, one picture")


def _meant(name: str, assignments: list[str]) -> "tuple[Recipe, int | None]":
    """A recipe by its name, or that of a run or checkpoint with the number of its classes."""
    from alexnet_cli import recipes, runs, settings

    path = Path(name)
    if name.partition("+")[0] in recipes.RECIPES or not path.exists():
        return recipes.chosen(name, assignments), None
    if path.is_dir():
        run = runs.open_run(path)
        state = run.state()
        found, classes = run.config.recipe, None if state is None else len(state["classes"])
    else:
        header = runs.checkpoint_header(path)
        found, classes = settings.restored(recipes.Recipe, header["recipe"]), len(header["classes"])
    return recipes.checked(settings.changed(found, assignments)), classes


def _layers(recipe: "Recipe", classes: int) -> "list[Layer]":
    from alexnet_cli.network.describe import layers

    return layers(recipe.network, classes)


def _totals(found: "list[Layer]") -> dict[str, int]:
    return {
        "parameters": sum(layer.parameters for layer in found),
        "multiply_adds": sum(layer.multiply_adds for layer in found),
        "kept": sum(layer.kept for layer in found),
    }


def _show_layers(recipe: "Recipe", found: "list[Layer]", batch: int) -> None:
    rows: list[tuple[str, ...]] = [
        (
            layer.name,
            layer.kind,
            "×".join(map(str, layer.output)),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds / 1e6:,.1f} M" if layer.multiply_adds else "",
            f"{layer.kept * batch / 1e6:,.1f} MB",
        )
        for layer in found
    ]
    total = _totals(found)
    rows.append(
        (
            "total",
            "",
            "",
            f"{total['parameters']:,}",
            f"{total['multiply_adds'] / 1e6:,.1f} M",
            f"{total['kept'] * batch / 1e6:,.1f} MB",
        )
    )
    columns = ("layer", "kind", "output", "parameters", "multiply-adds", "memory")
    state = 3 * 4 * total["parameters"] / 1e6
    console.table(f"The net of '{recipe.name}'", columns, rows, right=(3, 4, 5))
    console.result(
        f"Multiply-adds are those of one picture, forward. Memory is what a training step keeps of {batch}\n"
        "pictures for its backward pass, in fp32: padded pixels, outputs, places of the poolings' maxima,\n"
        f"dropout masks. Weights, gradients and velocity take {state:,.1f} MB beside it.\n"
    )


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _show_departures(recipe: "Recipe") -> None:
    from alexnet_cli.recipes import departures

    rows = []
    for departure in departures(recipe):
        rows += [
            (departure.what, "paper", departure.printed),
            ("", "here", departure.here),
            ("", "why", departure.why),
        ]
    console.table(f"Where '{recipe.name}' leaves the printed text", ("", "", ""), rows)


def _show_differences(recipe: "Recipe", other: "Recipe", ours: "list[Layer]", theirs: "list[Layer]") -> None:
    from alexnet_cli.settings import differences

    rows = [row for row in differences(recipe, other) if row[0] != "name"]
    rows = [(key, _shown(mine), _shown(others)) for key, mine, others in rows]
    for what, first, second in zip(COUNTS, _totals(ours).values(), _totals(theirs).values(), strict=True):
        if first != second:
            rows.append((what, f"{first:,}", f"{second:,}"))
    console.table("Differences", ("setting", recipe.name, other.name), rows)
