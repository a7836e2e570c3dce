import errno
import fcntl
import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import alexnet_cli
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import (
    check_place,
    disk_errors,
    locked,
    read_json,
    sha256,
    whole_file,
    write_bytes,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_and_its_folders_appear_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "new" and names(path.parent) == ["file"]


@pytest.mark.parametrize(
    "problem", [ValueError("x"), KeyboardInterrupt(), OSError(errno.EIO, "x"), AlexNetError("x")]
)
def test_an_exception_leaves_the_old_file(tmp_path: Path, problem: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(problem)), whole_file(path, tmp_path / "kept") as temporary:
        temporary.write_text("half")
        raise problem
    assert path.read_text() == "old" and names(tmp_path) == ["file"]


def test_a_place_for_a_file_is_looked_at_before_the_work(
    tmp_path: Path, disk: Callable[[Path, str], Path]
) -> None:
    check_place(tmp_path / "new" / "folder" / "file")
    assert names(tmp_path) == []
    for folder in (tmp_path, Path()):
        with pytest.raises(AlexNetError, match="is a folder"):
            check_place(folder)
    with pytest.raises(AlexNetError, match="is a folder"):
        write_bytes(Path(), b"")
    small = disk(tmp_path / "small", "1m")
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(AlexNetError, match=r"small/a/b may not be written: .*small cannot"):
        check_place(small / "a" / "b")


def test_an_exception_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), whole_file(tmp_path / "file"):
        raise ValueError("x")
    assert names(tmp_path) == []


def test_the_old_file_is_kept_under_another_name(tmp_path: Path) -> None:
    path, kept = tmp_path / "file", tmp_path / "kept"
    for text in ("one", "two", "three"):
        with whole_file(path, kept) as temporary:
            temporary.write_text(text)
    assert (path.read_text(), kept.read_text()) == ("three", "two") and names(tmp_path) == ["file", "kept"]


HALF = """
import sys
from pathlib import Path
from alexnet_cli.files import whole_file
with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("half", flush=True)
    sys.stdin.read()
"""


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    process = subprocess.Popen(
        [sys.executable, "-c", HALF, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(alexnet_cli.__file__).parents[1])},
    )
    with process:
        assert process.stdout and process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_says_so_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    # Whoever writes through this name meets a device that is always full.
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(AlexNetError, match=r"the disk is full: .*/file could not be written") as caught:
        write_bytes(path, b"new")
    assert "free some space" in caught.value.hint
    assert path.read_text() == "old" and names(tmp_path) == ["file"]


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AlexNetError, match="may not be written") as caught:
        write_bytes(tmp_path / "file" / "below", b"")
    assert caught.value.hint


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_forbidden_place(number: int) -> None:
    with (
        pytest.raises(AlexNetError, match=f"there may not be written: {os.strerror(number)}"),
        disk_errors(Path("there")),
    ):
        raise OSError(number, os.strerror(number))


def test_other_errors_are_not_disguised() -> None:
    with pytest.raises(FileNotFoundError), disk_errors(Path("there")):
        Path("/nowhere/at/all").read_text()


def test_equal_values_are_equal_files(tmp_path: Path) -> None:
    write_json(tmp_path / "one", {"b": [1, 0.1], "a": "Füchse"})
    write_json(tmp_path / "two", {"a": "Füchse", "b": [1, 0.1]})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert "Füchse" in (tmp_path / "one").read_text(encoding="utf-8")
    assert read_json(tmp_path / "one") == {"a": "Füchse", "b": [1, 0.1]}


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}x', b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(AlexNetError, match=f"{path} cannot be read as JSON"):
        read_json(path)


def test_absent_json_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(AlexNetError, match=r"file cannot be read as JSON: .*No such file"):
        read_json(tmp_path / "file")


def test_checksums(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "file").write_bytes(data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with (
        pytest.raises(AlexNetError, match="cannot be locked") as caught,
        locked(tmp_path / "lock", "busy", "wait"),
    ):
        pass
    assert "another file system" in caught.value.hint


def test_a_share_that_does_not_sync_folders_keeps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def of_files_only(opened: int) -> None:
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(opened)

    monkeypatch.setattr(os, "fsync", of_files_only)
    write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
