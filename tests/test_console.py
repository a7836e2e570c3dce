import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import alexnet_cli
from alexnet_cli import console

PACKAGE = str(Path(alexnet_cli.__file__).parents[1])
Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Füchse 狐 🦊", "plain Füchse 狐 🦊"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("bell\x07 back\x08 return\r", "bell\\x07 back\\x08 return\\r"),
        ("two\nlines\ttab", "two\\nlines\\ttab"),
        ("\x9b1m", "\\x9b1m"),  # the one-byte form of ESC [
        ("right \u202e to left", "right \\u202e to left"),
        ("c\udcff", "c\\udcff"),  # a byte of a file name that is no text
        (7, "7"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: object, shown: str) -> None:
    assert console.escaped(text) == shown


EVIL = "\x1b]0;title\x07[bold red]x[/] :smile: [link=http://a]"
TAME = "\\x1b]0;title\\x07[bold red]x[/] :smile: [link=http://a]"


def test_what_comes_from_data_is_never_markup(capsys: Captured) -> None:
    console.note(EVIL)
    console.warn(EVIL)
    console.error(EVIL, EVIL)
    console.command(EVIL)
    noted, warned, *errors, _, typed = capsys.readouterr().err.splitlines()
    assert (noted, warned, typed) == (TAME, f"warning: {TAME}", f"$ {TAME}")
    assert errors == [f"error: {TAME}", f"hint: {TAME}"]
    console.result(EVIL)
    assert capsys.readouterr() == (TAME + "\n", "")
    console.table(EVIL, (EVIL,), [(EVIL,)])
    console.bars(EVIL, [(EVIL, 0.5)])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and out.count(TAME) >= 4


def test_an_error_without_a_hint_has_no_hint_line(capsys: Captured) -> None:
    console.error("first\nsecond", "")
    assert capsys.readouterr() == ("", "error: first\nsecond\n")


def test_long_lines_of_the_conversation_are_not_broken(capsys: Captured) -> None:
    console.note("word " * 100)
    assert capsys.readouterr().err.count("\n") == 1


def test_the_result_is_on_stdout_and_the_conversation_on_stderr(capsys: Captured) -> None:
    console.result("answer")
    console.note("by the way")
    console.result_json({"a": [1.5, None], "ä": "\x1b"})
    out, err = capsys.readouterr()
    assert err == "by the way\n"
    first, _, document = out.partition("\n")
    assert first == "answer" and json.loads(document) == {"a": [1.5, None], "ä": "\x1b"}
    assert "\x1b" not in document


def test_json_has_no_numbers_that_are_none() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.result_json(float("nan"))


def test_only_the_first_rank_talks_and_any_may_fail(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    console.note("x")
    console.warn("x")
    console.result("x")
    console.result_json("x")
    console.table("x", ("x",), [("x",)])
    with console.progress("x", 1, "x") as bar:
        bar.update(1)
    assert capsys.readouterr() == ("", "")
    console.error("lost", "")
    assert capsys.readouterr() == ("", "error: lost\n")
    monkeypatch.setenv("RANK", "0")
    console.result("x")
    assert capsys.readouterr().out == "x\n"


def test_a_table(capsys: Captured) -> None:
    console.table("Title", ("name", "count"), [("a", "1"), ("bb", "1,000")], right=(1,))
    title, _, names, _, one, two, *_ = (line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert (title, names.split(), one.split(), two.split()) == (
        "Title",
        ["name", "count"],
        ["a", "1"],
        ["bb", "1,000"],
    )
    assert len(names) == len(one) == len(two), "numbers end at the same column"


def test_a_table_in_a_narrow_place_loses_nothing(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    console.table("", ("a", "b"), [("x" * 40, "y" * 20)])
    out = capsys.readouterr().out
    assert out.count("x") == 40 and out.count("y") == 20 and max(map(len, out.splitlines())) <= 30


def test_bars(capsys: Captured) -> None:
    console.bars("cat.jpg", [("cat", 1.0), ("dog", 0.5), ("fox", 0.021), ("bee", 0.0)])
    title, *rest = capsys.readouterr().out.splitlines()
    cat, dog, fox, bee = (line for line in rest if "%" in line)
    assert title == "cat.jpg" and "█" * 24 in cat and "100.0 %" in cat
    assert dog.count("█") == 12 and " 50.0 %" in dog
    assert fox.count("█") == 0 and "▌" in fox and "2.1 %" in fox
    assert "█" not in bee and "▌" not in bee and " 0.0 %" in bee


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (9.4, "0:09"), (59.6, "1:00"), (309, "5:09"), (3909, "1:05:09")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert console.duration(seconds) == shown


def test_progress_in_a_log_is_a_line_now_and_then(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 102.0, 105.5, 106.0, 111.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with console.progress("working", 2000, "pictures") as bar:  # at 100 s
        for done in (100, 200, 550, 600):
            bar.update(done, "2 rejected")
        bar.update(2000)
    assert capsys.readouterr() == (
        "",
        "working  28 %  550/2,000 pictures  100/s  0:14 left  2 rejected\n"
        "working 100 %  2,000/2,000 pictures  190/s  0:00 left\n"
        "working 100 %  2,000/2,000 pictures  190/s  0:00 left\n",
    )


def test_the_time_left_may_be_said_by_the_caller(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is sooner than the rate says."""
    monkeypatch.setattr(console, "LOG_SECONDS", 0.0)
    clock = iter((0.0, 0.0, 10.0, 20.0, 30.0))
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with console.progress("training", 10, "steps") as bar:
        for done, left in ((0, None), (1, None), (2, 45), (3, 5000)):
            bar.update(done, left=left)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("  ")[2] for line in lines[1:4]] == ["1:30 left", "0:45 left", "1:10 left"]


ON_A_TERMINAL = """
import time
from alexnet_cli import console
with console.progress("working", 100, "pictures") as bar:
    for done in range(0, 101, 10):
        bar.update(done, "loss 1.5")
        time.sleep(0.02)
    console.note("said meanwhile")
console.note("the end")
"""


def test_progress_on_a_terminal_is_a_bar_that_goes_away() -> None:
    """In a pseudo-terminal of 80 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL],
        stderr=theirs,
        stdout=theirs,
        env={
            **os.environ,
            "PYTHONPATH": PACKAGE,
            "TERM": "xterm",
            "COLUMNS": "80",
        },
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    assert process.wait(30) == 0
    text = said.decode()
    assert "\x1b[" in text and "working" in text and "/s" in text and "left" in text and "loss 1.5" in text
    assert text.count("said meanwhile") == 1 and text.rstrip().endswith("the end")
    last = text.rpartition("said meanwhile")[2].rpartition("\x1b[2K")[2]
    assert "working" not in last, "the bar is erased"
