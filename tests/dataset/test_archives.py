"""Members of tars, compared with what `tarfile` finds in the same bytes."""

import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_cli.dataset import archives
from alexnet_cli.dataset.archives import BLOCK, Columns, Member, members, opened
from alexnet_cli.dataset.sources.records import OPEN_FILES, OPENED, Span
from alexnet_cli.errors import AlexNetError

from .forms import tar, write

KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)
NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=300
).filter(lambda name: not name.endswith("/"))


def listed(path: Path) -> list[Member]:
    with opened(path) as archive:
        return list(members(archive))


def refused(path: Path, data: bytes) -> AlexNetError:
    path.write_bytes(data)
    with pytest.raises(AlexNetError) as caught:
        listed(path)
    assert str(path) in caught.value.message and caught.value.hint
    return caught.value


def make(entries: list[tuple[str, bytes, bytes]], form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, kind, data in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "somewhere"
            info.size = len(data) if kind in tarfile.REGULAR_TYPES else 0
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(entries=st.lists(st.tuples(NAMES, st.sampled_from(KINDS), st.binary(max_size=1100)), max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_as_tarfile_finds_them(entries: list[tuple[str, bytes, bytes]], form: int, tmp_path: Path) -> None:
    try:
        data = make(entries, form)
    except ValueError:  # a name too long for ustar
        return
    (tmp_path / "a.tar").write_bytes(data)
    with tarfile.open(tmp_path / "a.tar") as archive:
        expected = [(i.name, i.offset_data, i.size) for i in archive if i.isreg()]
    found = listed(tmp_path / "a.tar")
    assert [tuple(member) for member in found] == expected


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_an_error_or_members_inside_the_file(data: st.DataObject, tmp_path: Path) -> None:
    entries = [("a" * 150 + ".jpg", tarfile.REGTYPE, b"x" * 700), ("é.jpg", tarfile.REGTYPE, b"y" * 20)]
    good = bytearray(make(entries, data.draw(st.sampled_from((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):  # so that the damage is seen by what comes after the checksum
            mend(good, at // BLOCK * BLOCK)
    cut = data.draw(st.sampled_from((len(good), data.draw(st.integers(0, len(good))))))
    (tmp_path / "a.tar").write_bytes(bytes(good[:cut]))
    try:
        found = listed(tmp_path / "a.tar")
    except AlexNetError as error:
        assert error.hint
    else:
        assert all(m.offset >= 0 and m.size >= 0 and m.offset + m.size <= cut for m in found)


def mend(tape: bytearray, at: int) -> None:
    tape[at + 148 : at + 156] = b" " * 8
    tape[at + 148 : at + 156] = b"%06o\0 " % sum(tape[at : at + BLOCK])


def test_gnu_numbers_beyond_octal(tmp_path: Path) -> None:
    header = bytearray(tar([("a.jpg", b"")])[:BLOCK])
    header[124:136] = b"\x80" + (700).to_bytes(11, "big")
    mend(header, 0)
    write(tmp_path / "a.tar", bytes(header) + b"x" * 1024 + bytes(1024))
    assert listed(tmp_path / "a.tar") == [Member("a.jpg", 512, 700)]


def test_absurd_sizes(tmp_path: Path) -> None:
    for size in (b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"12x\0".ljust(12), b"-1\0".ljust(12)):
        header = bytearray(tar([("a.jpg", b"")])[:BLOCK])
        header[124:136] = size
        mend(header, 0)
        message = refused(tmp_path / "a.tar", bytes(header) + bytes(1024)).message
        assert "cut short" in message or "has no size" in message


def test_absurd_names_are_not_read(tmp_path: Path) -> None:
    for form, kind, size in ((tarfile.GNU_FORMAT, b"L", 1 << 13), (tarfile.PAX_FORMAT, b"x", 1 << 21)):
        header = bytearray(make([("a" * 200, tarfile.REGTYPE, b"")], form)[:BLOCK])
        assert header[156:157] == kind
        header[124:136] = b"%011o\0" % size
        mend(header, 0)
        assert f"a name of {size} bytes" in refused(tmp_path / "a.tar", bytes(header) + b"a" * (1 << 22)).message


def test_pax_headers_that_lie(tmp_path: Path) -> None:
    for line in (b"99999999 path=a\n", b"5 path=a\n", b"x path=a\n", b"17 size=-1234567\n", b"3\n"):
        body = make([("a" * 200, tarfile.REGTYPE, b"")], tarfile.PAX_FORMAT)
        damaged = bytearray(body)
        damaged[BLOCK : 2 * BLOCK] = line.ljust(BLOCK, b"\0")
        assert "an extended header" in refused(tmp_path / "a.tar", bytes(damaged)).message


def test_too_many_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_HEADERS", 3)
    assert "more than 3 headers" in refused(tmp_path / "a.tar", tar((f"{n}", b"") for n in range(4))).message


@pytest.mark.parametrize(
    "data,message,hint",
    [
        (b"\x1f\x8b\x08" + bytes(600), "is compressed with gzip, not a plain tar", "gunzip"),
        (b"BZh9" + bytes(600), "is compressed with bzip2", "bunzip2"),
        (b"\xfd7zXZ\0" + bytes(600), "is compressed with xz", "unxz"),
        (b"PK\3\4" + bytes(600), "is a zip file", "unzip"),
        (b"\n<!doctype html>" + b" " * 600, "is a web page", "log in"),
        (b"\xff\xd8\xff\xe0" + bytes(600), "is not a tar", "download it again"),
        (b"x", "is not a tar", "download it again"),
    ],
)
def test_what_is_no_tar(data: bytes, message: str, hint: str, tmp_path: Path) -> None:
    error = refused(tmp_path / "a.tar", data)
    assert message in error.message and hint in error.hint


def test_tars_cut_short(tmp_path: Path) -> None:
    data = tar([("a.jpg", b"x" * 700), ("b.jpg", b"y" * 10)])
    assert "should end at byte 1212, and there are 600 bytes" in refused(tmp_path / "a.tar", data[:600]).message
    for size in (1212, 1536, 1900, 2560):  # behind a member, between members, in a header, before the end mark
        assert "it has no end mark" in refused(tmp_path / "a.tar", data[:size]).message
    damaged = data[:1536] + b"\7" * 512 + data[2048:]
    assert "there is no header at byte 1536" in refused(tmp_path / "a.tar", damaged).message


def test_files_without_members(tmp_path: Path) -> None:
    for data in (b"", bytes(100), bytes(1024), tar([])):
        (tmp_path / "a.tar").write_bytes(data)
        assert listed(tmp_path / "a.tar") == []


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    header = bytearray(tar([("hole.jpg", b"")])[:BLOCK])
    header[156:157] = b"S"
    mend(header, 0)
    error = refused(tmp_path / "a.tar", bytes(header) + bytes(1024))
    assert "has a sparse member: hole.jpg" in error.message and "--sparse" in error.hint


def test_unreadable_archives(tmp_path: Path) -> None:
    with pytest.raises(AlexNetError, match="cannot be read: No such file"):
        listed(tmp_path / "absent.tar")
    with pytest.raises(AlexNetError, match=r"cannot be read: Is a directory"):
        listed(tmp_path)


def test_inner_tars_have_offsets_in_the_outer_file(tmp_path: Path) -> None:
    path = tmp_path / "outer.tar"
    write(path, tar([("n1.tar", tar([("a.jpg", b"first")])), ("n2.tar", tar([("b.jpg", b"second"), ("c", b"")]))]))
    with opened(path) as outer:
        found = [m for inner in members(outer) for m in members(outer.inner(inner))]
    data = path.read_bytes()
    assert [(m.name, data[m.offset : m.offset + m.size]) for m in found] == [
        ("a.jpg", b"first"),
        ("b.jpg", b"second"),
        ("c", b""),
    ]


def test_an_inner_tar_does_not_reach_beyond_its_end(tmp_path: Path) -> None:
    inner = tar([("a.jpg", b"x" * 700)])[:1024]
    write(tmp_path / "outer.tar", tar([("n1.tar", inner), ("n2.tar", tar([("b.jpg", b"y" * 4000)]))]))
    with opened(tmp_path / "outer.tar") as outer:
        first = next(members(outer))
        with pytest.raises(AlexNetError, match=r"outer.tar/n1.tar is cut short"):
            list(members(outer.inner(first)))


def test_members_as_columns() -> None:
    columns = Columns()
    columns.add([Member("ä.jpg", 512, 7), Member("\udcff", 1 << 40, 1 << 33)])
    columns.add([Member("", 3, 0)])
    assert [columns.names[row] for row in range(len(columns))] == ["ä.jpg", "\udcff", ""]
    assert columns.offsets.tolist() == [512, 1 << 40, 3] and columns.sizes.tolist() == [7, 1 << 33, 0]


def test_spans_are_read_again_after_pickling(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    span = pickle.loads(pickle.dumps(Span(tmp_path / "a", 3, 4)))
    assert span.read() == b"3456"
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).read())"
    out = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(span), capture_output=True, check=True)
    assert out.stdout.strip() == b"b'3456'"
    with pytest.raises(OSError, match="a picture of"):
        Span(tmp_path / "a", 0, 1 << 40).read()
    os.truncate(tmp_path / "a", 5)
    with pytest.raises(OSError, match="shorter"):
        span.read()


def test_few_archives_are_kept_open(tmp_path: Path) -> None:
    for number in range(2 * OPEN_FILES):
        (tmp_path / f"{number}").write_bytes(b"%02d" % number)
    for _ in range(2):
        for number in range(2 * OPEN_FILES):
            assert Span(tmp_path / f"{number}", 0, 2).read() == b"%02d" % number
    assert len(OPENED.descriptors) <= OPEN_FILES
