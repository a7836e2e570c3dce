"""Boxes of pictures resized to patches: antialiased bilinear interpolation, the same bits on any device.

An output is a weighted sum of at most three pixels along an axis. The rows are summed first, then the columns,
one tap after the other; torch's own operator rounds otherwise on each device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = TypeVar("Array", Tensor, NDArray[np.float32])

COUNT = 3
"""Taps of an output: the triangle's base is at most 2 · 256 / 224 pixels wide."""

Sums = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Places and weights, (COUNT, side) each: output n is Σ weight · pixel at place, over the taps."""


@dataclass(frozen=True)
class Taps:
    """Places and weights along one axis for a batch, (B, COUNT, side) each."""

    places: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __iter__(self) -> Iterator[Sums]:
        """Picture by picture."""
        return zip(self.places, self.weights, strict=True)

    def on(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Tap by tap, (B, side) each."""
        places, weights = (torch.from_numpy(v).to(device).unbind(1) for v in (self.places, self.weights))
        return zip(places, weights, strict=True)

    def reversed_where(self, reflected: NDArray[np.bool_]) -> "Taps":
        turned, places, weights = reflected[:, None, None], self.places, self.weights
        return Taps(np.where(turned, places[:, :, ::-1], places), np.where(turned, weights[:, :, ::-1], weights))


def taps(starts: NDArray[np.int64], sizes: NDArray[np.int64], side: int) -> Taps:
    """For boxes of `sizes` pixels from `starts`, (B,): a triangle over each output's centre.

    It reaches as far as one output where the box shrinks, else as one pixel, and not beyond the box.
    """
    sizes = sizes[:, None, None]
    scale = sizes / side
    reach = np.maximum(scale, 1)
    centres = (np.arange(side) + 0.5) * scale
    places = np.floor(centres - reach + 0.5).astype(np.int64) + np.arange(COUNT)[:, None]
    weights = np.maximum(1 - np.abs(places + 0.5 - centres) / reach, 0) * ((places >= 0) & (places < sizes))
    weights /= weights.sum(1, keepdims=True)
    return Taps(starts[:, None, None] + places.clip(0, sizes - 1), weights.astype(np.float32))


def resized(image: NDArray[Any], down: Sums, across: Sums) -> NDArray[np.float32]:
    """Rows of pixels, (height, width · 3) → (side, side · 3) float32."""
    tall = _summed(image[places] * weights[:, None] for places, weights in zip(*down, strict=True))
    return _summed(
        tall.take(_colours(places), axis=1, mode="clip") * weights.repeat(3)
        for places, weights in zip(*across, strict=True)
    )


def _colours(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of pixels in a row, where their three colours are."""
    return (3 * places[:, None] + np.arange(3)).ravel()


def resized_batch(images: Tensor, down: Taps, across: Taps) -> Tensor:
    """The same for (B, 3, height, width), in a few launches."""
    _, maps, _, width = images.shape
    tall = _summed(
        images.gather(2, places[:, None, :, None].expand(-1, maps, -1, width)) * weights[:, None, :, None]
        for places, weights in down.on(images.device)
    )
    return _summed(
        tall.gather(3, places[:, None, None, :].expand(-1, maps, tall.shape[2], -1)) * weights[:, None, None, :]
        for places, weights in across.on(images.device)
    )


def _summed(terms: Iterator[Array]) -> Array:
    total = next(terms)
    for term in terms:
        total += term
    return total
