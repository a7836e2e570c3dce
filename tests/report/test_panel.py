"""The panel of pictures over their most probable classes: what it says is what it was given."""

import re
from pathlib import Path

import numpy as np
import pytest

from alexnet_cli.errors import AlexNetError
from alexnet_cli.report import panel
from alexnet_cli.report.panel import OTHER, RIGHT, Entry

pytest.importorskip("matplotlib")

GUESSES = [("mite", 0.55), ("black widow", 0.25), ("cockroach", 0.1), ("tick", 0.05), ("starfish", 0.01)]


def entry(name: str, right: str | None = None, guesses: list[tuple[str, float]] = GUESSES) -> Entry:
    return Entry(name, np.full((256, 256, 3), 90, dtype=np.uint8), guesses, right)


def drawn(path: Path, *entries: Entry) -> tuple[list[str], str]:
    panel.check(path, len(entries))
    panel.draw(path, entries)
    text = path.read_text()
    return re.findall(r"<text[^>]*>([^<]*)</text>", text), text


def test_the_right_class_is_marked_where_it_is_known(tmp_path: Path) -> None:
    words, text = drawn(tmp_path / "p.svg", entry("x/1.jpg", "cockroach"), entry("x/2.jpg"))
    assert [word for word in words if "cockroach" in word] == ["cockroach", "✓ cockroach", "cockroach"]
    assert "2.jpg" in words and "1.jpg" not in words, "a file is named where the class is not known"
    assert words.count("55 %") == words.count("1 %") == 2
    assert (text.lower().count(f"fill: {RIGHT.lower()}"), text.lower().count(f"fill: {OTHER.lower()}")) == (1, 9)


def test_a_bar_is_as_long_as_its_share(tmp_path: Path) -> None:
    _, text = drawn(tmp_path / "p.svg", entry("1.jpg", "mite"))
    ends = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: (?:{RIGHT}|{OTHER})', text, re.I)
    assert len(ends) == 5
    widths = []
    for path in ends:
        across = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", path)]
        widths.append(max(across) - min(across))
    assert np.allclose(np.array(widths) / widths[0], [share / 0.55 for _, share in GUESSES], atol=0.01)


def test_names_out_of_data_stay_text(tmp_path: Path) -> None:
    odd = [("$x^2$", 0.5), ("<script>&", 0.3), ("\x1b[31m", 0.1), ("ein sehr langer Name einer Klasse", 0.1)]
    words, text = drawn(tmp_path / "p.svg", entry("a\nb.jpg", None, odd))
    assert "$x^2$" in words and "<script>" not in text and "&lt;script&gt;&amp;" in words
    assert "\x1b" not in text and any(word.endswith("…") for word in words)


def test_two_classes_and_many_pictures(tmp_path: Path) -> None:
    panel.draw(tmp_path / "p.png", [entry(f"{n}.jpg", "a", [("a", 0.9), ("b", 0.1)]) for n in range(9)])
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    panel.draw(tmp_path / "again.png", [entry(f"{n}.jpg", "a", [("a", 0.9), ("b", 0.1)]) for n in range(9)])
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "again.png").read_bytes()


@pytest.mark.parametrize(("name", "count"), [("p.png", 49), ("p.jpg", 1), ("p", 1)])
def test_what_cannot_be_drawn_is_refused_before_the_work(tmp_path: Path, name: str, count: int) -> None:
    with pytest.raises(AlexNetError):
        panel.check(tmp_path / name, count)
