"""What ILSVRC's server takes: a line for each test picture in the order of the file names, five classes in each.

The classes are the development kit's ILSVRC IDs, 1 to 1000, the most probable first (readme.txt of the kits of
2010 and 2012). Their order is not that of the WNIDs: only the kit's meta.mat tells it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_cli.dataset.manifest import Dataset
from alexnet_cli.dataset.sources.devkit import find_devkit
from alexnet_cli.engine.comparison import edition_of
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import write_bytes

GUESSES = 5


def ids(devkit: Path | None, form: str, wnids: Sequence[str | None]) -> NDArray[np.int64]:
    """The ILSVRC ID of each label, (classes,); `form` is the dataset's, or empty."""
    year = edition_of(form, wnids)
    if year is None:
        raise AlexNetError(
            f"--submission is for the 1000 classes of ILSVRC-2010 or 2012, and these are {len(wnids)} others",
            "leave it away",
        )
    if devkit is None:
        raise AlexNetError(
            "--submission needs the development kit, which says what ID a class has",
            f"add --devkit FOLDER, where ILSVRC{year}_devkit….tar.gz lies, packed or unpacked",
        )
    kit = find_devkit(devkit if devkit.is_dir() else devkit.parent, year)
    if kit is None:
        raise AlexNetError(
            f"there is no development kit of ILSVRC-{year} in {devkit}", "its data/meta.mat is needed"
        )
    numbers = {wnid: number for number, wnid in kit.wnids.items()}
    if unknown := [wnid for wnid in wnids if wnid not in numbers]:
        raise AlexNetError(f"{kit.name} has no ID for {unknown[0]}", f"is it the kit of ILSVRC-{year}?")
    return np.array([numbers[wnid] for wnid in wnids if wnid is not None], dtype=np.int64)


def check_whole(dataset: Dataset, split: str, limit: int | None) -> None:
    """Refuse a split in which a picture is missing: from there on each line would stand for another picture."""
    rejects = [reject["name"] for reject in dataset.manifest["splits"][split]["rejects"]]
    if rejects:
        raise AlexNetError(
            f"{len(rejects)} {split} pictures could not be prepared, {rejects[0]} for one: lines would be missing",
            "mend them and prepare the dataset again",
        )
    if limit is not None or dataset.manifest["options"]["limit"] is not None:
        raise AlexNetError(
            "--submission needs the whole split, and --limit leaves pictures out", "do without --limit"
        )


def best(probabilities: Tensor) -> Tensor:
    """(B, classes) → (B, 5) labels, the most probable first; of equals, the lower one."""
    return probabilities.sort(dim=1, descending=True, stable=True).indices[:, :GUESSES]


def write(path: Path, labels: Tensor, ids: NDArray[np.int64]) -> None:
    """Write (N, 5) labels in the order of the pictures, whole or not at all."""
    lines = (" ".join(map(str, row)) for row in ids[labels.numpy()].tolist())
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def empty(pictures: int) -> Tensor:
    """Room for the labels of so many pictures."""
    return torch.zeros(pictures, GUESSES, dtype=torch.int64)
