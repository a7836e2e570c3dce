"""`alexnet describe`: what a recipe is, layer by layer, and where it leaves the printed text."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_cli import console
from alexnet_cli.options import Json, Settings

if TYPE_CHECKING:
    from alexnet_cli.network.describe import Layer
    from alexnet_cli.recipes import Recipe


def describe(
    recipe: Annotated[str, typer.Argument(help="paper, text or small.")] = "paper",
    classes: Annotated[int, typer.Option(min=1, help="Outputs of the last layer.")] = 1000,
    against: Annotated[str | None, typer.Option(help="A recipe to compare with.", show_default=False)] = None,
    assignments: Settings = None,
    as_json: Json = False,
) -> None:
    """Show a recipe's layers, parameters and multiply-adds, and where it leaves the paper's text.

    Example: alexnet describe small --against paper
    """
    from alexnet_cli import recipes
    from alexnet_cli.network.describe import layers
    from alexnet_cli.settings import differences, nested

    chosen = recipes.chosen(recipe, assignments or [])
    other = None if against is None else recipes.named(against)
    found = layers(chosen.network, classes)
    if as_json:
        departures = [asdict(departure) for departure in recipes.departures(chosen)]
        rows = [asdict(layer) for layer in found]
        document = {"recipe": nested(chosen), "layers": rows, "departures": departures}
        if other is not None:
            document["differences"] = [list(row) for row in differences(chosen, other)]
        console.result_json(document)
        return
    _show_layers(chosen, found)
    if other is None:
        _show_departures(chosen)
    else:
        _show_differences(chosen, other)


def _show_layers(recipe: "Recipe", found: "list[Layer]") -> None:
    rows: list[tuple[str, ...]] = [
        (
            layer.name,
            layer.kind,
            "×".join(map(str, layer.output)),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds / 1e6:,.1f} M" if layer.multiply_adds else "",
        )
        for layer in found
    ]
    parameters = sum(layer.parameters for layer in found)
    multiply_adds = sum(layer.multiply_adds for layer in found) / 1e6
    rows.append(("total", "", "", f"{parameters:,}", f"{multiply_adds:,.1f} M"))
    columns = ("layer", "kind", "output", "parameters", "multiply-adds")
    console.table(f"The net of '{recipe.name}'", columns, rows, right=(3, 4))


def _show_departures(recipe: "Recipe") -> None:
    from alexnet_cli.recipes import departures

    for departure in departures(recipe):
        facts = (("paper", departure.printed), ("here", departure.here), ("why", departure.why))
        console.table(departure.what, ("", ""), facts)


def _show_differences(recipe: "Recipe", other: "Recipe") -> None:
    from alexnet_cli.settings import differences

    rows = [row for row in differences(recipe, other) if row[0] != "name"]
    console.table("Differences", ("setting", recipe.name, other.name), rows)
