"""Settings by dotted name: reading `--set key=value`, and the differences between two recipes."""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from alexnet_cli.errors import AlexNetError

T = TypeVar("T")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting of nested dataclasses by its dotted name, in the order of definition."""
    result: dict[str, Any] = {}
    for item in fields(config):
        value, name = getattr(config, item.name), prefix + item.name
        result |= flat(value, name + ".") if is_dataclass(value) else {name: value}
    return result


def nested(config: Any) -> dict[str, Any]:
    """The same as plain dicts and lists, for JSON."""
    values = ((item.name, getattr(config, item.name)) for item in fields(config))
    return {name: nested(v) if is_dataclass(v) else list(v) if isinstance(v, tuple) else v for name, v in values}


def restored(kind: type[T], values: dict[str, Any]) -> T:
    """The dataclass of type `kind` from what `nested` gave; an unknown key is an error.

    So is a missing one without a default. A setting that has since been added is by default as it was before.
    """
    hints = get_type_hints(kind)
    needed = {item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING}  # type: ignore[arg-type]
    if odd := sorted((set(values) - set(hints)) | (needed - set(values))):
        raise AlexNetError(
            f"the stored settings do not fit this version: {', '.join(odd)}",
            "they were written by another version of alexnet-cli",
        )
    return kind(**{name: _restored_value(hints[name], value) for name, value in values.items()})


def _restored_value(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        return restored(kind, value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value


def changed(config: T, assignments: Iterable[str]) -> T:
    """`config` with each `key=value` applied; the value must have the type of the setting."""
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise AlexNetError(f"--set {assignment}: there is no '='", "write --set key=value")
        config = _changed_one(config, _full_key(config, key.strip()), value.strip())
    return config


def _full_key(config: Any, key: str) -> str:
    """The dotted name that `key` means: itself, or the only setting that ends with it."""
    known = flat(config)
    endings = [name for name in known if name == key or name.endswith("." + key)]
    if len(endings) == 1:
        return endings[0]
    if endings:
        raise AlexNetError(f"--set {key} could mean {' or '.join(endings)}", "write the whole name")
    by_leaf = {name.rpartition(".")[2]: name for name in known} | {name: name for name in known}
    nearest = difflib.get_close_matches(key, by_leaf, n=1, cutoff=0.0)[0]
    raise AlexNetError(
        f"there is no setting '{key}'",
        f"the nearest is {by_leaf[nearest]}; `alexnet train --print-config` lists them all",
    )


def _changed_one(config: Any, key: str, value: str) -> Any:
    head, _, rest = key.partition(".")
    if rest:
        return replace(config, **{head: _changed_one(getattr(config, head), rest, value)})
    return replace(config, **{head: _parsed(get_type_hints(type(config))[head], value, key)})


def _parsed(kind: Any, value: str, key: str) -> Any:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise AlexNetError(f"--set {key}={value}: not a choice", f"it is one of {', '.join(get_args(kind))}")
        return value
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return tuple(_parsed(item, part.strip(), key) for part in value.strip("()[]").split(",") if part.strip())
    if kind is str:
        return value
    try:
        return _READERS[kind](value)
    except (ValueError, KeyError):
        raise AlexNetError(f"--set {key}={value}: not {_NOUNS[kind]}", f"give {_NOUNS[kind]}") from None


def _finite(value: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _truth(value: str) -> bool:
    return {"true": True, "false": False}[value.lower()]


_NOUNS = {int: "a whole number", float: "a number", bool: "true or false"}
_READERS: dict[Any, Callable[[str], Any]] = {int: int, float: _finite, bool: _truth}


def differences(ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name, our value, their value) of each setting in which two configurations of one type differ."""
    others = flat(theirs)
    for name, value in flat(ours).items():
        if value != others[name]:
            yield name, value, others[name]
