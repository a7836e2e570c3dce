"""Shards from afar: fetched ahead and once, shared by processes, let go or kept; and what is trained on them."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alexnet_cli import recipes
from alexnet_cli.dataset.far import answers, shelf
from alexnet_cli.dataset.manifest import Dataset, Split, open_dataset, open_squares
from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.engine import checkpoint
from alexnet_cli.engine.events import Ended, Saved, Step
from alexnet_cli.engine.launch import Placement
from alexnet_cli.engine.session import Limits
from alexnet_cli.engine.training import Job, config
from alexnet_cli.errors import AlexNetError
from alexnet_cli.loading import kept, loader, plan
from alexnet_cli.loading.augmentation import Colours
from alexnet_cli.loading.loader import TrainingBatches, ahead, evaluation_batches
from alexnet_cli.loading.plan import Plan, shard_lengths
from alexnet_cli.loading.reader import Reader

from .far_server import Server, cut, slow, stall, status

pytestmark = pytest.mark.usefixtures("quick")

PICTURES, SHARDS = 40, 20
BATCH, SEED = 1, 5  # so that the batches that are built at once are less than a window


@pytest.fixture(scope="module")
def many(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two pictures: 20 to train on, 9 to validate, 5 to test."""
    out = tmp_path_factory.mktemp("many") / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet_cli.dataset.shards.PICTURES_PER_SHARD", 2)
        list(prepare(open_source(str(pictures)), out))
    return out


@pytest.fixture
def server(served: Server, many: Path) -> Server:
    """It serves `many` as /d."""
    shutil.copytree(many, served.folder / "d")
    return served


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of four shards, eight pictures: five in an epoch."""
    monkeypatch.setattr(plan, "WINDOW", 4)
    for module in (plan, loader):
        monkeypatch.setattr(module, "BATCHES_AHEAD", 6)  # less than a window
    plan._windows.cache_clear()
    plan._window.cache_clear()


def here(tmp_path: Path) -> set[str]:
    """The shards in the cache, whole or in part."""
    return {path.name for path in (tmp_path / "cache").rglob("train-*.tar*")}


def epochs_of(dataset: Dataset, count: int, threads: int = 2, begin: int = 0) -> Any:
    """Every batch of so many epochs, from step `begin` of the first on."""
    split = dataset.splits["train"]
    recipe = recipes.chosen("paper", ["network.hidden=10", f"schedule.epochs={count}"])
    order = Plan(PICTURES, BATCH, SEED, shards=shard_lengths(split.index["shard"]))
    colours = Colours(torch.from_numpy(dataset.mean.copy()), dataset.eigenvalues, dataset.eigenvectors)
    with Reader(split) as reader:
        build = TrainingBatches(reader, order, recipe, colours, SEED, 0, 1, torch.device("cpu"))
        places = [divmod(n, order.steps) for n in range(begin, count * order.steps)]
        with closing(ahead(build, places, threads)) as batches, closing(reader):
            for batch in batches:  # noqa: UP028 - `yield from` would close them before the reader
                yield batch


@pytest.mark.usefixtures("windows")
def test_batches_are_those_of_the_disk_and_shards_come_once_an_epoch(
    server: Server, many: Path, tmp_path: Path
) -> None:
    expected = list(epochs_of(open_dataset(many), 2))
    dataset, most = open_squares(f"{server.url}/d"), 0
    for ours, theirs in zip(epochs_of(dataset, 2), expected, strict=True):
        assert torch.equal(ours.pixels, theirs.pixels) and (ours.samples == theirs.samples).all()
        assert torch.equal(ours.labels, theirs.labels)
        most = max(most, len(here(tmp_path)))
    counts = server.shards()
    assert len(counts) == SHARDS and set(counts.values()) <= {1, 2}
    assert counts.total() >= 2 * SHARDS - 2 * 4  # what the first windows of an epoch find here of the last ones
    sizes = {f"d/{path.name}": path.stat().st_size for path in many.iterdir()}
    assert all(server.sent[name] == count * sizes[name] for name, count in counts.items())
    assert 4 < most <= 3 * 4 + 2  # and what the two threads have in hand
    assert not here(tmp_path) and not [t for t in threading.enumerate() if t.name.startswith("fetching")]


@pytest.mark.usefixtures("windows")
def test_one_epoch_asks_for_each_shard_once_in_the_order_of_the_plan(server: Server) -> None:
    list(epochs_of(open_squares(f"{server.url}/d"), 1, threads=3))
    assert server.shards() == Counter({f"d/train-{n:06d}.tar": 1 for n in range(SHARDS)})
    asked = [int(a.name[-10:-4]) for a in server.asked if a.name.endswith(".tar")]
    order = Plan(PICTURES, BATCH, SEED, shards=(2,) * SHARDS)._windows(0)[0]
    for number, window in enumerate(order):  # four are fetched at once, so neighbours may change places
        found = asked[max(0, 4 * number - 3) : 4 * (number + 1) + 3]
        assert {*window.tolist()} <= {*found}


@pytest.mark.usefixtures("windows")
def test_a_run_that_goes_on_in_mid_epoch_does_not_fetch_what_was_before(server: Server) -> None:
    list(epochs_of(open_squares(f"{server.url}/d"), 1, begin=24))  # there the fourth window begins
    order = Plan(PICTURES, BATCH, SEED, shards=(2,) * SHARDS)._windows(0)[0]
    assert {int(name[-10:-4]) for name in server.shards()} == {*np.concatenate(order[3:]).tolist()}


@pytest.mark.usefixtures("windows")
def test_the_next_window_is_fetched_while_this_one_is_read(server: Server, tmp_path: Path) -> None:
    batches = epochs_of(open_squares(f"{server.url}/d"), 1)
    next(batches)
    order = Plan(PICTURES, BATCH, SEED, shards=(2,) * SHARDS)._windows(0)[0]
    wanted = {f"train-{n:06d}.tar" for n in np.concatenate(order[:2])}
    end = time.monotonic() + 10
    while not wanted <= here(tmp_path) and time.monotonic() < end:
        time.sleep(0.01)
    assert wanted <= here(tmp_path)
    batches.close()
    assert not here(tmp_path)


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize(("split", "last"), [("train", 16), ("val", PICTURES)])
def test_a_stop_does_not_wait_for_a_shard_that_does_not_come(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, last: int
) -> None:
    """Neither while it trains nor while it validates."""
    monkeypatch.setattr(answers, "TIME_OUT", 6.0)  # of the first of seven tries
    order = Plan(PICTURES, BATCH, SEED, shards=(2,) * SHARDS)._windows(0)[0]
    stalled = order[2].tolist() if split == "train" else range(9)  # of the 17th picture on, or all
    for shard in stalled:
        server.always[f"d/{split}-{shard:06d}.tar"] = stall(0)
    dataset = open_squares(f"{server.url}/d")
    recipe = recipes.chosen("small", ["width=0.05", f"optimizer.batch_size={BATCH}"])
    place = Placement("cpu", 1, "")
    job = Job(dataset, config(recipe, dataset, SEED, 1, "fp32", place), Limits(), place)
    seen = []
    for event in job.started(tmp_path / "runs", None, None, True):
        seen.append(event)
        if isinstance(event, Saved):
            saved_at = time.monotonic()
        if isinstance(event, Step) and event.step == last:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
            asked = time.monotonic()
    end = seen[-1]
    assert isinstance(end, Ended) and end.signal == signal.SIGTERM and end.position.steps == last
    assert saved_at - asked < answers.TIME_OUT / 2, "it was saved after the try"
    saved = checkpoint.load(end.run / "last.safetensors")
    assert saved.position == end.position


@pytest.mark.usefixtures("windows")
def test_evaluation_reads_each_shard_once_and_in_order(server: Server, many: Path) -> None:
    for split in (lambda d: d.splits["val"], lambda d: d.splits["val"].part(7)):
        server.asked.clear()
        ours, theirs = split(open_squares(f"{server.url}/d")), split(open_dataset(many))
        with Reader(ours) as far, Reader(theirs) as near:
            found = zip(evaluation_batches(far, 4, 0, 1, 2), evaluation_batches(near, 4, 0, 1, 2), strict=True)
            assert all(torch.equal(a.pictures, b.pictures) and torch.equal(a.labels, b.labels) for a, b in found)
        assert set(server.shards().values()) == {1} and len(server.shards()) <= 9


def test_any_picture_can_be_asked_for_without_a_plan(
    server: Server, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_cli.dataset.far.lending.MOST", 3)
    samples = np.random.default_rng(1).permutation(PICTURES).tolist()
    with (
        Reader(open_dataset(many).splits["train"]) as near,
        Reader(open_squares(f"{server.url}/d").splits["train"]) as far,
        closing(ahead(far.picture, samples, 4)) as found,
    ):
        for sample, picture in zip(samples, found, strict=True):
            assert torch.equal(picture, near.picture(sample))
            assert len(here(tmp_path)) <= 3 + 4 + 1
    assert not here(tmp_path)


@pytest.mark.usefixtures("windows")
def test_pictures_that_stay_in_memory_are_fetched_once(server: Server) -> None:
    dataset = kept.in_memory(open_squares(f"{server.url}/d"), 1)
    list(epochs_of(dataset, 1))
    list(epochs_of(dataset, 3))
    assert set(server.shards().values()) == {1}


# -- what goes wrong ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("windows")
def test_a_shard_that_cannot_be_had_ends_the_epoch_with_its_name(server: Server, tmp_path: Path) -> None:
    server.always["d/train-000007.tar"] = status(403)
    batches = epochs_of(open_squares(f"{server.url}/d"), 1)
    with pytest.raises(AlexNetError, match=rf"{server.url}/d/train-000007\.tar cannot be read: .* 403"):
        list(batches)
    assert not here(tmp_path)


def test_a_shard_that_is_another_is_not_used(server: Server, tmp_path: Path) -> None:
    shutil.copy(server.folder / "d" / "train-000003.tar", server.folder / "d" / "train-000007.tar")
    with pytest.raises(AlexNetError, match=r"train-000007\.tar cannot be read: its checksum"):
        list(epochs_of(open_squares(f"{server.url}/d"), 1))
    assert not here(tmp_path)


def test_shards_whose_connections_break_are_the_same(server: Server, many: Path) -> None:
    for number in range(SHARDS):
        server.tricks[f"d/train-{number:06d}.tar"].extend([status(503), cut(5000), cut(100)])
    found = list(epochs_of(open_squares(f"{server.url}/d"), 1))
    assert all(
        torch.equal(a.pixels, b.pixels) for a, b in zip(found, epochs_of(open_dataset(many), 1), strict=True)
    )


@pytest.mark.usefixtures("windows")
def test_leaving_does_not_wait_for_what_is_fetched_ahead(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_cli.dataset.far.fetching.FIRST_WAIT", 1000.0)
    order = Plan(PICTURES, BATCH, SEED, shards=(2,) * SHARDS)._windows(0)[0]
    for number in order[1]:
        server.always[f"d/train-{number:06d}.tar"] = status(503)
    batches = epochs_of(open_squares(f"{server.url}/d"), 1)
    for _ in range(5):  # the ninth waits for the second window already, and would for a quarter of an hour
        next(batches)
    batches.close()
    assert not here(tmp_path)


def test_what_does_not_fit_is_refused_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(AlexNetError, match="too little space") as caught:
        open_squares(f"{server.url}/d", keep=True)
    assert "ALEXNET_CACHE" in caught.value.hint
    dataset = open_squares(f"{server.url}/d")
    with pytest.raises(AlexNetError, match="too little space"):
        Reader(dataset.splits["train"])
    assert not server.shards()


def test_a_folder_that_may_not_be_written_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "taken"))
    with pytest.raises(AlexNetError, match="taken") as caught:
        open_squares(f"{server.url}/d")
    assert "another" in caught.value.hint


# -- kept on disk ---------------------------------------------------------------------------------------------


def read_all(split: Split) -> list[torch.Tensor]:
    with Reader(split) as reader:
        return [reader.picture(sample) for sample in range(len(split.index))]


def test_what_is_kept_is_fetched_once_and_used_by_all(server: Server, many: Path, tmp_path: Path) -> None:
    expected = read_all(open_dataset(many).splits["train"])
    for keep in (True, True, False):
        found = read_all(open_squares(f"{server.url}/d", keep).splits["train"])
        assert all(map(torch.equal, found, expected))
        assert set(server.shards().values()) == {1} and len(server.shards()) == SHARDS
        assert len(here(tmp_path)) == SHARDS
    folder = tmp_path / "cache" / open_dataset(many).fingerprint
    for name in (f"train-{n:06d}.tar" for n in range(SHARDS)):
        assert (folder / name).read_bytes() == (many / name).read_bytes()


def test_kept_shards_are_checked_once_and_fetched_again_where_they_are_not_right(
    server: Server, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_squares(f"{server.url}/d", keep=True)
    folder = dataset.root
    for path in many.glob("train-*.tar"):  # by hand, as from another disk
        shutil.copy(path, folder / path.name)
    summed: list[str] = []
    usual = shelf.sha256
    monkeypatch.setattr(shelf, "sha256", lambda path: summed.append(path.name) or usual(path))
    expected = read_all(open_dataset(many).splits["train"])
    assert all(map(torch.equal, read_all(dataset.splits["train"]), expected))
    assert len(summed) == SHARDS and not server.shards()
    read_all(dataset.splits["train"])
    assert len(summed) == SHARDS
    one, other = folder / "train-000001.tar", folder / "train-000002.tar"
    os.truncate(one, 700)
    other.write_bytes(bytes(other.stat().st_size))
    with (folder / "checked").open("ab") as checked:
        checked.write(b"\xff\n\nodd")
    assert all(map(torch.equal, read_all(open_squares(f"{server.url}/d", True).splits["train"]), expected))
    assert server.shards() == {"d/train-000001.tar": 1, "d/train-000002.tar": 1}
    assert sorted(summed[SHARDS:]) == ["train-000001.tar", "train-000002.tar"]


# -- several processes ----------------------------------------------------------------------------------------


def test_readers_share_what_is_here_and_the_last_removes_it(server: Server, tmp_path: Path) -> None:
    split = open_squares(f"{server.url}/d").splits["train"]
    assert split.far is not None
    with split.far.brought((0, 1)):
        with split.far.brought((1, 2)):
            assert len(here(tmp_path)) == 3
        assert here(tmp_path) == {"train-000000.tar", "train-000001.tar"}
    assert not here(tmp_path) and set(server.shards().values()) == {1}


@pytest.mark.parametrize("keep", [True, False])
def test_many_readers_at_once_fetch_each_shard_once(server: Server, many: Path, keep: bool) -> None:
    expected = read_all(open_dataset(many).splits["train"])
    split, wrong = open_squares(f"{server.url}/d", keep).splits["train"], []
    for number in range(SHARDS):
        server.tricks[f"d/train-{number:06d}.tar"].append(slow)
    ready = threading.Barrier(4)

    def read() -> None:
        with Reader(split) as reader:
            for sample, picture in enumerate(expected):
                wrong.extend([sample] * (not torch.equal(reader.picture(sample), picture)))
            ready.wait(20)  # what one has finished with, another may not have begun

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and set(server.shards().values()) == {1}


READ = """
import sys
from alexnet_cli.dataset.manifest import open_squares
shards = tuple(range(20))
split = open_squares(sys.argv[1]).splits["train"]
with split.far.brought(shards):
    print(sum(split.shards[n].stat().st_size for n in shards), flush=True)
    sys.stdin.readline()
"""


def test_processes_share_what_one_of_them_has_fetched(server: Server, many: Path, tmp_path: Path) -> None:
    for number in range(SHARDS):
        server.tricks[f"d/train-{number:06d}.tar"].append(slow)
    command = [sys.executable, "-c", READ, f"{server.url}/d"]
    readers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    total = sum(path.stat().st_size for path in many.glob("train-*.tar"))
    try:
        assert all(reader.stdout is not None and int(reader.stdout.readline()) == total for reader in readers)
        assert set(server.shards().values()) == {1} and len(here(tmp_path)) == SHARDS
    finally:
        for reader in readers:
            reader.communicate("\n", timeout=20)
    assert not here(tmp_path)


def test_what_a_killed_process_left_is_used_or_removed(server: Server, many: Path, tmp_path: Path) -> None:
    split = open_squares(f"{server.url}/d").splits["train"]
    folder = split.shards[0].parent
    folder.mkdir()
    for name in ("train-000000.tar", "train-000005.tar"):
        shutil.copy(many / name, folder)
    for name in ("train-000001.tar.part", "train-000006.tar.part"):
        (folder / name).write_bytes(b"half of it, as it was")
    (folder / "not ours").write_bytes(b"")
    assert split.far is not None
    with split.far.brought((0, 1)):
        assert here(tmp_path) == {"train-000000.tar", "train-000001.tar"}
        assert split.shards[1].read_bytes() == (many / "train-000001.tar").read_bytes()
    assert server.shards() == {"d/train-000001.tar": 1}
    assert [path.name for path in folder.iterdir()] == ["not ours"]


def test_a_process_that_fails_leaves_the_shard_to_the_one_that_waits(server: Server, tmp_path: Path) -> None:
    split = open_squares(f"{server.url}/d").splits["train"]
    part = split.shards[0].with_name("train-000000.tar.part")
    part.parent.mkdir()
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as another process that fetches it
    pictures: list[torch.Tensor] = []

    def read() -> None:
        with Reader(split) as reader:
            pictures.append(reader.picture(0))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive() and not server.shards()
    part.unlink()
    os.close(descriptor)
    thread.join(10)
    assert len(pictures) == 1 and server.shards() == {"d/train-000000.tar": 1}
    assert not here(tmp_path)


# -- the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def far(served: Server, tiny: Path, place: Path) -> str:  # noqa: ARG001
    """The URL of a dataset that is `dataset` in the working directory, too."""
    shutil.copytree(tiny, served.folder / "data")
    return f"{served.url}/data"


Run = Callable[..., Any]


def test_a_training_from_afar_is_that_from_the_disk_and_so_is_its_evaluation(
    far: str, served: Server, place: Path, alexnet: Run, net: tuple[str, ...]
) -> None:
    secret = far.replace("//", "//me:secret@")
    steps = (*net, "--max-steps", 7, "--device", "cpu")
    for name, data in (("near", "dataset"), ("far", secret)):
        outcome = alexnet("train", *steps, "--data", data, "--name", name).succeeded()
        assert "secret" not in outcome.out + outcome.err
        assert "secret" not in (place / "runs" / name / "config.json").read_text()
    near, other = (place / "runs" / name for name in ("near", "far"))
    ours, theirs = (load_file(folder / "best.safetensors") for folder in (other, near))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    logs = [(run / "metrics.jsonl").read_text().splitlines() for run in (near, other)]
    losses = [[json.loads(line).get("loss") for line in log] for log in logs]
    assert losses[0] == losses[1] and len(losses[0]) > 7
    about = json.loads((other / "config.json").read_text())["about"]
    assert about["dataset"] == far and far in about["command"]
    assert served.shards() == {"data/train-000000.tar": 1, "data/val-000000.tar": 2}  # it validated twice
    scores = [
        json.loads(
            alexnet("eval", near, "--data", data, "--split", "test", "--crops", 10, "--json").succeeded().out
        )
        for data in ("dataset", far)
    ]
    assert scores[0] == scores[1]
    # A run that began on the one goes on on the other: it is the same dataset.
    assert "from step 7" in alexnet("train", *steps[:-3], 8, "--data", far, "--name", "near").succeeded().err


def test_a_second_training_finds_its_shards_on_the_disk(
    far: str, served: Server, alexnet: Run, net: tuple[str, ...]
) -> None:
    for number in range(2):
        done = alexnet("train", *net, "--max-steps", 2, "--data", far, "--cache", "disk", "--new").succeeded()
        waits = "the first step waits for up to 1 shard (" in done.err
        assert waits == (number == 0)
        assert served.shards() == {"data/train-000000.tar": 1, "data/val-000000.tar": 1}, number
    alexnet("train", *net, "--cache", "disk").failed("--cache disk: dataset is a folder", "leave --cache out")


@pytest.mark.slow
def test_two_ranks_fetch_each_shard_once(
    far: str, served: Server, tmp_path: Path, spawn: Run, net: tuple[str, ...]
) -> None:
    steps = ("train", *net, "--max-steps", 6, "--data", far, "--eval-every", 100)
    command = spawn(*steps, "--device", "cpu", "--processes", 2, ALEXNET_CACHE=str(tmp_path / "cache"))
    command.outcome().succeeded()
    assert served.shards() == {"data/train-000000.tar": 1, "data/val-000000.tar": 1}
    assert not list((tmp_path / "cache").rglob("*.tar*"))


@pytest.mark.usefixtures("place")
def test_a_dry_run_fetches_few_shards(server: Server, alexnet: Run, net: tuple[str, ...]) -> None:
    alexnet("train", *net, "--data", f"{server.url}/d", "--dry-run").succeeded()
    assert len(server.shards()) == 4 + 4  # eight pictures to train on, eight to validate


@pytest.mark.parametrize("words", [("verify", "URL"), ("prepare", ".", "--out", "URL")])
def test_what_needs_a_folder_says_so(far: str, alexnet: Run, words: tuple[str, ...]) -> None:
    outcome = alexnet(*(far if word == "URL" else word for word in words))
    assert outcome.code == 2 and "train and eval take URLs" in " ".join(outcome.err.replace("│", " ").split())
    assert not list(Path().glob("http*"))


def test_a_url_that_is_wrong_is_one_clear_error(far: str, alexnet: Run) -> None:
    alexnet("train", "--data", f"{far}/x").failed(
        "manifest.json cannot be read: the server answered 404", "folder"
    )
    alexnet("eval", "--data", "ftp://host/x").failed("--data ftp://: no dataset can be read", "https://")
