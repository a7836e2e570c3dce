"""Weights into a file of another kind: ours, torchvision's, or ONNX that onnxruntime has been asked about."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet_cli import paper
from alexnet_cli.dataset import demo
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine.checkpoint import Checkpoint, model_of
from alexnet_cli.engine.models import places
from alexnet_cli.engine.prediction import classifier
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import whole_file
from alexnet_cli.loading.augmentation import cut, evaluation_views, patches_for
from alexnet_cli.network.interchange import onnx, torchvision

TOLERANCE = 1e-4
"""Of what onnxruntime may give beside our own network, as a part of the largest output."""

CPU = torch.device("cpu")


def check_target(path: Path, source: Path, overwrite: bool) -> None:
    """Refuse what could not be written, or should not, before any weights are read."""
    if path.suffix not in (".safetensors", ".pth", ".onnx"):
        raise AlexNetError(
            f"{path}: there is no writing '{path.suffix}' files", "write .safetensors, .pth or .onnx"
        )
    if path.exists() and source.exists() and path.samefile(source):
        raise AlexNetError(f"{path} is the file that is to be converted", "name another file")
    if path.exists() and not overwrite:
        raise AlexNetError(f"{path} exists already", "add --overwrite to replace it, or name another file")
    if path.suffix == ".onnx":
        onnx.needed()


def write(path: Path, checkpoint: Checkpoint) -> dict[str, float]:
    """Write the file whole or not at all; of ONNX, the largest differences from our own network."""
    if path.suffix == ".onnx":
        return _write_onnx(path, checkpoint)
    if path.suffix == ".pth":
        torchvision.write(path, checkpoint.recipe, checkpoint.weights)
    else:
        checkpoints.save(path, replace(checkpoint, velocity={}))
    return {}


def _write_onnx(path: Path, checkpoint: Checkpoint) -> dict[str, float]:
    recipe, subject = checkpoint.recipe, checkpoint.subject
    patches = patches_for(recipe, subject.colours.mean)
    proto = onnx.built(
        model_of(checkpoint, CPU).eval(),
        recipe.network,
        patches.mean,
        patches.scale,
        places(1, patches.side),
        json.dumps(checkpoints.description(checkpoint), ensure_ascii=False),
    )
    with whole_file(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
        del proto
        differences = _differences(temporary, checkpoint)
        if not max(differences.values()) <= TOLERANCE:
            raise AlexNetError(
                f"onnxruntime does not give what the network gives, {_said(differences)}; {path} is not written",
                "this should not be: please report it with the recipe's settings",
            )
    return differences


@torch.no_grad()
def _differences(path: Path, checkpoint: Checkpoint) -> dict[str, float]:
    """How far the file in onnxruntime is from our network: |difference| as a part of the largest output."""
    proto, _ = onnx.opened(path)
    run = onnx.runner(proto, CPU, ("probabilities", "logits"))
    patches = patches_for(checkpoint.recipe, checkpoint.subject.colours.mean)
    model, ours = model_of(checkpoint, CPU).eval(), classifier(checkpoint, 10, CPU)
    found = {}
    for name, pictures in (("random pictures", _noise(3)), ("drawn pictures", _drawn(2))):
        (view,) = evaluation_views(1, len(pictures), patches.side)
        wanted = model(cut(pictures, patches, view))
        probabilities, logits = run(pictures)
        found[name] = max(_apart(logits, wanted), _apart(probabilities, wanted.softmax(1)))
    ten = onnx.runner(onnx.viewed(proto, places(10, patches.side)), CPU)
    found["ten crops"] = _apart(ten(pictures[:1])[0], ours(pictures[:1]))
    return found


def _apart(theirs: Tensor, ours: Tensor) -> float:
    return float((theirs - ours).abs().max() / ours.abs().max().clamp_min(1e-30))


def _said(differences: dict[str, float]) -> str:
    return ", ".join(f"{value:.1e} apart on {name}" for name, value in differences.items())


def _noise(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, paper.IMAGE_SIZE, paper.IMAGE_SIZE)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _drawn(count: int) -> Tensor:
    """Pictures of things, as `alexnet demo` draws them."""
    size = (paper.IMAGE_SIZE, paper.IMAGE_SIZE)
    squares = []
    for number, (name, shape) in enumerate([*demo.SHAPES.items()][:count]):
        picture = demo.draw(shape, demo.usual_hue(name), random.Random(number)).resize(size)
        squares.append(torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))
    return torch.stack(squares).contiguous()
