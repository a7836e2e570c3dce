"""One file from afar, tried again where it broke off, and checked before anybody reads it."""

import hashlib
import random
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import BinaryIO

from alexnet_cli.dataset.far import buckets, web
from alexnet_cli.dataset.far.address import WEB, Address
from alexnet_cli.dataset.far.answers import Changed, Contradiction, Passing, Refusal, Version
from alexnet_cli.errors import AlexNetError

TRIES = 7
"""In a row that get less than PROGRESS bytes on: a minute of a server that refuses, four of one that stalls."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between two tries: doubled each time, and less by up to a half, so that not all ranks come at once."""
PROGRESS = 1 << 20
NEVER = Event()


@dataclass(frozen=True)
class Expected:
    """What is known of a file before it is fetched: bounds of its length, and its SHA-256 unless it is ""."""

    least: int
    most: int
    sha256: str = ""


class Stopped(Exception):
    """Nobody needs the file any more."""


def fetch(address: Address, file: BinaryIO, expected: Expected, stop: Event = NEVER) -> None:
    """Write the file at `address` into `file`, from its start; it is neither closed nor flushed to disk.

    Raises AlexNetError that names the URL, what happened and how often it was tried, and Stopped.
    """
    copy, failed, furthest = _Copy(file), 0, 0
    try:
        while True:
            try:
                copy.go_on(address, expected, stop)
                break
            except Passing as error:
                failed = failed + 1 if copy.length < furthest + PROGRESS else 1
                furthest = max(furthest, copy.length)
                if isinstance(error, Contradiction):
                    copy.changed |= isinstance(error, Changed)
                    copy.start_over()
                if failed == TRIES:
                    hint = "is the server well, and the network? The same command goes on from what is finished"
                    raise AlexNetError(f"{address} cannot be read: {error}; tried {TRIES} times", hint) from error
                if stop.wait(max(error.wait, _wait(failed))):
                    raise Stopped from None
        copy.check(expected)
    except Refusal as error:
        raise AlexNetError(f"{address} cannot be read: {error}", error.hint) from error


def _wait(failed: int) -> float:
    """Seconds after so many failures in a row."""
    return min(FIRST_WAIT * 2.0 ** (failed - 1), LONGEST_WAIT) * random.uniform(0.5, 1)


class _Copy:
    """What has arrived of a file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.version, self.changed = file, Version(), False
        self.start_over()

    def start_over(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.length, self.digest, self.version = 0, hashlib.sha256(), Version()

    def go_on(self, address: Address, expected: Expected, stop: Event) -> None:
        """Take what follows, as far as it comes."""
        ask = web.answered if address.scheme in WEB else buckets.answered
        with closing(ask(address, self.length, self.version)) as answer:
            if self.length and not answer.at:  # ranges are ignored, or there is another version by now
                self.changed |= answer.version.differs(self.version)
                self.start_over()
            self.version, total = answer.version, answer.version.length
            if total is not None:
                _check_length(total, expected)
            while block := answer.read():
                if stop.is_set():
                    raise Stopped
                if self.length + len(block) > expected.most:
                    _check_length(self.length + len(block), expected)
                self.file.write(block)
                self.digest.update(block)
                self.length += len(block)
        if total is not None and self.length < total:
            raise Passing(f"the connection ended after {self.length:,} of {total:,} bytes")

    def check(self, expected: Expected) -> None:
        _check_length(self.length, expected)
        if expected.sha256 not in ("", self.digest.hexdigest()):
            changed = "it changed while it was read, and " if self.changed else ""
            raise Refusal(f"{changed}its checksum is not the manifest's", AGAIN)


AGAIN = "copy the dataset there again from where it is whole, and start anew when that is done"


def _check_length(length: int, expected: Expected) -> None:
    if not expected.least <= length <= expected.most:
        most = f"{expected.most:,} at most" if length > expected.most else f"{expected.least:,} at least"
        raise Refusal(f"it has {length:,} bytes, and should have {most}", AGAIN)
