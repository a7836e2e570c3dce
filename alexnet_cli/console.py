"""Everything that is shown. stdout is the result, stderr the conversation; of several ranks only the first talks.

What comes from data (names of classes and files) is never read as markup, and its control characters are shown
as escapes, so that no file name can write to the terminal's controls.
"""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, Group

LOG_SECONDS = 5.0
"""Between two lines of progress in a log file."""
RATE_WINDOW = 30.0
"""Seconds over which a rate is taken."""


def _quiet() -> bool:
    return os.environ.get("RANK", "0") != "0"


def _console(stderr: bool) -> "Console":
    """One console for each stream, so that what is said while a bar is shown goes above it."""
    return _made(stderr, _quiet())


@lru_cache
def _made(stderr: bool, quiet: bool) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, quiet=quiet, emoji=False, markup=False)


def escaped(text: object) -> str:
    """The text with control characters visible: \\x1b instead of an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def note(text: str) -> None:
    _console(stderr=True).print(_lines(text), soft_wrap=True)


def warn(text: str) -> None:
    _console(stderr=True).print(f"warning: {_lines(text)}", style="yellow", soft_wrap=True)


def command(text: str) -> None:
    """A command line as one would type it."""
    _console(stderr=True).print(f"\n$ {_lines(text)}", style="bold", soft_wrap=True)


def error(message: str, hint: str) -> None:
    """Shown by any rank: what goes wrong in one may not be known to the first."""
    from rich.text import Text

    console = _made(stderr=True, quiet=False)
    console.print(Text.assemble(("error: ", "bold red"), _lines(message)), soft_wrap=True)
    if hint:
        console.print(Text.assemble(("hint: ", "bold"), _lines(hint)), soft_wrap=True)


def _lines(text: str) -> str:
    return "\n".join(escaped(line) for line in text.split("\n"))


def result(text: str) -> None:
    if not _quiet():
        print(_lines(text), flush=True)  # at once, for whoever reads a stream of them


def result_json(value: Any) -> None:
    if not _quiet():
        print(json.dumps(value, indent=2, allow_nan=False))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> None:
    """A table on stdout; the columns whose numbers are in `right` are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, show_header=any(columns), pad_edge=False)
    for place, name in enumerate(columns):
        number = place in right  # which is never broken: the names beside it are
        grid.add_column(escaped(name), justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(escaped(cell)) for cell in row))
    console = _console(stderr=False)
    if title:
        console.print(Text(escaped(title), style="bold"))
    console.print(grid)


def bars(title: str, rows: Iterable[tuple[str, float]]) -> None:
    """Shares of 1 as horizontal bars, on stdout."""
    from rich.text import Text

    width = 24
    cells = []
    for name, share in rows:
        filled = round(share * width * 2)  # half blocks
        bar = "█" * (filled // 2) + "▌" * (filled % 2)
        cells.append((name, Text(bar.ljust(width), style="cyan"), f"{100 * share:.1f} %"))
    table(title, ("", "", ""), cells, right=(2,))


class Progress:
    """A bar with rate and time left on a terminal, a line every few seconds in a log."""

    def __init__(self, verb: str, total: int, unit: str) -> None:
        self.verb, self.total, self.unit = verb, total, unit
        self.done, self.text = 0, ""
        self.left: float | None = None
        self._marks: deque[tuple[float, int]] = deque()
        self._logged = time.monotonic()
        self._show: Any = None

    def update(self, done: int, text: str = "", left: float | None = None) -> None:
        """`text` stands beside the bar; after `left` seconds it ends, if the rate does not say sooner."""
        now = time.monotonic()
        self.done, self.text, self.left = done, text, left
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_WINDOW:
            self._marks.popleft()
        if self._show is not None:
            self._show(self._rendered())
        elif now - self._logged >= LOG_SECONDS:
            self._logged = now
            note(self._line())

    def _rate(self) -> float:
        (then, before), (now, done) = self._marks[0], self._marks[-1]
        return (done - before) / (now - then) if now > then else 0.0

    def _facts(self) -> str:
        rate, parts = self._rate(), [f"{self.done:,}/{self.total:,} {self.unit}"]
        if rate > 0:
            parts.append(f"{rate:.{0 if rate >= 20 else 2}f}/s")
            left = (self.total - self.done) / rate
            parts.append(f"{duration(left if self.left is None else min(left, self.left))} left")
        return "  ".join(parts)

    def _line(self) -> str:
        percent = 100 * self.done / max(1, self.total)
        return f"{self.verb} {percent:3.0f} %  {self._facts()}  {self.text}".rstrip()

    def _rendered(self) -> "Group":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1), expand=False)
        bar = ProgressBar(max(1, self.total), self.done, width=20)
        grid.add_row(Text(self.verb), bar, Text(self._facts(), no_wrap=True))
        return Group(grid, Text("  " + self.text, style="dim")) if self.text else Group(grid)


@contextmanager
def progress(verb: str, total: int, unit: str) -> Iterator[Progress]:
    state = Progress(verb, total, unit)
    if _quiet() or not sys.stderr.isatty():
        yield state
        if state.done:
            note(state._line())
        return
    from rich.live import Live

    with Live(console=_console(stderr=True), refresh_per_second=8, transient=True) as live:
        state._show = live.update
        yield state


def duration(seconds: float) -> str:
    """1:05:09, 5:09 or 0:09."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
