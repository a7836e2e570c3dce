import gc
import json
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_cli import paper
from alexnet_cli.bench import loader as reading
from alexnet_cli.bench import prepare as measure
from alexnet_cli.bench.step import NONE, OURS, PLAIN, SINGLY, STOCK, TWO, operations, variant
from alexnet_cli.dataset import shards
from alexnet_cli.dataset.manifest import open_dataset
from alexnet_cli.engine.arithmetic import emulated
from alexnet_cli.loading.loader import Reader
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.layout import LAYOUTS
from alexnet_cli.recipes import chosen
from alexnet_cli.runs import Layout


def test_prepare_is_measured_next_to_the_plain_ways(pictures: Path, alexnet: Callable[..., Any]) -> None:
    rows = json.loads(alexnet("bench", "prepare", pictures, "--count", 3, "--json").succeeded().out)
    assert rows[0]["way"] == "alexnet prepare" and rows[0]["ours"] == 1
    assert {"Pillow", "torchvision"} < {row["way"] for row in rows}
    assert all(abs(row["rate"] * row["ours"] / rows[0]["rate"] - 1) < 1e-9 for row in rows)
    table = alexnet("bench", "prepare", pictures, "--count", 1).succeeded().out
    assert "pictures/s" in table and "1.00×" in table


def test_the_whole_of_it_is_measured_with_one_worker_and_two(
    pictures: Path, alexnet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (measure, shards):
        monkeypatch.setattr(module, "PICTURES_PER_SHARD", 80)  # a shard reports every 64
    one, two = json.loads(alexnet("bench", "prepare", pictures, "--whole", "--json").succeeded().out)
    assert (one["workers"], one["times"], two["workers"]) == (1, 1, 2)
    assert two["times"] == two["rate"] / one["rate"] > 0


def test_a_folder_without_pictures_is_a_mistake(tmp_path: Path, alexnet: Callable[..., Any]) -> None:
    alexnet("bench", "prepare", tmp_path).failed("there are no pictures", "alexnet bench prepare")


@pytest.fixture
def left_open() -> Iterator[None]:
    """WebDataset closes its shards only when they are collected."""
    yield
    gc.collect()


webdatasets = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@webdatasets
@pytest.mark.usefixtures("left_open")
def test_loading_is_measured_beside_the_bare_decode(
    tiny: Path, alexnet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "TAKEN", 5)
    monkeypatch.setattr(reading.step, "rate", lambda *_: 1e9)  # half a minute otherwise
    found = json.loads(alexnet("bench", "loader", tiny, "--count", 30, "--rounds", 1, "--json").succeeded().out)
    assert list(found) == ["rows", "bound"]
    rows, bound = found["rows"], found["bound"]
    ways = {way for way in reading.WAYS if way != reading.DALI or reading.dali_is_installed()}
    assert {(row["way"], row["threads"]) for row in rows} == {(way, n) for way in ways for n in (1, 2)}
    bare = {row["threads"]: row["rate"] for row in rows if row["way"] == reading.BARE}
    assert all(
        row["rate"] > 0 and abs(row["of_bare"] * bare[row["threads"]] / row["rate"] - 1) < 1e-9 for row in rows
    )
    waits = {(row["way"], row["threads"]): row["waiting"] for row in rows if row["waiting"] is not None}
    assert waits.keys() == {(reading.OURS, 1), (reading.OURS, 2)}
    assert all(0 <= share < 1 for share in waits.values())
    assert list(bound) == ["by", "disk", "decode", "device"] and bound["device"] == 1e9
    assert bound["decode"] == max(row["rate"] for row in rows if row["way"] == reading.TRAINING)
    assert bound["by"] == ("disk" if bound["disk"] < bound["decode"] else "decode")
    monkeypatch.setattr(reading, "THREADS", (1,))
    monkeypatch.setattr(reading.step, "rate", lambda *_: 0.5)  # a second a step otherwise
    done = alexnet("bench", "loader", tiny, "--count", 3, "--rounds", 1).succeeded()
    assert "of bare" in done.out
    assert "bound by the device" in done.err


@webdatasets
@pytest.mark.usefixtures("left_open")
def test_all_ways_of_loading_read_the_same_pictures(tiny: Path, tmp_path: Path) -> None:
    split = open_dataset(tiny).splits["train"]
    classes, shards = reading.copied(split, tmp_path)
    with Reader(split) as reader:
        ours = sorted(picture.sum().item() for picture in map(reader.picture, range(len(split.index))))
    for batches in (reading.image_folder(classes, 1), reading.with_webdataset(shards, 1)):
        theirs = sorted(int(picture.sum()) for pictures, _ in batches for picture in torch.as_tensor(pictures))
        assert np.allclose(theirs, ours, rtol=1e-3)  # Pillow's own libjpeg may round otherwise


@webdatasets
@pytest.mark.usefixtures("left_open")
def test_loading_is_measured_on_a_dataset_far_away(
    tiny: Path, tmp_path: Path, alexnet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "THREADS", (1,))
    monkeypatch.setattr(reading.step, "rate", lambda *_: 0.5)
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tiny)) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        place = f"http://127.0.0.1:{server.server_port}"
        bench = ("bench", "loader", place, "--count", 3, "--rounds", 1)
        done = alexnet(*bench).succeeded()
        assert "of bare" in done.out and "disk not known" in done.err
        bound = json.loads(alexnet(*bench, "--json").succeeded().out)["bound"]
        assert (bound["by"], bound["disk"], bound["device"]) == ("device", None, 0.5)
        server.shutdown()
        thread.join()


def test_normalization_is_measured_beside_torchs_and_its_bytes(alexnet: Callable[..., Any]) -> None:
    small = ("bench", "lrn", "--device", "cpu", "--batch", 1, "--width", 0.05, "--rounds", 1)
    outcome = alexnet(*small, "--json").succeeded()
    rows, slow = json.loads(outcome.out), emulated("bf16", "cpu")
    assert len(rows) == (1 if slow else 2) * 2 * 3
    assert ("torch has no quick bf16: in fp32 only" in outcome.err) == slow
    for group in (rows[n : n + 3] for n in range(0, len(rows), 3)):
        torchs, ours, moved = group
        assert (torchs["way"], torchs["faster"], ours["way"], moved["over_bytes"]) == ("torch", 1, "alexnet", 1)
        assert abs(ours["faster"] * ours["ms"] / torchs["ms"] - 1) < 1e-9
    outcome = alexnet(*small, "--precision", "fp32").succeeded()
    assert "faster" in outcome.out and "bf16" not in outcome.out
    assert "fastest here: alexnet, fp32" in outcome.err
    assert "fastest here: alexnet, fp16" in alexnet(*small, "--precision", "fp16").succeeded().err
    alexnet(*small, "--precision", "tf32").failed("only CUDA GPUs have it", "take fp32 or bf16")


def test_a_step_is_measured_beside_the_plain_way_and_the_roof(alexnet: Callable[..., Any]) -> None:
    small = ("bench", "step", "--device", "cpu", "--batch", 1, "--width", 0.02, "--rounds", 1)
    rows = json.loads(alexnet(*small, "--precision", "fp32", "--json").succeeded().out)
    assert [row["way"] for row in rows] == [PLAIN, STOCK, *["no LRN", "alexnet"] * 3, SINGLY, TWO]
    assert {row["layout"] for row in rows} == set(LAYOUTS)
    assert rows[0]["faster"] == 1
    assert all(row["over_none"] == 1 for row in rows if row["way"] == "no LRN")
    assert all(
        row["over_roof"] > 0 and abs(row["faster"] * rows[0]["rate"] / row["rate"] - 1) < 1e-9 for row in rows
    )
    outcome = alexnet(*small, "--precision", "fp32").succeeded()
    assert "roof" in outcome.out and "fastest here: alexnet" in outcome.err


def test_the_operations_of_a_step_are_those_of_the_paper() -> None:
    # 724,406,816 multiply-adds; conv1's 105,415,200 have no gradient for pixels (facts of the paper's net).
    assert operations(chosen("paper", []).network) == 2 * (3 * 724_406_816 - 105_415_200)


@pytest.mark.parametrize("way", [OURS, SINGLY, STOCK, NONE, TWO])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_ways_compute_the_same_but_for_normalization(way: str, layout: Layout) -> None:
    net = chosen("paper", ["network.width=0.05"]).network
    base = AlexNet(net, paper.CLASSES)
    initialise(base, net, seed=1)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 50
    logits = variant(net, base, way, layout).eval()(pixels)
    assert torch.allclose(logits, base.eval()(pixels), rtol=1e-4, atol=1e-4) == (way != NONE)


def test_where_there_is_no_compiler_it_is_said(
    alexnet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    alexnet("bench", "lrn", "--device", "cpu", "--compile").failed("there is no C++ compiler", "install one")
