"""Files that carry a split in their names, `train-00000-of-00010.parquet`, and labels that are only numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from alexnet_cli import imagenet
from alexnet_cli.dataset.manifest import SPLITS
from alexnet_cli.dataset.sources.folders import is_file, visible
from alexnet_cli.errors import AlexNetError

SPLIT = re.compile(r"(?:^|[-_.])(train|val|test)(?:ing|id|idation)?(?=[-_.\d])")
MOST_CLASSES = 1 << 20


def split_files(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Give the files of each split, sorted by name; only those that name a split."""
    found: dict[str, list[Path]] = {}
    for entry in visible(folder):
        match = SPLIT.search(entry.name)
        if match and entry.name.endswith(ending) and is_file(entry):
            found.setdefault(match[1], []).append(Path(entry.path))
    return {split: found[split] for split in SPLITS if split in found}


def names_of_numbers(
    highest: Iterable[int], names: Sequence[str] | None, source: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name the classes of labels 0, 1, … and give their WNIDs, if the names are those of ILSVRC-2012's classes."""
    count = max(highest) + 1
    if count > MOST_CLASSES:
        raise AlexNetError(f"{source} has label {count - 1}", f"at most {MOST_CLASSES - 1} is a class")
    if names is None:
        return tuple(str(number) for number in range(count)), ()
    if len(names) < count:
        raise AlexNetError(f"{len(names)} class names for labels up to {count - 1}", "one name a line")
    table = imagenet.classes()
    if [name.split(",")[0] for name in names] == [words.split(",")[0] for words in table.values()]:
        return imagenet.class_names(tuple(table), table), tuple(table)
    times = Counter(names)
    return tuple(n if times[n] == 1 else f"{n} ({number})" for number, n in enumerate(names)), ()
