"""IDX files, as MNIST and its relatives come: big-endian dimensions, then bytes; plain or gzipped.

The format: http://yann.lecun.com/exdb/mnist/ ("the IDX file format").
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from alexnet_cli.dataset.sources.listing import Arrays, Listing, Pictures, whole
from alexnet_cli.errors import AlexNetError

PREFIXES = {"train": "train", "val": "val", "test": "t10k"}
UNSIGNED_BYTE = 8
BYTE_LIMIT = 4 << 30  # inflated; MNIST's largest file is 47 MB


def list_idx(root: Path, names: tuple[str, ...] | None = None) -> Listing:
    """Read the pairs of images and labels in a folder; classes are named 0, 1, … unless `names` are given."""
    splits = {split: read_pair(root, prefix) for split, prefix in PREFIXES.items() if images_file(root, prefix)}
    if "train" not in splits:
        raise AlexNetError(f"{root} has IDX files but no train-images-idx3-ubyte", "put the training set there")
    count = 1 + max(int(pictures.labels.max(initial=0)) for pictures in splits.values())
    classes = names or tuple(str(number) for number in range(count))
    if len(classes) < count:
        raise AlexNetError(f"{len(classes)} class names for labels up to {count - 1}", "one name a line")
    return Listing("IDX files", classes, splits)


def has_idx(root: Path) -> bool:
    return any(images_file(root, prefix) for prefix in PREFIXES.values())


def images_file(root: Path, prefix: str) -> Path | None:
    return next((p for rank in (3, 4) if (p := idx_file(root, f"{prefix}-images-idx{rank}-ubyte"))), None)


def idx_file(root: Path, name: str) -> Path | None:
    return next((path for end in ("", ".gz") if (path := root / (name + end)).is_file()), None)


def read_pair(root: Path, prefix: str) -> Pictures:
    images, labels = images_file(root, prefix), idx_file(root, f"{prefix}-labels-idx1-ubyte")
    assert images is not None
    if labels is None:
        raise AlexNetError(f"{images} has no labels beside it", f"put {prefix}-labels-idx1-ubyte.gz there")
    pixels, numbers = read_idx(images), read_idx(labels)
    if numbers.ndim != 1 or len(numbers) != len(pixels):
        raise AlexNetError(f"{labels} does not label the {len(pixels)} pictures of {images.name}")
    if not pixels.size or pixels.ndim < 3 or (pixels.ndim == 4 and pixels.shape[3] != 3):
        raise AlexNetError(f"{images} holds no grey or RGB pictures: {pixels.shape}")
    return whole(Arrays(images.name, pixels), numbers)


def read_idx(path: Path) -> np.ndarray:
    """Read uint8 of any rank up to 4; the header must account for every byte."""
    data = read_bounded(path)
    rank = data[3] if len(data) >= 4 else 0
    if data[:2] != b"\0\0" or data[2] != UNSIGNED_BYTE or not 1 <= rank <= 4 or len(data) < 4 + 4 * rank:
        raise AlexNetError(f"{path} is not an IDX file of bytes", "download it again")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", rank, offset=4))
    body = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
    if math.prod(shape) != len(body):
        raise AlexNetError(
            f"{path} is damaged: its header says {'×'.join(map(str, shape))} bytes, and {len(body)} follow",
            "download it again",
        )
    return body.reshape(shape)


def read_bounded(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(BYTE_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise AlexNetError(f"{path} cannot be read: {error}", "download it again") from error
    if len(data) > BYTE_LIMIT:
        raise AlexNetError(f"{path} is larger than {BYTE_LIMIT >> 30} GiB", "this is no MNIST-like set")
    return data
