"""safetensors files that are filled row by row, for results that need not fit into memory.

The format (github.com/huggingface/safetensors) is the length of a header in 8 bytes, the header in JSON, and the
tensors one after the other; spaces may follow the JSON.
"""

import json
import math

from alexnet_cli.errors import AlexNetError

BYTES = {"F32": 4, "I64": 8}
LIMIT = 100_000_000
"""Bytes of a header: safetensors opens no file with more."""

Table = dict[str, tuple[str, tuple[int, ...]]]
"""Name of each tensor, its kind and its shape, in the order of the file."""


def header(tensors: Table, metadata: dict[str, str], room: int = 0) -> bytes:
    """What stands before the tensors, at least `room` bytes."""
    table: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, (kind, shape) in tensors.items():
        start, end = end, end + BYTES[kind] * math.prod(shape)
        table[name] = {"dtype": kind, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(table).encode()
    if len(text) + 8 > LIMIT:
        raise AlexNetError(
            f"the pictures' names take {len(text) / 1e6:,.0f} MB, and a safetensors file has room for "
            f"{LIMIT / 1e6:,.0f} MB before its tensors",
            "give fewer pictures at once, or name them by shorter paths",
        )
    length = max(room - 8, -(-len(text) // 8) * 8)  # so that the tensors are aligned
    return length.to_bytes(8, "little") + text.ljust(length)
