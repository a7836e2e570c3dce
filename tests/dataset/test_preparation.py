import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from alexnet_cli.dataset import directory, preparation, shards, space
from alexnet_cli.dataset import ranks as meeting
from alexnet_cli.dataset.demo import SHAPES, draw_demo
from alexnet_cli.dataset.images import load_square
from alexnet_cli.dataset.manifest import Dataset, open_dataset
from alexnet_cli.dataset.preparation import Options, Progress, prepare
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import write_json
from alexnet_cli.machine import Job

from .conftest import photograph


def prepared(source: Path, out: Path, options: Options | None = None, **words: object) -> list[Progress]:
    return list(prepare(open_source(str(source)), out, options, **words))  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(source: Path, out: Path, **words: object) -> AlexNetError:
    with pytest.raises(AlexNetError) as caught:
        prepared(source, out, **words)  # type: ignore[arg-type]
    return caught.value


@pytest.fixture(scope="module")
def dataset(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The folders in shards of 7 pictures, so that there are several."""
    out = tmp_path_factory.mktemp("out") / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "PICTURES_PER_SHARD", 7)
        prepared(folders, out)
    return open_dataset(out)


def stored(dataset: Dataset, split: str) -> list[tuple[bytes, int]]:
    """Read pictures the way the loader will: by offset."""
    its = dataset.splits[split]
    found = []
    for row in its.index:
        with its.shards[row["shard"]].open("rb") as file:
            file.seek(int(row["offset"]))
            found.append((file.read(int(row["size"])), int(row["label"])))
    return found


def test_index_tarfile_and_webdataset_agree(dataset: Dataset) -> None:
    for split, its in dataset.splits.items():
        by_offset = stored(dataset, split)
        by_tar, keys = [], []
        for shard in its.shards:
            with tarfile.open(shard) as tar:
                members = tar.getmembers()
                for label, picture in zip(members[::2], members[1::2], strict=True):
                    assert Path(label.name).stem == Path(picture.name).stem
                    keys.append(Path(picture.name).stem)
                    by_tar.append((tar.extractfile(picture).read(), int(tar.extractfile(label).read())))
                    assert (picture.mtime, picture.uid, picture.uname, picture.mode) == (0, 0, "", 0o444)
        samples = webdataset.WebDataset([str(shard) for shard in its.shards], shardshuffle=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the collector
            by_webdataset = [(sample["jpg"], int(sample["cls"])) for sample in samples]
        assert by_offset == by_tar == by_webdataset
        assert len(set(keys)) == len(keys) and all("." not in key for key in keys)


def test_pictures_labels_and_order(dataset: Dataset, folders: Path) -> None:
    val = stored(dataset, "val")
    assert [label for _, label in val] == [0, 0, 1, 1, 2, 2]
    first = load_square((folders / "val/n00000001/a.b 0.JPEG").read_bytes())
    decoded = np.asarray(Image.open(io.BytesIO(val[0][0]))).transpose(2, 0, 1)
    assert np.abs(decoded.astype(int) - first.numpy().astype(int)).mean() < 3
    train = dataset.splits["train"]
    assert [np.count_nonzero(train.index["shard"] == k) for k in range(5)] == [7, 7, 7, 7, 2]
    assert train.index["label"].tolist() != sorted(train.index["label"].tolist())
    assert np.bincount(train.index["label"]).tolist() == [10, 10, 10]


def test_statistics_are_those_of_the_training_pixels_before_encoding(dataset: Dataset, folders: Path) -> None:
    files = sorted((folders / "train").rglob("*.*"))
    squares = torch.stack([load_square(path.read_bytes()) for path in files]).numpy()
    flat = squares.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    assert np.allclose(dataset.mean, squares.mean(0, dtype=np.float64), atol=1e-4)
    assert np.allclose(dataset.rgb_mean, flat.mean(1), rtol=1e-12)
    values = np.linalg.eigvalsh(np.cov(flat, bias=True))[::-1]
    assert np.allclose(dataset.eigenvalues, values, rtol=1e-9)
    v = dataset.eigenvectors
    assert np.allclose(v @ np.diag(dataset.eigenvalues) @ v.T, np.cov(flat, bias=True), rtol=1e-9)
    integers = json.loads((dataset.root / "statistics.json").read_text())
    assert integers["rgb_sums"] == [int(total) for total in flat.astype(np.int64).sum(1)]


def test_manifest_says_what_it_is_and_not_where_or_when(dataset: Dataset, folders: Path) -> None:
    text = (dataset.root / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["format"] == 1 and manifest["form"] == "class folders by split"
    assert manifest["classes"][0] == {"name": "n00000001", "wnid": "n00000001"}
    assert manifest["splits"]["train"]["pictures"] == 30 and manifest["options"]["val_fraction"] == 0.1
    assert str(folders) not in text and str(dataset.root) not in text and os.uname().nodename not in text
    assert not (dataset.root / ".unfinished").exists()


def test_one_and_two_workers_write_the_same_bytes(folders: Path, tmp_path: Path) -> None:
    steps = prepared(folders, tmp_path / "one")
    assert steps[0] == Progress(0, 36, 0) and steps[-1] == Progress(36, 36, 0)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert prepared(folders, tmp_path / "two", workers=2)[-1] == steps[-1]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_usual_workers_are_few_for_few_pictures(folders: Path) -> None:
    assert preparation.usual_workers(open_source(str(folders))) == 1


def test_idx_end_to_end(idx: Path, tmp_path: Path) -> None:
    prepared(idx, tmp_path / "out", Options(val_fraction=0.2, limit=50))
    found = open_dataset(tmp_path / "out")
    assert {name: len(split.index) for name, split in found.splits.items()} == {
        "train": 50,
        "val": 20,
        "test": 20,
    }
    assert list(found.splits) == ["train", "val", "test"] and found.classes == tuple("0123456789")
    assert found.eigenvalues[0] > 0 and found.eigenvalues[1:].tolist() == [0, 0]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Twenty good pictures and two that are none."""
    folder = tmp_path / "broken" / "train" / "cat"
    folder.mkdir(parents=True)
    for number in range(20):
        photograph(number, 60, 80).save(folder / f"{number:02d}.jpg")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    return tmp_path / "broken"


def test_rejects_are_counted_listed_and_shift_nothing(broken: Path, tmp_path: Path) -> None:
    steps = prepared(broken, tmp_path / "out", Options(val_fraction=0), max_rejects=0.1)
    assert steps[-1] == Progress(22, 22, 2)
    found = open_dataset(tmp_path / "out")
    rejects = {bad["name"]: bad["reason"] for bad in found.manifest["splits"]["train"]["rejects"]}
    assert rejects["train/cat/empty.jpg"] == "empty file"
    assert "not a picture" in rejects["train/cat/text.png"] and len(rejects) == 2
    assert len(found.splits["train"].index) == 20


def test_too_many_rejects_fail_and_leave_no_dataset(broken: Path, tmp_path: Path) -> None:
    error = refused(broken, tmp_path / "out")
    assert "2 of 22 pictures cannot be used, more than --max-rejects 0.01" in error.message
    assert "train/cat/empty.jpg: empty file" in error.message and "--max-rejects" in error.hint
    with pytest.raises(AlexNetError, match="unfinished"):
        open_dataset(tmp_path / "out")
    # The shards are kept: only the verdict is new.
    first, *_ = prepared(broken, tmp_path / "out", max_rejects=0.5)
    assert first == Progress(22, 22, 2, kept=22)


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "source" / "cat").mkdir(parents=True)
    (tmp_path / "source" / "cat" / "1.jpg").write_bytes(b"")
    assert "no training picture" in refused(tmp_path / "source", tmp_path / "out", max_rejects=1.0).message


def test_out_is_respected(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared(folders, out, Options(limit=3))
    error = refused(folders, out)
    assert "holds a finished dataset" in error.message and "--overwrite" in error.hint
    (out / "mine.txt").write_text("precious")
    before = (out / "manifest.json").read_bytes()
    prepared(folders, out, Options(limit=6), overwrite=True)
    assert (out / "mine.txt").read_text() == "precious" and (out / "manifest.json").read_bytes() != before
    assert "is not empty and holds no dataset" in refused(folders, folders, overwrite=True).message
    assert "is a file" in refused(folders, out / "mine.txt").message


def test_a_stopped_run_goes_on(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PICTURES_PER_SHARD", 7)
    prepared(folders, tmp_path / "whole")
    steps = prepare(open_source(str(folders)), tmp_path / "out")
    while next(steps).done < 20:
        pass
    steps.close()
    assert not list((tmp_path / "out").glob(".*.tmp"))
    first = next(steps := prepare(open_source(str(folders)), tmp_path / "out"))
    assert first.kept == first.done == 14
    assert [*steps][-1].done == 36
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_stopped_run_that_overwrites_goes_on_too(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command: its --overwrite has done its work."""
    monkeypatch.setattr(shards, "PICTURES_PER_SHARD", 7)
    prepared(folders, tmp_path / "whole")
    prepared(folders, tmp_path / "out", Options(seed=2))
    steps = prepare(open_source(str(folders)), tmp_path / "out", overwrite=True)
    while next(steps).done < 20:
        pass
    steps.close()
    first = next(steps := prepare(open_source(str(folders)), tmp_path / "out", overwrite=True))
    assert first.kept == 14 and [*steps][-1].done == 36
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    # A finished one is overwritten, by the same plan too.
    assert next(prepare(open_source(str(folders)), tmp_path / "out", overwrite=True)).kept == 0


def test_on_nfs_an_open_lock_stays_until_it_is_closed(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def as_nfs_does(path: Path, missing_ok: bool = False) -> None:
        if path.name == "job-lock-0":
            path.rename(path.with_name(".nfs000000000001"))
        else:
            unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", as_nfs_does)
        for overwrite in (False, True):
            prepared(folders, tmp_path / "out", Options(limit=3), overwrite=overwrite)
            (left,) = (tmp_path / "out" / ".unfinished").iterdir()
            unlink(left)  # as its client does when the file is closed
    assert prepare(open_source(str(folders)), tmp_path / "out", Options(limit=3)) is not None
    first = next(prepare(open_source(str(folders)), tmp_path / "out", Options(limit=3)))
    assert first.done == first.total and not (tmp_path / "out" / ".unfinished").exists()


def test_another_command_on_an_unfinished_run_is_refused(folders: Path, idx: Path, tmp_path: Path) -> None:
    steps = prepare(open_source(str(folders)), tmp_path / "out")
    next(steps)
    assert "another alexnet is preparing" in refused(folders, tmp_path / "out").message
    steps.close()
    error = refused(folders, tmp_path / "out", options=Options(seed=2))
    assert "was begun otherwise: --seed changed" in error.message and "--overwrite" in error.hint
    assert "the source changed" in refused(idx, tmp_path / "out").message
    plan = tmp_path / "out" / ".unfinished" / "plan.json"
    write_json(plan, {**json.loads(plan.read_text()), "decoder": {"torch": "1.0"}})
    assert "the picture libraries changed" in refused(folders, tmp_path / "out").message
    prepared(folders, tmp_path / "out", Options(seed=2), overwrite=True)


RUN = """
import sys
from pathlib import Path
from alexnet_cli.dataset import shards
from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.errors import AlexNetError
from alexnet_cli.machine import job

if __name__ == "__main__":
    shards.PICTURES_PER_SHARD = 7
    shards.CHUNK = 1
    listing, out = open_source(sys.argv[1]), Path(sys.argv[2])
    try:
        for step in prepare(listing, out, workers=int(sys.argv[3]), job=job()):
            print(step.done, flush=True)
    except AlexNetError as error:
        print(error.message)
        sys.exit(error.exit_code)
"""


def start(folders: Path, out: Path, workers: int, **variables: object) -> "subprocess.Popen[str]":
    """Start a preparation of its own, in shards of 7 pictures, that prints each step."""
    script = out.with_suffix(".py")
    script.write_text(RUN)
    return subprocess.Popen(
        [sys.executable, str(script), str(folders), str(out), str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **{key: str(value) for key, value in variables.items()},
        },
        start_new_session=True,
    )


def begin(folders: Path, out: Path, workers: int, enough: int) -> "subprocess.Popen[str]":
    """Start a preparation and return when it has done some pictures."""
    process = start(folders, out, workers)
    assert process.stdout
    while (line := process.stdout.readline()) and int(line) < enough:
        pass
    return process


def test_killed_and_continued_is_undisturbed(folders: Path, dataset: Dataset, tmp_path: Path) -> None:
    process = begin(folders, tmp_path / "out", 2, enough=10)
    os.kill(process.pid, signal.SIGKILL)
    _, complaint = process.communicate(timeout=20)
    assert complaint == ""
    wait_until(lambda: not alive(process.pid))
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "PICTURES_PER_SHARD", 7)
        prepared(folders, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(dataset.root)


def kill_until_done(folders: Path, out: Path, kills: int, seed: int, workers: int = 1) -> int:
    """Kill preparation at random instants, go on each time, and at the end undisturbed; the kills that met one."""
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(kills):
        # Most of a run this small is the start of Python: the instants are spread over its pictures and its end.
        process = begin(folders, out, workers, enough=int(generator.integers(37)))
        time.sleep(generator.uniform(0, 0.05))
        hits += process.poll() is None
        process.kill()
        process.communicate(timeout=120)  # a worker that is still importing lives on until it hears of it
        wait_until(lambda group=process.pid: not alive(group), 60)
        if (out / "manifest.json").exists():  # whole from the moment it is there
            assert open_dataset(out)
            if not (out / ".unfinished").exists():
                shutil.rmtree(out)
    process = start(folders, out, workers)
    said, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, said + complaint
    return hits


@pytest.mark.slow
def test_three_kills(folders: Path, dataset: Dataset, tmp_path: Path) -> None:
    kill_until_done(folders, tmp_path / "out", kills=3, seed=1)
    assert contents(tmp_path / "out") == contents(dataset.root)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_fifty_kills(folders: Path, dataset: Dataset, tmp_path: Path, workers: int) -> None:
    hits = kill_until_done(folders, tmp_path / "out", kills=60, seed=workers, workers=workers)
    assert hits >= 50
    assert contents(tmp_path / "out") == contents(dataset.root)


def test_a_kill_while_tidying_up_is_mended(folders: Path, dataset: Dataset, tmp_path: Path) -> None:
    out = shutil.copytree(dataset.root, tmp_path / "out")
    (out / ".unfinished").mkdir()
    (out / ".unfinished" / "train-000000.npz").touch()
    assert prepared(folders, out)[-1] == Progress(36, 36, 0, kept=36)
    assert contents(out) == contents(dataset.root)
    assert "holds a finished dataset" in refused(folders, out).message


@pytest.mark.parametrize("harm", ["tar gone", "tar short", "sidecar empty", "sidecar short"])
def test_a_shard_that_is_not_whole_is_written_anew(
    folders: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    monkeypatch.setattr(shards, "PICTURES_PER_SHARD", 7)
    out = tmp_path / "out"
    steps = prepare(open_source(str(folders)), out)
    while next(steps).done < 20:
        pass
    steps.close()
    tar, sidecar = out / "train-000001.tar", out / ".unfinished" / "train-000001.npz"
    if harm == "tar gone":
        tar.unlink()
    else:
        path = tar if harm == "tar short" else sidecar
        path.write_bytes(b"" if harm == "sidecar empty" else path.read_bytes()[: path.stat().st_size // 2])
    first = next(steps := prepare(open_source(str(folders)), out))
    assert first.kept == 7 and not sidecar.exists()
    assert [*steps][-1].done == 36
    assert contents(out) == contents(dataset.root)


def test_an_overwriting_that_is_killed_leaves_no_shard_that_looks_finished(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PICTURES_PER_SHARD", 7)
    steps = prepare(open_source(str(folders)), tmp_path / "out")
    while next(steps).done < 20:
        pass
    steps.close()
    names = [path.name for path in directory.parts(tmp_path / "out")]
    tars = [names.index(name) for name in names if name.endswith(".tar")]
    sidecars = [names.index(name) for name in names if name.endswith(".npz")]
    assert max(sidecars) < min(tars) and names[-1] == "plan.json"


def ranks(folders: Path, out: Path, size: int) -> "list[subprocess.Popen[str]]":
    return [start(folders, out, 1, RANK=rank, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size) for rank in range(size)]


def ended(processes: "list[subprocess.Popen[str]]") -> list[tuple[int, str, str]]:
    return [
        (process.returncode, *process.communicate(timeout=60)) for process in processes if process.wait(60) < 99
    ]


@pytest.mark.slow
def test_several_processes_one_killed_write_the_same_bytes(
    folders: Path, dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    processes = ranks(folders, out, 3)
    wait_until((out / ".unfinished" / "job.json").exists, 60)
    processes[1].kill()
    first, killed, last = ended(processes)
    assert killed[0] == -signal.SIGKILL and first[0] == 1, (first, last)
    assert "process 1 of 3 ended before its shards were written" in first[1]
    assert last[0] == 1 and "process 0 of the job ended before" in last[1] and first[2] == last[2] == ""
    assert not (out / "manifest.json").exists()
    for code, said, complaint in ended(ranks(folders, out, 3)):
        assert code == 0, said + complaint
    assert contents(out) == contents(dataset.root)


def test_two_jobs_at_one_output_are_refused(folders: Path, tmp_path: Path) -> None:
    steps = prepare(open_source(str(folders)), tmp_path / "out")
    next(steps)
    error = refused(folders, tmp_path / "out", job=Job(0, 2, 1))
    assert "another alexnet is preparing" in error.message
    steps.close()


def test_a_process_that_does_not_come_is_missed(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "START_SECONDS", 0.3)
    assert "process 1 of 2 has not come" in refused(folders, tmp_path / "out", job=Job(0, 2, 1)).message
    assert "process 0 of 2 has not come" in refused(folders, tmp_path / "out", job=Job(1, 2, 1)).message
    # What it left is an unfinished run like any other.
    assert prepared(folders, tmp_path / "out")[-1].done == 36


# --- Space


def test_too_little_space_is_said_before_anything_is_written(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1_000_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, free))
    out = tmp_path / "not" / "yet"
    error = refused(folders, out)
    assert "there is not enough space for" in error.message and "36 pictures need about" in error.message
    assert f"{tmp_path} has 1.0 MB free" in error.message and "nothing was written" in error.hint
    assert not (tmp_path / "not").exists()
    # The estimate is that of the pictures, not of the most that they could be: what it needs is enough.
    needed = float(error.message.partition("need about ")[2].partition(" MB")[0]) * 1e6
    free = int(needed + 1e5)
    monkeypatch.setattr(space, "PLENTY", 1 << 30)
    prepared(folders, out)
    used = sum(path.stat().st_size for path in out.iterdir())
    assert used < needed < 2 * used


def test_space_for_what_is_missing_only(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PICTURES_PER_SHARD", 7)
    out = tmp_path / "out"
    steps = prepare(open_source(str(folders)), out)
    while next(steps).done < 34:
        pass
    steps.close()
    monkeypatch.setattr(space, "PLENTY", 1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 850_000))
    assert "6 pictures need about" in refused(folders, out).message
    left = out / ".val-000000.tar.123.tmp"
    left.write_bytes(bytes(1_000_000))  # which is removed first
    assert prepared(folders, out)[-1].done == 36


def test_a_sample_that_tells_nothing_stops_nobody(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (broken / "train" / "cat").iterdir():
        path.write_bytes(b"nothing")
    monkeypatch.setattr(space, "PLENTY", 1 << 50)
    assert "no training picture" in refused(broken, tmp_path / "out", max_rejects=1.0).message


@pytest.fixture
def small_disk(disk: Callable[[Path, str], Path], tmp_path: Path) -> Path:
    """Of 4 MB: the sidecars of two shards fill much of it."""
    return disk(tmp_path / "disk", "4M")


def test_a_disk_that_fills_up_amid_a_worker_is_said_and_can_be_mended(
    folders: Path, dataset: Dataset, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PICTURES_PER_SHARD", 7)
    monkeypatch.setattr(preparation, "check_space", lambda *_, **__: None)
    out = small_disk / "out"
    error = refused(folders, out, workers=1)
    assert "the disk is full" in error.message and "goes on from what is finished" in error.hint
    kept = len(list((out / ".unfinished").glob("*.npz")))
    assert 0 < kept < 6 and not (out / "manifest.json").exists()
    assert not [path for path in small_disk.rglob("*") if path.suffix == ".tmp"]
    subprocess.run(["mount", "-o", "remount,size=20M", small_disk], check=True)
    first, *_ = prepared(folders, out, workers=1)
    assert first.kept >= 7 * (kept - 1)
    assert contents(out) == contents(dataset.root)


# --- Stops


def test_an_interrupt_stops_at_once_and_quietly(folders: Path, tmp_path: Path) -> None:
    process = begin(folders, tmp_path / "out", 2, enough=5)
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to the parent and its workers
    said, complaint = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert complaint == "" and process.returncode == 130
    assert "stopped by SIGINT" in said and "shards are finished and kept" in said
    wait_until(lambda: not alive(process.pid))


def test_a_termination_says_what_is_finished(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PICTURES_PER_SHARD", 7)
    before = signal.getsignal(signal.SIGTERM)
    steps = prepare(open_source(str(folders)), tmp_path / "out")
    while next(steps).done < 20:
        pass
    with pytest.raises(AlexNetError, match="stopped by SIGTERM: 2 of 6 shards are finished and kept") as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    steps.close()
    assert caught.value.exit_code == 143 and signal.getsignal(signal.SIGTERM) is before


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(done: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_worker_that_dies_is_named(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PICTURES_PER_SHARD", 18)
    steps = prepare(open_source(str(folders)), tmp_path / "out", workers=2)
    next(steps)
    found: list[int] = []
    with pytest.raises(AlexNetError, match=r"a worker died while at shard (train|val)-00000\d"):
        for _ in steps:
            for child in children():
                if child not in found:
                    found.append(child)
                    os.kill(child, signal.SIGKILL)
    assert found


def children() -> list[int]:
    import multiprocessing

    return [process.pid for process in multiprocessing.active_children() if process.pid]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_says_so(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        with open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
            return file.write(b"x")

    monkeypatch.setattr(shards, "write_picture", full)
    error = refused(folders, tmp_path / "out")
    assert "the disk is full" in error.message and "train-000000.tar" in error.message
    assert not list((tmp_path / "out").glob("*.t*"))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "source" / "c\udcff"
    folder.mkdir(parents=True)
    photograph(1, 30, 30).save(folder / "x\udcfe y\n.png")
    (folder / "bad\udcfe.png").write_bytes(b"x")
    prepared(tmp_path / "source", tmp_path / "out", max_rejects=1.0)
    assert open_dataset(tmp_path / "out").classes == ("c\\xff",)


def test_the_demo_set(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_demo(tmp_path / name, seed=3, train=4, val=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    listing = open_source(str(tmp_path / "one"))
    assert listing.classes == tuple(SHAPES) and len(listing.splits["train"]) == 4 * len(SHAPES)
    names = contents(tmp_path / "one")
    assert any(name.endswith(".png") for name in names) and any(name.endswith(".jpg") for name in names)


def test_preparation_does_not_print(folders: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepared(folders, tmp_path / "out", Options(limit=3))
    assert capfd.readouterr() == ("", "")
    assert preparation.__doc__
