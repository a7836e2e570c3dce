"""Each way of training on several ranks is that of one: the same maths in float64; and bytes as on paper."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_cli.engine import optimizer, parallel, traffic
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.engine.placed import Placed
from alexnet_cli.engine.schedule import rows
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.recipes import Recipe, chosen
from alexnet_cli.runs import Parallel

from .on_ranks import ended, started

RECIPE = chosen("paper", ["network.width=0.05"])  # 204 units and, below, 7 classes: three ranks have uneven parts
NARROWED = chosen("paper", ["network.width=0.05", "network.bottleneck=440"])  # and 22 linear units before those
FROZEN = chosen("paper", ["network.width=0.05", "frozen=conv1,conv2,conv3,conv4,conv5"])
CLASSES, PICTURES, STEPS = 7, 6, 3
WAYS: dict[str, tuple[Recipe, Parallel]] = {
    "data": (RECIPE, "data"),
    "hybrid": (RECIPE, "hybrid"),
    "hybrid with a bottleneck": (NARROWED, "hybrid"),
    "towers": (RECIPE, "towers"),
    "hybrid with convolutions that stand still": (FROZEN, "hybrid"),
}


def trained(ranks: Ranks, recipe: Recipe, way: Parallel) -> dict[str, Tensor]:
    """Weights and velocity after some steps, the last loss and the gradient's squared length, and bytes sent."""
    net = recipe.network
    model = AlexNet(net, CLASSES)
    initialise(model, net, seed=1)
    velocity = optimizer.still(model.double())
    placed = Placed(model, velocity, net, way, ranks)
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(PICTURES, 3, net.crop, net.crop, generator=generator).double() * 50
    labels = torch.arange(PICTURES)
    mask6, mask7 = ((torch.rand(PICTURES, n, generator=generator) > 0.5).double() for n in net.mask_widths)
    each = PICTURES // ranks.size
    own = slice(ranks.rank * each, (ranks.rank + 1) * each)
    for step in range(STEPS):
        placed.net.train()
        table = rows(velocity, recipe, 0, step, 0)
        placed.freeze(table)
        losses = F.cross_entropy(placed.net(pixels[own], (mask6[own], mask7[own])), labels[own], reduction="sum")
        torch.autograd.backward(losses / PICTURES)
        sums = torch.stack([losses.detach() / PICTURES, placed.gradient_square().double()])
        ranks.summed(sums)
        placed.update(table, recipe.optimizer)
    placed.gather()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    moving = {f"velocity.{name}": tensor for name, tensor in velocity.items()}
    sent = sum(count for what, count in ranks.exchange.sent.items() if what != "numbers")
    return {**weights, **moving, "sums": sums, "sent": torch.tensor(sent)}


def all_ways() -> None:
    ranks = parallel.join("cpu")
    torch.set_num_threads(1)
    for name, (recipe, way) in WAYS.items():
        ranks.exchange.sent.clear()
        torch.save(trained(ranks, recipe, way), f"{name}-{ranks.rank}.pt")
    parallel.leave()


@pytest.fixture(scope="module")
def alone() -> dict[Recipe, dict[str, Tensor]]:
    """What one rank makes of each."""
    here = Ranks(0, 1, torch.device("cpu"))
    return {recipe: trained(here, recipe, "data") for recipe in (RECIPE, NARROWED, FROZEN)}


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_way_is_one_rank_to_fifteen_digits(
    ranks: int, alone: dict[Recipe, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with started(ranks, all_ways) as jobs:
        assert ended(jobs) == [0] * ranks, Path("stderr-0").read_text()
    for case, (recipe, way) in WAYS.items():
        found = [torch.load(f"{case}-{rank}.pt") for rank in range(ranks)]
        for name, there in alone[recipe].items():
            if name != "sent":
                tolerance = 1e-12 if name != "sums" else 1e-6  # lengths are summed in float32
                for here in found:  # the plain net is whole again on every rank
                    scale = float(there.abs().max())
                    torch.testing.assert_close(
                        here[name], there, rtol=0, atol=tolerance * scale, msg=f"{case} {name}"
                    )
        layers = traffic.shapes(recipe, CLASSES)
        hybrid, data = traffic.hybrid(layers, ranks, PICTURES // ranks), traffic.data(layers, ranks)
        if recipe is FROZEN:  # neither gradients of the convolutions nor, going back, of fc6's inputs
            still = [layer for layer in layers if not layer.full]
            hybrid -= traffic.data(still, ranks) + 4 * PICTURES // ranks * (ranks - 1) * layers[5].inputs
        # In float64 twice the bytes of float32; a division is rounded down each time.
        sent = sum(float(here["sent"]) for here in found) / ranks / STEPS / 2
        assert sent == pytest.approx(hybrid if way == "hybrid" else data, rel=1e-3), (
            case
        )  # of towers that between the replicas


def test_of_the_papers_net_hybrid_never_sums_the_fully_connected_layers() -> None:
    layers = traffic.shapes(chosen("paper", []), 1000)
    full = sum(layer.parameters for layer in layers if layer.full)
    assert (full, sum(layer.parameters for layer in layers)) == (58_631_144, 60_965_224)
    assert traffic.data(layers, 2) == 4 * 60_965_224
    # Two ranks with 64 pictures each: inputs and outputs of each layer, there and back, and half of the outputs.
    rows = 64 * (9216 + 4096 + 4096 + (4096 + 4096 + 1000) / 2)
    assert traffic.hybrid(layers, 2, 64) == 4 * (60_965_224 - full) + 2 * 4 * rows
