"""A finished baseline: one safetensors file, without pickle, and what it says of pictures.

Of each kind of descriptor the file holds `sift.centre`, `sift.axes`, `sift.weights`, `sift.means` and
`sift.variances` (see `encoding.Vocabulary`), `sift.classifier` (classes, numbers of the vector) and `sift.biases`,
all float32; the rest is JSON in its metadata under "alexnet-baseline"; "crc32" is of that JSON and all tensors.
"""

import errno
import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import whole_file
from alexnet_cli.fisher.descriptors import LENGTHS, Kind, dense, needed
from alexnet_cli.fisher.encoding import Pyramid, Vocabulary, encoded, regions
from alexnet_cli.loading.loader import ahead

FORMAT = 1
METADATA = "alexnet-baseline"
NAME = "fisher-vectors"
"""Where a network has the name of its recipe."""

Descriptor = Literal["sift", "colour", "both"]


@dataclass(frozen=True)
class Settings:
    """What makes two baselines on the same pictures the same."""

    descriptor: Descriptor = "both"
    gaussians: int = 256
    dimensions: int = 64
    step: int = 4
    """Pixels from one patch to the next, at each scale."""
    pyramid: Pyramid = "bands"
    epochs: int = 30
    rate: float = 32.0
    decay: float = 1e-6
    sample: int = 100_000
    """Descriptors of each kind that the components and the mixture are learnt from."""
    limit: int | None = None
    """Training pictures."""
    seed: int = 1

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return ("sift", "colour") if self.descriptor == "both" else (self.descriptor,)

    @property
    def length(self) -> int:
        """Numbers in a picture's vector, of each kind of descriptor."""
        return len(regions(self.pyramid)) * 2 * self.gaussians * self.dimensions


@dataclass(frozen=True)
class Judge:
    """What is learnt of one kind of descriptor."""

    vocabulary: Vocabulary
    classifier: Tensor  # (classes, numbers)
    biases: Tensor  # (classes,)


@dataclass(frozen=True)
class Baseline:
    settings: Settings
    judges: dict[Kind, Judge]
    about: dict[str, Any]
    """Of its pictures, for JSON: classes, wnids, preparation, dataset, eigenvalues, eigenvectors, seconds."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """Probabilities (B, classes) of uint8 pictures (B, 3, 256, 256): a `Classifier`.

        The scores of the kinds of descriptors are averaged (late fusion, as published), each is made a
        probability by the logistic function that it was learnt with, and these are divided by their sum.
        """
        squares = pictures.cpu().permute(0, 2, 3, 1).contiguous().numpy()
        vectors = [*ahead(self._vectors, squares, torch.get_num_threads())]
        scores = torch.zeros(())
        for place, kind in enumerate(self.judges):
            judge = self.judges[kind]
            scores = scores + torch.stack([found[place] for found in vectors]) @ judge.classifier.T + judge.biases
        return torch.nn.functional.logsigmoid(scores / len(self.judges)).softmax(1)

    @property
    def parameters(self) -> int:
        """Numbers that were learnt."""
        return sum(tensor.numel() for judge in self.judges.values() for tensor in _parts(judge).values())

    def _vectors(self, square: NDArray[np.uint8]) -> list[Tensor]:
        return [vector(judge.vocabulary, kind, square, self.settings) for kind, judge in self.judges.items()]


def vector(vocabulary: Vocabulary, kind: Kind, square: NDArray[np.uint8], settings: Settings) -> Tensor:
    """A picture (256, 256, 3) → its Fisher vectors, one after the other."""
    descriptors, middles = dense(kind, square, settings.step)
    return encoded(vocabulary, torch.from_numpy(descriptors), torch.from_numpy(middles), settings.pyramid)


def save(path: Path, baseline: Baseline) -> None:
    tensors = {
        f"{kind}.{name}": tensor.contiguous()
        for kind, judge in baseline.judges.items()
        for name, tensor in _parts(judge).items()
    }
    text = json.dumps(
        {"format": FORMAT, "settings": asdict(baseline.settings), **baseline.about}, ensure_ascii=False
    )
    write(path, tensors, {METADATA: text, "crc32": _checksum(text, tensors)})


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, whole or not at all."""
    with whole_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # which tells of a full disk in words only
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # as any file: safetensors makes its own for the owner only


def _parts(judge: Judge) -> dict[str, Tensor]:
    return {**vars(judge.vocabulary), "classifier": judge.classifier, "biases": judge.biases}


def is_one(path: Path) -> bool:
    """Whether a safetensors file says of itself that it is a baseline."""
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load(path: Path) -> Baseline:
    """Read a baseline; its tensors must be exactly those that its settings ask for."""
    needed()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            settings, about = _described(json.loads(metadata[METADATA]))
            shapes = _shapes(settings, len(about["classes"]))
            _check(shapes, {name: file.get_slice(name) for name in file.keys()})  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in shapes}
        if metadata.get("crc32") != _checksum(metadata[METADATA], tensors):
            raise ValueError("its checksum is that of other bytes")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise AlexNetError(
            f"{path} is no whole Fisher-vector baseline: {type(error).__name__} {error}",
            "it is damaged, or was edited: `alexnet baseline` makes one",
        ) from error
    judges = {}
    for kind in settings.kinds:
        parts = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{kind}.")}
        classifier, biases = parts.pop("classifier"), parts.pop("biases")
        judges[kind] = Judge(Vocabulary(**parts), classifier, biases)
    return Baseline(settings, judges, about)


def _described(found: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    if found.pop("format") != FORMAT:
        raise ValueError("a format that this version does not know")
    settings = Settings(**found.pop("settings"))
    counts = settings.gaussians, settings.dimensions, settings.step
    if settings.descriptor not in get_args(Descriptor) or settings.pyramid not in get_args(Pyramid):
        raise ValueError(f"{settings.descriptor}, {settings.pyramid}")
    if not all(type(count) is int and 0 < count <= 1 << 20 for count in counts):
        raise ValueError(f"sizes {counts}")
    classes, wnids = found["classes"], found["wnids"]
    if not classes or len(classes) != len(wnids) or not isinstance(found["preparation"], dict):
        raise ValueError(f"{len(classes)} classes, {len(wnids)} WNIDs")
    return settings, found


def _shapes(settings: Settings, classes: int) -> dict[str, tuple[int, ...]]:
    gaussians, dimensions = settings.gaussians, settings.dimensions
    return {
        f"{kind}.{name}": shape
        for kind in settings.kinds
        for name, shape in {
            "centre": (LENGTHS[kind],),
            "axes": (dimensions, LENGTHS[kind]),
            "weights": (gaussians,),
            "means": (gaussians, dimensions),
            "variances": (gaussians, dimensions),
            "classifier": (classes, settings.length),
            "biases": (classes,),
        }.items()
    }


def _check(expected: dict[str, tuple[int, ...]], found: dict[str, Any]) -> None:
    kinds = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in found.items()}
    wrong = [name for name in sorted({*expected, *kinds}) if kinds.get(name) != ("F32", expected.get(name))]
    if wrong:
        raise ValueError(f"it does not hold what it names: {', '.join(wrong[:3])}")


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].numpy().data, total)
    return f"{total:08x}"
