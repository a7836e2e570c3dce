"""Where a far dataset lies: its URL, taken apart, and never shown with what may be secret in it."""

import re
from dataclasses import dataclass, field, replace
from typing import NoReturn
from urllib.parse import quote, unquote, urlsplit

from alexnet_cli.errors import AlexNetError

WEB, BUCKETS = ("https", "http"), ("s3", "gs")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WITHIN = "/%:@!$&'()*+,;=~-._"  # what a path may have unquoted


@dataclass(frozen=True)
class Address:
    """A folder or a file; as a string it has neither user nor password nor query, where keys are given too."""

    scheme: str
    host: str
    path: str
    query: str = field(default="", repr=False)
    credentials: str = field(default="", repr=False)
    """user:password"""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}" + ("?…" if self.query else "")

    @property
    def url(self) -> str:
        """For a request: with the query, without the credentials."""
        return f"{self.scheme}://{self.host}{self.path}" + (f"?{self.query}" if self.query else "")

    def file(self, name: str) -> "Address":
        """The file of that bare name in this folder; a query goes along, since keys to a folder are in it."""
        return replace(self, path=f"{self.path.rstrip('/')}/{name}")


def is_far(place: str) -> bool:
    return _URL.match(place) is not None


def address(place: str) -> Address:
    """Take a URL apart; raises AlexNetError for one that no dataset can be read from."""
    try:
        parts = urlsplit(place)
        host = parts.hostname or ""
        host = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port is not None else "")
    except ValueError:  # it quotes what it does not understand, a password say
        _refuse(f"{place.partition('://')[0]}://", "this is no URL: write https://HOST/PATH")
    if parts.scheme not in (*WEB, *BUCKETS):
        _refuse(f"{parts.scheme}://", "a dataset is read from a folder, or from https://, http://, s3:// or gs://")
    if not host:
        _refuse(f"{parts.scheme}://", "name the host or bucket: https://HOST/PATH, s3://BUCKET/PATH")
    credentials = unquote(parts.netloc.rpartition("@")[0])
    if parts.scheme in BUCKETS:
        if credentials:
            _refuse(f"{parts.scheme}://…@{host}", "keys to a bucket come from its library's configuration")
        host = parts.netloc  # names of buckets may have capitals
    return Address(parts.scheme, host, quote(parts.path, _WITHIN), parts.query, credentials)


def _refuse(what: str, hint: str) -> NoReturn:
    raise AlexNetError(f"--data {what}: no dataset can be read from there", hint)


def without_secrets(word: str) -> str:
    """A word of a command line as it may be shown or stored."""
    option, equals, place = word.rpartition("=") if word.startswith("--") else ("", "", word)
    if not is_far(place):
        return word
    try:
        return f"{option}{equals}{address(place)}"
    except AlexNetError:
        return f"{option}{equals}{place.partition('://')[0]}://…"
