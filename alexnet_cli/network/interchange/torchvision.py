"""torchvision's alexnet (torchvision/models/alexnet.py): its state_dict under our names, in and out."""

import io
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_cli import recipes
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import write_bytes
from alexnet_cli.network.interchange.fitting import Weights, essence, listed
from alexnet_cli.recipes import Recipe

LAYERS = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}
NAMES = {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in LAYERS.items() for kind in ("weight", "bias")}
HINT = "give the state_dict of torchvision.models.alexnet, such as alexnet-owt-7be5be79.pth"


def read(path: Path) -> Weights:
    """The weights of a .pth file, under our names; nothing in it is run, and what is odd is refused."""
    found = _unpickled(path)
    if not isinstance(found, dict):
        raise AlexNetError(f"{path} holds {type(found).__name__}, not a state_dict", HINT)
    if set(found) != set(NAMES.values()):
        raise AlexNetError(
            f"{path} holds {listed([str(name) for name in found])}, which are not torchvision's alexnet", HINT
        )
    weights = {ours: found[theirs] for ours, theirs in NAMES.items()}
    for name, tensor in weights.items():
        if not _is_plain(tensor, 4 if name.startswith("conv") else 2, name):
            raise AlexNetError(f"{path}: {NAMES[name]} is not a whole float32 tensor of its kind", HINT)
    return {name: tensor.detach().contiguous() for name, tensor in weights.items()}


def write(path: Path, recipe: Recipe, weights: Weights) -> None:
    """Write the state_dict that torchvision's class loads, whole or not at all."""
    if not computes_the_same(recipe):
        raise AlexNetError(
            f"{path.name} would be torchvision's layout, and these are the weights of {recipe.name}",
            "only recipe torchvision can be written so; an .onnx file can hold any",
        )
    state = OrderedDict((theirs, weights[ours].detach().cpu().contiguous()) for ours, theirs in NAMES.items())
    file = io.BytesIO()  # torch's own writer of files hides what the system says
    torch.save(state, file)
    write_bytes(path, file.getvalue())


def computes_the_same(recipe: Recipe) -> bool:
    """Whether torchvision's class would give this recipe's outputs from its weights."""
    theirs = recipes.torchvision()
    return (essence(recipe.network), recipe.preprocessing) == (essence(theirs.network), theirs.preprocessing)


def is_zip(path: Path) -> bool:
    """Whether it is torch's newer kind of file; the older is a bare pickle."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
    except Exception as error:  # what a damaged or hostile pickle raises is anybody's guess
        # Of torch's own message only the name of what it refused: the rest advises to load it all the same.
        called = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it names {called[1]}, which is not run" if called else f"it is damaged ({type(error).__name__})"
        raise AlexNetError(f"{path} cannot be read as tensors alone: {reason}", HINT) from error


def _is_plain(tensor: object, dimensions: int, name: str) -> bool:
    """Whether every number of the tensor has its own place in the file."""
    return (
        isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype is torch.float32
        and tensor.dim() == (1 if name.endswith("bias") else dimensions)
        and tensor.untyped_storage().nbytes() >= 4 * tensor.numel() > 0
    )
