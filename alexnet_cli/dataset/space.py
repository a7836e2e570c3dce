"""Whether a dataset will fit on its disk, told before anything is written there."""

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from alexnet_cli.dataset.manifest import INDEX_DTYPE, UNFINISHED
from alexnet_cli.dataset.shards import Shard, Task, load_sidecar, make_task, write_shard
from alexnet_cli.dataset.sources.listing import Listing
from alexnet_cli.dataset.treatment import LONGEST, Treatment
from alexnet_cli.dataset.workers import run_here, run_with
from alexnet_cli.errors import AlexNetError

PLENTY = 4  # bytes a pixel: where there is so much room, no sample is needed to see that it is enough
HEADERS = 4096  # bytes a picture, at most, beside its pixels
SAMPLE, AT_ONCE = 32, 4  # pictures, all of them and in each task
SECONDS = 2.0  # for the sample, once the libraries are loaded
SUMS = 4 * 3  # bytes a pixel of the sums that a training shard's sidecar holds, and of the mean


def check_space(
    listing: Listing,
    shards: list[Shard],
    missing: list[Shard],
    out: Path,
    freed: int,
    workers: int,
    treatment: Treatment,
) -> None:
    """Raise AlexNetError if the `missing` of all shards and what goes with them need more than there is.

    `freed` bytes are given back on that disk before anything is written, or taken if negative. The size of a
    picture is taken from a sample, written elsewhere, which is left out where there is plenty of room.
    """
    place = standing(out)
    free = shutil.disk_usage(place).free + freed
    pictures = sum(len(shard.positions) for shard in missing)
    beside = (1 + sum(shard.split == "train" for shard in missing)) * SUMS * treatment.size**2
    beside += 2 * INDEX_DTYPE.itemsize * sum(len(shard.positions) for shard in shards)
    longest = LONGEST if treatment.geometry == "shorter" else 1
    if pictures * (HEADERS + PLENTY * treatment.size**2 * longest) + beside <= free:
        return
    each = picture_bytes(listing, workers, treatment)
    if each is None or (needed := pictures * each + beside) <= free:
        return
    raise AlexNetError(
        f"there is not enough space for {out}: {pictures:,} pictures need about {size(needed)}, "
        f"and {place} has {size(free)} free",
        "free some space, or name another place with --out; nothing was written",
    )


def standing(path: Path) -> Path:
    """Give the folder itself, or the nearest above it that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.is_dir())


def same_disk(one: Path, other: Path) -> bool:
    return standing(one).stat().st_dev == standing(other).stat().st_dev


def size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def picture_bytes(listing: Listing, workers: int, treatment: Treatment) -> float | None:
    """Give the mean bytes of a picture in a shard, from some evenly spaced in the largest split.

    None if it cannot be told: none of them can be used, or they cannot be written even elsewhere.
    """
    try:
        return _picture_bytes(listing, workers, treatment)
    except (AlexNetError, OSError):
        return None


def _picture_bytes(listing: Listing, workers: int, treatment: Treatment) -> float | None:
    written = count = 0
    with TemporaryDirectory(prefix="alexnet-") as folder:
        body = partial(write_shard, out=Path(folder))
        (Path(folder) / UNFINISHED).mkdir()
        tasks = samples(listing, treatment)
        steps = run_with(1, tasks, body) if workers else run_here(tasks, body)
        end = 0.0
        with closing(steps):
            for _ in steps:
                end = end or time.monotonic() + SECONDS
                if time.monotonic() > end:
                    break
        for tar in Path(folder).glob("*.tar"):
            written += tar.stat().st_size
            count += len(load_sidecar(Path(folder), tar.stem).index)
    return written / count if count else None


def samples(listing: Listing, treatment: Treatment) -> Iterator[Task]:
    split, pictures = max(listing.splits.items(), key=lambda item: len(item[1]))
    chosen = np.unique(np.linspace(0, len(pictures) - 1, SAMPLE).astype(np.int64))
    # Every task has pictures from everywhere, in case that time is over after the first.
    for number in range(-(-len(chosen) // AT_ONCE)):
        shard = Shard(split, number, chosen[number :: -(-len(chosen) // AT_ONCE)])
        yield replace(make_task(shard, pictures, treatment), counted=False)
