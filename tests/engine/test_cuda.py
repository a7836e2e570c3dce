"""What only a CUDA GPU can show: `pytest -m cuda`. Nobody has run these yet (docs/unverified.md)."""

from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet_cli import recipes
from alexnet_cli.engine import optimizer
from alexnet_cli.loading import augmentation
from alexnet_cli.network.alexnet import AlexNet, initialise

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("crops", ["random", "resized"])
def test_a_batch_is_cut_to_the_same_bits_as_on_the_host(crops: Literal["random", "resized"]) -> None:
    pictures = torch.randint(0, 256, (16, 3, 256, 256), dtype=torch.uint8)
    mean, noise = torch.rand(3, 1, 1) * 255, torch.randn(16, 3)
    views = augmentation.training_views(recipes.Augmentation(crops=crops), 1, 0, np.arange(16), 224)
    there = augmentation.cut(
        pictures.cuda(), augmentation.Patches(224, mean.cuda()).divided(1.1), views, noise.cuda()
    )
    here = augmentation.cut(pictures, augmentation.Patches(224, mean).divided(1.1), views, noise)
    assert torch.equal(there.cpu(), here)


def test_one_update_is_that_of_the_cpu_to_tolerance_and_twice_the_same() -> None:
    here, there, again = (_updated(device) for device in ("cpu", "cuda", "cuda"))
    for name, weight in here.items():
        torch.testing.assert_close(there[name], weight, rtol=1e-4, atol=1e-5)
        assert torch.equal(there[name], again[name])


def _updated(device: str) -> dict[str, torch.Tensor]:
    recipe = recipes.small()
    model = AlexNet(recipe.network, 10)
    initialise(model, recipe.network, 1)
    model.to(device).train()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(8, 3, 224, 224, generator=generator) * 50
    masks = tuple(
        (torch.rand(8, n, generator=generator) > 0.5).float().to(device) for n in recipe.network.widths[-2:]
    )
    loss = F.cross_entropy(model(pixels.to(device), masks), torch.arange(8, device=device))
    loss.backward()
    velocity = optimizer.still(model)
    optimizer.update(model, velocity, optimizer.rows(velocity, recipe.optimizer, 0.01), 0.9)
    return {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
