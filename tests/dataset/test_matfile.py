"""The reader of meta.mat, compared with what scipy wrote."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from alexnet_cli.dataset.sources import matfile
from alexnet_cli.dataset.sources.matfile import MatError, read_mat

from .forms import meta


def saved(compressed: bool = True, **variables: object) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("year", [2010, 2012])
def test_synsets_as_in_the_devkit(year: int) -> None:
    synsets = read_mat(meta(year))["synsets"]
    assert isinstance(synsets, list) and len(synsets) == 5
    first, last = synsets[0], synsets[-1]
    assert isinstance(first, dict) and isinstance(last, dict)
    assert list(first) == [
        *(f"ILSVRC{year}_ID", "WNID", "words", "gloss", "num_children"),
        *("children", "wordnet_height", "num_train_images"),
    ]
    assert (first["WNID"], first["words"], first["gloss"]) == ("n03126707", "crane", "a gloss, with “quotes”")
    assert [np.asarray(first[name]).tolist() for name in (f"ILSVRC{year}_ID", "num_children", "children")] == [
        *([1.0], [0.0], [])
    ]
    assert np.asarray(last["children"]).tolist() == [1001.0]


@pytest.mark.parametrize("compressed", [True, False])
def test_values_of_every_kind(compressed: bool) -> None:
    found = read_mat(
        saved(
            compressed,
            number=np.array([[1.5, -2.0], [3.0, 4.0]]),
            small=np.array([[1, 2, 3]], dtype=np.uint8),
            text="naïve",
            empty="",
            cell=np.array(["a", "bc"], dtype=object),
            struct={"a": 1.0, "b": "x"},
        )
    )
    assert np.asarray(found["number"]).tolist() == [1.5, 3.0, -2.0, 4.0]
    assert np.asarray(found["small"]).tolist() == [1, 2, 3]
    assert (found["text"], found["empty"], found["cell"]) == ("naïve", "", ["a", "bc"])
    assert isinstance(found["struct"], list) and found["struct"][0]["b"] == "x"  # type: ignore[index,call-overload]


def element(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body.ljust(-(-len(body) // 8) * 8, b"\0")


HEADER = b"MATLAB 5.0".ljust(124) + b"\0\1IM"


def test_big_endian_and_short_elements() -> None:
    flags = struct.pack(">IIII", 6, 8, 6, 0)
    dimensions = struct.pack(">IIii", 5, 8, 1, 2)
    body = flags + dimensions + struct.pack(">HH4s", 1, 1, b"a") + struct.pack(">HHhh", 4, 3, 7, -8)
    found = read_mat(b"MATLAB 5.0".ljust(124) + b"\1\0MI" + struct.pack(">II", 14, len(body)) + body)
    assert np.asarray(found["a"]).tolist() == [7, -8]


@pytest.mark.parametrize(
    "data,message",
    [
        (b"", "not a MATLAB 5 file"),
        (b"\x89HDF\r\n".ljust(200), "not a MATLAB 5 file"),
        (HEADER + b"\x0f\0\0\0\xff\0\0\0", "cut short"),
        (HEADER + element(15, b"junk"), "compressed data are damaged"),
        (HEADER + element(15, zlib.compress(b"x" * 100)[:-9]), "cut short or absurdly large"),
        (HEADER + element(14, element(6, bytes(8)) + element(5, b"\xff" * 8) + element(1, b"a")), "absurd dim"),
        (HEADER + element(14, element(6, bytes(8)) + element(7, bytes(8)) + element(1, b"a")), "no whole number"),
        (HEADER + element(14, element(6, b"\3" + bytes(7)) + element(5, b"\1" * 4) + element(1, b"")), "class 3"),
    ],
)
def test_damaged_files(data: bytes, message: str) -> None:
    with pytest.raises(MatError, match=message):
        read_mat(data)


def test_what_inflates_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matfile, "MOST_BYTES", 1 << 20)
    with pytest.raises(MatError, match="absurdly large"):
        read_mat(HEADER + element(15, zlib.compress(bytes(1 << 21))))


def test_nesting_has_an_end() -> None:
    body = b""
    for _ in range(50):
        flags, dimensions = element(6, b"\1" + bytes(7)), element(5, struct.pack("<ii", 1, 1))
        body = element(14, flags + dimensions + element(1, b"") + body)
    with pytest.raises(MatError, match="nested too deeply"):
        read_mat(HEADER + body)


GOOD = saved(False, synsets=np.array([(1.0, "n01440764")], dtype=[("ID", object), ("WNID", object)]))


@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(GOOD))
)
@settings(max_examples=1000, deadline=None)
def test_damage_is_always_one_kind_of_error(changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    for piece in (bytes(data), bytes(data[:end])):
        try:
            read_mat(piece)
        except MatError as error:
            assert str(error)
