"""`alexnet bench parallel`: what the ways send on the processes at hand, and the step on many devices on paper."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.on_ranks import on_ranks

from alexnet_cli.bench.parallel import APART
from alexnet_cli.bench.scaling import DEVICES, Machine, rows
from alexnet_cli.engine import traffic
from alexnet_cli.recipes import chosen

Run = Callable[..., Any]

SMALL = ("bench", "parallel", "--device", "cpu", "--batch", "4", "--width", "0.05", "--rounds", "1")
HERE = Machine(rate=3000, bandwidth=12.5e9, latency=20e-6)


def test_on_one_process_the_towers_stand_beside_the_plain_net(alexnet: Run) -> None:
    plain, towers = json.loads(alexnet(*SMALL, "--json").succeeded().out)
    assert (plain["way"], plain["ranks"], plain["sent"]) == (APART, 1, 0)
    layers = traffic.shapes(chosen("paper", ["network.width=0.05"]), 1000)
    assert towers["way"] == "towers" and towers["sent"] == pytest.approx(traffic.towers(layers, 4) / 1e6)


def test_two_processes_send_what_was_counted_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert on_ranks(2, *SMALL, "--json") == [0, 0]
    found = {row["way"]: row for row in json.loads(Path("stderr-0").read_text())}  # and stdout
    layers = traffic.shapes(chosen("paper", ["network.width=0.05"]), 1000)
    assert found["data"]["sent"] == pytest.approx(traffic.data(layers, 2) / 1e6, rel=1e-4)
    assert found["hybrid"]["sent"] == pytest.approx(traffic.hybrid(layers, 2, 2) / 1e6, rel=1e-3)
    assert all(row["rate"] == pytest.approx(4e3 / row["ms"]) for row in found.values())


def test_on_paper_one_device_is_its_own_speed_and_none_is_faster_than_all_together() -> None:
    found = rows(HERE)
    assert [row.devices for row in found if row.way == "data"] == list(DEVICES)
    assert (found[0].ms, found[0].speedup, found[0].sent) == (pytest.approx(128 / 3), 1, 0)
    assert all(1 <= row.speedup <= row.devices for row in found)
    assert found[0].hours == pytest.approx(90 * 10_010 * 128 / 3000 / 3600)  # 10,010 steps of 128 have an epoch


def test_on_paper_a_wire_without_limits_makes_every_way_as_fast_as_its_devices() -> None:
    for row in rows(Machine(rate=3000, bandwidth=1e18, latency=0)):
        assert row.speedup == pytest.approx(row.devices, rel=1e-6)


def test_hybrid_sends_less_than_data_in_small_batches_only() -> None:
    sent = {(row.way, row.batch): row.sent for row in rows(HERE)}
    fewer = [batch for way, batch in sent if way == "hybrid" and sent["hybrid", batch] < sent["data", batch]]
    assert fewer == [256, 512, 1024, 2048]


def test_a_batch_that_stays_is_cut_as_far_as_it_goes() -> None:
    found = rows(HERE, batch=64)
    assert {row.batch for row in found} == {64} and max(row.devices for row in found) == 64


def test_the_table_on_paper(alexnet: Run) -> None:
    outcome = alexnet("bench", "parallel", "--model", "--bandwidth", 1, "--latency", 50).succeeded()
    assert "1 GB/s, 50 µs" in outcome.out and "131,072" in outcome.out
    assert len(json.loads(alexnet("bench", "parallel", "--model", "--json").succeeded().out)) == 31
