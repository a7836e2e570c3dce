"""A web server for the tests: it serves a folder with ranges and validators, and misbehaves when it is told to."""

import hashlib
import re
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Trick = Callable[["Handler", bytes], None]


@dataclass(frozen=True)
class Asked:
    name: str
    range: str | None
    headers: dict[str, str]


class Server(ThreadingHTTPServer):
    """What it was asked for is in `asked`, and how many bytes of each file it sent in `sent`.

    Each of the `tricks` for a name is played once, in place of the usual answer; that of `always` if none is left.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ended = folder, threading.Event()
        self.asked: list[Asked] = []
        self.sent: Counter[str] = Counter()
        self.tricks: dict[str, deque[Trick]] = defaultdict(deque)
        self.always: dict[str, Trick] = {}
        self.ranges = self.validators = self.conditions = True
        self.password: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, name: str) -> int:
        return sum(asked.name == name for asked in self.asked)

    def shards(self) -> Counter[str]:
        """How often each shard was asked for."""
        return Counter(asked.name for asked in self.asked if asked.name.endswith(".tar"))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early is no error here."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        server, name = self.server, self.path.partition("?")[0].strip("/")
        server.asked.append(Asked(name, self.headers.get("Range"), dict(self.headers)))
        path = server.folder / name
        if server.tricks[name]:
            server.tricks[name].popleft()(self, path.read_bytes() if path.is_file() else b"")
        elif name in server.always:
            server.always[name](self, path.read_bytes() if path.is_file() else b"")
        elif not path.is_file():
            self.send_error(404)
        else:
            self.usual(path.read_bytes())

    def usual(self, data: bytes, shift: int = 0) -> None:
        start, tag = self.start_of(data), tag_of(data)
        if start:
            self.head(206, len(data) - start, tag, f"bytes {start + shift}-{len(data) - 1}/{len(data)}")
        else:
            self.head(200, len(data), tag)
        self.body(data[start:])

    def start_of(self, data: bytes) -> int:
        found = re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range", tag_of(data))
        unchanged = condition in (tag_of(data), MODIFIED) or not self.server.conditions
        return int(found[1]) if found and self.server.ranges and unchanged else 0

    def head(self, status: int, length: int, tag: str = "", content_range: str = "", **more: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if tag and self.server.validators:
            self.send_header("ETag", tag)
            self.send_header("Last-Modified", MODIFIED)
        if content_range:
            self.send_header("Content-Range", content_range)
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self, data: bytes) -> None:
        self.server.sent[self.path.partition("?")[0].strip("/")] += len(data)
        self.wfile.write(data)


MODIFIED = formatdate(1348963200, usegmt=True)


def tag_of(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:12]}"'


def status(code: int, **headers: str) -> Trick:
    def trick(handler: Handler, _: bytes) -> None:
        handler.head(code, 0, **headers)

    return trick


def cut(after: int) -> Trick:
    """All is announced, and the connection ends `after` so many bytes of it."""

    def trick(handler: Handler, data: bytes) -> None:
        start, tag = handler.start_of(data), tag_of(data)
        whole = f"bytes {start}-{len(data) - 1}/{len(data)}"
        handler.head(206 if start else 200, len(data) - start, tag, whole if start else "")
        handler.body(data[start : start + after])

    return trick


def stall(after: int) -> Trick:
    def trick(handler: Handler, data: bytes) -> None:
        cut(after)(handler, data)
        handler.wfile.flush()
        handler.server.ended.wait(20)

    return trick


def slow(handler: Handler, data: bytes) -> None:
    time.sleep(0.05)
    handler.usual(data)


def another_range(handler: Handler, data: bytes) -> None:
    """It begins seven bytes later than was asked for, and says so."""
    handler.usual(data, shift=7)


def first(change: Callable[[], object]) -> Trick:
    """Something happens, then comes the usual answer, of what is there by then."""

    def trick(handler: Handler, _: bytes) -> None:
        change()
        handler.usual((handler.server.folder / handler.path.strip("/")).read_bytes())

    return trick
