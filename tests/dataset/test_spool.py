"""The copy of a source on a hard disk: it changes no byte of the dataset, whatever becomes of it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_cli.dataset import shards, spool
from alexnet_cli.dataset.preparation import Progress, prepare
from alexnet_cli.dataset.sources.listing import Listing
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.dataset.sources.records import AHEAD, Record, Span, ahead
from alexnet_cli.errors import AlexNetError
from alexnet_cli.machine import Job

from . import forms
from .test_parquet import write_hub


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PICTURES_PER_SHARD", 5)
    monkeypatch.setattr(spool, "BUFFER", 4000)  # of some pictures: what waits is written several times


WRITERS: dict[str, Callable[[Path, forms.Originals], None]] = {
    "archives": forms.write_official,
    "folders": forms.write_unpacked,
    "parquet": write_hub,
}


@pytest.fixture(scope="module", params=WRITERS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    WRITERS[request.param](root, forms.originals())
    return root


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("official")
    forms.write_official(root, forms.originals())
    return root


def prepared(source: Path, out: Path, **words: Any) -> list[Progress]:
    return [*prepare(open_source(str(source)), out, max_rejects=0.5, **words)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_bytes_with_and_without(source: Path, tmp_path: Path) -> None:
    prepared(source, tmp_path / "without")
    steps = prepared(source, tmp_path / "with", spool=tmp_path / "disk")
    assert steps[0] == Progress(0, 18, 0, phase="copying") and Progress(18, 18, 0, phase="copying") in steps
    assert steps[-1] == Progress(18, 18, 0)
    assert contents(tmp_path / "with") == contents(tmp_path / "without")
    assert not [*(tmp_path / "disk").iterdir()]
    prepared(source, tmp_path / "worker", spool=tmp_path / "disk", workers=1)
    assert contents(tmp_path / "worker") == contents(tmp_path / "without")
    assert not [*(tmp_path / "disk").iterdir()]


def test_the_source_is_read_from_front_to_back_and_then_not_at_all(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[Path, int]] = []
    plain = Span.read

    def watched(span: Span) -> bytes:
        read.append((span.path, span.offset))
        return plain(span)

    monkeypatch.setattr(Span, "read", watched)
    prepared(archives, tmp_path / "out", spool=tmp_path / "disk")
    train = [offset for path, offset in read if path.name == "ILSVRC2012_img_train.tar"]
    assert len(train) == 12 and train == sorted(train)
    assert len([path for path, _ in read if path.parent == archives]) == 18


def test_pictures_that_cannot_be_read_are_the_same_rejects(tmp_path: Path) -> None:
    forms.write_unpacked(tmp_path / "source", forms.originals())
    listing = open_source(str(tmp_path / "source"))
    names = [listing.splits["train"].record(row).name for row in (1, 7)]
    (tmp_path / "source" / names[0]).unlink()
    (tmp_path / "source" / names[1]).write_bytes(b"")
    for name, folder in (("without", None), ("with", tmp_path / "disk")):
        [*prepare(listing, tmp_path / name, max_rejects=0.5, spool=folder)]
    assert contents(tmp_path / "with") == contents(tmp_path / "without")
    assert b"cannot be read: No such file" in contents(tmp_path / "with")["manifest.json"]


def test_a_spool_that_was_damaged_is_made_good_from_the_source(archives: Path, tmp_path: Path) -> None:
    prepared(archives, tmp_path / "without")
    steps = prepare(open_source(str(archives)), tmp_path / "out", spool=tmp_path / "disk")
    while next(steps).phase == "copying":
        pass
    for number, path in enumerate(sorted((tmp_path / "disk").rglob("*.pictures"))):
        data = bytearray(path.read_bytes())
        if number == 0:
            path.unlink()
        elif number == 1:
            path.write_bytes(data[:-7])
        else:
            data[700:800] = bytes(100)
            path.write_bytes(data)
    assert [*steps][-1] == Progress(18, 18, 0)
    assert contents(tmp_path / "out") == contents(tmp_path / "without")


RUN = """
import os
import sys
import time
from pathlib import Path
from alexnet_cli.dataset import shards, spool
from alexnet_cli.dataset.preparation import prepare
from alexnet_cli.dataset.sources.recognise import open_source
from alexnet_cli.errors import AlexNetError

shards.PICTURES_PER_SHARD, spool.BUFFER = 5, 4000
shards.CHUNK = spool.CHUNK = 1
spooled = Path(sys.argv[3]) if sys.argv[3:] else None
try:
    for step in prepare(open_source(sys.argv[1]), Path(sys.argv[2]), spool=spooled):
        print(step.phase, step.done, flush=True)
        if f"{step.phase} {step.done}" == os.environ.get("STAY_AT"):
            time.sleep(60)
except AlexNetError as error:
    print(error.message)
    sys.exit(error.exit_code)
"""


def start(*arguments: Path, stay: str) -> "subprocess.Popen[str]":
    """Start a preparation of its own that waits for a signal when it says `stay`."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "STAY_AT": stay},
    )


def stopped(*arguments: Path, at: str, by: signal.Signals) -> tuple[int, str, float]:
    """Send a signal to a preparation when it is so far; give how it ended and when it had said so."""
    process = start(*arguments, stay=at)
    assert process.stdout
    while (said := process.stdout.readline()) and said.strip() != at:
        pass
    started = time.monotonic()
    process.send_signal(by)
    heard = process.stdout.readline()
    seconds = time.monotonic() - started
    _, complaint = process.communicate(timeout=60)
    assert complaint == ""
    return process.returncode, heard, seconds


@pytest.mark.parametrize("line", ["copying 9", "preparing 0", "preparing 8"])
@pytest.mark.parametrize("again", [True, False], ids=["with", "without"])
def test_killed_and_continued(archives: Path, tmp_path: Path, line: str, again: bool) -> None:
    prepared(archives, tmp_path / "undisturbed")
    out, disk = tmp_path / "out", tmp_path / "disk"
    code, _, _ = stopped(archives, out, disk, at=line, by=signal.SIGKILL)
    assert code == -signal.SIGKILL and [*disk.rglob("*")]
    phases = [step.phase for step in prepared(archives, out, spool=disk if again else None)]
    # What was copied whole is not copied again.
    assert ("copying" in phases) == (again and line == "copying 9")
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert not [*disk.iterdir()]


def test_ctrl_c_amid_the_copy(archives: Path, tmp_path: Path) -> None:
    code, said, seconds = stopped(archives, tmp_path / "out", tmp_path / "disk", at="copying 9", by=signal.SIGINT)
    assert code == 130 and "stopped by SIGINT: 0 of 5 shards are finished and kept" in said
    assert seconds < 2


def test_another_disk_and_a_new_start_leave_nothing_behind(archives: Path, tmp_path: Path) -> None:
    out, disks = tmp_path / "out", [tmp_path / name for name in ("a", "b")]
    stopped(archives, out, disks[0], at="copying 9", by=signal.SIGKILL)
    stopped(archives, out, disks[1], at="copying 9", by=signal.SIGKILL)
    assert not [*disks[0].iterdir()] and [*disks[1].iterdir()]
    (folder,) = disks[1].iterdir()
    (folder / "mine.txt").write_text("precious")
    prepared(archives, out, overwrite=True)
    assert contents(disks[1]) == {f"{folder.name}/mine.txt": b"precious"}


def test_too_little_space_is_said_before_anything_is_written(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 9000))
    with pytest.raises(AlexNetError, match="not enough space for --spool") as caught:
        prepared(archives, tmp_path / "out", spool=tmp_path / "disk")
    assert f"{tmp_path} has 0.0 MB free" in caught.value.message and "leave --spool out" in caught.value.hint
    assert not (tmp_path / "out").exists() and not (tmp_path / "disk").exists()


def test_a_spool_that_is_a_file(archives: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AlexNetError, match="is a file"):
        prepared(archives, tmp_path / "out", spool=tmp_path / "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool.Part, "temporary", Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(AlexNetError, match="No space left on device") as caught:
        prepared(archives, tmp_path / "out", spool=tmp_path / "disk")
    assert "--spool" in caught.value.hint


def test_each_process_of_a_job_copies_its_own_part(archives: Path, tmp_path: Path) -> None:
    listing = open_source(str(archives))
    prepared(archives, tmp_path / "one")
    done: list[int] = []
    # The second is a process of its own; this one is the first.
    other = subprocess.Popen(
        [
            sys.executable,
            "-c",
            RUN.replace("spool=spooled", "spool=spooled, job=Job(1, 2, 1)").replace(
                "import sys\n", "import sys\nfrom alexnet_cli.machine import Job\n", 1
            ),
            str(archives),
            str(tmp_path / "out"),
            str(tmp_path / "disk"),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    for step in prepare(listing, tmp_path / "out", spool=tmp_path / "disk", job=Job(0, 2, 1)):
        if step.phase == "copying":
            done.append(step.total)
    said, _ = other.communicate(timeout=60)
    assert other.returncode == 0
    assert set(done) == {5 + 2 + 1} and "copying 10" in said  # shards 0, 2 and 4 of 5, 5, 2, 5 and 1 pictures
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    assert not [*(tmp_path / "disk").iterdir()]


def test_decoded_pixels_are_not_copied(idx: Path, tmp_path: Path) -> None:
    prepared(idx, tmp_path / "without")
    prepared(idx, tmp_path / "with", spool=tmp_path / "disk")
    assert contents(tmp_path / "with") == contents(tmp_path / "without")


# --- Without a spool


class Noted:
    """A picture of a source that notes when it is asked for and when it is read."""

    def __init__(self, number: int, log: list[tuple[str, int]]) -> None:
        self.number, self.log = number, log

    @property
    def place(self) -> tuple[str, int]:
        return "", self.number

    def expect(self) -> None:
        self.log.append(("expect", self.number))

    def read(self) -> bytes:
        self.log.append(("read", self.number))
        return b""


def test_pictures_are_asked_for_in_source_order_and_read_in_theirs() -> None:
    log: list[tuple[str, int]] = []
    order = np.random.default_rng(0).permutation(3 * AHEAD + 7).tolist()
    records = [Record("", "", 0, Noted(number, log)) for number in order]
    for record in ahead(records):
        record.read()
    assert [number for what, number in log if what == "read"] == order
    asked = [number for what, number in log if what == "expect"]
    windows = [asked[at : at + AHEAD] for at in range(0, len(asked), AHEAD)]
    assert [sorted(order[at : at + AHEAD]) for at in range(0, len(order), AHEAD)] == windows
    assert all(log.index(("expect", number)) < log.index(("read", number)) for number in order)


def test_a_listing_knows_its_order_and_weight(source: Path) -> None:
    listing: Listing = open_source(str(source))
    train = listing.splits["train"]
    positions = np.random.default_rng(1).permutation(len(train))
    order = train.store.order(train.rows[positions])
    places = [train.record(int(position)).place for position in positions[order]]
    assert places == sorted(places)
    total = sum(len(train.record(position).read()) for position in range(len(train)))
    assert total <= train.store.weight(train.rows) < 2 * total + 20_000
