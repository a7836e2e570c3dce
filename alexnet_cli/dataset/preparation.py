"""From a listing to a finished dataset directory: plan, write or continue shards, and seal.

Nothing is shown here: `prepare` is a generator of `Progress`. A directory is finished when `manifest.json`
is renamed into place; until then `.unfinished` holds the plan and a sidecar for each finished shard.
"""

import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from alexnet_cli.dataset.directory import (
    check_out,
    has_plan,
    is_settled,
    left_overs,
    parts,
    remove_dataset,
    remove_left_overs,
    remove_orphans,
    remove_unfinished,
    settle_plan,
)
from alexnet_cli.dataset.fingerprint import decoder
from alexnet_cli.dataset.manifest import FORMAT_VERSION, MANIFEST, UNFINISHED
from alexnet_cli.dataset.ranks import POLL_SECONDS, Team, joined
from alexnet_cli.dataset.sealing import seal
from alexnet_cli.dataset.shards import (
    PICTURES_PER_SHARD,
    Shard,
    Task,
    finished,
    make_task,
    plan_shards,
    write_shard,
)
from alexnet_cli.dataset.sources.listing import Listing, carve_validation, limit
from alexnet_cli.dataset.space import check_space, same_disk
from alexnet_cli.dataset.spool import (
    check_spool,
    copy,
    folder_of,
    lacking,
    remove_folder,
    remove_spool,
    settle_spool,
    spooled,
)
from alexnet_cli.dataset.treatment import Treatment
from alexnet_cli.dataset.workers import LOOK_SECONDS, run_here, run_with
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import read_json
from alexnet_cli.machine import ALONE, Job, job, signals_handled

Advance = tuple[int, int]  # pictures done and pictures rejected since the last report
Phase = Literal["copying", "preparing"]


@dataclass(frozen=True)
class Options:
    """What decides the bytes of a dataset, beside its source."""

    seed: int = 0
    val_fraction: float = 0.1  # used only when the source has no val
    limit: int | None = None  # pictures in each split
    treatment: Treatment = field(default_factory=Treatment)


@dataclass(frozen=True)
class Progress:
    """Pictures of this phase so far, those of shards finished by an earlier run included."""

    done: int
    total: int
    rejected: int
    kept: int = 0  # pictures in shards that an earlier run finished
    phase: Phase = "preparing"


def prepare(
    listing: Listing,
    out: Path,
    options: Options | None = None,
    *,
    workers: int = 0,
    overwrite: bool = False,
    max_rejects: float = 0.01,
    spool: Path | None = None,
    job: Job = ALONE,
) -> Generator[Progress, None, None]:
    """Write the dataset directory `out`, or go on with an unfinished one; read it with `open_dataset`.

    `workers` are processes, so that no decoder can end this one; with 0 all is done in this one. With `spool`
    the source is first copied there, in one go. Each process of a `job` gives all this at once, writes its part
    and returns when the whole is finished.
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
    writers = {shard.name: number % job.size for number, shard in enumerate(shards)}
    work = Work(listing, shards, writers, out, options.treatment, workers, spool)
    # The first process decides, and removes: the others may not look at what it is removing.
    anew = overwrite and job.rank == 0 and not (has_plan(out) and is_settled(out, plan(listing, options)))
    if job.rank == 0 and not sealed:
        check_room(work, anew)
    with joined(out, job) as team, stopped_by_signals(out, len(shards)):
        if sealed:
            yield tidied(out, listing, options)
        elif job.rank == 0:
            if anew:
                remove_spool(out)
                remove_dataset(out)
            settle_plan(out, plan(listing, options))
            remove_left_overs(out)
            remove_orphans(out)
            settle_spool(out, spool)
            team.begin()
            yield from write_shards(work, team)
            seal(listing, shards, out, options.treatment, beside_pictures(options), max_rejects)
            remove_spool(out)
            remove_unfinished(out)
        else:
            settle_plan(out, plan(listing, options))  # compares this process's source with that of the first
            folder = work.spool_folder
            yield from write_shards(work, team)
            team.wait_for_seal()
            remove_folder(folder)  # on another machine than the first it is another one


@dataclass(frozen=True)
class Work:
    """What a preparation has to do, and by what means; `writers` says which process writes a shard."""

    listing: Listing
    shards: list[Shard]
    writers: dict[str, int]
    out: Path
    treatment: Treatment
    workers: int
    spool: Path | None

    @property
    def spool_folder(self) -> Path | None:
        return folder_of(self.out, self.spool) if self.spool else None

    def tasks(self, shards: list[Shard]) -> Iterator[Task]:
        folder = self.spool_folder
        for shard in shards:
            task = make_task(shard, self.listing.splits[shard.split], self.treatment)
            yield spooled(task, folder) if folder else task


def tidied(out: Path, listing: Listing, options: Options) -> Progress:
    """Finish what a run that was killed after its manifest left to do."""
    if has_plan(out):
        settle_plan(out, plan(listing, options))
    remove_spool(out)
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


def check_room(work: Work, anew: bool) -> None:
    """Refuse to begin where the shards that are missing, or the copy of this process's part, will not fit."""
    out = work.out
    missing = [shard for shard in work.shards if anew or finished(out, shard.name) is None]
    removed = {*left_overs(out), *(parts(out) if anew else ())}
    freed = sum(path.lstat().st_size for path in removed)
    if work.spool:
        folder = None if anew else folder_of(out, work.spool)
        mine = lacking((shard for shard in missing if work.writers[shard.name] == 0), folder)
        needed = check_spool(work.listing, mine, work.spool, folder)
        freed -= needed if same_disk(out, work.spool) else 0
    check_space(work.listing, work.shards, missing, out, freed, work.workers, work.treatment)


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


def plan(listing: Listing, options: Options) -> dict[str, Any]:
    """Give what must be the same when a preparation goes on."""
    return {
        "listing": listing.digest(),
        "decoder": decoder(),
        **beside_pictures(options),
        **asdict(options.treatment),
        "format": FORMAT_VERSION,
    }


def beside_pictures(options: Options) -> dict[str, Any]:
    """Give the options that say which pictures, but not what is done to them."""
    return {name: value for name, value in asdict(options).items() if name != "treatment"}


def write_shards(work: Work, team: Team) -> Iterator[Progress]:
    """Write this process's missing shards; the first of a job counts those of the others and waits for them."""
    job, out = team.job, team.out
    counted = [shard for shard in work.shards if job.rank in (0, work.writers[shard.name])]
    there = {shard.name: sidecar for shard in counted if (sidecar := finished(out, shard.name))}
    missing = [shard for shard in counted if shard.name not in there]
    mine = [shard for shard in missing if work.writers[shard.name] == job.rank]
    total = sum(len(shard.positions) for shard in counted)
    done = kept = total - sum(len(shard.positions) for shard in missing)
    rejected = sum(len(sidecar.rejects) for sidecar in there.values())
    yield from copy_source(work, mine, kept)
    yield Progress(done, total, rejected, kept)
    others = {shard.name: work.writers[shard.name] for shard in missing if work.writers[shard.name] != job.rank}
    for advance, bad in with_others(write_tasks(work.tasks(mine), out, work.workers), team, others):
        done, rejected = done + advance, rejected + bad
        yield Progress(done, total, rejected, kept)


def copy_source(work: Work, mine: list[Shard], kept: int) -> Iterator[Progress]:
    """Copy to the spool, if there is to be one, what is not there yet."""
    folder = work.spool_folder
    if not work.spool or not folder or not (wanted := lacking(mine, folder)):
        return
    check_spool(work.listing, wanted, work.spool, folder)
    done, total = 0, sum(len(shard.positions) for shard in wanted)
    for advance in chain((0,), copy(work.listing, wanted, folder)):
        done += advance
        yield Progress(done, total, 0, kept, "copying")


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
    for name in [*others]:
        if sidecar := finished(out, name):
            del others[name]
            yield len(sidecar.index) + len(sidecar.rejects), len(sidecar.rejects)
