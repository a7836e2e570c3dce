"""Probabilities over a split in a file, so that nets which were asked at different times can be averaged.

A safetensors file: `probabilities` float32 (N, classes), `labels` int64 (N,), the right ones, both in the split's
order; in the metadata, key "alexnet-probabilities", `About` as JSON.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alexnet_cli.dataset.manifest import Split
from alexnet_cli.engine.evaluation import BATCH_SIZE, Answered
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.rows import Table, header
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import disk_errors, whole_file

KEY = "alexnet-probabilities"
FORMAT = 1
HINT = "give files that `alexnet eval --save-probs` wrote"
LABELS_AT_ONCE = 1 << 20

Save = Callable[[NDArray[np.int64], Tensor], None]
"""Takes places in the split, (B,), and their probabilities, (B, classes)."""


@dataclass(frozen=True)
class About:
    """What the probabilities are of."""

    models: tuple[dict[str, Any], ...]
    """Names and recipes of the nets whose mean it is."""
    crops: int
    split: str
    dataset: str
    """Fingerprint of the dataset directory."""
    edition: int | None
    """Of ILSVRC, if it is one."""
    classes: tuple[str, ...]
    wnids: tuple[str | None, ...]
    label_order: str
    format: int = FORMAT


@dataclass(frozen=True)
class Saved:
    path: Path
    about: About
    labels: Tensor  # (N,) int64


@contextmanager
def saving(path: Path, about: About, split: Split, ranks: Ranks) -> Iterator[Save]:
    """Write the file whole or not at all; every rank puts its own rows into it, so the ranks share the disk."""
    count, classes = len(split.index), len(about.classes)
    tensors: Table = {"labels": ("I64", (count,)), "probabilities": ("F32", (count, classes))}
    start = header(tensors, {KEY: json.dumps(asdict(about))})
    first = len(start) + 8 * count
    with ExitStack() as stack:
        temporary = ""
        if ranks.rank == 0:
            temporary = str(stack.enter_context(whole_file(path)))
            _begin(Path(temporary), start, split, first + 4 * count * classes)
        file = stack.enter_context(Path(ranks.told(temporary)).open("rb+"))

        def save(samples: NDArray[np.int64], probabilities: Tensor) -> None:
            with disk_errors(path):  # the rows of a batch follow one another
                file.seek(first + 4 * classes * int(samples[0]))
                file.write(probabilities.contiguous().numpy().astype("<f4", copy=False).tobytes())

        yield save
        with disk_errors(path):
            file.flush()
            os.fsync(file.fileno())
        ranks.wait()


def _begin(path: Path, start: bytes, split: Split, size: int) -> None:
    with path.open("wb") as file:
        file.write(start)
        for place in range(0, len(split.index), LABELS_AT_ONCE):
            labels = split.index["label"][place : place + LABELS_AT_ONCE]
            file.write(labels.astype("<i8").tobytes())
        file.truncate(size)


def read(path: Path) -> Saved:
    """What the file says of itself, checked; the probabilities stay where they are."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[KEY])
            about = About(**facts | {name: tuple(facts[name]) for name in ("models", "classes", "wnids")})
            labels = file.get_tensor("labels")
            kind = file.get_slice("probabilities").get_dtype(), file.get_slice("probabilities").get_shape()
            fits = kind == ("F32", [len(labels), len(about.classes)]) and labels.dtype == torch.int64
            inside = bool(((labels >= 0) & (labels < len(about.classes))).all())
    except FileNotFoundError:
        raise AlexNetError(f"there is no file {path}", HINT) from None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise AlexNetError(f"{path} does not hold saved probabilities ({error})", HINT) from error
    if not (fits and inside and labels.dim() == 1 and about.format == FORMAT):
        raise AlexNetError(f"{path} is damaged, or of another version", HINT)
    return Saved(path, about, labels)


def check_alike(files: Sequence[Saved]) -> None:
    """Refuse files that are not of the same pictures and the same labels."""
    first = files[0]
    for other in files[1:]:
        differs = [name for name in _FIXED if getattr(other.about, name) != getattr(first.about, name)]
        if not differs and not torch.equal(other.labels, first.labels):
            differs = ["pictures"]
        if differs:
            raise AlexNetError(
                f"{first.path} and {other.path} differ in {', '.join(_FIXED.get(name, name) for name in differs)}",
                "average probabilities of one dataset, one split and one order of the classes",
            )


_FIXED = {"dataset": "dataset", "split": "split", "label_order": "the order of the classes"}


def all_answered(files: Sequence[Saved]) -> Iterator[Answered]:
    """The files' rows as the answers of so many models, batch by batch."""
    with ExitStack() as stack:
        labels = files[0].labels
        opened = [stack.enter_context(safe_open(file.path, framework="pt")) for file in files]
        tables = [file.get_slice("probabilities") for file in opened]
        for step in range(-(-len(labels) // BATCH_SIZE)):
            rows = slice(step * BATCH_SIZE, min((step + 1) * BATCH_SIZE, len(labels)))
            probabilities = tuple(table[rows] for table in tables)
            yield Answered(step, np.arange(rows.start, rows.stop), labels[rows], probabilities)


def joined(files: Sequence[Saved]) -> About:
    """What their mean is of; `crops` is 0 if they differ in it."""
    crops = {file.about.crops for file in files}
    models = tuple(model for file in files for model in file.about.models)
    return replace(files[0].about, models=models, crops=crops.pop() if len(crops) == 1 else 0)
