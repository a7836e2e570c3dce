"""A model from a file of any kind: our checkpoints and baselines, torchvision's and Caffe's weights, ONNX."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli import imagenet, paper, recipes
from alexnet_cli.dataset.treatment import Geometry, Treatment
from alexnet_cli.dataset.treatment import described as treated
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine.checkpoint import Checkpoint, Position, Subject
from alexnet_cli.engine.prediction import Classifier, NetworkClassifier, classifier, features
from alexnet_cli.errors import AlexNetError
from alexnet_cli.fisher import linear
from alexnet_cli.fisher import model as fisher
from alexnet_cli.loading.augmentation import CHANNEL_MEANS, Colours, evaluation_views
from alexnet_cli.network.interchange import caffe, onnx, torchvision
from alexnet_cli.network.interchange.fitting import Weights, essence, fitted
from alexnet_cli.recipes import Network, Recipe
from alexnet_cli.settings import differences, flat

PATCHES = 128  # that pass through an ONNX file together


@dataclass(frozen=True)
class Model:
    path: Path
    recipe: Recipe | None
    """None of a baseline, which is no network."""
    settings: dict[str, Any]
    """By their dotted names."""
    subject: Subject
    position: Position
    origin: str
    """Where the weights come from, and what was taken for what the file does not say; empty for our own."""
    classifier: Callable[[int, torch.device], Classifier]
    """By number of crops and device."""
    parameters: int = 0
    """Those of an ONNX file are not counted."""
    checkpoint: Checkpoint | None = None
    """With the weights, of a network that is no ONNX file."""

    @property
    def name(self) -> str:
        """Of the recipe; a baseline has none."""
        return fisher.NAME if self.recipe is None else self.recipe.name

    @property
    def network(self) -> Network:
        if self.recipe is None:
            raise AlexNetError(
                f"{self.path} is a baseline of Fisher vectors, which has no layers", "name a network's run or file"
            )
        return self.recipe.network

    def features(self, layer: str, device: torch.device) -> Classifier:
        """The activations of a layer instead of the probabilities: see `prediction.features`."""
        net = self.classifier(1, device)
        if not isinstance(net, NetworkClassifier):
            kind = "a baseline of Fisher vectors" if self.recipe is None else "an ONNX file"
            hint = "name a network's run" if self.recipe is None else "take what it was converted from"
            raise AlexNetError(f"{self.path} is {kind}, which gives probabilities only", hint)
        return features(net, layer)


def load(path: Path) -> Model:
    """The model in a file, whose kind is told by its content."""
    match _kind(path):
        case "onnx":
            return _onnx(path)
        case "baseline":
            return _baseline(path)
    checkpoint, origin = load_weights(path)
    recipe, subject, position = checkpoint.recipe, checkpoint.subject, checkpoint.position
    made, count = partial(classifier, checkpoint), sum(tensor.numel() for tensor in checkpoint.weights.values())
    return Model(path, recipe, flat(recipe), subject, position, origin, made, count, checkpoint)


def load_weights(path: Path, recipe: str | None = None) -> tuple[Checkpoint, str]:
    """A checkpoint of ours from a file of any kind that holds weights, and where they come from.

    With a `recipe` the weights must be of its network.
    """
    match _kind(path):
        case "torch":
            checkpoint, origin = _torchvision(path)
        case "caffe":
            checkpoint, origin = _caffe(path)
        case "onnx":
            raise AlexNetError(f"{path} is an ONNX file, which is for prediction", "convert what it was made of")
        case "baseline":
            raise AlexNetError(
                f"{path} is a baseline of Fisher vectors, not a network", "name a network's run or file"
            )
        case _:
            checkpoint, origin = checkpoints.load(path), ""
    if recipe is not None:
        _check(path, checkpoint.recipe, recipes.named(recipe))
    return checkpoint, origin


def _kind(path: Path) -> str:
    """`torch`, `caffe`, `onnx`, `baseline`, or `ours`, which is also what nobody knows."""
    try:
        with path.open("rb") as file:
            start, size = file.read(9), path.stat().st_size
    except OSError:
        return "ours"  # which says what is wrong with it
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size:
        return "baseline" if fisher.is_one(path) else "ours"  # safetensors: a length, then JSON
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"  # a zip with a pickle in it, or a bare pickle
    if start.startswith(b"\x08"):
        return "onnx"  # ModelProto.ir_version
    # NetParameter.name, .layers or .layer; a text may begin with the first two, which are end of line and Ctrl-R.
    if start.startswith((b"\x0a", b"\x12", b"\xa2\x06")):
        return "caffe"
    return "ours"


def _check(path: Path, found: Recipe, wanted: Recipe) -> None:
    same = essence(found.network) == essence(wanted.network)
    if same and (found.network.widths == wanted.network.widths or found.name == wanted.name):
        return
    keys = [key for key, _, _ in differences(found.network, wanted.network)]
    raise AlexNetError(
        f"{path} holds the weights of recipe {found.name}, not of {wanted.name}: other {', '.join(keys[:3])}",
        f"say --recipe {found.name}, or leave it out",
    )


def _torchvision(path: Path) -> tuple[Checkpoint, str]:
    weights = torchvision.read(path)
    recipe = fitted(recipes.torchvision(), weights, str(path))
    # The recipe's own preprocessing has this colour; the image is there for those who look at it.
    mean = _one_colour(tuple(255 * part for part in CHANNEL_MEANS))
    return _foreign(recipe, weights, mean, "crop"), "torchvision's weights"


def _caffe(path: Path) -> tuple[Checkpoint, str]:
    weights = caffe.read(path)
    recipe = fitted(recipes.caffe(), weights, str(path))
    beside = path.with_name(caffe.MEAN_FILE)
    if beside.exists():
        mean, whose = caffe.read_mean(beside), f"the mean image of {beside}"
    else:
        mean = _one_colour(caffe.MEAN_RGB)
        whose = f"the mean colour {'/'.join(f'{part:g}' for part in caffe.MEAN_RGB)}, for lack of {beside}"
    return _foreign(recipe, weights, mean, "warp"), f"Caffe's weights, and {whose}"


def _foreign(recipe: Recipe, weights: Weights, mean: Tensor, geometry: Geometry) -> Checkpoint:
    """With the classes of ILSVRC-2012 in the order of their WNIDs, as torchvision and Caffe have them too."""
    count = len(weights["fc8.weight"])
    wnids: tuple[str | None, ...] = tuple(imagenet.classes())
    names = imagenet.class_names([*imagenet.classes()], imagenet.classes())
    if count != len(names):  # trained on something else, and the file does not say on what
        names, wnids = tuple(f"class {label}" for label in range(count)), (None,) * count
    deviations, axes = np.array(imagenet.DEVIATIONS), np.array(imagenet.AXES).T
    colours = Colours(mean, deviations**2, axes)
    subject = Subject(names, wnids, colours, treated(Treatment(geometry)), "ILSVRC-2012")
    return Checkpoint(recipe, subject, Position(finished="converted"), weights, {})


def _one_colour(rgb: tuple[float, ...]) -> Tensor:
    """A mean image (3, 256, 256)."""
    return torch.tensor(rgb)[:, None, None].expand(3, paper.IMAGE_SIZE, paper.IMAGE_SIZE).contiguous()


def _onnx(path: Path) -> Model:
    proto, about = onnx.opened(path)
    # Its graph subtracts the mean, so there is none to show.
    recipe, subject, position = checkpoints.described(path, about, torch.zeros(3, 1, 1))

    def made(crops: int, device: torch.device) -> Classifier:
        run = onnx.runner(onnx.viewed(proto, places(crops, recipe.network.crop)), device)
        # All patches of a picture are in memory at once.
        return lambda pictures: torch.cat([run(part)[0] for part in torch.split(pictures, PATCHES // crops)])

    return Model(path, recipe, flat(recipe), subject, position, "ONNX", made)


def _baseline(path: Path) -> Model:
    found = fisher.load(path)
    settings, about = found.settings, found.about
    axes = np.array(about["eigenvalues"]), np.array(about["eigenvectors"])
    subject = Subject(
        tuple(about["classes"]),
        tuple(about["wnids"]),
        Colours(torch.zeros(3, 1, 1), *axes),
        about["preparation"],
        about["dataset"],
    )
    steps = settings.epochs * -(-about["pictures"] // linear.BATCH)
    position = Position(settings.epochs, steps=steps, seconds=about["seconds"], finished="all stages are done")
    origin = "a baseline of Fisher vectors, which sees whole pictures, however many --crops"
    return Model(path, None, asdict(settings), subject, position, origin, lambda *_: found, found.parameters)


def places(crops: int, side: int) -> NDArray[np.int64]:
    """(crops, side, side): where the pixels of the evaluation's patches lie among a picture's 65536."""
    steps, found = np.arange(side), []
    for view in evaluation_views(crops, 1, side):
        columns = view.columns + (steps[::-1] if view.reflected[0] else steps)
        found.append((view.rows + steps)[:, None] * paper.IMAGE_SIZE + columns)
    return np.stack(found)
