"""ImageNet as people have it: official archives, class tars, class folders, flat pictures, in any mixture.

Labels are WNIDs in sorted order, whatever the form: never ILSVRC IDs, never the order of folders. Pictures of
train are ordered by WNID and file name, those of val and test by file name, so that every form of the same
pictures gives the same dataset.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_cli import imagenet
from alexnet_cli.dataset.sources.classtars import Found
from alexnet_cli.dataset.sources.devkit import Devkit, find_devkit
from alexnet_cli.dataset.sources.listing import Listing, Pictures
from alexnet_cli.dataset.sources.patch import find_patch, patch_note, patched
from alexnet_cli.dataset.sources.places import CSV, find_split, find_train, listed, named_year
from alexnet_cli.dataset.sources.records import Span
from alexnet_cli.dataset.sources.wnidfolders import read_words
from alexnet_cli.errors import AlexNetError

FLAT = re.compile(r"ILSVRC20\d\d_(?:val|test)_(\d{8})")
CLASSES = 1000
TRAIN = "put ILSVRC2012_img_train.tar there, the class archives n….tar, or the folders train/n…/"


Kit = Devkit | AlexNetError | None
"""The development kit, or what is wrong with the one that is there."""


@dataclass(frozen=True)
class Edition:
    """Which ImageNet: `year` is that of an ILSVRC, and 0 for the large releases."""

    name: str
    year: int

    @property
    def classes(self) -> int | None:
        return CLASSES if self.year else None


def list_imagenet(root: Path) -> Listing | None:
    """List what lies in `root` if it is ImageNet; raises AlexNetError when something is damaged or missing."""
    year = named_year(root)
    train = find_train(root, year)
    if train is None and not year:
        return None
    if train is None:
        raise AlexNetError(f"{root} has files of ILSVRC-{year} but no training pictures", TRAIN)
    edition = edition_of(year, train)
    if edition is None:
        return None
    kit = usable_kit(root, edition) if edition.year else None
    check_classes(root, edition, train, kit)
    notes: list[str] = []
    patch = find_patch(root) if edition.year == 2010 else None
    train = patched(train, patch)
    splits, hows = {"train": Pictures(train.store, rows(train), train.classes)}, {"train": train.how}
    ignored = [*train.ignored]
    for split in ("val", "test"):
        found = find_split(root, split, year)
        if found is None:
            continue
        ignored += found.ignored
        found = patched(found, patch)
        pictures = labelled(root, edition, split, found, train, kit, notes)
        if pictures:
            splits[split], hows[split] = pictures, found.how
    if edition.year == 2010:
        notes.append(patch_note(patch, splits))
    if isinstance(kit, AlexNetError):
        notes.append(f"the development kit is left aside, for it is not needed: {kit.message}")
    empty = sorted(set(range(len(train.wnids))) - set(np.unique(train.classes).tolist()))
    if empty:
        notes.append(f"classes without training pictures: {listed([train.wnids[label] for label in empty])}")
    return Listing(
        form=form(edition, train, hows),
        classes=imagenet.class_names(train.wnids, words(root, edition, kit)),
        splits=splits,
        ignored=tuple(ignored),
        ids=train.wnids,
        notes=tuple(notes),
    )


def edition_of(year: int, train: Found) -> Edition | None:
    """Tell which ImageNet it is; None for folders whose WNIDs are of no known set of classes."""
    first = train.store.record(0, 0).content if train.count else None
    name = "/".join(first.path.parts[-2:]) if isinstance(first, Span) else ""
    release = "Fall 2011" if "fall11" in name else "Winter 2021" if "winter21" in name else ""
    if not year and not release and set(train.wnids) <= imagenet.classes().keys():
        year = 2012
    if year:
        return Edition(f"ILSVRC-{year}", year)
    if train.how == "class folders":
        return None
    return Edition(f"ImageNet {release}".strip(), 0)


def usable_kit(root: Path, edition: Edition) -> Kit:
    """Open the kit; what is wrong with it is an error only where it turns out to be needed."""
    try:
        kit = find_devkit(root, edition.year)
    except AlexNetError as error:
        return error
    table = imagenet.classes().keys() if edition.year == 2012 else None
    if kit and table and (unknown := sorted(set(kit.wnids.values()) - table)):
        return AlexNetError(f"{kit.name} has {listed(unknown)}, no class of {edition.name}", "is the kit altered?")
    return kit


def check_classes(root: Path, edition: Edition, train: Found, kit: Kit) -> None:
    """Compare the classes of the training pictures with those of our own table for 2012, or else of the kit."""
    table = imagenet.classes().keys() if edition.year == 2012 else None
    known = table or (kit.wnids.values() if isinstance(kit, Devkit) else None)
    if known and (unknown := sorted(set(train.wnids) - set(known))):
        raise AlexNetError(
            f"{root}: {listed(unknown)} is no class of {edition.name}",
            "take it out of the training pictures; several ImageNets do not go into one folder",
        )
    if not train.count:
        raise AlexNetError(f"the classes of {root} have no pictures", TRAIN)


def labelled(
    root: Path, edition: Edition, split: str, found: Found, train: Found, kit: Kit, notes: list[str]
) -> Pictures | None:
    """Number the classes of val or test as train does; None when test has no labels."""
    numbers = {wnid: number for number, wnid in enumerate(train.wnids)}
    if found.wnids:
        missing = [found.wnids[n] for n in np.unique(found.classes).tolist() if found.wnids[n] not in numbers]
        if missing:
            raise AlexNetError(
                f"{split} has pictures of {listed(missing)}, which train lacks",
                f"add the class to train, or take it out of {split}",
            )
        table = np.array([numbers.get(wnid, 0) for wnid in found.wnids], dtype=np.uint32)
        return Pictures(found.store, rows(found), table[found.classes])
    wnids = flat_labels(root, edition, split, found, kit)
    if wnids is None:
        notes.append(f"{found.count} test pictures are left out: they have no labels{test_hint(edition)}")
        return None
    labels = np.array([numbers.get(wnid, -1) for wnid in wnids], dtype=np.int64)
    known = np.flatnonzero(labels >= 0)
    if len(known) < len(labels):
        notes.append(f"{len(labels) - len(known)} {split} pictures of classes that train lacks are left out")
    return Pictures(found.store, rows(found)[known], labels[known].astype(np.uint32)) if len(known) else None


def flat_labels(root: Path, edition: Edition, split: str, found: Found, kit: Kit) -> list[str] | None:
    """Give the WNID of each flat picture; None for a test set, whose labels need not be known."""
    stems = found.stems()
    if isinstance(kit, Devkit) and (truth := kit.labels(split)):
        return by_number(kit.name, split, stems, truth)
    csv = next((path for base in (root, *root.absolute().parents[:3]) if (path := base / CSV).is_file()), None)
    if split == "val" and csv:
        solution = {name: boxes.split(" ")[0] for name, boxes in read_words(csv, ",")}
        unknown = [stem for stem in stems if solution.get(stem) not in imagenet.classes()]
        if unknown:
            raise AlexNetError(f"{csv} has no label for {listed(unknown)}", "download it again")
        return [solution[stem] for stem in stems]
    if isinstance(kit, AlexNetError) and (split == "val" or edition.year == 2010):
        raise kit
    if split == "test":
        return None
    archive = "ILSVRC2010_devkit-1.0.tar.gz" if edition.year == 2010 else "ILSVRC2012_devkit_t12.tar.gz"
    raise AlexNetError(
        f"the {len(stems)} val pictures in {root} have no labels: there is no {archive}, and no {CSV}",
        f"put {archive} there, packed or unpacked, or sort the pictures into val/<WNID>/",
    )


def by_number(kit: str, split: str, stems: list[str], truth: list[str]) -> list[str]:
    """Give the label of each picture by the number in its name, and see that there are as many as labels."""
    numbers = [int(match[1]) if (match := FLAT.fullmatch(stem)) else 0 for stem in stems]
    for stem, number in zip(stems, numbers, strict=True):
        if not 1 <= number <= len(truth):
            raise AlexNetError(f"{kit} has {len(truth)} labels, and none for {split} picture {stem!r}")
    if len(set(numbers)) != len(truth):
        raise AlexNetError(
            f"there are {len(set(numbers))} {split} pictures, and {len(truth)} labels in {kit}",
            f"some pictures are missing: unpack or download {split} again",
        )
    return [truth[number - 1] for number in numbers]


def test_hint(edition: Edition) -> str:
    return " (put ILSVRC2010_test_ground_truth.txt there)" if edition.year == 2010 else ""


def words(root: Path, edition: Edition, kit: Kit) -> dict[str, str]:
    """Give the words of WNIDs: from our own table, the kit, or a words.txt beside the pictures."""
    if edition.year == 2012:
        return imagenet.classes()
    if isinstance(kit, Devkit):
        return {wnid: kit.words[number] for number, wnid in kit.wnids.items()}
    return dict(read_words(root / "words.txt", "\t")) if (root / "words.txt").is_file() else {}


def form(edition: Edition, train: Found, hows: dict[str, str]) -> str:
    alike = len(set(hows.values())) == 1
    how = train.how if alike else ", ".join(f"{split} as {how}" for split, how in hows.items())
    count = len(train.wnids)
    part = "" if count == edition.classes else f", {count:,} classes"
    if edition.classes and part:
        part = f", {count} of {edition.classes} classes"
    return f"{edition.name}, {how}{part}"


def rows(found: Found) -> np.ndarray:
    return np.arange(found.count, dtype=np.uint32)
