"""The two towers on two devices are the plain net: the same numbers, each part where it belongs."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from alexnet_cli.engine import traffic
from alexnet_cli.errors import AlexNetError
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.towers import Towers
from alexnet_cli.recipes import Network, Recipe, chosen

CPU = torch.device("cpu")
CLASSES = 7
SMALL = ["network.width=0.05"]

RECIPES = (
    *("paper", "original", "paper+six-conv", "paper+no-lrn", "paper+four-layer"),
    *("network.exchange=false", "network.without=conv3", "network.without=conv1"),
    *("network.dropout_of=inputs", "network.bottleneck=64"),
)


def recipe(name: str) -> Recipe:
    return chosen("paper", [*SMALL, name]) if "=" in name else chosen(name, SMALL)


def plain(net: Network, device: str = "cpu") -> AlexNet:
    with torch.device(device):
        model = AlexNet(net, CLASSES)
    if device == "cpu":
        initialise(model, net, 1)
    return model


def batch(net: Network) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, net.crop, net.crop, generator=generator).double() * 50
    mask6, mask7 = ((torch.rand(3, n, generator=generator) > 0.5).double() for n in net.mask_widths)
    return pixels, (mask6, mask7), torch.tensor([0, 3, 6])


@pytest.mark.parametrize("name", RECIPES)
def test_outputs_and_gradients_are_the_plain_nets(name: str) -> None:
    net = recipe(name).network
    model = plain(net).double()
    towers = Towers(model, net, [CPU, CPU], "contiguous")
    pixels, masks, labels = batch(net)
    outputs = []
    for each in (model.train(), towers.train()):
        outputs.append(each(pixels, masks))
        F.cross_entropy(outputs[-1], labels).backward()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(towers.eval()(pixels), model.eval()(pixels), rtol=1e-12, atol=1e-12)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        together = torch.full_like(parameter, torch.nan)
        for block in towers.blocks:
            own = dict(block.module.named_parameters())
            if name in own:
                together[block.places[name]] = own[name].grad
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(together, parameter.grad, rtol=1e-10, atol=1e-12 * max(scale, 1e-3))


@pytest.mark.parametrize("name", ["paper", "paper+six-conv", "network.exchange=false"])
def test_what_crosses_is_what_was_counted_beforehand(name: str) -> None:
    chosen = recipe(name)
    towers = Towers(plain(chosen.network), chosen.network, [CPU, CPU], "contiguous")
    pixels, (mask6, mask7), labels = batch(chosen.network)
    F.cross_entropy(towers(pixels.float(), (mask6.float(), mask7.float())), labels).backward()
    crossed = towers.link.exchanged()
    assert crossed["forward"] == crossed["backward"]
    assert sum(crossed.values()) == traffic.towers(traffic.shapes(chosen, CLASSES), len(labels))


def test_of_the_papers_net_a_picture_has_a_quarter_megabyte_cross_over() -> None:
    """conv3 sees 256 maps of 13×13, fc6 9216, fc7 and fc8 4096 inputs: each half goes to the other tower."""
    expected = 256 * 13 * 13 + 9216 + 4096 + 4096 + 500
    assert traffic.towers(traffic.shapes(chosen("paper", []), 1000), 1) == 2 * 4 * expected


def gradients(root: Tensor) -> Iterator[tuple[torch.autograd.graph.Node, tuple[Tensor | None, ...]]]:
    """The backward pass node by node, as autograd's engine goes: that one refuses devices which are not there."""
    order: list[torch.autograd.graph.Node] = []

    def visit(node: torch.autograd.graph.Node) -> None:
        if node not in order:
            for following, _ in node.next_functions:
                if following is not None:
                    visit(following)
            order.append(node)

    assert root.grad_fn is not None
    visit(root.grad_fn)
    given: dict[tuple[torch.autograd.graph.Node, int], Tensor] = {(root.grad_fn, 0): torch.ones_like(root)}
    for node in reversed(order):
        own = [given.get((node, place)) for place in range(1 + max((p for n, p in given if n is node), default=0))]
        results = node.apply(*own) if hasattr(node, "apply") else node(*own)
        results = results if isinstance(results, tuple) else (results,)
        yield node, results
        for (following, place), gradient in zip(node.next_functions, results, strict=False):
            if following is not None and gradient is not None:
                if hasattr(following, "variable"):  # what was added to many rows
                    gradient = gradient.sum_to_size(following.variable.shape)
                before = given.get((following, place))
                given[following, place] = gradient if before is None else before + gradient


def test_each_part_lies_and_works_on_its_own_device() -> None:
    """A CPU has no numbered devices: torch's fake tensors stand in for two, and refuse to be mixed."""
    net = recipe("paper").network
    first, second = (torch.device("cuda", n) for n in (0, 1))
    seen: dict[str, set[torch.device]] = {}
    with FakeTensorMode():
        towers = Towers(plain(net, "cuda:0"), net, [first, second], "contiguous")
        for tower, device in enumerate((first, second)):
            for part in (towers.halves[tower], towers.others[tower]):
                assert {parameter.device for parameter in part.parameters()} == {device}
                for name, module in part.named_modules():
                    module.register_forward_hook(
                        lambda _module, inputs, output, key=f"{name} {tower}": seen.setdefault(key, set()).update(
                            {x.device for x in (*inputs, output) if isinstance(x, Tensor)}
                        )
                    )
        masks = tuple(torch.ones(2, n, device=first) for n in net.mask_widths)
        logits = towers(torch.randn(2, 3, net.crop, net.crop, device=first), masks)
        assert logits.device == first and logits.shape == (2, CLASSES)
        layers = [key for key in seen if key.startswith(("conv", "fc", "norm", "pool"))]
        assert len(layers) == 2 * (8 + 2 + 1)  # eight layers, two normalizations and the pooling
        assert all(seen[key] == {(first, second)[int(key[-1])]} for key in layers)
        for _node, results in gradients(logits.sum()):
            assert {gradient.device for gradient in results if gradient is not None} <= {first, second}
        for tower, device in enumerate((first, second)):
            for part in (towers.halves[tower], towers.others[tower]):
                for name, parameter in part.named_parameters():
                    assert parameter.grad is not None and parameter.grad.device == device, name
    crossed = towers.link.exchanged()
    assert crossed["forward"] == crossed["backward"] > 0


@pytest.mark.parametrize(
    ("name", "assignments", "message", "hint"),
    [
        ("torchvision", [], "has one tower", "--parallel data"),
        ("text", [], "normalizes across the maps of both towers", "normalization.across=tower"),
        ("paper", ["network.towers=4"], "has 4 towers", "paper"),
    ],
)
def test_a_net_without_two_halves_is_refused(name: str, assignments: list[str], message: str, hint: str) -> None:
    net = chosen(name, [*SMALL, *assignments]).network
    with pytest.raises(AlexNetError) as caught:
        Towers(plain(net), net, [CPU, CPU], "contiguous")
    assert message in caught.value.message and hint in caught.value.hint


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_two_gpus_it_is_the_plain_net() -> None:
    net = chosen("paper", ["network.width=0.5"]).network
    model = plain(net).cuda(0).train()
    towers = Towers(model, net, [torch.device("cuda", 0), torch.device("cuda", 1)], "contiguous").train()
    pixels, masks, labels = batch(net)
    for _ in range(20):  # a copy that is read too soon would not show each time
        outputs = []
        for each in (model, towers):
            each.zero_grad()
            logits = each(pixels.float().cuda(0), tuple(mask.float().cuda(0) for mask in masks))
            F.cross_entropy(logits, labels.cuda(0)).backward()
            outputs.append(logits)
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            for block in towers.blocks:
                own = dict(block.module.named_parameters())
                if name in own:
                    there = parameter.grad[block.places[name]].cpu()
                    torch.testing.assert_close(own[name].grad.cpu(), there, rtol=1e-3, atol=1e-5)
