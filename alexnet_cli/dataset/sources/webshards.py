"""WebDataset shards of others: tars named train…, val…, test… with key.jpg and key.cls, or key.json, in a row."""

import json
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from alexnet_cli.dataset.archives import Columns, Member, Region, members, opened
from alexnet_cli.dataset.images import is_picture
from alexnet_cli.dataset.sources.listing import Listing, Members, Pictures, whole
from alexnet_cli.dataset.sources.splitfiles import names_of_numbers, split_files
from alexnet_cli.errors import AlexNetError

LABEL_LIMIT = 1 << 20  # bytes
LABEL_BITS = 32


def list_web_shards(root: Path, names: Sequence[str] | None = None) -> Listing | None:
    """List a folder of shards in their own order; classes are called 0, 1, … unless `names` are given."""
    files = split_files(root, ".tar")
    if not files:
        return None
    splits = {split: list_split(root, paths) for split, paths in files.items()}
    if not len(splits.get("train", ())):
        raise AlexNetError(
            f"{root} has WebDataset shards but no training pictures", "they are named train-0.tar, …"
        )
    highest = [int(pictures.labels.max(initial=0)) for pictures in splits.values()]
    classes, ids = names_of_numbers(highest, names, root)
    kept = {split: pictures for split, pictures in splits.items() if len(pictures)}
    return Listing("WebDataset shards", classes, kept, ids=ids)


def list_split(root: Path, paths: list[Path]) -> Pictures:
    columns, labels, ends = Columns(), array("I"), []
    for path in paths:
        with opened(path) as tar:
            for member, label in samples(tar):
                columns.add([member])
                labels.append(label)
        ends.append(len(columns))
    names = [path.name for path in paths]
    store = Members(root, names, names, np.arange(len(names)), np.array(ends, dtype=np.int64), columns)
    return whole(store, np.asarray(labels))


def samples(tar: Region) -> Iterator[tuple[Member, int]]:
    """Give each sample's picture and label: members that follow one another with one key are a sample."""
    for key, group in groupby(members(tar), lambda member: split_name(member.name)[0]):
        parts = {split_name(member.name)[1]: member for member in group}
        picture = next((member for ending, member in parts.items() if is_picture(f"_.{ending}")), None)
        if picture is not None:
            yield picture, label_of(tar, key, parts)


def split_name(name: str) -> tuple[str, str]:
    """Cut a name at the first dot of its last part, as webdataset does."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return folder + slash + stem, ending.lower()


def label_of(tar: Region, key: str, parts: dict[str, Member]) -> int:
    for ending in ("cls", "json"):
        member = parts.get(ending)
        if member is None or member.size > LABEL_LIMIT:
            continue
        try:
            value = json.loads(tar.read(member.offset, member.size))
            value = value["label"] if ending == "json" else value
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(value, int) and 0 <= value < 1 << LABEL_BITS:
            return value
    raise AlexNetError(
        f"{tar.name}: {key} has no label: no .cls with a number, no .json with a number as label",
        "give every picture one, or take the shard out of the source",
    )
