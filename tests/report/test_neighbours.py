"""Nearest pictures: exact, whatever the order, the ties and the interruptions."""

import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from alexnet_cli.dataset.manifest import open_squares
from alexnet_cli.engine import models
from alexnet_cli.engine.rows import header
from alexnet_cli.report import neighbours
from alexnet_cli.report.neighbours import About, Index, Nearest

CPU = torch.device("cpu")


def index_of(path: Path, rows: NDArray[np.float32]) -> Index:
    about = About("model", "data", "train", len(rows), None, rows.shape[1])
    start = header({"features": ("F32", rows.shape)}, {neighbours.KEY: json.dumps(asdict(about))})
    path.write_bytes(start + rows.astype("<f4").tobytes())
    found = neighbours.opened(path)
    assert found is not None
    return found


def found_by(index: Index, queries: NDArray[np.float32], count: int) -> list[Nearest]:
    *done, last = neighbours.nearest(queries, index, count)
    assert done[-1] == index.about.pictures and isinstance(last, list)
    return last


def check(index: Index, rows: NDArray[np.float32], queries: NDArray[np.float32], count: int) -> None:
    """Against all distances in float64; of equal ones the lower place first."""
    for query, found in zip(queries, found_by(index, queries, count), strict=True):
        distances = np.sqrt(((rows.astype(np.float64) - query.astype(np.float64)) ** 2).sum(1))
        order = np.argsort(distances, kind="stable")[:count]
        assert found.places.tolist() == order.tolist()
        assert np.array_equal(found.distances, distances[order])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 300),
    units=st.sampled_from([1, 3, 64, 257]),
    levels=st.sampled_from([2, 4, 0]),
    wanted=st.integers(1, 12),
)
def test_exact_with_ties_in_any_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, count: int, units: int, levels: int, wanted: int
) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", 37)
    rng = np.random.default_rng(seed)
    rows = rng.exponential(1, (count, units)).astype(np.float32)
    if levels:  # so that many distances are equal
        rows = np.minimum(np.floor(rows * levels), levels).astype(np.float32)
    queries = np.concatenate([rows[rng.integers(0, count, 2)], rng.exponential(1, (2, units)).astype(np.float32)])
    check(index_of(tmp_path / "i.safetensors", rows), rows, queries, wanted)


def test_exact_where_float32_is_too_coarse(tmp_path: Path) -> None:
    """Rows that differ in their last bits, far from the origin: products in float32 put them in another order."""
    rng = np.random.default_rng(5)
    base = rng.uniform(50, 100, 4096).astype(np.float32)
    rows = np.repeat(base[None], 3000, 0)
    rows[np.arange(3000), rng.integers(0, 4096, 3000)] *= 1 + rng.uniform(1e-6, 1e-3, 3000).astype(np.float32)
    queries = base[None] + rng.normal(0, 0.01, (3, 4096)).astype(np.float32)
    coarse = (rows**2).sum(1) - 2 * rows @ queries[0]
    exact = ((rows.astype(np.float64) - queries[0]) ** 2).sum(1)
    assert np.argsort(coarse)[:6].tolist() != np.argsort(exact)[:6].tolist(), "the naive way would fail here"
    check(index_of(tmp_path / "i.safetensors", rows), rows, queries, 6)


def test_fewer_pictures_than_wanted_and_broken_features(tmp_path: Path) -> None:
    rows = np.ones((3, 8), dtype=np.float32)
    rows[1] = np.nan
    (found,) = found_by(index_of(tmp_path / "i.safetensors", rows), np.zeros((1, 8), dtype=np.float32), 6)
    assert found.places.tolist() == [0, 2, 1] and np.isnan(found.distances[2])


@pytest.mark.slow
def test_two_hundred_thousand_pictures_in_little_memory(tmp_path: Path) -> None:
    """The paper's 4096 features: 3.3 GB on disk. Prints what docs/figures.md says of it."""
    count, units, rng = 200_000, 4096, np.random.default_rng(0)
    path, about = tmp_path / "i.safetensors", About("model", "data", "train", 200_000, None, 4096)
    with path.open("wb") as file:
        table = {"features": ("F32", (count, units))}
        file.write(header(table, {neighbours.KEY: json.dumps(asdict(about))}))
        for _ in range(count // 2000):
            rows = np.maximum(rng.standard_normal((2000, units), dtype=np.float32) - 0.5, 0)
            file.write(rows.tobytes())
    index = neighbours.opened(path)
    assert index is not None
    queries = np.maximum(rng.standard_normal((6, units), dtype=np.float32) - 0.5, 0)
    queries[0] = index.rows(77_777, 77_778)
    exact = np.empty((2, count))
    for first in range(0, count, 1000):
        rows = index.rows(first, first + 1000).astype(np.float64)
        exact[:, first : first + 1000] = [np.sqrt(((rows - query) ** 2).sum(1)) for query in queries[:2]]
    for asked in (queries[:1], queries):
        before, began, most = resident(), time.perf_counter(), 0
        told: list[int | list[Nearest]] = []
        for step in neighbours.nearest(asked, index, 6):
            told.append(step)
            most = max(most, resident())
        last = told[-1]
        print(f"{len(asked)} queries: {time.perf_counter() - began:.2f} s, {(most - before) / 1e6:.0f} MB more")
        assert most - before < 200e6 and isinstance(last, list)
        for found, distances in zip(last, exact, strict=False):
            order = np.argsort(distances, kind="stable")[:6]
            assert found.places.tolist() == order.tolist() and np.array_equal(found.distances, distances[order])


def resident() -> int:
    """Bytes of this process in memory, mapped files among them."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the index


@pytest.fixture
def subject(run: Path, seven: Path) -> tuple[Any, Any, Any]:
    """Model, dataset, split."""
    dataset = open_squares(seven)
    return models.load(run / "best.safetensors"), dataset, dataset.splits["train"]


def test_an_index_has_the_last_hidden_layer_of_every_picture(
    subject: tuple[Any, Any, Any], tmp_path: Path
) -> None:
    model, dataset, split = subject
    wanted, path = neighbours.about(model, dataset, split, None), tmp_path / "i.safetensors"
    assert [*neighbours.built(path, wanted, model.features("fc7", CPU), split)] == [84]
    assert [p.name for p in tmp_path.iterdir()] == ["i.safetensors"]
    with safe_open(path, framework="np") as file:
        table = file.get_tensor("features")
    from alexnet_cli.loading.reader import Reader

    net = model.classifier(1, CPU)
    with Reader(split) as reader:
        pictures = torch.stack([reader.picture(n) for n in range(84)]).double()
    weights = {name: value.double() for name, value in net.model.named_parameters()}
    hidden: list[torch.Tensor] = []
    hook = net.model.fc7.register_forward_hook(lambda _m, given, _o: hidden.append(given[0]))
    net(pictures.to(torch.uint8))
    hook.remove()
    plain = (hidden[0].double() @ weights["fc7.weight"].T + weights["fc7.bias"]).relu() / 2  # ½: §4.2
    assert np.allclose(table, plain.detach(), atol=1e-4)
    opened = neighbours.opened(path)
    assert opened is not None and opened.about == wanted and np.array_equal(opened.rows(5, 9), table[5:9])


def test_an_index_that_was_interrupted_goes_on_and_is_the_same(
    subject: tuple[Any, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet_cli.engine import evaluation

    for module in (evaluation, neighbours):
        monkeypatch.setattr(module, "BATCH_SIZE", 20)
    model, dataset, split = subject
    wanted = neighbours.about(model, dataset, split, None)
    asked: list[int] = []

    def features(pictures: torch.Tensor) -> torch.Tensor:
        asked.append(len(pictures))
        return model.features("fc7", CPU)(pictures)

    assert [*neighbours.built(tmp_path / "whole", wanted, features, split)] == [20, 40, 60, 80, 84]
    asked.clear()
    first = neighbours.built(tmp_path / "torn", wanted, features, split)
    assert [next(first), next(first)] == [20, 40]
    first.close()
    assert neighbours.opened(tmp_path / "torn") is None, "it has no name before it is whole"
    left = next(tmp_path.glob(".torn*"))
    left.write_bytes(left.read_bytes()[:-7])  # and a kill may tear the last row
    asked.clear()
    assert [*neighbours.built(tmp_path / "torn", wanted, features, split)] == [40, 60, 80, 84]
    assert len(asked) == 4
    assert (tmp_path / "torn").read_bytes() == (tmp_path / "whole").read_bytes()
    # What was left by another model is not gone on with.
    first = neighbours.built(tmp_path / "other", replace(wanted, model="another"), features, split)
    next(first)
    first.close()
    assert [*neighbours.built(tmp_path / "other", wanted, features, split)] == [20, 40, 60, 80, 84]
    assert (tmp_path / "other").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b'\x08\0\0\0\0\0\0\0{"a": 1}', "cut"])
def test_what_is_no_index_is_refused(tmp_path: Path, damage: bytes | str) -> None:
    from alexnet_cli.errors import AlexNetError

    path = tmp_path / "i.safetensors"
    index_of(path, np.ones((4, 4), dtype=np.float32))
    path.write_bytes(path.read_bytes()[:-1] if damage == "cut" else damage)  # type: ignore[arg-type]
    with pytest.raises(AlexNetError, match="is no index of pictures"):
        neighbours.opened(path)


# --- the command


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "runs" / "seven")


def stored(dataset: Path, number: int, out: Path) -> tuple[Path, str]:
    """A training picture as it lies in its shard, and its name there."""
    with tarfile.open(next(dataset.glob("train-*.tar"))) as tar:
        member = [m for m in tar.getmembers() if m.name.endswith(".jpg")][number]
        data = tar.extractfile(member)
        assert data is not None
        out.write_bytes(data.read())
    return out, member.name


def test_a_picture_is_nearest_to_itself(
    copy: Path, seven: Path, tmp_path: Path, alexnet: Callable[..., Any]
) -> None:
    picture, name = stored(seven, 30, tmp_path / "query.jpg")
    outcome = alexnet("similar", picture, "absent.jpg", "--model", copy, "--json", "--panel", tmp_path / "p.png")
    assert outcome.code == 1 and "absent.jpg cannot be read" in outcome.err
    said = json.loads(outcome.out)
    assert set(said) == {"model", "index", "queries"} and [q["file"] for q in said["queries"]] == [str(picture)]
    first, *others = said["queries"][0]["nearest"]
    assert set(first) == {"place", "distance", "label", "name", "wnid", "shard", "key"}
    assert (first["key"], first["place"], len(others)) == (name, 30, 5)
    assert first["distance"] < 1e-3 < others[0]["distance"]
    distances = [fact["distance"] for fact in others]
    assert distances == sorted(distances)
    assert first["label"] == open_squares(seven).splits["train"].index["label"][30]
    with Image.open(tmp_path / "p.png") as image:
        assert image.width > 3 * image.height
    assert said["index"]["file"] == str(copy / "neighbours-train.safetensors")
    again = alexnet("similar", picture, "--model", copy, "--top", 2).succeeded()
    assert "features of" not in again.err and name in again.out and "distance" in again.out


def test_an_index_of_other_weights_is_made_anew_or_refused(
    copy: Path, seven: Path, tmp_path: Path, alexnet: Callable[..., Any]
) -> None:
    picture, _ = stored(seven, 3, tmp_path / "query.jpg")
    own = tmp_path / "own.safetensors"
    for extra in ((), ("--index", own)):
        alexnet("similar", picture, "--model", copy, *extra).succeeded()
    shutil.copy(copy / "last.safetensors", copy / "best.safetensors")
    outcome = alexnet("similar", picture, "--model", copy).succeeded()
    assert "is of another model and is made anew" in outcome.err
    before = own.read_bytes()
    alexnet("similar", picture, "--model", copy, "--index", own).failed("is of another model", "another --index")
    assert own.read_bytes() == before
    alexnet("similar", picture, "--model", copy, "--limit", 9).succeeded()
    alexnet("similar", picture, "--model", copy, "--split", "test").failed("no split 'test'", "train, val")


def test_what_cannot_be_searched_or_drawn_is_said_before_the_work(
    place: Path, pictures: Path, alexnet: Callable[..., Any]
) -> None:
    alexnet("train", "--recipe", "small+four-layer", "--set", "width=0.05", "--max-steps", 1).succeeded()
    query = pictures / "val" / "bars" / "0.png"
    alexnet("similar", query).failed("has no fc7, whose outputs are compared", "hidden layers")
    alexnet("similar", query, "--panel", "near.jpg").failed(
        "near.jpg: no format of a figure", ".png, .svg or .pdf"
    )
    alexnet("similar", query, "--panel", "near.png", "--top", 49).failed("49 pictures are too many", "give 48")
    assert not [*place.glob("runs/**/neighbours*")]
