"""Checkpoints: one safetensors file with everything that training, evaluation and prediction need.

Tensors are full and unsharded, under single-device names ("conv1.weight", channels 0..n/2 are tower a); the
velocity lies under the same names behind "velocity.", the mean image under "mean". The rest is JSON in the
file's metadata, key "alexnet". There is no pickle in it, and no generator state, because there is none.

The metadata's key "crc32" is of that JSON and of all tensors: a bit that a disk or a copy turned is found when the
file is read. It guards against damage, not against people.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alexnet_cli import paper, runs, settings
from alexnet_cli.engine.arithmetic import Scaling
from alexnet_cli.engine.schedule import Plateau
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import whole_file
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.recipes import Recipe, checked

VELOCITY = "velocity."


@dataclass(frozen=True)
class Position:
    """How far a run is: `step` is the next batch of `epoch` (both from 0), `steps` all that were done."""

    epoch: int = 0
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    """Wall time of training so far."""
    plateau: Plateau = field(default_factory=Plateau)
    judged: int = 0
    """The step of the last validation that counted for the plateau."""
    best_error: float | None = None
    """Lowest top-1 validation error, in percent."""
    metrics_size: int = 0
    """Bytes of metrics.jsonl that belong to these steps."""
    finished: str = ""
    """Why training ended, or empty while there is more to do."""
    scaling: Scaling = field(default_factory=Scaling)
    """Of fp16; another precision leaves it as it is."""


@dataclass(frozen=True)
class Subject:
    """What a model was trained on: enough to prepare and to name a picture."""

    classes: tuple[str, ...]
    wnids: tuple[str | None, ...]
    colours: Colours
    preparation: dict[str, Any]
    """How its pictures were decoded and resized, from the dataset's manifest."""
    dataset: str


@dataclass(frozen=True)
class Checkpoint:
    recipe: Recipe
    subject: Subject
    position: Position
    weights: dict[str, Tensor]
    velocity: dict[str, Tensor]
    """Empty in a `best` checkpoint, which is for prediction."""


def save(path: Path, checkpoint: Checkpoint, keep: Path | None = None) -> None:
    """Write the file whole or not at all; what was there before is kept under another name."""
    about, subject = description(checkpoint), checkpoint.subject
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    tensors |= {VELOCITY + name: tensor.cpu().contiguous() for name, tensor in checkpoint.velocity.items()}
    tensors["mean"] = subject.colours.mean.cpu()
    text = json.dumps(about, ensure_ascii=False)
    with whole_file(path, keep) as temporary:
        _check_room(path, sum(tensor.nbytes for tensor in tensors.values()))
        try:
            save_file(tensors, temporary, metadata={"alexnet": text, "crc32": _checksum(text, tensors)})
        except SafetensorError as error:
            # A full disk reaches us as text only: "I/O error: No space left on device (os error 28)".
            if number := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(number[1]), str(error)) from error
            raise
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # as any file: safetensors makes its own for the owner only


def _check_room(path: Path, size: int) -> None:
    """Before anything is written: a disk that is filled to the last byte is in everybody's way."""
    disk = shutil.disk_usage(path.parent)
    if disk.total and disk.free < size:  # some file systems do not tell
        raise AlexNetError(
            f"the disk is full: {path} needs {size / 1e6:,.1f} MB, and {disk.free / 1e6:,.1f} MB are free",
            "free some space; the same command then goes on from what is finished",
        )


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].numpy().data, total)
    return f"{total:08x}"


def description(checkpoint: Checkpoint) -> dict[str, Any]:
    """All but the tensors, for JSON."""
    subject = checkpoint.subject
    return {
        "format": runs.FORMAT,
        "recipe": settings.nested(checkpoint.recipe),
        "classes": subject.classes,
        "wnids": subject.wnids,
        "eigenvalues": subject.colours.eigenvalues.tolist(),
        "eigenvectors": subject.colours.eigenvectors.tolist(),
        "preparation": subject.preparation,
        "dataset": subject.dataset,
        **asdict(checkpoint.position),
    }


def described(path: Path, about: dict[str, Any], mean: Tensor) -> tuple[Recipe, Subject, Position]:
    """What `description` gave, read and checked."""
    try:
        recipe = checked(settings.restored(Recipe, about["recipe"]))
        classes, wnids = tuple(about["classes"]), tuple(about["wnids"])
        if not classes or len(classes) != len(wnids):
            raise ValueError(f"{len(classes)} classes, {len(wnids)} WNIDs")
        eigenvalues = np.array(about["eigenvalues"], dtype=np.float64).reshape(3)
        eigenvectors = np.array(about["eigenvectors"], dtype=np.float64).reshape(3, 3)
        subject = Subject(
            classes, wnids, Colours(mean, eigenvalues, eigenvectors), about["preparation"], about["dataset"]
        )
        fields = {name: about[name] for name in Position.__dataclass_fields__ if name in about}
        parts = {"plateau": Plateau(**about["plateau"]), "scaling": Scaling(**about.get("scaling", {}))}
        position = Position(**fields | parts)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__} {error}") from error
    return recipe, subject, position


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; its tensors must be exactly those of its recipe, by name, shape and kind."""
    about = runs.checkpoint_header(path)
    recipe, subject, position = described(path, about, torch.empty(0))
    try:
        expected = _shapes(recipe, len(subject.classes))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(path, f"{type(error).__name__} {error}") from error
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: _kind(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118
            _check_kinds(path, expected, found)
            tensors = {name: file.get_tensor(name) for name in found}
            metadata = file.metadata()
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    if metadata.get("crc32", written := _checksum(metadata["alexnet"], tensors)) != written:
        raise _damaged(path, "its checksum is that of other bytes")
    subject = replace(subject, colours=replace(subject.colours, mean=tensors.pop("mean")))
    velocity = {name: tensors.pop(VELOCITY + name) for name in expected if VELOCITY + name in tensors}
    return Checkpoint(recipe, subject, position, tensors, velocity)


def _damaged(path: Path, problem: str) -> AlexNetError:
    return AlexNetError(f"{path} is damaged: {problem}", "use the run's previous or best checkpoint")


def newest(run: runs.Run) -> tuple[Checkpoint | None, str]:
    """Where a run goes on: its last checkpoint, or the one before if that is damaged; None before the first.

    The second value says what was wrong with the last one, for the user.
    """
    problem = None
    for path in (run.last, run.previous):
        if path.exists():
            try:
                return load(path), f"{problem.message}: going on from {path}" if problem else ""
            except AlexNetError as error:
                problem = problem or error
    if problem is not None:
        raise problem
    return None, ""


def empty_model(recipe: Recipe, classes: int) -> AlexNet:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return AlexNet(recipe.network, classes)


def model_of(checkpoint: Checkpoint, device: torch.device) -> AlexNet:
    """The network on `device` with the checkpoint's weights."""
    model = empty_model(checkpoint.recipe, len(checkpoint.subject.classes))
    model.load_state_dict(checkpoint.weights, assign=True)
    return model.requires_grad_(True).to(device)


def _shapes(recipe: Recipe, classes: int) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in empty_model(recipe, classes).named_parameters()}


Kind = tuple[str, tuple[int, ...]]
"""Of a tensor: how its numbers are kept, and its shape."""


def _kind(tensor: Any) -> Kind:
    return tensor.get_dtype(), tuple(tensor.get_shape())


def _check_kinds(path: Path, expected: dict[str, tuple[int, ...]], found: dict[str, Kind]) -> None:
    shapes = expected | {"mean": (3, paper.IMAGE_SIZE, paper.IMAGE_SIZE)}
    if any(name.startswith(VELOCITY) for name in found):
        shapes |= {VELOCITY + name: shape for name, shape in expected.items()}
    wrong = [name for name in sorted({*shapes, *found}) if found.get(name) != ("F32", shapes.get(name))]
    if wrong:
        raise AlexNetError(
            f"{path} does not hold the network it names: {', '.join(wrong[:3])}", "it is damaged, or was edited"
        )
