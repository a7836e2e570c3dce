"""An hour of loading: nothing grows, and nothing slows down.

SOAK_DATASET=dataset pytest -m slow -s tests/loading/test_soak.py
"""

import os
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_cli import recipes
from alexnet_cli.dataset.manifest import open_squares
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.loading.loader import Reader, TrainingBatches, ahead
from alexnet_cli.loading.plan import Plan, shard_lengths
from alexnet_cli.machine import keep_freed_memory

MINUTES = 60
EVERY = 60  # seconds between looks


def places(steps: int) -> Iterator[tuple[int, int]]:
    return (divmod(n, steps) for n in count())


def resident() -> float:
    """MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def report(elapsed: float, rate: float, look: tuple[float, float, int, int]) -> None:
    of_cpu, memory, threads, files = look
    print(
        f"{elapsed / 60:5.1f} min  {rate:5.0f} pictures/s  {of_cpu:5.0f} a CPU second  {memory:6.0f} MB  "
        f"{threads} threads  {files} files",
        flush=True,
    )


@pytest.mark.slow
def test_an_hour_of_loading_takes_no_more_at_its_end_than_at_its_beginning() -> None:
    if "SOAK_DATASET" not in os.environ:
        pytest.skip("name a prepared dataset of photographs: SOAK_DATASET=DIR")
    dataset = open_squares(os.environ["SOAK_DATASET"])
    split, recipe = dataset.splits["train"], recipes.paper()
    colours = Colours(torch.from_numpy(np.array(dataset.mean)), dataset.eigenvalues, dataset.eigenvectors)
    plan = Plan(len(split.index), 128, 1, True, shard_lengths(split.index["shard"]))
    keep_freed_memory()
    looks, pictures = [], 0
    with Reader(split) as reader:
        build = TrainingBatches(reader, plan, recipe, colours, 1, 0, 1, torch.device("cpu"))
        begun = looked = time.monotonic()
        used = time.process_time()
        for batch in ahead(build, places(plan.steps), 2):
            pictures += len(batch.samples)
            del batch
            now = time.monotonic()
            if now - looked < EVERY:
                continue
            spent = time.process_time() - used
            open_files = len([*Path("/proc/self/fd").iterdir()])
            looks.append((pictures / spent, resident(), threading.active_count(), open_files))
            report(now - begun, pictures / (now - looked), looks[-1])
            pictures, looked, used = 0, time.monotonic(), time.process_time()
            if now - begun > MINUTES * 60:
                break
    rates, memory, threads, files = map(np.array, zip(*looks[1:], strict=True))
    assert len(set(threads)) == len(set(files)) == 1
    assert memory.max() < memory[: len(memory) // 4].max() * 1.03
    assert rates[-len(rates) // 4 :].mean() > rates[: len(rates) // 4].mean() * 0.9
