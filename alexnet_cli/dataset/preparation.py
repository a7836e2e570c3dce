"""From a listing to a finished dataset directory: plan, write or continue shards, and seal.

Nothing is shown here: `prepare` is a generator of `Progress`. A directory is finished when `manifest.json`
is renamed into place; until then `.unfinished` holds the plan and a sidecar for each finished shard.
"""

import re
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from alexnet_cli import paper
from alexnet_cli.dataset import images
from alexnet_cli.dataset.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    MEAN,
    STATISTICS,
    UNFINISHED,
    index_name,
)
from alexnet_cli.dataset.shards import (
    PICTURES_PER_SHARD,
    Shard,
    Sidecar,
    is_finished,
    load_sidecar,
    make_task,
    plan_shards,
)
from alexnet_cli.dataset.sources.listing import Listing, carve_validation, limit
from alexnet_cli.dataset.statistics import Statistics, Sums, channel_sums, no_sums, statistics
from alexnet_cli.dataset.workers import write_here, write_with
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import disk_errors, locked, read_json, sha256, whole_file, write_json
from alexnet_cli.machine import cores

PLAN = "plan.json"
LOCK = "lock"
SHOWN_REJECTS = 5
OURS = re.compile(r"(train|val|test)-(\d{6,}\.tar|index\.npy)|mean\.npy|statistics\.json|manifest\.json")
LEFT_OVER = re.compile(r"\..+\.\d+\.tmp")  # what a killed writer leaves: see files.whole_file
WORDS = {"listing": "the source", "decoder": "the picture libraries", "val_fraction": "--val-fraction"}


@dataclass(frozen=True)
class Options:
    """What decides the bytes of a dataset, beside its source."""

    seed: int = 0
    val_fraction: float = 0.1  # used only when the source has no val
    limit: int | None = None  # pictures in each split


@dataclass(frozen=True)
class Progress:
    """Pictures so far, those of shards finished by an earlier run included."""

    done: int
    total: int
    rejected: int
    kept: int = 0  # pictures in shards that an earlier run finished


def prepare(
    listing: Listing,
    out: Path,
    options: Options | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
    max_rejects: float = 0.01,
) -> Generator[Progress, None, None]:
    """Write the dataset directory `out`, or go on with an unfinished one; read it with `open_dataset`.

    Raises AlexNetError when `out` holds something else, a shard cannot be written, more than the fraction
    `max_rejects` of the pictures cannot be used, or a signal stops it; finished shards are kept then.
    """
    options = options or Options()
    listing = select(listing, options)
    shards = plan_shards(listing, options.seed)
    check_out(out, overwrite)
    with disk_errors(out):
        (out / UNFINISHED).mkdir(parents=True, exist_ok=True)
    with (
        locked(
            out / UNFINISHED / LOCK, f"another alexnet is preparing {out}", "wait for it, or name another --out"
        ),
        stopped_by_signals(out, len(shards)),
    ):
        if overwrite:
            remove_dataset(out)
        settle_plan(out, listing, options)
        remove_left_overs(out)
        yield from write_shards(listing, shards, out, workers)
        seal(listing, shards, out, options, max_rejects)


def usual_workers(listing: Listing) -> int:
    """Give a process to each core, but only as many as have some thousands of pictures to be started for."""
    pictures = sum(len(split) for split in listing.splits.values())
    return max(1, min(cores(), pictures // (2 * PICTURES_PER_SHARD)))


def select(listing: Listing, options: Options) -> Listing:
    chosen = limit(carve_validation(listing, options.val_fraction, options.seed), options.limit)
    return replace(chosen, splits={name: pictures for name, pictures in chosen.splits.items() if len(pictures)})


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse a finished dataset without `overwrite`, and what is no dataset of ours always."""
    if out.exists() and not out.is_dir():
        raise AlexNetError(f"{out} is a file", "name a folder with --out")
    finished, unfinished = (out / MANIFEST).is_file(), (out / UNFINISHED).is_dir()
    if out.is_dir() and any(out.iterdir()) and not finished and not unfinished:
        raise AlexNetError(f"{out} is not empty and holds no dataset", "name another folder with --out")
    if finished and not overwrite:
        raise AlexNetError(
            f"{out} holds a finished dataset", "add --overwrite to replace it, or name another --out"
        )


def remove_dataset(out: Path) -> None:
    """Remove our own files and nothing else, the manifest first: then the rest is an unfinished dataset."""
    (out / MANIFEST).unlink(missing_ok=True)
    ours = [path for path in out.iterdir() if OURS.fullmatch(path.name)]
    for path in [*ours, *(path for path in (out / UNFINISHED).iterdir() if path.name != LOCK)]:
        path.unlink()


def remove_left_overs(out: Path) -> None:
    for folder in (out, out / UNFINISHED):
        for path in folder.iterdir():
            if LEFT_OVER.fullmatch(path.name):
                path.unlink()


@contextmanager
def stopped_by_signals(out: Path, shards: int) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into an error that says what is finished, with the usual exit code."""

    def stop(number: int, _: FrameType | None) -> None:
        finished = len(list((out / UNFINISHED).glob("*.npz")))
        raise AlexNetError(
            f"stopped by {signal.Signals(number).name}: {finished} of {shards} shards are finished and kept",
            "the same command goes on from there",
            exit_code=128 + number,
        )

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread may set handlers
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def settle_plan(out: Path, listing: Listing, options: Options) -> None:
    """Write the plan of a new directory, or compare that of an unfinished one and refuse a difference."""
    path = out / UNFINISHED / PLAN
    plan = {
        "listing": listing.digest(),
        "decoder": images.decoder(),
        **asdict(options),
        "format": FORMAT_VERSION,
    }
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


def write_shards(listing: Listing, shards: list[Shard], out: Path, workers: int) -> Iterator[Progress]:
    total = sum(len(shard.positions) for shard in shards)
    missing = [shard for shard in shards if not is_finished(out, shard.name)]
    done = kept = total - sum(len(shard.positions) for shard in missing)
    rejected = sum(len(load_sidecar(out, s.name).rejects) for s in shards if is_finished(out, s.name))
    yield Progress(done, total, rejected, kept)
    tasks = (make_task(shard, listing.splits[shard.split]) for shard in missing)
    workers = min(workers, len(missing))
    for advance, bad in write_with(workers, tasks, out) if workers > 1 else write_here(tasks, out):
        done, rejected = done + advance, rejected + bad
        yield Progress(done, total, rejected, kept)


def seal(listing: Listing, shards: list[Shard], out: Path, options: Options, max_rejects: float) -> None:
    """Fold the sidecars into indexes, statistics and, last, the manifest."""
    sidecars = {shard.name: load_sidecar(out, shard.name) for shard in shards}
    check_rejects(sidecars, max_rejects)
    sums = sum((sidecar.sums for sidecar in sidecars.values() if sidecar.sums), no_sums())
    if not sums.pictures:
        raise AlexNetError("no training picture could be used", "is this the right folder?")
    save_statistics(out, sums, statistics(sums))
    splits = {}
    for split in listing.splits:
        names = [shard.name for shard in shards if shard.split == split]
        save_array(out / index_name(split), np.concatenate([sidecars[name].index for name in names]))
        splits[split] = split_facts(out, split, {name: sidecars[name] for name in names})
    write_json(out / MANIFEST, manifest(listing, options, splits, out))
    for path in (out / UNFINISHED).iterdir():
        path.unlink()
    (out / UNFINISHED).rmdir()


def check_rejects(sidecars: dict[str, Sidecar], allowed: float) -> None:
    rejects = [reject for sidecar in sidecars.values() for reject in sidecar.rejects]
    total = len(rejects) + sum(len(sidecar.index) for sidecar in sidecars.values())
    if len(rejects) <= allowed * total:
        return
    first = "".join(f"\n  {name}: {reason}" for name, reason in rejects[:SHOWN_REJECTS])
    more = f"\n  and {len(rejects) - SHOWN_REJECTS} more" if len(rejects) > SHOWN_REJECTS else ""
    raise AlexNetError(
        f"{len(rejects)} of {total} pictures cannot be used, "
        f"more than --max-rejects {allowed:g} allows:{first}{more}",
        "mend or remove them, or give a larger --max-rejects: the finished shards are kept",
    )


def save_array(path: Path, array: np.ndarray) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def save_statistics(out: Path, sums: Sums, found: Statistics) -> None:
    save_array(out / MEAN, found.mean)
    write_json(
        out / STATISTICS,
        {
            "pictures": sums.pictures,
            "pixels": sums.pictures * paper.IMAGE_SIZE**2,
            "rgb_sums": channel_sums(sums),
            "rgb_product_sums": sums.products,
            "rgb_mean": found.rgb_mean,
            "covariance": found.covariance,
            "eigenvalues": found.eigenvalues,
            "eigenvectors": found.eigenvectors,
        },
    )


def split_facts(out: Path, split: str, sidecars: dict[str, Sidecar]) -> dict[str, Any]:
    rejects = [reject for sidecar in sidecars.values() for reject in sidecar.rejects]
    return {
        "pictures": sum(len(sidecar.index) for sidecar in sidecars.values()),
        "shards": [
            {"name": f"{name}.tar", "pictures": len(sidecar.index), "sha256": sidecar.checksum}
            for name, sidecar in sidecars.items()
        ],
        "index_sha256": sha256(out / index_name(split)),
        "rejects": [{"name": printable(name), "reason": reason} for name, reason in rejects],
    }


def printable(name: str) -> str:
    """Escape the bytes of a file name that are no text, which JSON could not hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def manifest(listing: Listing, options: Options, splits: dict[str, Any], out: Path) -> dict[str, Any]:
    """Describe the dataset, with nothing of when, where or by how many workers it was made."""
    return {
        "format": FORMAT_VERSION,
        "form": listing.form,
        "classes": [
            {"name": printable(name), "wnid": wnid}
            for name, wnid in zip(listing.classes, listing.wnids, strict=True)
        ],
        "splits": splits,
        "size": paper.IMAGE_SIZE,
        "filter": f"{images.FILTER}, antialiased",
        "encoding": {"format": "jpeg", "quality": images.QUALITY, "chroma": images.CHROMA},
        "pictures_per_shard": PICTURES_PER_SHARD,
        "options": asdict(options),
        "decoder": images.decoder(),
        "mean_sha256": sha256(out / MEAN),
        "statistics_sha256": sha256(out / STATISTICS),
    }
