"""Tiny ImageNet: train/<WNID>/images, and val/images with val_annotations.txt, which names each picture's WNID."""

from pathlib import Path

import numpy as np

from alexnet_cli.dataset.sources.classtars import Found
from alexnet_cli.dataset.sources.imagenet import rows
from alexnet_cli.dataset.sources.listing import Listing, Pictures
from alexnet_cli.dataset.sources.places import listed
from alexnet_cli.dataset.sources.wnidfolders import class_folders, flat_folder, has_class_folders, read_words
from alexnet_cli.errors import AlexNetError
from alexnet_cli.imagenet import class_names

ANNOTATIONS = "val_annotations.txt"
CLASSES = 200


def list_tiny(root: Path) -> Listing | None:
    """List what lies in `root` if it is Tiny ImageNet; labels are its WNIDs in sorted order."""
    train, val = root / "train", root / "val"
    told = (root / "wnids.txt").is_file() or (val / ANNOTATIONS).is_file()
    if not told or not train.is_dir() or not has_class_folders(train):
        return None
    found = class_folders(root, train, by_name=False)
    if not found.count:
        raise AlexNetError(f"the class folders of {train} have no pictures", "unpack the set again")
    splits, ignored = {"train": Pictures(found.store, rows(found), found.classes)}, [*found.ignored]
    if val.is_dir():
        pictures = find_val(root, val)
        ignored += pictures.ignored
        splits["val"] = Pictures(pictures.store, rows(pictures), val_labels(val, pictures, found.wnids))
    words = root / "words.txt"
    names = class_names(found.wnids, dict(read_words(words, "\t")) if words.is_file() else {})
    notes = ("the test pictures are left out: they have no labels",) if (root / "test").is_dir() else ()
    count = len(found.wnids)
    part = "" if count == CLASSES else f", {count} of {CLASSES} classes"
    return Listing(f"Tiny ImageNet{part}", names, splits, tuple(ignored), found.wnids, notes)


def find_val(root: Path, val: Path) -> Found:
    """List val as it came, or sorted into class folders as many have it."""
    if has_class_folders(val):
        return class_folders(root, val, by_name=True)
    folder = val / "images" if (val / "images").is_dir() else val
    found = flat_folder(root, folder, "")
    if found is None:
        raise AlexNetError(f"{folder} has no pictures", "unpack the set again, or take val out of the source")
    return found


def val_labels(val: Path, found: Found, wnids: tuple[str, ...]) -> np.ndarray:
    """Give labels uint32 (n,); raises AlexNetError for a picture without one, or a class that train lacks."""
    if found.wnids:
        named = [found.wnids[number] for number in found.classes.tolist()]
    else:
        labels = {Path(name).stem: rest.split("\t")[0] for name, rest in read_words(val / ANNOTATIONS, "\t")}
        unknown = [stem for stem in found.stems() if stem not in labels]
        if unknown:
            raise AlexNetError(f"{val / ANNOTATIONS} has no label for {listed(unknown)}", "unpack the set again")
        named = [labels[stem] for stem in found.stems()]
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    missing = sorted(set(named) - numbers.keys())
    if missing:
        raise AlexNetError(
            f"val has pictures of {listed(missing)}, which train lacks", "add the class to train, or take it out"
        )
    return np.array([numbers[wnid] for wnid in named], dtype=np.uint32)
