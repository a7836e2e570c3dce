"""Files from a web server that fails, stalls, ignores ranges and changes them, and from a bucket."""

import base64
import hashlib
import http.client
import io
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.request import Request

import fsspec
import numpy as np
import pytest

from alexnet_cli.dataset.far import address as addresses
from alexnet_cli.dataset.far import answers, buckets, fetching, web
from alexnet_cli.dataset.far.address import address, without_secrets
from alexnet_cli.dataset.far.fetching import AGAIN, Expected, Stopped, fetch
from alexnet_cli.dataset.manifest import open_dataset, open_squares
from alexnet_cli.errors import AlexNetError

from .far_server import Server, another_range, cut, first, stall, status

DATA = np.random.default_rng(1).bytes(3_000_000)
CHECKSUM = hashlib.sha256(DATA).hexdigest()
EXPECTED = Expected(len(DATA) - 1000, len(DATA) + 1000, CHECKSUM)
FAILED = 1_000_000


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def server(served: Server) -> Server:
    (served.folder / "file").write_bytes(DATA)
    return served


def fetched(server: Server, expected: Expected = EXPECTED, name: str = "file") -> bytes:
    file = io.BytesIO()
    fetch(address(server.url).file(name), file, expected)
    return file.getvalue()


def refused(server: Server, expected: Expected = EXPECTED, name: str = "file") -> AlexNetError:
    with pytest.raises(AlexNetError) as caught:
        fetched(server, expected, name)
    assert caught.value.message.startswith(f"{server.url}/{name} ") and caught.value.hint
    return caught.value


def ranges(server: Server) -> list[str | None]:
    return [asked.range for asked in server.asked]


# -- what goes wrong on the way, and passes -------------------------------------------------------------------


def test_a_file_comes_by_one_request(server: Server) -> None:
    assert fetched(server) == DATA
    assert ranges(server) == [None] and server.sent["file"] == len(DATA)


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(server: Server, code: int) -> None:
    server.tricks["file"].extend([status(code), status(code)])
    assert fetched(server) == DATA
    assert ranges(server) == [None] * 3


def test_the_server_says_how_long_to_wait_and_waits_grow(server: Server) -> None:
    class Waits(threading.Event):
        seconds: list[float] = []  # noqa: RUF012

        def wait(self, timeout: float | None = None) -> bool:
            self.seconds.append(timeout or 0)
            return False

    busy = (status(503), status(503), status(429, Retry_After="3"), status(503, Retry_After="99999"), status(503))
    server.tricks["file"].extend(busy)
    waits = Waits()
    fetch(address(server.url).file("file"), io.BytesIO(), EXPECTED, waits)
    first_wait, second, asked_for, too_long, fifth = waits.seconds
    assert asked_for == 3 and too_long == web.LONGEST_WAIT
    unit = fetching.FIRST_WAIT
    assert unit / 2 <= first_wait <= unit and unit <= second <= 2 * unit and 8 * unit <= fifth <= 16 * unit


def test_a_connection_that_is_cut_goes_on_at_the_same_byte(server: Server) -> None:
    server.tricks["file"].extend([cut(FAILED), cut(1), cut(0)])
    assert fetched(server) == DATA
    end = len(DATA) - 1
    rest = [f"bytes={at}-{end}" for at in (FAILED, FAILED + 1, FAILED + 1)]
    assert ranges(server) == [None, *rest] and server.sent["file"] == len(DATA)
    tags = {asked.headers.get("If-Range") for asked in server.asked[1:]}
    assert len(tags) == 1 and None not in tags


def test_a_connection_on_which_nothing_comes_goes_on_elsewhere(server: Server) -> None:
    server.tricks["file"].append(stall(FAILED))
    assert fetched(server) == DATA
    assert server.sent["file"] == len(DATA)


def test_without_ranges_it_begins_again(server: Server) -> None:
    server.ranges = False
    server.tricks["file"].append(cut(FAILED))
    assert fetched(server) == DATA
    assert server.sent["file"] == len(DATA) + FAILED


def test_another_range_than_asked_for_is_not_taken(server: Server) -> None:
    server.tricks["file"].extend([cut(FAILED), another_range])
    assert fetched(server) == DATA
    assert ranges(server) == [None, f"bytes={FAILED}-{len(DATA) - 1}", None]


def test_a_connection_that_is_always_cut_gets_there_as_long_as_it_brings_enough(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PROGRESS", 100_000)
    server.always["file"] = cut(100_000)
    assert fetched(server) == DATA
    assert server.count("file") == 30 > fetching.TRIES


# -- what does not pass ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 999])
def test_a_server_that_stays_busy_is_given_up(server: Server, after: int) -> None:
    server.tricks["file"].append(cut(after))
    server.always["file"] = status(503)
    error = refused(server)
    assert f"503 Service Unavailable; tried {fetching.TRIES} times" in error.message
    assert server.count("file") == fetching.TRIES


def test_a_server_that_always_stalls_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TRIES", 2)
    server.always["file"] = stall(0)
    assert "nothing came for 0.5 s; tried 2 times" in refused(server).message


def test_nobody_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TRIES", 3)
    with Server(server.folder) as other:
        pass
    with pytest.raises(AlexNetError, match="Connection refused; tried 3 times"):
        fetched(other)


@pytest.mark.parametrize(
    "code, hint", [(404, "manifest.json"), (403, "rights"), (401, "USER:PASSWORD"), (410, "other means")]
)
def test_what_will_not_pass_is_not_tried_again(server: Server, code: int, hint: str) -> None:
    server.always["file"] = status(code)
    error = refused(server)
    assert f"answered {code}" in error.message and hint in error.hint
    assert server.count("file") == 1


@pytest.mark.parametrize("progress", [1 << 20, 1])
def test_wrong_ranges_for_ever_are_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, progress: int
) -> None:
    monkeypatch.setattr(fetching, "TRIES", 6)
    monkeypatch.setattr(fetching, "PROGRESS", progress)
    server.always["file"] = lambda handler, data: (
        another_range(handler, data) if handler.headers.get("Range") else cut(FAILED)(handler, data)
    )
    message = refused(server).message
    if progress > FAILED:  # else it is the sixth after the first cut
        assert f"asked for the bytes from {FAILED}, it answered with the range 'bytes {FAILED + 7}-" in message
    assert "tried 6 times" in message


def test_a_file_that_changes_half_way_is_never_put_together(server: Server) -> None:
    other = DATA[::-1]
    path = server.folder / "file"
    server.tricks["file"].extend([cut(FAILED), first(lambda: path.write_bytes(other))])
    error = refused(server)
    assert "it changed while it was read, and its checksum" in error.message and error.hint == AGAIN
    assert fetched(server, Expected(0, len(DATA), hashlib.sha256(other).hexdigest())) == other


@pytest.mark.parametrize("validators", [True, False])
def test_a_change_that_the_server_hides_is_noticed(server: Server, validators: bool) -> None:
    """It answers the range of another file as if nothing had happened; only tag or checksum tell."""
    server.conditions, server.validators = False, validators
    path = server.folder / "file"
    server.tricks["file"].extend([cut(FAILED), first(lambda: path.write_bytes(DATA[::-1]))])
    error = refused(server)
    assert error.message.endswith("its checksum is not the manifest's")
    assert ("changed" in error.message) == validators


def test_a_file_that_is_shorter_by_then_is_noticed(server: Server) -> None:
    def shorter(handler: Any, _: bytes) -> None:
        (server.folder / "file").write_bytes(DATA[: FAILED - 1])
        status(416)(handler, b"")

    server.tricks["file"].extend([cut(FAILED), shorter])
    assert f"{FAILED - 1:,} bytes, and should have" in refused(server).message


def test_wrong_bytes_of_the_right_length(server: Server) -> None:
    (server.folder / "file").write_bytes(DATA[:-1] + b"\0")
    assert "its checksum is not the manifest's" in refused(server).message
    assert server.count("file") == 1


def test_a_length_that_cannot_be_right_is_refused_before_it_comes(server: Server) -> None:
    assert "3,000,000 bytes, and should have 1,000 at most" in refused(server, Expected(0, 1000)).message
    assert "should have 3,000,001 at least" in refused(server, Expected(len(DATA) + 1, 10**9)).message


def test_a_body_without_end_is_refused(server: Server) -> None:
    def endless(handler: Any, _: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(DATA)
            server.sent["endless"] += 1

    server.always["file"] = endless
    assert "should have 3,001,000 at most" in refused(server).message
    assert server.sent["endless"] < 50  # the rest is not taken


def test_a_compressed_answer_is_refused(server: Server) -> None:
    server.always["file"] = status(200, Content_Encoding="gzip")
    assert "compresses" in refused(server).message
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/file", "gopher://x/"])
def test_redirections_elsewhere_are_refused(server: Server, target: str) -> None:
    server.always["file"] = status(302, Location=target)
    message = refused(server).message
    assert "redirect" in message.lower() and target.partition(":")[0] in message
    assert server.count("file") == 1


def test_a_secured_connection_is_not_left() -> None:
    request = Request("https://one/file")
    with pytest.raises(answers.Refusal, match="http://"):
        web._Redirections().redirect_request(
            request, io.BytesIO(), 302, "", http.client.HTTPMessage(), "http://one/"
        )


def test_keys_go_to_their_own_host_only(server: Server) -> None:
    with Server(server.folder) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.02,))
        thread.start()
        server.tricks["file"].append(status(302, Location=f"{server.url}/again"))
        server.tricks["again"].append(status(307, Location=f"{other.url}/file"))
        file = io.BytesIO()
        where = address(server.url.replace("//", "//me:s%40cret@"))
        fetch(where.file("file"), file, EXPECTED)
        other.shutdown()
        thread.join()
    assert file.getvalue() == DATA
    wanted = "Basic " + base64.b64encode(b"me:s@cret").decode()
    assert [asked.headers.get("Authorization") for asked in server.asked] == [wanted, wanted]
    assert [asked.headers.get("Authorization") for asked in other.asked] == [None]
    assert "s@cret" not in repr(where) + str(where) and "me" not in str(where)


def test_a_fetch_that_is_not_needed_any_more_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_WAIT", 100.0)
    stop = threading.Event()
    stop.set()
    server.always["file"] = status(503)
    with pytest.raises(Stopped):
        fetch(address(server.url).file("file"), io.BytesIO(), EXPECTED, stop)
    del server.always["file"]
    with pytest.raises(Stopped):
        fetch(address(server.url).file("file"), io.BytesIO(), EXPECTED, stop)


# -- addresses ------------------------------------------------------------------------------------------------


def test_addresses() -> None:
    found = address("https://me:secret@Host.org:8443/a b/c/?sig=key#x").file("manifest.json")
    assert found.url == "https://host.org:8443/a%20b/c/manifest.json?sig=key"
    assert str(found) == "https://host.org:8443/a%20b/c/manifest.json?…"
    assert address("s3://Bucket/x").file("f").url == "s3://Bucket/x/f"
    assert address("http://[::1]:80").file("f").url == "http://[::1]:80/f"


@pytest.mark.parametrize(
    "place", ["file:///data", "ftp://me:secret@host/x", "https:///x", "s3://me:secret@x/y", "http://h:secret/x"]
)
def test_other_places_are_refused_without_their_secrets(place: str) -> None:
    with pytest.raises(AlexNetError, match="--data") as error:
        address(place)
    assert "secret" not in error.value.message + error.value.hint
    assert "secret" not in without_secrets(place)


def test_words_of_a_command_line_keep_all_but_secrets() -> None:
    assert without_secrets("https://me:secret@host/x?key=secret") == "https://host/x?…"
    assert without_secrets("runs/a://b") == "runs/a://b" and without_secrets("--data") == "--data"
    assert without_secrets("--data=https://me:secret@host/x") == "--data=https://host/x"


# -- buckets --------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Any:
    """fsspec's file system in memory, read in ranges as one of another machine."""
    monkeypatch.setattr(addresses, "BUCKETS", ("s3", "gs", "memory"))
    monkeypatch.setattr(buckets, "RANGE", FAILED)
    monkeypatch.setitem(buckets.LIBRARIES, "memory", "fsspec")
    monkeypatch.setitem(buckets.ANONYMOUS, "memory", "nothing")
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/file", DATA)
    yield files
    files.rm("/bucket", recursive=True)


def from_bucket(expected: Expected = EXPECTED) -> bytes:
    file = io.BytesIO()
    fetch(address("memory://bucket").file("file"), file, expected)
    return file.getvalue()


def reading(bucket: Any, monkeypatch: pytest.MonkeyPatch, *answers: Any) -> list[int]:
    """Have `cat_file` give these instead of what it would, None for that; the starts it was asked for."""
    usual, waiting, starts = type(bucket).cat_file, list(answers), []

    def cat_file(self: Any, path: str, start: int, end: int) -> bytes:
        starts.append(start)
        answer = waiting.pop(0) if waiting else None
        if isinstance(answer, Exception):
            raise answer
        return usual(self, path, start, end) if answer is None else answer() or usual(self, path, start, end)

    monkeypatch.setattr(type(bucket), "cat_file", cat_file)
    return starts


def test_a_bucket_is_read_in_ranges(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = reading(bucket, monkeypatch, None, TimeoutError("slow"), None)
    assert from_bucket() == DATA
    assert starts == [0, FAILED, FAILED, 2 * FAILED]


def test_a_bucket_that_gives_too_little_is_read_again(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = reading(bucket, monkeypatch, None, lambda: b"too little")
    assert from_bucket() == DATA
    assert starts == [0, FAILED, 0, FAILED, 2 * FAILED]


def test_what_changes_in_a_bucket_is_noticed(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reading(bucket, monkeypatch, None, lambda: bucket.pipe("/bucket/file", DATA[::-1]))
    with pytest.raises(AlexNetError, match="checksum"):
        from_bucket()


@pytest.mark.parametrize(
    "error, said, hint",
    [
        (FileNotFoundError("x"), "is not there", "manifest.json"),
        (PermissionError("AccessDenied"), "AccessDenied", "public bucket"),
        (OSError("Forbidden: b/x\n<html>"), "you may not read it: Forbidden: b/x$", "public bucket"),
        (type("NoCredentialsError", (Exception,), {})("none"), "no keys", "public bucket"),
    ],
)
def test_what_a_bucket_refuses_is_not_tried_again(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, hint: str
) -> None:
    starts = reading(bucket, monkeypatch, error)
    with pytest.raises(AlexNetError, match=said) as caught:
        from_bucket()
    assert len(starts) == 1 and hint in caught.value.hint
    reading(bucket, monkeypatch, *[ValueError("odd")] * 99)
    with pytest.raises(AlexNetError, match=f"odd; tried {fetching.TRIES} times"):
        from_bucket()


@pytest.mark.parametrize("scheme, library", [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str, library: str) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError(f"Please install {library} to access it")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(AlexNetError, match=f"needs the package {library}") as caught:
        open_squares(f"{scheme}://bucket/dataset")
    assert caught.value.hint == f"pip install 'alexnet-cli[{scheme}]'"
    assert f'\n{scheme} = ["{library}>=' in (Path(__file__).parents[2] / "pyproject.toml").read_text()


def test_a_dataset_in_a_bucket_is_the_dataset(bucket: Any, tiny: Path) -> None:
    bucket.put(str(tiny), "/bucket/dataset", recursive=True)
    ours, theirs = open_squares("memory://bucket/dataset"), open_dataset(tiny)
    assert ours.fingerprint == theirs.fingerprint and ours.place == "memory://bucket/dataset"
    split = ours.splits["train"]
    assert split.far is not None
    with split.far.brought((0,)):
        assert split.shards[0].read_bytes() == theirs.splits["train"].shards[0].read_bytes()
    assert not split.shards[0].exists()


# -- opening --------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(server: Server, tiny: Path) -> Path:
    """The folder that is served as /dataset, to be changed at will."""
    return Path(shutil.copytree(tiny, server.folder / "dataset"))


def test_the_small_files_are_checked_and_fetched_once(server: Server, dataset: Path, tmp_path: Path) -> None:
    ours, theirs = open_squares(f"{server.url}/dataset"), open_dataset(dataset)
    assert (ours.mean == theirs.mean).all() and ours.fingerprint == theirs.fingerprint
    assert all((ours.splits[n].index == theirs.splits[n].index).all() for n in ("train", "val", "test"))
    assert (ours.rgb_mean == theirs.rgb_mean).all() and ours.classes == theirs.classes
    assert len(server.asked) == 6 and not server.shards()
    open_squares(f"{server.url}/dataset/")
    assert [asked.name for asked in server.asked[6:]] == ["dataset/manifest.json"]
    kept = tmp_path / "cache" / ours.fingerprint
    (kept / "mean.npy").write_bytes(b"damaged")
    (kept / "manifest.json").write_bytes(b"damaged")
    again = open_squares(f"{server.url}/dataset")
    assert (again.mean == theirs.mean).all() and again.fingerprint == theirs.fingerprint


@pytest.mark.parametrize("name", ["mean.npy", "statistics.json", "val-index.npy"])
def test_small_files_that_are_not_the_manifests_are_refused(server: Server, dataset: Path, name: str) -> None:
    data = bytearray((dataset / name).read_bytes())
    data[-2] ^= 1
    (dataset / name).write_bytes(data)
    with pytest.raises(AlexNetError, match=f"{server.url}/dataset/{name} cannot be read: its checksum"):
        open_squares(f"{server.url}/dataset")


def damage(dataset: Path, change: Any) -> None:
    path = dataset / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda m: m.update(format=99), "dataset format 99"),
        (lambda m: m.pop("mean_sha256"), "KeyError"),
        (lambda m: m["splits"]["train"]["shards"][0].update(name="../../x-000000.tar"), "not the name of a shard"),
        (lambda m: m["splits"]["train"]["shards"][0].update(name="http://x/train-000000.tar"), "not the name"),
        (lambda m: m["splits"]["train"].update(pictures=-5), "does not list -5 pictures"),
        (lambda m: m["splits"]["train"].update(shards=[]), "names a shard that is not there"),
        (lambda m: m.update(splits=7), "AttributeError"),
    ],
)
def test_a_strange_manifest_is_refused(server: Server, dataset: Path, change: Any, said: str) -> None:
    damage(dataset, change)
    with pytest.raises(AlexNetError, match=said) as caught:
        open_squares(f"{server.url}/dataset")
    assert f"{server.url}/dataset" in caught.value.message
    assert all(re.fullmatch(r"dataset/[a-z]+(-index)?\.(json|npy)", asked.name) for asked in server.asked)


def test_what_is_no_manifest_is_refused(server: Server, dataset: Path) -> None:
    for text in ("[]", "{", "[" * 100_000):
        (dataset / "manifest.json").write_text(text)
        with pytest.raises(AlexNetError, match=r"dataset/manifest\.json is damaged"):
            open_squares(f"{server.url}/dataset")
    with pytest.raises(AlexNetError, match=r"elsewhere/manifest\.json cannot be read: the server answered 404"):
        open_squares(f"{server.url}/elsewhere")
