"""What each way of training on several devices sends, and how long its step takes, on the ranks at hand.

A step is forward, loss, backward and update of the paper's net on random pixels, with dropout: what `train` does
less the reading. Beside the ways stands the same step of each process's pictures with nothing exchanged.
"""

import time
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_cli import paper
from alexnet_cli.engine import optimizer
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.placed import Placed
from alexnet_cli.machine import keep_freed_memory
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.layout import lay_out, usual_layout
from alexnet_cli.network.towers import Towers
from alexnet_cli.recipes import Recipe, chosen
from alexnet_cli.runs import Parallel

APART = "nothing exchanged"


@dataclass(frozen=True)
class Row:
    way: str
    ranks: int
    ms: float
    """Of a step, the median of the rounds; of several ranks those of the first."""
    rate: float
    """Pictures a second, over all ranks."""
    sent: float
    """MB for a step: of each process, or from one tower to the other and back."""
    waits: float
    """Share of the time in which arithmetic stands still for the exchange or for a slower process; 0..1."""


def rows(ranks: Ranks, batch: int, width: float, rounds: int, two_gpus: bool) -> list[Row]:
    """Each way that is to be had: towers on the CPU, or where a process has two GPUs."""
    keep_freed_memory()
    recipe = chosen("paper", [f"network.width={width}"])
    alone = Ranks(0, 1, ranks.device)
    ways: list[tuple[str, Parallel, Ranks]] = [(APART, "data", alone)]
    if ranks.size > 1:
        ways += [("data", "data", ranks), ("hybrid", "hybrid", ranks)]
    if two_gpus or ranks.device.type == "cpu":
        ways.append(("towers", "towers", ranks))
    return [_measured(recipe, name, way, among, ranks, batch, rounds) for name, way, among in ways]


def _measured(
    recipe: Recipe, name: str, way: Parallel, among: Ranks, ranks: Ranks, batch: int, rounds: int
) -> Row:
    layout = usual_layout(ranks.device.type)
    model = AlexNet(recipe.network, paper.CLASSES)
    initialise(model, recipe.network, seed=1)
    lay_out(model.to(ranks.device), layout)
    velocity = optimizer.still(model)
    placed = Placed(model, velocity, recipe.network, way, among, layout)
    inputs = _inputs(recipe, -(-batch // ranks.size), ranks.device)
    table = optimizer.rows(velocity, recipe.optimizer, recipe.optimizer.rate)

    def step() -> float:
        ranks.wait()
        start = time.perf_counter()
        pixels, labels, *masks = inputs
        torch.autograd.backward(F.cross_entropy(placed.net(pixels, tuple(masks)), labels))
        placed.update(table, recipe.optimizer)
        if ranks.device.type != "cpu":
            torch.accelerator.synchronize(ranks.device)
        return time.perf_counter() - start

    placed.net.train()
    step()
    among.exchange.watch()
    if isinstance(placed.module, Towers):
        placed.module.watch()
    seconds = [step() for _ in range(rounds)]
    sent = sum(among.exchange.sent.values()) / rounds
    if isinstance(placed.module, Towers):
        sent += sum(placed.module.link.exchanged().values()) / rounds
    taken = median(seconds)
    pictures = len(inputs[0]) * ranks.size
    return Row(name, ranks.size, 1e3 * taken, pictures / taken, sent / 1e6, among.exchange.waited() / sum(seconds))


def _inputs(recipe: Recipe, rows: int, device: torch.device) -> list[Tensor]:
    net = recipe.network
    masks = [(torch.rand(rows, units, device=device) > 0.5).float() for units in net.mask_widths]
    pixels = torch.randn(rows, 3, net.crop, net.crop, device=device) * 50
    return [pixels, torch.arange(rows, device=device) % paper.CLASSES, *masks]
