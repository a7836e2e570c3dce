"""Layouts: the maps lie as asked, and nothing else changes."""

import pytest
import torch
from torch import Tensor

from alexnet_cli import recipes
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.layout import LAYOUTS, lay_out
from alexnet_cli.runs import Layout

NET = recipes.chosen("paper", ["network.width=0.125"]).network


def built(layout: Layout) -> AlexNet:
    model = AlexNet(NET, 10)
    initialise(model, NET, seed=1)
    lay_out(model, layout)
    return model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_maps_lie_as_asked(layout: Layout) -> None:
    model, seen = built(layout), []
    for name in ("conv2", "conv5"):
        getattr(model, name).register_forward_hook(lambda _m, _i, maps: seen.append(maps))
    model.eval()(torch.randn(1, 3, 224, 224))
    assert all(maps.is_contiguous() == (layout == "contiguous") for maps in seen)
    weights = [model.conv1.weight.is_contiguous(), model.conv2.weight.is_contiguous()]
    assert weights == [layout != "channels-last"] * 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_gradients_are_the_same(layout: Layout) -> None:
    def computed(model: AlexNet) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        pixels = torch.randn(2, 3, 224, 224, generator=generator, dtype=torch.float64) * 50
        masks = [
            (torch.rand(2, w, generator=generator, dtype=torch.float64) > 0.5).double() for w in NET.mask_widths
        ]
        logits = model.double().train()(pixels, (masks[0], masks[1]))
        logits.sin().sum().backward()
        return [logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    for ours, plain in zip(computed(built(layout)), computed(built("contiguous")), strict=True):
        assert torch.allclose(ours, plain, rtol=1e-9, atol=1e-12 * plain.abs().max().item())


def test_the_names_of_the_weights_stay() -> None:
    assert [*built("after-conv1").state_dict()] == [*built("contiguous").state_dict()]
