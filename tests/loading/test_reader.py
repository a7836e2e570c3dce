"""Shards opened when they are needed, few at a time, and pictures that stay in memory."""

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alexnet_cli import recipes
from alexnet_cli.dataset.manifest import INDEX_DTYPE, Dataset, Split, open_dataset
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading import kept
from alexnet_cli.loading import plan as planning
from alexnet_cli.loading import reader as reader_module
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.loading.loader import TrainingBatch, TrainingBatches, ahead, evaluation_batches
from alexnet_cli.loading.plan import Plan
from alexnet_cli.loading.reader import Reader, _Shards
from alexnet_cli.machine import ADVISED, free_memory

CPU = torch.device("cpu")
PICTURES = 40
RECIPE = replace(recipes.paper(), network=recipes.Network(hidden=10))


# -- open files -----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ...]:
    monkeypatch.setattr("alexnet_cli.loading.reader.OPEN_SHARDS", 2)
    paths = tuple(tmp_path / f"{number}.tar" for number in range(5))
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    return paths


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_the_last_used_stay_open(files: tuple[Path, ...]) -> None:
    shards, descriptors = _Shards(files), {}
    for number in (0, 1, 0, 2):
        with shards.opened(number) as descriptor:
            assert os.pread(descriptor, 1, 0) == bytes([number])
            assert descriptors.setdefault(number, descriptor) == descriptor or number == 2
    assert is_open(descriptors[0])
    assert list(shards._open) == [0, 2]
    shards.close()
    assert not any(map(is_open, descriptors.values()))


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """What the system is asked to read: the file's number in it, offset and length."""
    asked: list[tuple[int, int, int]] = []

    def note(descriptor: int, offset: int, length: int, kind: int) -> None:
        assert kind == os.POSIX_FADV_WILLNEED
        asked.append((os.fstat(descriptor).st_ino, offset, length))

    monkeypatch.setattr(os, "posix_fadvise", note)
    return asked


@pytest.mark.skipif(not ADVISED, reason="this system takes no advice")
def test_the_system_is_asked_for_one_shard_at_a_time_whole_and_once(
    files: tuple[Path, ...], advice: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "AT_ONCE", 100)
    files[1].write_bytes(bytes(250))
    numbers = {path.stat().st_ino: number for number, path in enumerate(files)}
    shards = _Shards(files)
    for _ in range(3):
        shards.advise((1, 0))
    assert [(numbers[file], offset, length) for file, offset, length in advice] == [
        (1, 0, 100), (1, 100, 100), (1, 200, 100), (0, 0, 100),
    ]  # fmt: skip
    advice.clear()
    files[2].unlink()  # the reading will say so
    for wanted in ((0, 2), (0, 2), (3,), (0, 3)):
        shards.advise(wanted)
    assert [numbers[file] for file, _, _ in advice] == [3, 0]  # 0 again, as in another epoch
    shards.close()


@pytest.mark.skipif(not ADVISED, reason="this system takes no advice")
@pytest.mark.usefixtures("files")
def test_shards_are_asked_for_in_the_order_of_the_plan(
    tmp_path: Path, advice: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "WINDOW", 4)
    planning._windows.cache_clear()
    paths = tuple(tmp_path / f"many-{number}.tar" for number in range(12))
    for path in paths:
        path.write_bytes(b"1")
    numbers = {path.stat().st_ino: number for number, path in enumerate(paths)}
    index = np.zeros(12 * 30, dtype=INDEX_DTYPE)
    index["shard"] = np.repeat(np.arange(12), 30)
    plan = Plan(len(index), 10, 3, shards=(30,) * 12)
    with Reader(Split("train", paths, index, "jpeg")) as reader:
        for epoch in range(2):
            for step in range(plan.steps):
                reader.expect(plan, epoch, step, 2)
    windows = [window.tolist() for epoch in range(2) for window in plan._windows(epoch)[0]]
    # What was read in the two windows before is there still; that happens where an epoch ends.
    before = zip([[], [], *windows], [[], *windows], windows, strict=False)
    fresh = [n for first, second, window in before for n in window if n not in first + second]
    assert [numbers[file] for file, _, _ in advice] == fresh
    assert sorted(fresh[:12]) == [*range(12)] and len(fresh) > 12
    planning._windows.cache_clear()


def test_none_is_closed_while_it_is_in_use(files: tuple[Path, ...]) -> None:
    shards = _Shards(files)
    with ExitStack() as users:
        descriptors = [users.enter_context(shards.opened(number)) for number in (*range(5), 0)]
        assert descriptors[5] == descriptors[0]
        assert [os.pread(descriptor, 1, 0)[0] for descriptor in descriptors] == [0, 1, 2, 3, 4, 0]
        shards.close()
        assert all(map(is_open, descriptors))
    assert not any(map(is_open, descriptors))


# -- kept in memory -------------------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Dataset:
    shutil.copytree(tiny, tmp_path / "dataset")
    return open_dataset(tmp_path / "dataset")


def epoch_of(reader: Reader, dataset: Dataset, epoch: int, threads: int) -> list[TrainingBatch]:
    plan = Plan(PICTURES, 16, 5)
    colours = Colours(torch.from_numpy(dataset.mean.copy()), dataset.eigenvalues, dataset.eigenvectors)
    build = TrainingBatches(reader, plan, RECIPE, colours, 5, 0, 1, CPU)
    return list(ahead(build, [(epoch, step) for step in range(plan.steps)], threads))


def same(ours: TrainingBatch, theirs: TrainingBatch) -> bool:
    return (
        torch.equal(ours.pixels, theirs.pixels)
        and torch.equal(ours.labels, theirs.labels)
        and torch.equal(ours.weights, theirs.weights)
    )


def in_memory(dataset: Dataset) -> Dataset:
    return kept.in_memory(dataset, 1)


def in_a_devices_memory(dataset: Dataset) -> Dataset:
    """The CPU's, as a device: what differs on a GPU is the copying."""
    rooms = {name: kept.KeptOnDevice(len(split.index), CPU) for name, split in dataset.splits.items()}
    return kept._keeping(dataset, rooms)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("keep", [in_memory, in_a_devices_memory])
def test_batches_out_of_memory_are_the_same_and_need_no_shard(
    copied: Dataset, threads: int, keep: Callable[[Dataset], Dataset]
) -> None:
    held = keep(copied)
    with Reader(copied.splits["train"]) as reader:
        expected = [epoch_of(reader, copied, epoch, 1) for epoch in range(2)]
    with Reader(copied.splits["val"]) as reader:
        validation = list(evaluation_batches(reader, 4, 0, 1, 1))
    for attempt in range(2):
        with Reader(held.splits["train"]) as reader:
            for epoch in range(2):
                found = epoch_of(reader, copied, epoch, threads)
                assert all(map(same, found, expected[epoch]))
        with Reader(held.splits["val"]) as reader:
            for batch, theirs in zip(evaluation_batches(reader, 4, 0, 1, threads), validation, strict=True):
                assert torch.equal(batch.pictures, theirs.pictures)
        if not attempt:  # all that follows must come from memory, in another reader too
            for shard in (*copied.splits["train"].shards, *copied.splits["val"].shards):
                state = shard.stat()
                shard.write_bytes(bytes(state.st_size))


def test_a_part_of_a_kept_split_is_read_for_itself(copied: Dataset) -> None:
    held = kept.in_memory(copied, 1).splits["train"]
    with Reader(held) as reader:
        pictures = [reader.picture(sample) for sample in range(PICTURES)]
    with Reader(held.part(4)) as reader:
        assert all(torch.equal(reader.picture(n), pictures[10 * n]) for n in range(4))


def test_what_does_not_fit_is_refused_with_the_bytes(copied: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_memory()
    assert 10**8 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(kept, "RESERVE", 2 * free)
    with pytest.raises(
        AlexNetError, match=r"58 decoded pictures in each of 9 processes need 0\.1 GB, .* free"
    ) as error:
        kept.in_memory(copied, 9)
    assert "--cache" in error.value.hint


def test_to_keep_pictures_on_a_gpu_takes_one(copied: Dataset) -> None:
    with pytest.raises(AlexNetError, match="--cache device") as error:
        kept.on_device(copied, CPU)
    assert "--cache memory" in error.value.hint


# -- the memory of batches ------------------------------------------------------------------------------------


def test_memory_is_lent_again_only_when_its_batch_is_gone(copied: Dataset) -> None:
    plan = Plan(PICTURES, 8, None)
    with Reader(copied.splits["train"]) as reader:
        first, second = (reader.batch(plan.part(0, step)).pictures for step in range(2))
        places = {first.data_ptr(), second.data_ptr()}
        assert len(places) == 2
        before, row = first.clone(), first[3].numpy()
        del first
        third = reader.batch(plan.part(0, 2)).pictures
        assert third.data_ptr() not in places  # a row of the first is still in use
        assert (row == before[3].numpy()).all()
        del row
        assert reader.batch(plan.part(0, 3)).pictures.data_ptr() in places
        assert len(reader.batch(Plan(PICTURES, 5, None).part(0, 0)).pictures) == 5


def test_a_training_with_its_pictures_in_memory_is_the_same(
    place: Path, alexnet: Callable[..., Any], net: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for cache in ("none", "memory"):
        alexnet("train", *net, "--cache", cache, "--name", cache, "--max-steps", 12, "--device", "cpu").succeeded()
    plain, held = (place / "runs" / cache for cache in ("none", "memory"))
    ours, theirs = (load_file(run / "last.safetensors") for run in (held, plain))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    monkeypatch.setattr(kept, "RESERVE", 10**15)
    outcome = alexnet("train", *net, "--cache", "memory", "--new")
    outcome.failed("--cache memory: 58 decoded pictures need 0.0 GB", "leave --cache out")
