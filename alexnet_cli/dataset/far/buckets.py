"""Files of buckets, through fsspec and the library that it has for each kind: s3fs, gcsfs.

Keys, endpoints and regions are those libraries' business: https://filesystem-spec.readthedocs.io, "Configuration".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alexnet_cli.dataset.far import answers
from alexnet_cli.dataset.far.address import Address
from alexnet_cli.dataset.far.answers import Answer, Contradiction, Passing, Refusal, Version

RANGE = 8 << 20
"""Bytes asked for at once."""

LIBRARIES = {"s3": "s3fs", "gs": "gcsfs"}
ANONYMOUS = {"s3": "FSSPEC_S3_ANON=true", "gs": "FSSPEC_GS_TOKEN=anon"}
_TAGS, _TIMES = ("ETag", "etag", "generation"), ("LastModified", "updated", "mtime", "created")


def answered(address: Address, at: int, before: Version) -> Answer:
    """As `web.answered`."""
    files, path = _files(address)
    with _troubles(address):
        facts = files.info(path)
    version = Version(int(facts["size"]), _first(facts, _TAGS), _first(facts, _TIMES))
    start = place = 0 if version.differs(before) else at

    def read() -> bytes:
        nonlocal place
        end = min(place + RANGE, version.length or 0)
        if place >= end:
            return b""
        with _troubles(address):
            data = bytes(files.cat_file(path, start=place, end=end))
        if len(data) != end - place:
            raise Contradiction(f"asked for {end - place} bytes, it answered with {len(data)}")
        place = end
        return data

    return Answer(version, start, read, lambda: None)


def _first(facts: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((str(facts[name]) for name in names if facts.get(name)), "")


def _files(address: Address) -> tuple[Any, str]:
    """fsspec's file system for the bucket, which it makes once, and the path in it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(address.url, use_listings_cache=False, **_time_outs(address.scheme))  # type: ignore[no-any-return]
    except ImportError as error:
        scheme = address.scheme  # which is the name of the extra too
        hint = f"pip install 'alexnet-cli[{scheme}]'"
        raise Refusal(f"{scheme}:// needs the package {LIBRARIES[scheme]}", hint) from error


def _time_outs(scheme: str) -> dict[str, Any]:
    """What each library has for our time-out, beside what the user configured."""
    if scheme == "s3":
        from fsspec.config import conf

        ours = {"connect_timeout": answers.TIME_OUT, "read_timeout": answers.TIME_OUT}
        return {"config_kwargs": ours | conf.get("s3", {}).get("config_kwargs", {})}
    if scheme == "gs":
        try:
            from aiohttp import ClientTimeout
        except ImportError:  # then gcsfs is not there either
            return {}
        return {"requests_timeout": ClientTimeout(None, sock_connect=answers.TIME_OUT, sock_read=answers.TIME_OUT)}
    return {}


@contextmanager
def _troubles(address: Address) -> Iterator[None]:
    """Turn what goes wrong on the way into what it means for another try."""
    try:
        yield
    except FileNotFoundError as error:
        hint = "name the folder that has manifest.json in it, and look whether all of the dataset was copied there"
        raise Refusal("it is not there", hint) from error
    except PermissionError as error:
        raise Refusal(f"you may not read it: {error}", _rights(address.scheme)) from error
    except Exception as error:  # the libraries have many kinds, and none in common
        said = str(error).partition("\n")[0] or type(error).__name__
        if "Credentials" in type(error).__name__:
            raise Refusal(f"there are no keys for it: {said}", _rights(address.scheme)) from error
        if said.startswith("Forbidden"):  # as gcsfs has it
            raise Refusal(f"you may not read it: {said}", _rights(address.scheme)) from error
        raise Passing(said) from error


def _rights(scheme: str) -> str:
    return f"set up keys as {LIBRARIES[scheme]} wants them, or for a public bucket {ANONYMOUS[scheme]}"
