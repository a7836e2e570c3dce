"""The directory that a dataset is written into: what may lie there, what it was begun with, what is removed."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from alexnet_cli.dataset.manifest import MANIFEST, UNFINISHED
from alexnet_cli.dataset.ranks import is_meeting
from alexnet_cli.dataset.shards import finished
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import read_json, write_json

PLAN = "plan.json"
OURS = re.compile(r"(train|val|test)-(\d{6,}\.tar|index\.npy)|mean\.npy|statistics\.json|manifest\.json")
LEFT_OVER = re.compile(r"\..+\.\d+\.tmp")  # what a killed writer leaves: see files.whole_file
WORDS = {"listing": "the source", "decoder": "the picture libraries", "val_fraction": "--val-fraction"}


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse a finished dataset without `overwrite`, and what is no dataset of ours always."""
    if out.exists() and not out.is_dir():
        raise AlexNetError(f"{out} is a file", "name a folder with --out")
    sealed, unfinished = (out / MANIFEST).is_file(), (out / UNFINISHED).is_dir()
    if out.is_dir() and any(out.iterdir()) and not sealed and not unfinished:
        raise AlexNetError(f"{out} is not empty and holds no dataset", "name another folder with --out")
    if sealed and not overwrite and not unfinished:
        raise AlexNetError(
            f"{out} holds a finished dataset", "add --overwrite to replace it, or name another --out"
        )


def settle_plan(out: Path, plan: dict[str, Any]) -> None:
    """Write the plan of a new directory, or compare that of an unfinished one and refuse a difference."""
    path = out / UNFINISHED / PLAN
    if not path.is_file():
        write_json(path, plan)
        return
    before = read_json(path)
    different = sorted(name for name in plan.keys() | before.keys() if plan.get(name) != before.get(name))
    if different:
        changed = ", ".join(WORDS.get(name, f"--{name}") for name in different)
        raise AlexNetError(
            f"{out} was begun otherwise: {changed} changed",
            "give the command it was begun with, or --overwrite to start anew",
        )


def is_settled(out: Path, plan: dict[str, Any]) -> bool:
    """Whether the unfinished dataset has just this plan: then --overwrite has begun it, and goes on with it."""
    return not (out / MANIFEST).is_file() and read_json(out / UNFINISHED / PLAN) == plan


def has_plan(out: Path) -> bool:
    return (out / UNFINISHED / PLAN).is_file()


def remove_dataset(out: Path) -> None:
    """Remove our own files and nothing else, the manifest first: then the rest is an unfinished dataset."""
    (out / MANIFEST).unlink(missing_ok=True)
    for path in parts(out):
        path.unlink()


def remove_unfinished(out: Path) -> None:
    """Remove what only an unfinished dataset needs, as far as it is nobody's open file (see `ranks.joined`)."""
    for path in sorted((out / UNFINISHED).iterdir(), key=is_plan):
        if not path.name.startswith(".nfs"):  # the other name that NFS gives an open file until it is closed
            path.unlink()
    with suppress(OSError):
        (out / UNFINISHED).rmdir()


def parts(out: Path) -> list[Path]:
    """Give our own files in `out`, but for those by which processes meet, in the order of removal.

    Removed only in part they are still an unfinished dataset: no sidecar outlives its shard, none the plan.
    """
    ours = [path for path in files_in(out) if OURS.fullmatch(path.name)]
    known = [path for path in files_in(out / UNFINISHED) if not is_meeting(path.name)]
    return [*(path for path in known if not is_plan(path)), *ours, *(path for path in known if is_plan(path))]


def is_plan(path: Path) -> bool:
    return path.name == PLAN


def remove_left_overs(out: Path, name: str = "") -> None:
    """Remove what killed writers left, of the shard `name` or of all."""
    for path in left_overs(out):
        if path.name.startswith(f".{name}"):
            path.unlink()


def left_overs(out: Path) -> list[Path]:
    found = [path for path in files_in(out) + files_in(out / UNFINISHED) if LEFT_OVER.fullmatch(path.name)]
    return [path for path in found if not is_meeting(path.name)]


def remove_orphans(out: Path) -> None:
    """Remove the sidecars of shards that are gone or cut short: these will be written anew."""
    for path in (out / UNFINISHED).glob("*.npz"):
        if finished(out, path.stem) is None:
            path.unlink()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.is_dir()] if folder.is_dir() else []
