"""The step on many devices, on paper: from the bytes each way sends, a bandwidth, a latency, one device's speed.

The formulas are few and kind to every way: messages take n/bandwidth and some latencies, the net's gradients go
while the backward pass (two thirds of the work) goes on, and what the layers themselves wait for goes by itself.

    sum over R of n bytes   min(2(R−1)·latency + 2(R−1)/R·n/bandwidth, 2·log2(R)·latency + 2·n/bandwidth)
    data      forward + max(backward, sum of all gradients over R)
    hybrid    forward + max(backward, sum of the convolutions' gradients over R) + maps and units, there and back
    towers    forward + max(backward, sum of half the gradients over R/2) + what crosses in a pair
              (a pair of devices has the pictures of both, and each of them half the net)

What they leave out, the reading of pictures and processes that are not equally fast, is measured by `bench loader`
and said by a training after its first 50 steps.
"""

import math
from dataclasses import dataclass

from alexnet_cli.engine import traffic
from alexnet_cli.engine.traffic import FLOAT, Shape
from alexnet_cli.recipes import chosen

DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TRAINING_PICTURES = 1_281_167  # of ILSVRC-2012
EPOCHS = 90


@dataclass(frozen=True)
class Machine:
    """Of equal devices, each with its own way to the others."""

    rate: float
    """Pictures a second that one device trains on by itself."""
    bandwidth: float
    """Bytes a second that a device sends while it receives as many."""
    latency: float
    """Seconds."""


@dataclass(frozen=True)
class Row:
    way: str
    devices: int
    batch: int
    """Over all devices."""
    ms: float
    speedup: float
    """Over one device with the same batch."""
    sent: float
    """MB of each device for a step."""
    hours: float
    """Of 90 epochs of ILSVRC-2012."""


def rows(machine: Machine, each: int | None = None, batch: int | None = None) -> list[Row]:
    """Every way on 1 to 1,024 devices, with so many pictures each, or in a batch of that size over all."""
    layers = traffic.shapes(chosen("paper", []), 1000)
    found = []
    for devices in DEVICES:
        pictures = batch or (each or 128) * devices
        if pictures < devices:
            break
        for way in ("data", "hybrid", "towers"):
            if devices > 1 or way == "data":
                seconds, sent = _step(machine, layers, way, devices, pictures)
                hours = EPOCHS * math.ceil(TRAINING_PICTURES / pictures) * seconds / 3600
                speedup = pictures / machine.rate / seconds
                found.append(Row(way, devices, pictures, 1e3 * seconds, speedup, sent / 1e6, hours))
    return found


def _step(machine: Machine, layers: list[Shape], way: str, devices: int, pictures: int) -> tuple[float, float]:
    """Seconds, and bytes that each device sends."""
    rows = -(-pictures // devices)
    forward, backward = (part / 3 * rows / machine.rate for part in (1, 2))
    every = FLOAT * sum(layer.parameters for layer in layers)
    if way == "data":
        return forward + max(backward, _sum(machine, every, devices)), traffic.data(layers, devices)
    if way == "hybrid":
        convolutions = FLOAT * sum(layer.parameters for layer in layers if not layer.full)
        sent = traffic.hybrid(layers, devices, rows)
        units = sent - traffic.data([layer for layer in layers if not layer.full], devices)
        exchanges = 4 * sum(layer.full for layer in layers)
        waiting = units / machine.bandwidth + exchanges * math.log2(devices) * machine.latency
        return forward + max(backward, _sum(machine, convolutions, devices)) + waiting, sent
    replicas = devices // 2
    crossing = traffic.towers(layers, 2 * rows) / 2  # each device sends half of it
    meetings = 2 * sum(layer.meets for layer in layers) + 1
    summed = _sum(machine, every // 2, replicas)
    seconds = forward + crossing / machine.bandwidth + meetings * machine.latency + max(backward, summed)
    return seconds, crossing + traffic.data(layers, replicas) / 2


def _sum(machine: Machine, size: float, devices: int) -> float:
    """Seconds in which all devices get the sum of what each has: around a ring, or by a pair of trees."""
    if devices == 1:
        return 0.0
    ring = 2 * (devices - 1) * (machine.latency + size / devices / machine.bandwidth)
    trees = 2 * math.log2(devices) * machine.latency + 2 * size / machine.bandwidth
    return min(ring, trees)
