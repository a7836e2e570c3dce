"""`alexnet predict`: what a trained model sees in pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_cli import console
from alexnet_cli.options import Crops, Device, Json, Runs

if TYPE_CHECKING:
    from alexnet_cli.engine.prediction import Predictor


def predict(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE", help="Picture files.", show_default=False)],
    model: Annotated[
        Path | None, typer.Option(help="A run or a model file; the newest run if none.", show_default=False)
    ] = None,
    runs: Runs = Path("runs"),
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    crops: Crops = 1,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Name what is in pictures: the most probable classes of each.

    Example: alexnet predict cat.jpg --top 3
    """
    from alexnet_cli import runs as directories
    from alexnet_cli.engine import launch, models
    from alexnet_cli.engine.prediction import Predictor

    path = directories.model_file(model) if model else directories.newest_model(runs)
    where = launch.device(device)
    found = models.load(path)
    predictor = Predictor(found.subject, found.classifier(crops, where))
    console.note(f"with {path}" + (f": {found.origin}" if found.origin else ""))
    answers = [answer for picture in pictures if (answer := _answer(predictor, picture, top))]
    if as_json:
        console.result_json({"model": str(path), "crops": crops, "pictures": answers})
    else:
        for answer in answers:
            console.bars(answer["file"], [(guess["name"], guess["probability"]) for guess in answer["top"]])
    raise typer.Exit(0 if len(answers) == len(pictures) else 1)


def _answer(predictor: "Predictor", picture: Path, top: int) -> dict[str, Any] | None:
    """The answer for one picture; a bad one is reported and does not stop the others."""
    from alexnet_cli.errors import AlexNetError

    try:
        return {"file": str(picture), "top": predictor.top(picture, top)}
    except AlexNetError as error:
        console.error(error.message, error.hint)
        return None
