"""How fast a picture becomes a stored 256×256 square here, next to the plain ways of doing the same work.

Every way decodes, resizes the shorter side to 256, cuts the middle out and encodes at our quality, on one
thread, from bytes in memory. Ours also adds the picture to the statistics, as preparation does.
"""

import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from alexnet_cli import paper
from alexnet_cli.dataset.images import PictureError, decode, encode, is_picture, prepared, resized, to_square
from alexnet_cli.dataset.preparation import Options, prepare
from alexnet_cli.dataset.shards import PICTURES_PER_SHARD, Totals
from alexnet_cli.dataset.sources.listing import Files, Listing, Pictures
from alexnet_cli.dataset.treatment import QUALITY, Treatment
from alexnet_cli.errors import AlexNetError

SIZE = paper.IMAGE_SIZE
ROUNDS = 5
OURS = "alexnet prepare"
SHARDS = 4  # that each number of workers writes in `whole`
Way = Callable[[bytes], object]


@dataclass(frozen=True)
class Row:
    """One way of preparing: pictures a second on one core, and how many times slower than ours it is."""

    way: str
    rate: float
    ours: float


def rows(pictures: Path, count: int = 300) -> list[Row]:
    """Measure on the first `count` pictures under a folder; raises AlexNetError where there are none."""
    data = read_pictures(pictures, count)
    ways = plain_ways()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = dict(zip(ways, fastest(list(ways.values()), data), strict=True))
    finally:
        torch.set_num_threads(threads)
    return [Row(name, len(data) / seconds[name], seconds[name] / seconds[OURS]) for name in ways]


@dataclass(frozen=True)
class Whole:
    """The whole of a preparation with so many workers: pictures a second, and that over what one gives."""

    workers: int
    rate: float
    times: float


def whole(pictures: Path, shards: int = SHARDS) -> list[Whole]:
    """Prepare the pictures under a folder to disk, over and over to fill the shards, by one worker and two.

    From the first report of progress to the finished dataset: the start of the processes is not counted, all
    else is. Raises AlexNetError where there are no pictures.
    """
    listing = repeated(picture_files(pictures, PICTURES_PER_SHARD), shards * PICTURES_PER_SHARD)
    rates = {workers: measured(listing, workers) for workers in (1, 2)}
    return [Whole(workers, rate, rate / rates[1]) for workers, rate in rates.items()]


def repeated(paths: Sequence[Path], count: int) -> Listing:
    """List `count` training pictures of one class: the files, over and over."""
    files = Files(Path(), [str(path.absolute()) for path in paths], np.zeros(len(paths), dtype=np.int64))
    rows = np.resize(np.arange(len(paths), dtype=np.uint32), count)
    return Listing("pictures", ("picture",), {"train": Pictures(files, rows, np.zeros(count, dtype=np.uint32))})


def measured(listing: Listing, workers: int) -> float:
    with TemporaryDirectory(prefix="alexnet-bench-") as folder:
        steps = prepare(listing, Path(folder) / "dataset", Options(val_fraction=0), workers=workers, max_rejects=1)
        first = next(step for step in steps if step.done)
        start = time.perf_counter()
        last = [*steps][-1]
        return (last.done - first.done) / (time.perf_counter() - start)


def fastest(ways: Sequence[Way], data: Sequence[bytes]) -> list[float]:
    """Give each way's seconds for all pictures, for each picture those of its fastest round.

    Each goes through all pictures in a round, as preparation does: to take turns at every picture would have
    them throw each other out of the cache.
    """
    seconds = np.empty((ROUNDS, len(ways), len(data)))
    for n, (w, way), (p, picture) in product(range(ROUNDS), enumerate(ways), enumerate(data)):
        start = time.perf_counter()
        way(picture)
        seconds[n, w, p] = time.perf_counter() - start
    return [float(total) for total in seconds.min(0).sum(1)]


def picture_files(folder: Path, count: int) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if is_picture(path.name) and path.is_file())
    if not found:
        raise AlexNetError(f"there are no pictures under {folder}", "alexnet bench prepare PICTURES")
    return found[:count]


def read_pictures(folder: Path, count: int) -> list[bytes]:
    """Read what every way can decode, so that all do the same work."""
    found: list[bytes] = []
    for path in picture_files(folder, sys.maxsize):
        try:
            data = path.read_bytes()
            decode(data)
        except (OSError, PictureError):
            continue
        found.append(data)
        if len(found) == count:
            break
    if not found:
        raise AlexNetError(f"there are no usable pictures under {folder}", "alexnet bench prepare PICTURES")
    return found


def plain_ways() -> dict[str, Way]:
    totals = Totals()

    def ours(data: bytes) -> bytes:
        square = prepared(data, Treatment()).pixels
        totals.add(square)
        return encode(square)

    ways: dict[str, Way] = {
        OURS: ours,
        "its decode, resize and encode alone": bare,
        "Pillow": pillow,
        "torchvision": torchvision,
    }
    if find_spec("cv2"):
        ways["OpenCV"] = opencv
    return ways


def bare(data: bytes) -> bytes:
    """The same libraries and settings as ours, without the statistics."""
    return encode(to_square(decode(data)))


def pillow(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    height, width = resized(image.height, image.width, SIZE)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    file = io.BytesIO()
    image.crop((left, top, left + SIZE, top + SIZE)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def torchvision(data: bytes) -> bytes:
    """The usual recipe: Pillow opens, torchvision's transforms do the rest."""
    with Image.open(io.BytesIO(data)) as opened:
        picture = transforms.pil_to_tensor(opened.convert("RGB"))
    picture = transforms.center_crop(transforms.resize(picture, [SIZE], antialias=True), [SIZE, SIZE])
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def opencv(data: bytes) -> bytes:
    """OpenCV's INTER_AREA, which the authors' released code uses to shrink."""
    import cv2

    cv2.setNumThreads(1)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert picture is not None  # our decoder could read it, and cv2 knows the same formats
    height, width = resized(picture.shape[0], picture.shape[1], SIZE)
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    square = picture[top : top + SIZE, left : left + SIZE]
    return bytes(cv2.imencode(".jpg", square, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])
