"""The end of a preparation: the sidecars of all shards become indexes, statistics and the manifest."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_cli.dataset.fingerprint import decoder
from alexnet_cli.dataset.images import FILTER
from alexnet_cli.dataset.manifest import FORMAT_VERSION, MANIFEST, MEAN, STATISTICS, index_name
from alexnet_cli.dataset.shards import PICTURES_PER_SHARD, Shard, Sidecar, load_sidecar, load_sums
from alexnet_cli.dataset.sources.listing import Listing
from alexnet_cli.dataset.statistics import Statistics, Sums, no_sums, statistics
from alexnet_cli.dataset.treatment import Treatment, described
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import sha256, whole_file, write_json

SHOWN_REJECTS = 5
LISTED_ODD = 1000  # of each split in the manifest; `kinds` counts all


def seal(
    listing: Listing,
    shards: list[Shard],
    out: Path,
    treatment: Treatment,
    options: dict[str, Any],
    max_rejects: float,
) -> None:
    """Fold the sidecars into indexes, statistics and, last, the manifest; `options` are those it is to tell."""
    sidecars = {shard.name: load_sidecar(out, shard.name) for shard in shards}
    check_rejects(sidecars, max_rejects)
    each = (load_sums(out, shard.name) for shard in shards)
    sums = sum((found for found in each if found), no_sums(treatment.size))
    if not sums.pictures:
        raise AlexNetError("no training picture could be used", "is this the right folder?")
    save_statistics(out, sums, statistics(sums))
    splits = {}
    for split in listing.splits:
        names = [shard.name for shard in shards if shard.split == split]
        save_array(out / index_name(split), np.concatenate([sidecars[name].index for name in names]))
        splits[split] = split_facts(out, split, {name: sidecars[name] for name in names})
    write_json(out / MANIFEST, manifest(listing, treatment, options, splits, out))


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


def manifest(
    listing: Listing, treatment: Treatment, options: dict[str, Any], splits: dict[str, Any], out: Path
) -> dict[str, Any]:
    """Describe the dataset, with nothing of when, where or by how many workers it was made."""
    return {
        "format": FORMAT_VERSION,
        "form": listing.form,
        "classes": [
            {"name": printable(name), "wnid": wnid}
            for name, wnid in zip(listing.classes, listing.wnids, strict=True)
        ],
        "splits": splits,
        **described(treatment),
        "filter": f"{FILTER}, antialiased",
        "pictures_per_shard": PICTURES_PER_SHARD,
        "options": options,
        "decoder": decoder(),
        "mean_sha256": sha256(out / MEAN),
        "statistics_sha256": sha256(out / STATISTICS),
    }
