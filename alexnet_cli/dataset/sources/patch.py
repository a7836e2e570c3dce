"""ILSVRC-2010's `patch_images.tar`: pictures in place of those that are blank or a banner in its archives.

Its members are called patch_images/train/n02487347_1956.JPEG and so on; a file name is that of one picture in all
of ILSVRC-2010, so it alone says which one is meant.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from alexnet_cli.dataset.archives import members, opened
from alexnet_cli.dataset.images import is_picture
from alexnet_cli.dataset.sources.classtars import Found, basename
from alexnet_cli.dataset.sources.listing import Pictures, Store
from alexnet_cli.dataset.sources.records import Record, Span

PATCH = "patch_images.tar"
Patch = dict[str, Span]  # by file name


@dataclass(frozen=True)
class Patched:
    """A store some of whose pictures, by row, are those of the patch."""

    store: Store
    spans: dict[int, Span]

    def record(self, row: int, label: int) -> Record:
        record = self.store.record(row, label)
        return replace(record, content=self.spans.get(row, record.content))

    def order(self, rows: np.ndarray) -> np.ndarray:
        return self.store.order(rows)

    def weight(self, rows: np.ndarray) -> int:
        used = self.spans.keys() & set(rows.tolist())
        return self.store.weight(rows) + sum(self.spans[row].size for row in used)

    def digest(self) -> str:
        said = "".join(f"\n{row} {span.offset} {span.size}" for row, span in self.spans.items())
        return hashlib.sha256(f"{self.store.digest()}{said}".encode()).hexdigest()


def find_patch(root: Path) -> Patch | None:
    """List the patch that lies in `root`; raises AlexNetError when it is damaged."""
    path = root / PATCH
    if not path.is_file():
        return None
    with opened(path) as tar:
        return {
            name: Span(path, member.offset, member.size)
            for member in members(tar)
            if is_picture(name := basename(member.name)) and not name.startswith(".")
        }


def patched(found: Found, patch: Patch | None) -> Found:
    """Replace the pictures that the patch has."""
    if not patch:
        return found
    names = (basename(found.store.record(row, 0).name) for row in range(found.count))
    spans = {row: patch[name] for row, name in enumerate(names) if name in patch}
    return replace(found, store=Patched(found.store, spans)) if spans else found


def patch_note(patch: Patch | None, splits: Mapping[str, Pictures]) -> str:
    if patch is None:
        return (
            f"there is no {PATCH}: some pictures of ILSVRC-2010 are blank in its archives, and that one, from the "
            "same page, has them as they should be"
        )
    used = sum(len(its.store.spans) for its in splits.values() if isinstance(its.store, Patched))
    return f"{used} pictures are those of {PATCH}" + (f", of {len(patch)} in it" if used < len(patch) else "")
