"""From a listing to a finished dataset directory: plan, write or continue shards, and seal.

Nothing is shown here: `prepare` is a generator of `Progress`. A directory is finished when `manifest.json`
is renamed into place; until then `.unfinished` holds the plan and a sidecar for each finished shard.
"""

import re
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from alexnet_cli.dataset import images
from alexnet_cli.dataset.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    MEAN,
    STATISTICS,
    UNFINISHED,
    index_name,
)
from alexnet_cli.dataset.ranks import POLL_SECONDS, Team, is_meeting, joined
from alexnet_cli.dataset.shards import (
    PICTURES_PER_SHARD,
    Shard,
    Sidecar,
    Task,
    is_finished,
    load_sidecar,
    load_sums,
    make_task,
    plan_shards,
    write_shard,
)
from alexnet_cli.dataset.sources.listing import Listing, carve_validation, limit
from alexnet_cli.dataset.space import check_space
from alexnet_cli.dataset.statistics import Statistics, Sums, no_sums, statistics
from alexnet_cli.dataset.treatment import Treatment, described
from alexnet_cli.dataset.workers import LOOK_SECONDS, run_here, run_with
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import read_json, sha256, whole_file, write_json
from alexnet_cli.machine import ALONE, Job, job, signals_handled

PLAN = "plan.json"
SHOWN_REJECTS = 5
LISTED_ODD = 1000  # of each split in the manifest; `kinds` counts all
Advance = tuple[int, int]  # pictures done and pictures rejected since the last report
OURS = re.compile(r"(train|val|test)-(\d{6,}\.tar|index\.npy)|mean\.npy|statistics\.json|manifest\.json")
LEFT_OVER = re.compile(r"\..+\.\d+\.tmp")  # what a killed writer leaves: see files.whole_file
WORDS = {"listing": "the source", "decoder": "the picture libraries", "val_fraction": "--val-fraction"}


@dataclass(frozen=True)
class Options:
    """What decides the bytes of a dataset, beside its source."""

    seed: int = 0
    val_fraction: float = 0.1  # used only when the source has no val
    limit: int | None = None  # pictures in each split
    treatment: Treatment = field(default_factory=Treatment)


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
    workers: int = 0,
    overwrite: bool = False,
    max_rejects: float = 0.01,
    job: Job = ALONE,
) -> Generator[Progress, None, None]:
    """Write the dataset directory `out`, or go on with an unfinished one; read it with `open_dataset`.

    `workers` are processes, so that no decoder can end this one; with 0 all is done in this one. Each process
    of a `job` gives all this at once, writes its part and returns when the whole is finished.
    Raises AlexNetError when `out` holds something else, a shard cannot be written, more than the fraction
    `max_rejects` of the pictures cannot be used, or a signal stops it; finished shards are kept then.
    """
    options = options or Options()
    listing = select(listing, options)
    shards = plan_shards(listing, options.seed)
    check_out(out, overwrite)
    sealed = (out / MANIFEST).is_file() and not overwrite  # by a run that was killed while tidying up
    if sealed and job.rank:
        yield Progress(0, 0, 0)
        return
    if job.rank == 0 and not sealed:
        check_room(listing, shards, out, overwrite, workers, options.treatment)
    with joined(out, job) as team, stopped_by_signals(out, len(shards)):
        if sealed:
            yield tidied(out, listing, options)
        elif job.rank == 0:
            if overwrite:
                remove_dataset(out)
            settle_plan(out, listing, options)
            remove_left_overs(out)
            team.begin()
            yield from write_shards(listing, shards, team, workers, options.treatment)
            seal(listing, shards, out, options, max_rejects)
        else:
            settle_plan(out, listing, options)  # compares this process's source with that of the first
            yield from write_shards(listing, shards, team, workers, options.treatment)
            team.wait_for_seal()


def tidied(out: Path, listing: Listing, options: Options) -> Progress:
    """Finish what a run that was killed after its manifest left to do."""
    if (out / UNFINISHED / PLAN).is_file():
        settle_plan(out, listing, options)
    remove_unfinished(out)
    total = sum(len(pictures) for pictures in listing.splits.values())
    rejected = sum(len(split["rejects"]) for split in read_json(out / MANIFEST)["splits"].values())
    return Progress(total, total, rejected, kept=total)


def usual_workers(listing: Listing) -> int:
    """Give a process to each core, but only as many as have some thousands of pictures to be started for."""
    pictures = sum(len(split) for split in listing.splits.values())
    return max(1, min(job().cores, pictures // (2 * PICTURES_PER_SHARD)))


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
    if finished and not overwrite and not unfinished:
        raise AlexNetError(
            f"{out} holds a finished dataset", "add --overwrite to replace it, or name another --out"
        )


def check_room(
    listing: Listing, shards: list[Shard], out: Path, overwrite: bool, workers: int, treatment: Treatment
) -> None:
    """Refuse to begin where the shards that are missing will not fit."""
    missing = [shard for shard in shards if overwrite or not is_finished(out, shard.name)]
    removed = {*left_overs(out), *(parts(out) if overwrite else ())}
    freed = sum(path.lstat().st_size for path in removed)
    check_space(listing, shards, missing, out, freed, workers, treatment)


def remove_dataset(out: Path) -> None:
    """Remove our own files and nothing else, the manifest first: then the rest is an unfinished dataset."""
    (out / MANIFEST).unlink(missing_ok=True)
    for path in parts(out):
        path.unlink()


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


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.is_dir()] if folder.is_dir() else []


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

    with signals_handled([signal.SIGINT, signal.SIGTERM], stop):
        yield


def settle_plan(out: Path, listing: Listing, options: Options) -> None:
    """Write the plan of a new directory, or compare that of an unfinished one and refuse a difference."""
    path = out / UNFINISHED / PLAN
    plan = {
        "listing": listing.digest(),
        "decoder": images.decoder(),
        **beside_pictures(options),
        **asdict(options.treatment),
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


def beside_pictures(options: Options) -> dict[str, Any]:
    """Give the options that say which pictures, but not what is done to them."""
    return {name: value for name, value in asdict(options).items() if name != "treatment"}


def write_shards(
    listing: Listing, shards: list[Shard], team: Team, workers: int, treatment: Treatment
) -> Iterator[Progress]:
    """Write this process's missing shards; the first of a job counts those of the others and waits for them."""
    job, out = team.job, team.out
    writers = {shard.name: number % job.size for number, shard in enumerate(shards)}
    counted = [shard for shard in shards if job.rank in (0, writers[shard.name])]
    missing = [shard for shard in counted if not is_finished(out, shard.name)]
    total = sum(len(shard.positions) for shard in counted)
    done = kept = total - sum(len(shard.positions) for shard in missing)
    rejected = sum(len(load_sidecar(out, s.name).rejects) for s in counted if is_finished(out, s.name))
    yield Progress(done, total, rejected, kept)
    mine = [shard for shard in missing if writers[shard.name] == job.rank]
    tasks = (make_task(shard, listing.splits[shard.split], treatment) for shard in mine)
    others = {shard.name: writers[shard.name] for shard in missing if writers[shard.name] != job.rank}
    for advance, bad in with_others(write_tasks(tasks, out, workers), team, others):
        done, rejected = done + advance, rejected + bad
        yield Progress(done, total, rejected, kept)


def write_tasks(tasks: Iterator[Task], out: Path, workers: int) -> Iterator[Advance]:
    """Write shards; the count of one that is begun anew, without a picture that ended a worker, is taken back."""
    body = partial(write_shard, out=out)
    said: dict[str, Advance] = {}
    for name, advance in run_with(workers, tasks, body) if workers else run_here(tasks, body):
        done, bad = said.pop(name, (0, 0))
        if advance is None:
            remove_left_overs(out, name)
            yield -done, -bad
        else:
            said[name] = done + advance[0], bad + advance[1]
            yield advance


def with_others(mine: Iterator[Advance], team: Team, others: dict[str, int]) -> Iterator[Advance]:
    """Add the shards of `others`, names and who writes them, as they appear, and wait until all are there."""
    looked = time.monotonic()
    for advance in mine:
        yield advance
        if others and time.monotonic() - looked >= LOOK_SECONDS:
            looked = time.monotonic()
            yield from arrived(team.out, others)
    while others:
        yield from arrived(team.out, others)
        for rank in set(others.values()):
            team.check_alive(rank)
        time.sleep(POLL_SECONDS)


def arrived(out: Path, others: dict[str, int]) -> Iterator[Advance]:
    for name in [name for name in others if is_finished(out, name)]:
        del others[name]
        sidecar = load_sidecar(out, name)
        yield len(sidecar.index) + len(sidecar.rejects), len(sidecar.rejects)


def seal(listing: Listing, shards: list[Shard], out: Path, options: Options, max_rejects: float) -> None:
    """Fold the sidecars into indexes, statistics and, last, the manifest."""
    sidecars = {shard.name: load_sidecar(out, shard.name) for shard in shards}
    check_rejects(sidecars, max_rejects)
    each = (load_sums(out, shard.name) for shard in shards)
    sums = sum((found for found in each if found), no_sums(options.treatment.size))
    if not sums.pictures:
        raise AlexNetError("no training picture could be used", "is this the right folder?")
    save_statistics(out, sums, statistics(sums))
    splits = {}
    for split in listing.splits:
        names = [shard.name for shard in shards if shard.split == split]
        save_array(out / index_name(split), np.concatenate([sidecars[name].index for name in names]))
        splits[split] = split_facts(out, split, {name: sidecars[name] for name in names})
    write_json(out / MANIFEST, manifest(listing, options, splits, out))
    remove_unfinished(out)


def remove_unfinished(out: Path) -> None:
    for path in sorted((out / UNFINISHED).iterdir(), key=is_plan):
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
            "pixels": sums.pixels,
            "rgb_sums": sums.rgb,
            "rgb_product_sums": sums.products,
            "rgb_mean": found.rgb_mean,
            "covariance": found.covariance,
            "eigenvalues": found.eigenvalues,
            "eigenvectors": found.eigenvectors,
        },
    )


def split_facts(out: Path, split: str, sidecars: dict[str, Sidecar]) -> dict[str, Any]:
    rejects = [reject for sidecar in sidecars.values() for reject in sidecar.rejects]
    odd = [found for sidecar in sidecars.values() for found in sidecar.odd]
    return {
        "pictures": sum(len(sidecar.index) for sidecar in sidecars.values()),
        "shards": [
            {"name": f"{name}.tar", "pictures": len(sidecar.index), "sha256": sidecar.checksum}
            for name, sidecar in sidecars.items()
        ],
        "index_sha256": sha256(out / index_name(split)),
        "rejects": [{"name": printable(name), "reason": reason} for name, reason in rejects],
        "kinds": dict(sorted(sum((Counter(sidecar.kinds) for sidecar in sidecars.values()), Counter()).items())),
        "odd": [{"name": printable(name), "what": what} for name, what in odd[:LISTED_ODD]],
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
        **described(options.treatment),
        "filter": f"{images.FILTER}, antialiased",
        "pictures_per_shard": PICTURES_PER_SHARD,
        "options": beside_pictures(options),
        "decoder": images.decoder(),
        "mean_sha256": sha256(out / MEAN),
        "statistics_sha256": sha256(out / STATISTICS),
    }
