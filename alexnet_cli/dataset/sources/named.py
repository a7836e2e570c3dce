"""torchvision's sets by name, `torchvision:CIFAR10`: an allow-list of those whose constructors were read.

The MNIST family goes through our own IDX reader. CIFAR unpickles, which is safe only because torchvision
compares the files' MD5 sums first and stops when one differs; STL10 is checked the same way. The others are
picture files with text labels.
"""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from alexnet_cli.dataset.sources.idx import list_idx
from alexnet_cli.dataset.sources.listing import Arrays, Files, Listing, Pictures, whole
from alexnet_cli.errors import AlexNetError

PREFIX = "torchvision:"
MNIST_LIKE = ("FashionMNIST", "KMNIST", "MNIST")
ARRAYS: dict[str, dict[str, dict[str, Any]]] = {  # name → our split → the constructor's own words for it
    "CIFAR10": {"train": {"train": True}, "test": {"train": False}},
    "CIFAR100": {"train": {"train": True}, "test": {"train": False}},
    "STL10": {"train": {"split": "train"}, "test": {"split": "test"}},
}
FILES: dict[str, dict[str, dict[str, Any]]] = {
    "DTD": {name: {"split": name} for name in ("train", "val", "test")},
    "FGVCAircraft": {name: {"split": name} for name in ("train", "val", "test")},
    "Food101": {name: {"split": name} for name in ("train", "test")},
    "Imagenette": {name: {"split": name} for name in ("train", "val")},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
}
NAMES = sorted((*MNIST_LIKE, *ARRAYS, *FILES))


def list_named(source: str, root: Path | None, download: bool) -> Listing:
    """Open `torchvision:NAME` under `root`; raises AlexNetError for an unknown, absent or altered set."""
    name = source.removeprefix(PREFIX)
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.3)
        guess = f"did you mean {PREFIX}{near[0]}? " if near else ""
        raise AlexNetError(f"torchvision has no set {name!r} that prepare reads", f"{guess}{', '.join(NAMES)}")
    if root is None:
        raise AlexNetError(f"{source} needs a folder to lie in", "give --root DIR, and --download to fetch it")
    if name in MNIST_LIKE:
        return list_mnist_like(source, name, root, download)
    if name in ARRAYS:
        return list_splits(source, root, download, ARRAYS[name], array_pictures)
    return list_splits(source, root, download, FILES[name], file_pictures)


def list_mnist_like(source: str, name: str, root: Path, download: bool) -> Listing:
    if download:
        construct(source, root, download, {"train": True})
    folder = root / name / "raw"
    if not folder.is_dir():
        raise absent(source, root, f"there is no {folder}")
    listing = list_idx(folder, tuple(getattr(datasets, name).classes))
    return Listing(source, listing.classes, listing.splits)


def list_splits(
    source: str,
    root: Path,
    download: bool,
    splits: dict[str, dict[str, Any]],
    pictures: Callable[[Any, Path], Pictures],
) -> Listing:
    sets = {split: construct(source, root, download, words) for split, words in splits.items()}
    # Imagenette gives each class a tuple of names.
    classes = [name if isinstance(name, str) else ", ".join(name) for name in sets["train"].classes]
    return Listing(source, tuple(classes), {split: pictures(its, root) for split, its in sets.items()})


def construct(source: str, root: Path, download: bool, words: dict[str, Any]) -> Any:
    try:
        return getattr(datasets, source.removeprefix(PREFIX))(str(root), download=download, **words)
    except (RuntimeError, OSError) as error:
        raise absent(source, root, str(error)) from error


def absent(source: str, root: Path, reason: str) -> AlexNetError:
    return AlexNetError(
        f"{source} is not under {root}, or its files are not the published ones: {reason}",
        f"fetch it: alexnet prepare {source} --root {root} --download",
    )


def array_pictures(its: Any, _: Path) -> Pictures:
    pixels = np.asarray(its.data)
    if pixels.shape[1] == 3 and pixels.shape[3] != 3:  # STL10 keeps (n, 3, H, W)
        pixels = pixels.transpose(0, 2, 3, 1)
    labels = its.labels if hasattr(its, "labels") else its.targets
    return whole(Arrays(type(its).__name__, pixels), np.asarray(labels))


def file_pictures(its: Any, root: Path) -> Pictures:
    """Read the lists that torchvision's file sets keep; each names them in its own way."""
    if hasattr(its, "_samples"):
        paths, labels = zip(*its._samples, strict=True)
    else:
        paths, labels = getattr(its, "_image_files", None) or its._images, its._labels
    names = [Path(path).relative_to(root).as_posix() for path in paths]
    sizes = np.array([(root / name).stat().st_size for name in names], dtype=np.int64)
    return whole(Files(root, names, sizes), np.asarray(labels))
