"""What a server or bucket answers when it is asked for a file from some byte on."""

from collections.abc import Callable
from dataclasses import dataclass

TIME_OUT = 30.0
"""Seconds for a connection to be made, and for the next bytes to arrive."""


@dataclass(frozen=True)
class Version:
    """What tells that a file is another than before; None or "" where it is not said."""

    length: int | None = None
    tag: str = ""
    modified: str = ""

    def differs(self, other: "Version") -> bool:
        if None not in (self.length, other.length) and self.length != other.length:
            return True
        if self.tag and other.tag:
            # nginx calls a tag weak when it compresses; the bytes we ask for are never compressed.
            return self.tag.removeprefix("W/") != other.tag.removeprefix("W/")
        return bool(self.modified and other.modified and self.modified != other.modified)


@dataclass(frozen=True)
class Answer:
    """The bytes of a file from byte `at` on: `read` gives the next ones, none at the end."""

    version: Version
    at: int
    read: Callable[[], bytes]
    close: Callable[[], None]


class Passing(Exception):
    """A failure that may be over at the next try, for which the server asks `wait` seconds of patience."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class Contradiction(Passing):
    """An answer that does not belong to what came before: the file must be read from its start."""


class Changed(Contradiction):
    """Another version than the one that was begun."""

    def __init__(self) -> None:
        super().__init__("it changed while it was read")


class Refusal(Exception):
    """A failure that no other try will mend, and in `hint` what will."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint
