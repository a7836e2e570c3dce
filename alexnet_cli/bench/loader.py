"""How fast the shards of a dataset become batches here, beside the bare decode and the plain ways of reading them.

Everything reads the same pictures, in the same rounds, out of the memory in which the system keeps files that were
read before: a disk that is slower than that is not measured.
"""

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import simplejpeg
import torch
import webdataset
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import PILToTensor

from alexnet_cli import paper, recipes
from alexnet_cli.bench import step
from alexnet_cli.bench.timing import medians
from alexnet_cli.dataset.manifest import Dataset, Split, open_squares
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading.augmentation import Colours, each_view, rows_of, training_views
from alexnet_cli.loading.loader import Reader, TrainingBatches, ahead, evaluation_batches
from alexnet_cli.loading.memory import Memory
from alexnet_cli.loading.plan import BATCHES_AHEAD, Plan
from alexnet_cli.machine import ADVISED, keep_freed_memory

BARE, OURS, CROPPED = "bare decode", "alexnet, uint8", "alexnet, uint8, cropped and reflected"
TRAINING = "alexnet, to train on"
FOLDER, WEBDATASET = "ImageFolder, uint8", "webdataset with Pillow, uint8"
DALI = "NVIDIA DALI on the CPU, uint8, cropped and reflected"
WAYS = (BARE, OURS, CROPPED, TRAINING, FOLDER, WEBDATASET, DALI)
"""DALI where it is installed."""
THREADS = (1, 2)
BATCH = paper.BATCH_SIZE
SHARDS = 4
CONSUMED = 0.8
TAKEN = 100
"""Batches that the consumer takes."""
Batches = Iterable[object]


@dataclass(frozen=True)
class Row:
    """One way of reading: pictures a second, and that over what the bare decode gives on as many threads."""

    way: str
    threads: int
    rate: float
    of_bare: float
    waiting: float | None = None
    """Of alexnet's: the share of its time that a consumer of `CONSUMED` of the bare decode's rate waits for it."""


def rows(place: Path | str, count: int = 2000, rounds: int = 3) -> list[Row]:
    """Measure on `count` training pictures; raises AlexNetError where they are not JPEG squares."""
    dataset = open_squares(place)
    if dataset.treatment.encoding != "jpeg" or "train" not in dataset.splits:
        raise AlexNetError(
            f"{dataset.place} has no training pictures in JPEG", "name a dataset that `alexnet prepare` made"
        )
    split = dataset.splits["train"].first(count)
    keep_freed_memory()  # as in training
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, before)
        if split.far is not None:
            stack.enter_context(split.far.brought(tuple(np.unique(split.index["shard"]).tolist())))
        reader = stack.enter_context(Reader(split))
        classes, shards = copied(split, Path(stack.enter_context(TemporaryDirectory(prefix="alexnet-bench-"))))
        ways: dict[tuple[str, int], Callable[[], object]] = {}
        for threads in THREADS:
            ways[BARE, threads] = Bare(split, threads)
            ways[OURS, threads] = partial(ours, reader, threads)
            ways[CROPPED, threads] = cropped(reader, threads)
            ways[TRAINING, threads] = to_train_on(reader, dataset, threads)
            ways[FOLDER, threads] = partial(exhaust, image_folder(classes, threads))
            ways[WEBDATASET, threads] = partial(exhaust, with_webdataset(shards, threads))
        seconds = medians(ways, torch.device("cpu"), rounds)
        for threads in THREADS if dali_is_installed() else ():  # last: its own threads go on between the rounds
            way = with_dali(shards, threads, -(-len(split.index) // BATCH))
            seconds |= medians({(DALI, threads): way}, torch.device("cpu"), rounds)
        pictures = len(split.index)
        waits = {(OURS, n): waiting(reader, n, CONSUMED * pictures / seconds[BARE, n]) for n in THREADS}
    return [
        Row(way, threads, pictures / taken, seconds[BARE, threads] / taken, waits.get((way, threads)))
        for (way, threads), taken in seconds.items()
    ]


class Bare:
    """Nothing but the decoder: from bytes in memory to the same places in memory, a share for each thread."""

    def __init__(self, split: Split, threads: int) -> None:
        self.shares = [list(stored(split))[first::threads] for first in range(threads)]
        self.places = np.empty((threads, BATCH, paper.IMAGE_SIZE, paper.IMAGE_SIZE, 3), dtype=np.uint8)

    def __call__(self) -> None:
        with ThreadPoolExecutor(len(self.shares)) as pool:
            list(pool.map(self.decode, self.shares, self.places))

    def decode(self, share: list[bytes], places: np.ndarray) -> None:
        for number, data in enumerate(share):
            simplejpeg.decode_jpeg(data, "RGB", buffer=places[number % BATCH])


def ours(reader: Reader, threads: int) -> None:
    exhaust(evaluation_batches(reader, BATCH, 0, 1, threads))


def waiting(reader: Reader, threads: int, rate: float) -> float:
    """The share of its time that a consumer of `rate` pictures a second waits, once some batches lie ready."""
    plan = Plan(len(reader.split.index), BATCH, None)
    waited = 0.0
    with closing(
        ahead(lambda n: reader.batch(plan.part(0, n % plan.steps)), itertools.count(), threads)
    ) as batches:
        for number in range(BATCHES_AHEAD + TAKEN):
            if number == BATCHES_AHEAD:
                waited, begun = 0.0, time.perf_counter()
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            time.sleep(len(batch.samples) / rate)
        return waited / (time.perf_counter() - begun)


def to_train_on(reader: Reader, dataset: Dataset, threads: int) -> Callable[[], None]:
    """Cut, reflected, less the mean, with colour noise and dropout masks, as the paper's recipe has it."""
    colours = Colours(torch.from_numpy(np.array(dataset.mean)), dataset.eigenvalues, dataset.eigenvectors)
    plan = Plan(len(reader.split.index), BATCH, 1)
    build = TrainingBatches(reader, plan, recipes.paper(), colours, 1, 0, 1, torch.device("cpu"))
    return lambda: exhaust(ahead(build, [(0, step) for step in range(plan.steps)], threads))


def cropped(reader: Reader, threads: int) -> Callable[[], None]:
    """The patches of a training epoch as they are in the pictures."""
    plan, side = Plan(len(reader.split.index), BATCH, 1), paper.CROP_SIZE
    memory, recipe = Memory(np.uint8), recipes.paper().augmentation

    def build(step: int) -> Tensor:
        part = plan.part(0, step)
        patches = memory.array((part.rows, side, side, 3))
        views = training_views(recipe, 1, 0, part.positions, side)
        pictures = reader.batch(part).pictures
        for patch, picture, view in zip(patches, pictures, each_view(views, side), strict=False):
            view.put(patch.reshape(side, 3 * side), rows_of(picture))
        return torch.from_numpy(patches)

    return lambda: exhaust(ahead(build, range(plan.steps), threads))


def dali_is_installed() -> bool:
    return bool(find_spec("nvidia") and find_spec("nvidia.dali"))


def with_dali(shards: list[str], threads: int, batches: int) -> Callable[[], None]:
    """Its webdataset reader, decoder and crop_mirror_normalize, whose outputs stay where it made them."""
    from nvidia.dali import fn, pipeline_def, types

    def graph() -> Any:
        data, label = fn.readers.webdataset(paths=shards, ext=["jpg", "cls"])
        x, y = (fn.random.uniform(range=[0, 1]) for _ in range(2))
        patches = fn.crop_mirror_normalize(
            fn.decoders.image(data, output_type=types.RGB), crop=(paper.CROP_SIZE, paper.CROP_SIZE),
            crop_pos_x=x, crop_pos_y=y, mirror=fn.random.coin_flip(),
            dtype=types.UINT8, mean=[0.0] * 3, std=[1.0] * 3, output_layout="HWC",
        )  # fmt: skip
        return patches, label

    options = {"batch_size": BATCH, "num_threads": threads, "prefetch_queue_depth": BATCHES_AHEAD}
    built = pipeline_def(graph, device_id=None, **options)()
    built.build()

    def exactly() -> None:
        """Not by `run`, which leaves batches under way, to be had for nothing the next time."""
        for _ in range(min(BATCHES_AHEAD, batches)):
            built.schedule_run()
        for done in range(batches):
            built.share_outputs()
            built.release_outputs()
            if done + BATCHES_AHEAD < batches:
                built.schedule_run()

    return exactly


@dataclass(frozen=True)
class Bound:
    """Pictures a second that each part of a training can do here, alone."""

    disk: float | None
    """Shards read from front to back by one thread, forgotten by the system before; None where unknown."""
    decode: float
    """And cut: what is trained on."""
    device: float

    @property
    def by(self) -> str:
        rates = {"disk": self.disk, "decode": self.decode, "device": self.device}
        return min((rate, name) for name, rate in rates.items() if rate is not None)[1]


def bound(place: Path | str, count: int, found: list[Row], device: torch.device) -> Bound:
    """What would hold up a training of the paper's net, after `rows` was measured on the same."""
    split = open_squares(place).splits["train"].first(count)
    decode = max(row.rate for row in found if row.way == TRAINING)
    return Bound(_disk(split), decode, step.rate(device, 16 if device.type == "cpu" else BATCH))


def _disk(split: Split) -> float | None:
    """None where that cannot be told: of shards from afar, and where files cannot be forgotten."""
    if split.far is not None or not ADVISED:
        return None
    shards = [split.shards[number] for number in np.unique(split.index["shard"])]
    for shard in shards:
        with shard.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    size = sum(len(shard.read_bytes()) for shard in shards)
    return size / float(split.index["size"].mean()) / (time.perf_counter() - start)


def stored(split: Split) -> Iterator[bytes]:
    """The pictures as they lie in the shards, in their order."""
    for shard, offset, size, _ in split.index.tolist():
        with split.shards[shard].open("rb") as file:
            yield os.pread(file.fileno(), size, offset)


def copied(split: Split, folder: Path) -> tuple[Path, list[str]]:
    """The same pictures in class folders, for ImageFolder, and in shards that divide among workers."""
    shards = [str(folder / f"{number}.tar") for number in range(SHARDS)]
    with ExitStack() as stack:
        writers = [stack.enter_context(webdataset.TarWriter(shard)) for shard in shards]
        for number, (data, label) in enumerate(zip(stored(split), split.index["label"].tolist(), strict=True)):
            place = folder / "classes" / f"{label:06d}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.jpg").write_bytes(data)
            writers[number * SHARDS // len(split.index)].write({"__key__": f"{number}", "jpg": data, "cls": label})
    return folder / "classes", shards


def image_folder(folder: Path, threads: int) -> Batches:
    return data_loader(ImageFolder(folder, PILToTensor()), threads, BATCH)


def with_webdataset(shards: list[str], threads: int) -> Batches:
    """As its manual shows; the workers put the batches together, and Pillow decodes."""
    pictures = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    return data_loader(pictures.decode("rgb8").to_tuple("jpg", "cls").batched(BATCH), threads, None)


def data_loader(pictures: Any, threads: int, batch: int | None) -> Batches:
    """In this process for one thread, else with so many workers, which stay from round to round."""
    workers = threads if threads > 1 else 0
    # Not forked: what this process holds of threads would be broken in them.
    method = "forkserver" if workers else None
    return DataLoader(
        pictures, batch, num_workers=workers, persistent_workers=workers > 0, multiprocessing_context=method
    )


def exhaust(batches: Batches) -> None:
    deque(batches, maxlen=0)
