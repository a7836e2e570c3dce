"""Every random choice of training, as a pure function of (seed, purpose, epoch, position, unit).

There is no generator and no state: the draw for a place is computed from its coordinates by a 64-bit hash, so
it is the same for any number of ranks, threads or devices and after any resume. `position` is a picture's
place in the epoch's order, `unit` tells several draws for one picture apart.

The hash is the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), applied once for each coordinate.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Purpose = Literal["order", "row", "column", "reflection", "colour", "fc6", "fc7", "area", "ratio", "shards"]

# A purpose is hashed as its number here, so new ones come last.
_PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def bits(
    seed: int, purpose: Purpose, epoch: int, positions: NDArray[np.integer], units: int
) -> NDArray[np.uint64]:
    """Uniform 64-bit words, (positions, units)."""
    key = 0
    for coordinate in (seed, _PURPOSES.index(purpose), epoch):
        key = _mixed_int((key + (coordinate + 1) * _GOLDEN) & _WORD)
    places = (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(key)
    steps = np.arange(1, units + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mixed(_mixed(places)[:, None] + steps)


def uniforms(
    seed: int, purpose: Purpose, epoch: int, positions: NDArray[np.integer], units: int
) -> NDArray[np.float64]:
    """Uniform in [0, 1) with 53 bits, (positions, units)."""
    drawn: NDArray[np.float64] = (bits(seed, purpose, epoch, positions, units) >> np.uint64(11)) * 2.0**-53
    return drawn


def integers(
    seed: int,
    purpose: Purpose,
    epoch: int,
    positions: NDArray[np.integer],
    below: int | NDArray[np.int64],
) -> NDArray[np.int64]:
    """Uniform in 0..below-1, one for each position."""
    return (uniforms(seed, purpose, epoch, positions, 1)[:, 0] * below).astype(np.int64)


def normals(
    seed: int, purpose: Purpose, epoch: int, positions: NDArray[np.integer], units: int
) -> NDArray[np.float64]:
    """Standard normal, (positions, units), by Box and Muller."""
    pairs = uniforms(seed, purpose, epoch, positions, 2 * units)
    radius = np.sqrt(-2.0 * np.log(1.0 - pairs[:, :units]))
    drawn: NDArray[np.float64] = radius * np.cos(2.0 * np.pi * pairs[:, units:])
    return drawn


def kept(
    seed: int, purpose: Purpose, epoch: int, positions: NDArray[np.integer], units: int, dropout: float
) -> NDArray[np.bool_]:
    """Dropout masks, (positions, units): False with probability `dropout`, to the nearest 1/65536.

    Four units share one hashed word, 16 bits each, in little-endian order on any machine.
    """
    words = bits(seed, purpose, epoch, positions, -(-units // 4)).astype("<u8")
    chances: NDArray[np.uint16] = words.view("<u2")[:, :units]
    return chances >= round(dropout * 65536)


def permutation(
    seed: int, epoch: int, count: int, purpose: Purpose = "order", first: int = 0
) -> NDArray[np.int64]:
    """A uniform order of 0..count-1: their indices sorted by a hash of each, at the positions from `first` on."""
    keys = bits(seed, purpose, epoch, np.arange(first, first + count), 1)[:, 0]
    return np.argsort(keys, kind="stable")


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def _mixed_int(x: int) -> int:
    return int(_mixed(np.array([x], dtype=np.uint64))[0])
