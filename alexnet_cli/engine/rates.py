"""Rates changed by hand in a run, as the authors changed theirs (§5): `rates.jsonl` in the run directory.

The file is only ever appended to. `alexnet runs set-lr` writes a request, {"divide": 10} or {"to": 0.001}; the
training answers with the step before which it takes effect, {"request": 0, "step": 1200, "drops": 1}. From then on
the change belongs to the run: one that goes on from an earlier checkpoint makes it at the same step again.

This page needs no torch: the command that asks uses it too.
"""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import disk_errors
from alexnet_cli.runs import Run


@dataclass(frozen=True)
class Request:
    """Divide the rate, or set that of the weights to a number: one of the two."""

    divide: float | None = None
    to: float | None = None

    @property
    def words(self) -> str:
        return f"divided by {self.divide:g}" if self.divide is not None else f"set to {self.to:g}"


@dataclass(frozen=True)
class Change:
    """A request and its place: it counts for every step after the first `step` of the run."""

    step: int
    request: Request
    drops: int
    """How often the schedule had divided the rate by then."""


def path(run: Run) -> Path:
    return run.root / "rates.jsonl"


def ask(run: Run, request: Request) -> None:
    """Leave a request for the process that trains the run, now or later."""
    if run.finished():
        raise AlexNetError(f"the run {run.root} is finished: it has no rate any more", "name another run")
    for value in (request.divide, request.to):
        if value is not None and not 0 < value < math.inf:
            raise AlexNetError(f"the rate cannot be {request.words}", "give a number above 0")
    with _locked(path(run)) as file:
        _append(file, {k: v for k, v in asdict(request).items() if v is not None})


def read(run: Run) -> tuple[list[Change], list[Request]]:
    """What has its place, in the order of the steps, and what waits for one."""
    try:
        with path(run).open("rb") as file:
            return _parsed(path(run), file.read())
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise AlexNetError(f"{path(run)} cannot be read: {error.strerror}", "see to its permissions") from error


class Watch:
    """The file as the process that trains sees it."""

    def __init__(self, run: Run) -> None:
        self._run, self._size = run, -1

    def asked(self) -> bool:
        """Whether there is something new in the file; a look at its size is all that this costs each step."""
        try:
            size = path(self._run).stat().st_size
        except OSError:
            return False
        changed, self._size = size != self._size, size
        return changed

    def placed(self, step: int, drops: int) -> list[Change]:
        """Give all that wait the place `step`, on the disk first; all changes of the run."""
        with _locked(path(self._run)) as file:
            changes, waiting = _parsed(path(self._run), file.read())
            for number in range(len(changes), len(changes) + len(waiting)):
                _append(file, {"request": number, "step": step, "drops": drops})
            self._size = file.seek(0, os.SEEK_END)
        return _in_order([*changes, *(Change(step, request, drops) for request in waiting)])


def packed(changes: list[Change]) -> str:
    return json.dumps([asdict(change) for change in changes])


def unpacked(text: str) -> list[Change]:
    return [Change(entry["step"], Request(**entry["request"]), entry["drops"]) for entry in json.loads(text)]


def _parsed(file: Path, data: bytes) -> tuple[list[Change], list[Request]]:
    """Requests are answered in their order, so the first of them are those with a place."""
    requests: list[Request] = []
    places: list[tuple[int, int]] = []
    *lines, _ = data.split(b"\n")  # after the last is nothing, or half a line
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError("it is no request")
            if "request" not in entry:
                requests.append(_request(entry))
            elif entry["request"] != len(places) or len(places) == len(requests):
                raise ValueError("it answers another request")
            else:
                places.append((int(entry["step"]), int(entry["drops"])))
        except (ValueError, TypeError, KeyError) as error:
            raise AlexNetError(
                f"{file} is damaged in line {number}: {error}",
                "it has the rates that were changed by hand; mend that line, or take the file away to do without",
            ) from error
    changes = [Change(step, request, drops) for request, (step, drops) in zip(requests, places, strict=False)]
    return _in_order(changes), requests[len(places) :]


def _request(entry: dict[str, Any]) -> Request:
    request = Request(**{name: float(value) for name, value in entry.items()})
    if (request.divide is None) == (request.to is None) or not 0 < (request.divide or request.to or 0) < math.inf:
        raise ValueError("it is no request")
    return request


def _in_order(changes: list[Change]) -> list[Change]:
    """Of one step, in the order in which they were asked for."""
    return sorted(changes, key=lambda change: change.step)


@contextmanager
def _locked(file: Path) -> Iterator[IO[bytes]]:
    """The file for one who reads and appends, alone; half a line that a kill left is cut off."""
    with disk_errors(file), file.open("ab+") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        opened.seek(0)
        data = opened.read()
        if not data.endswith(b"\n"):
            opened.truncate(data.rfind(b"\n") + 1)
        opened.seek(0)
        yield opened


def _append(file: IO[bytes], entry: dict[str, Any]) -> None:
    file.write(json.dumps(entry).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())
