"""`alexnet convert`: weights between our files, torchvision's and Caffe's, and to ONNX."""

from pathlib import Path
from typing import Annotated

import typer

from alexnet_cli import console
from alexnet_cli.options import Json


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="A run, .safetensors, torchvision's .pth or Caffe's .caffemodel."),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help=".safetensors, .pth (torchvision) or .onnx.")],
    recipe: Annotated[
        str | None, typer.Option(help="Refuse the weights of any other recipe's net.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a model into a file of another kind.

    Example: alexnet convert runs/paper-1 paper.onnx
    """
    from alexnet_cli import runs
    from alexnet_cli.engine import conversion, models

    path = runs.model_file(source)
    conversion.check_target(target, path, overwrite)
    checkpoint, origin = models.load_weights(path, recipe)
    if origin:
        console.note(f"{path}: {origin}")
    differences = conversion.write(target, checkpoint)
    facts = {
        "from": str(path),
        "to": str(target),
        "recipe": checkpoint.recipe.name,
        "classes": len(checkpoint.subject.classes),
        "parameters": sum(tensor.numel() for tensor in checkpoint.weights.values()),
        "bytes": target.stat().st_size,
    }
    if as_json:
        console.result_json({**facts, "origin": origin, "differences": differences})
        return
    rows = [(key, f"{value:,}" if isinstance(value, int) else value) for key, value in facts.items()]
    rows += [(f"onnxruntime, {name}", f"{value:.1e} of the largest output") for name, value in differences.items()]
    console.table("Converted", ("", ""), rows)
