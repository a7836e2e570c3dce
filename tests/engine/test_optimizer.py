"""The paper's update against a float64 loop over single numbers, and torch's against torch's own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alexnet_cli import recipes
from alexnet_cli.engine import optimizer
from alexnet_cli.engine.optimizer import Kind, Row, rows, still, update

RATES = (0.01, 0.01, 0.001, 0.001, 0.0001)  # two drops
KINDS: tuple[Kind, ...] = ("rate-inside", "rate-outside")


def layer() -> nn.ModuleDict:
    """One full layer, whose parameters are fc.weight and fc.bias."""
    generator = torch.Generator().manual_seed(1)
    made = nn.ModuleDict({"fc": nn.Linear(4, 3)}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=generator)
    return made


def give_gradients(model: nn.Module, step: int) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return {name: p.grad.numpy().copy() for name, p in model.named_parameters()}


def give_nothing(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)


def numbers(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("recipe", [recipes.paper(), recipes.text()], ids=lambda recipe: recipe.name)
def test_several_steps_with_drops_of_the_rate_are_the_printed_formula(recipe: recipes.Recipe) -> None:
    model = layer()
    velocity = still(model)
    w = numbers(dict(model.named_parameters()))
    v = {name: np.zeros_like(weights) for name, weights in w.items()}
    for step, rate in enumerate(RATES):
        gradients = give_gradients(model, step)
        update(model, velocity, rows(velocity, recipe.optimizer, rate), recipe.optimizer.momentum)
        for name in w:
            decay = 0.0 if name == "fc.bias" and recipe.name == "paper" else 0.0005
            for place in np.ndindex(w[name].shape):
                v[name][place] = (
                    0.9 * v[name][place] - decay * rate * w[name][place] - rate * gradients[name][place]
                )
                w[name][place] += v[name][place]
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), w[name], rtol=1e-13)
        np.testing.assert_allclose(velocity[name].numpy(), v[name], rtol=1e-13, atol=1e-17)


def test_a_drop_of_the_rate_leaves_what_the_velocity_holds() -> None:
    """Without a gradient and decay the weights go on by 0.9 of the last step; torch's SGD would take a tenth."""
    model = layer()
    velocity = still(model)
    give_gradients(model, 0)
    update(model, velocity, dict.fromkeys(velocity, Row(0.01, 0.0)), 0.9)
    first, before = velocity["fc.weight"].clone(), model.fc.weight.detach().clone()
    give_nothing(model)
    update(model, velocity, dict.fromkeys(velocity, Row(0.001, 0.0)), 0.9)
    assert torch.equal(velocity["fc.weight"], first * 0.9)
    assert torch.equal(model.fc.weight, before + first * 0.9)


def test_at_one_rate_it_is_torchs_sgd() -> None:
    ours, theirs = layer(), layer()
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    velocity = still(ours)
    for step in range(5):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        update(ours, velocity, rows(velocity, recipes.text().optimizer, 0.01), 0.9)
        sgd.step()
    assert torch.allclose(ours.fc.weight, theirs.fc.weight, rtol=1e-13, atol=0)
    assert torch.allclose(ours.fc.bias, theirs.fc.bias, rtol=1e-13, atol=0)


def test_with_the_rate_outside_it_is_torchs_sgd_through_every_drop() -> None:
    recipe = recipes.torchvision().optimizer
    ours, theirs = layer(), layer()
    sgd = torch.optim.SGD(theirs.parameters(), lr=1.0, momentum=recipe.momentum, weight_decay=recipe.decay)
    velocity = still(ours)
    for step, rate in enumerate(RATES):
        for model in (ours, theirs):
            give_gradients(model, step)
        for group in sgd.param_groups:
            group["lr"] = rate
        update(ours, velocity, rows(velocity, recipe, rate), recipe.momentum, recipe.velocity)
        sgd.step()
        for name, parameter in theirs.named_parameters():
            assert torch.equal(ours.get_parameter(name), parameter)
            assert torch.equal(velocity[name], sgd.state[parameter]["momentum_buffer"])


def test_the_two_kinds_differ_after_a_drop_only() -> None:
    """Then torch's goes on by a tenth of what the velocity holds, the paper's by all of it."""
    inside, outside = layer(), layer()
    velocities = still(inside), still(outside)
    for step, rate in enumerate((0.01, 0.001)):
        for model, velocity, kind in zip((inside, outside), velocities, KINDS, strict=True):
            give_gradients(model, 0) if step == 0 else give_nothing(model)
            update(model, velocity, dict.fromkeys(velocity, Row(rate, 0.0)), 0.9, kind)
        if step == 0:
            assert torch.allclose(inside.fc.weight, outside.fc.weight, rtol=1e-13)
    held = velocities[0]["fc.weight"]
    assert torch.allclose(inside.fc.weight - outside.fc.weight, held - held / 10, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_of_0_skips_a_parameter_with_its_decay_and_momentum(kind: Kind) -> None:
    model = layer()
    velocity = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    before = numbers(dict(model.named_parameters()))
    give_gradients(model, 0)
    update(model, velocity, {"fc.weight": Row(0.0, 0.0005), "fc.bias": Row(0.01, 0.0005)}, 0.9, kind)
    assert np.array_equal(model.fc.weight.detach().numpy(), before["fc.weight"])
    assert torch.equal(velocity["fc.weight"], torch.ones(3, 4, dtype=torch.float64))
    assert not np.array_equal(model.fc.bias.detach().numpy(), before["fc.bias"])


def test_a_frozen_parameter_needs_no_gradient() -> None:
    model = layer()
    update(model, still(model), dict.fromkeys(("fc.weight", "fc.bias"), Row(0.0, 0.0)), 0.9)


def test_gradients_are_spent() -> None:
    model = layer()
    give_gradients(model, 0)
    update(model, still(model), {"fc.weight": Row(0.01, 0.0), "fc.bias": Row(0.0, 0.0)}, 0.9)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", [1, 7, 12, 100])
def test_pieces_and_the_whole_are_bit_equal(piece: int, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(model: nn.Module) -> list[Tensor]:
        velocity = still(model)
        for step in range(3):
            give_gradients(model, step)
            update(model, velocity, rows(velocity, recipes.text().optimizer, 0.01), 0.9, kind)
        return [*model.parameters(), *velocity.values()]

    whole = trained(layer().float())
    monkeypatch.setattr(optimizer, "PIECE", piece)
    assert all(torch.equal(a, b) for a, b in zip(trained(layer().float()), whole, strict=True))


def test_a_convolution_in_channels_last_is_updated_too() -> None:
    """Its gradient comes laid out as its weight is, whatever the layout of the pictures."""
    ours, plain = (nn.Conv2d(3, 4, 3, bias=False, dtype=torch.float64) for _ in range(2))
    ours.load_state_dict(plain.state_dict())
    pictures = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    ours(pictures.contiguous(memory_format=torch.channels_last)).square().sum().backward()
    plain(pictures).square().sum().backward()
    for model in (ours, plain):
        update(model, still(model), {"weight": Row(0.01, 0.0005)}, 0.9)
    assert torch.allclose(ours.weight, plain.weight, rtol=1e-12, atol=1e-14)


def test_rows_give_biases_their_own_rate_and_decay() -> None:
    given = recipes.Optimizer(bias_rate=2.0, decay=0.01, bias_decay=0.5)
    assert rows(["conv1.weight", "conv1.bias"], given, 0.1) == {
        "conv1.weight": Row(0.1, 0.01),
        "conv1.bias": Row(0.2, 0.005),
    }


def test_the_first_velocity_is_0_under_the_parameters_names() -> None:
    found = still(layer())
    assert list(found) == ["fc.weight", "fc.bias"]
    assert not any(velocity.any() for velocity in found.values())
