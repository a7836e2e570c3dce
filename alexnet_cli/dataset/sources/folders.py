"""Class folders: SOURCE/train/<class>/*, with val and test beside train, or SOURCE/<class>/* alone.

Labels are the class folders' names in sorted order. That is right for folders of one's own and for WNIDs.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from alexnet_cli.dataset.images import is_picture
from alexnet_cli.dataset.manifest import MANIFEST, SPLITS, UNFINISHED
from alexnet_cli.dataset.sources.listing import Files, Listing, Pictures, whole
from alexnet_cli.errors import AlexNetError

NAMES: dict[str, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
LAYOUT = "the layout is SOURCE/train/<class>/*.jpg (val and test beside train), or SOURCE/<class>/*.jpg"
LOOKED_FOR = (
    f"{LAYOUT}; also looked for: archives of ImageNet (ILSVRC2012_img_train.tar or n01440764.tar, …), "
    "Tiny ImageNet, IDX files, WebDataset shards (train-0.tar, …), Parquet files (train-0.parquet, …)"
)


def list_folders(root: Path) -> Listing:
    """Look at a folder; raises AlexNetError when it is not laid out as class folders."""
    folders = {split: folder for split in SPLITS if (folder := split_folder(root, split))} or {"train": root}
    if "train" not in folders:
        raise AlexNetError(f"{root} has {' and '.join(folders)} but no train folder", LAYOUT)
    classes = class_names(folders["train"])
    by_split = root not in folders.values()
    ignored = [e.name for e in visible(root) if by_split and root / e.name not in folders.values()]
    splits = {name: list_split(root, folder, classes, ignored) for name, folder in folders.items()}
    if not len(splits["train"]):
        raise AlexNetError(f"no pictures in the class folders of {folders['train']}", LAYOUT)
    form = "class folders by split" if by_split else "class folders"
    notes = tuple(empty_classes(classes, splits["train"]))
    return Listing(form, classes, {name: s for name, s in splits.items() if len(s)}, tuple(ignored), notes=notes)


def split_folder(root: Path, split: str) -> Path | None:
    """Where a split lies, under whichever of its names; raises AlexNetError where it lies under two."""
    found = [root / name for name in NAMES[split] if (root / name).is_dir()]
    if len(found) > 1:
        said = " and ".join(folder.name for folder in found)
        raise AlexNetError(f"{root} has {said}, which mean the same", "take one of them out of it")
    return found[0] if found else None


def empty_classes(classes: tuple[str, ...], train: Pictures) -> Iterator[str]:
    there = np.bincount(train.labels, minlength=len(classes)) > 0
    names = [name for name, any_there in zip(classes, there, strict=True) if not any_there]
    if names:
        few = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        yield f"{len(names)} of {len(classes)} class folders have no picture to train on, and are classes: {few}"


def class_names(folder: Path) -> tuple[str, ...]:
    entries = list(visible(folder))
    names = tuple(entry.name for entry in entries if is_folder(entry))
    if names:
        return names
    if any(is_picture(entry.name) for entry in entries):
        raise AlexNetError(f"{folder} has pictures but no class folders, so they have no labels", LAYOUT)
    raise AlexNetError(f"{folder} has no pictures in class folders", LOOKED_FOR)


def list_split(root: Path, folder: Path, classes: tuple[str, ...], ignored: list[str]) -> Pictures:
    """List one split's class folders; the names of what is no picture are added to `ignored`."""
    names: list[str] = []
    sizes: list[int] = []
    labels: list[int] = []
    numbers = {name: number for number, name in enumerate(classes)}
    for entry in visible(folder):
        if not is_folder(entry):
            ignored.append(os.path.relpath(entry.path, root))
            continue
        for file in visible(Path(entry.path)):
            name = os.path.relpath(file.path, root)
            if not is_file(file) or not is_picture(file.name):
                ignored.append(name)
                continue
            if entry.name not in numbers:
                raise AlexNetError(
                    f"class {entry.name!r} is in {folder.name} but not in train: {name}",
                    "give train a folder of that name, or take it out of " + folder.name,
                )
            names.append(name)
            sizes.append(file.stat().st_size)
            labels.append(numbers[entry.name])
    return whole(Files(root, names, np.array(sizes, dtype=np.int64)), np.array(labels, dtype=np.uint32))


def visible(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """Give what is not hidden and no dataset of ours, sorted by name so that every machine sees one order."""
    try:
        found = os.scandir(folder)
    except OSError as error:
        raise AlexNetError(
            f"{folder} cannot be read: {error.strerror}", "make it readable, or take it out of the source"
        ) from error
    with found as entries:
        found_here = [entry for entry in entries if not entry.name.startswith(".") and not is_dataset(entry)]
    yield from sorted(found_here, key=lambda entry: entry.name)


def is_dataset(entry: "os.DirEntry[str]") -> bool:
    """Whether `prepare` has written a folder, or is writing it: with --out among the pictures it is no class."""
    if not is_folder(entry):
        return False
    with suppress(OSError):
        return (Path(entry) / MANIFEST).is_file() or (Path(entry) / UNFINISHED).is_dir()
    return False


def is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
