"""Files of web servers. The standard library's client leaves every header to us to check.

fsspec's own does not: it takes the whole file for a range where a server ignores ranges.
"""

import base64
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from alexnet_cli import __version__
from alexnet_cli.dataset.far import answers
from alexnet_cli.dataset.far.address import Address
from alexnet_cli.dataset.far.answers import Answer, Changed, Contradiction, Passing, Refusal, Version

BLOCK = 1 << 20
LONGEST_WAIT = 60.0
"""Seconds; a server may ask for more patience than a training has."""

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_BUSY = {408, 425, 429}  # and 500 to 599
_HINTS = {
    401: "name it with the right user and password: https://USER:PASSWORD@HOST/PATH",
    403: "the server lets nobody read it, or not you: are rights, keys and their time right?",
    404: "name the folder that has manifest.json in it, and look whether all of the dataset was copied there",
}


def answered(address: Address, at: int, before: Version) -> Answer:
    """Ask for the file from byte `at` on, which must be of the version `before`.

    The answer begins there, or at byte 0 where the server ignores ranges or has another version by now. Raises
    Passing, Contradiction or Refusal.
    """
    request = Request(address.url, headers={"Accept-Encoding": "identity", "User-Agent": f"alexnet/{__version__}"})
    if address.credentials:  # for this host only: a redirection does not take them along
        encoded = base64.b64encode(address.credentials.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    if at:
        request.add_header("Range", f"bytes={at}-" + (f"{before.length - 1}" if before.length else ""))
        unchanged = before.modified if before.tag.startswith("W/") else before.tag or before.modified
        if unchanged:
            request.add_header("If-Range", unchanged)
    with _troubles():
        response = _opener().open(request, timeout=answers.TIME_OUT)

    def read() -> bytes:
        with _troubles():
            return bytes(response.read1(BLOCK))

    try:
        version, start = _checked(response.status, response.headers, at, before)
    except BaseException:
        response.close()
        raise
    return Answer(version, start, read, response.close)


def _checked(status: int, headers: Message, at: int, before: Version) -> tuple[Version, int]:
    """The version of what comes, and the byte that it begins with."""
    if headers.get("Content-Encoding", "identity") != "identity":
        raise Refusal("the server compresses it on the way", "have it served as it is")
    length, tag, modified = (headers.get(name, "") for name in ("Content-Length", "ETag", "Last-Modified"))
    if status == 200:
        return Version(int(length) if length.isdecimal() else None, tag, modified), 0
    said = headers.get("Content-Range", "")
    found = _RANGE.fullmatch(said)
    if status != 206 or not at or found is None:
        raise Contradiction(f"it answered {status}" + (f" with the range '{said}'" if said else ""))
    first, last, total = int(found[1]), int(found[2]), before.length if found[3] == "*" else int(found[3])
    version = Version(total, tag, modified)
    if version.differs(before):
        raise Changed
    if first != at or (total is not None and last != total - 1):
        raise Contradiction(f"asked for the bytes from {at}, it answered with the range '{said}'")
    return version, first


class _Redirections(HTTPRedirectHandler):
    """Only to the web, and from a secured connection only to another; files the standard library refuses."""

    def redirect_request(
        self, request: Request, file: IO[bytes], code: int, message: str, headers: Any, url: str
    ) -> Request | None:
        scheme = urlsplit(url).scheme
        if scheme != "https" and (scheme, request.type) != ("http", "http"):
            file.close()
            raise Refusal(f"the server redirects to {scheme}://, where we do not follow", "name the place itself")
        further = super().redirect_request(request, file, code, message, headers, url)
        if further is not None and (further.type, further.host) == (request.type, request.host):
            further.unredirected_hdrs.update(request.unredirected_hdrs)
        return further


def _opener() -> OpenerDirector:
    """Made anew each time, since the variables that name proxies may change; with neither files nor FTP."""
    opener = OpenerDirector()
    for handler in (
        *(ProxyHandler(), HTTPHandler(), HTTPSHandler()),
        *(HTTPDefaultErrorHandler(), HTTPErrorProcessor(), _Redirections()),
    ):
        opener.add_handler(handler)
    return opener


@contextmanager
def _troubles() -> Iterator[None]:
    """Turn what goes wrong on the way into what it means for another try."""
    try:
        yield
    except HTTPError as error:
        with error:
            raise _status(error.code, error.reason, error.headers) from None
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
        raise _trouble(cause) from error
    except ValueError as error:  # as of a Location that is no URL
        raise Refusal(f"it cannot be asked for: {error}", "is the URL right?") from error


def _status(code: int, reason: str, headers: Message) -> Passing | Refusal:
    said = f"the server answered {code} {reason}".rstrip()
    if code == 416:  # it is shorter now
        return Changed()
    if code in _BUSY or code >= 500:
        patience = headers.get("Retry-After", "")
        return Passing(said, min(float(patience), LONGEST_WAIT) if patience.isdecimal() else 0.0)
    return Refusal(said, _HINTS.get(code, "open the URL by other means and see what the server says"))


def _trouble(cause: Exception) -> Passing | Refusal:
    if isinstance(cause, ssl.SSLCertVerificationError):
        said = cause.verify_message or cause.reason
        return Refusal(f"the server's certificate is not valid: {said}", "are the server and the clock right?")
    if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME:
        return Refusal("there is no host of that name", "is the URL right, and is there a network?")
    if isinstance(cause, TimeoutError):
        return Passing(f"nothing came for {answers.TIME_OUT:g} s")
    return Passing(getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)
