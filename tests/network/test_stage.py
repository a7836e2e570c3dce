"""ReLU, normalization and pooling in one go against the three layers one after the other."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_cli import recipes
from alexnet_cli.network import lrn, stage
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.lrn import LocalResponseNorm
from alexnet_cli.network.stage import rectified_normalized_pooled

OVERLAPPING, HANGING_OVER = nn.MaxPool2d(3, 2), nn.MaxPool2d(2, 2, ceil_mode=True)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    monkeypatch.setattr(lrn, "PIECES_PER_THREAD", 1)
    monkeypatch.setattr(lrn, "PIECE_ELEMENTS", 1)  # a picture each
    yield request.param
    torch.set_num_threads(before)


def maps(batch: int, channels: int, side: int, dtype: torch.dtype, form: torch.memory_format) -> Tensor:
    """A third of them positive, and the first picture has whole windows without any."""
    generator = torch.Generator().manual_seed(batch)
    x = (torch.randn(batch, channels, side, side, generator=generator) - 0.4) * 80
    x[:1, :, : side // 2] = -x[:1, :, : side // 2].abs()
    return x.to(dtype).contiguous(memory_format=form)


def norm(alpha: float = 1e-4, beta: float = 0.75) -> LocalResponseNorm:
    return LocalResponseNorm(5, alpha, beta, 2.0, 2)


def one_by_one(x: Tensor, norm: LocalResponseNorm, pool: nn.MaxPool2d) -> Tensor:
    pooled: Tensor = pool(norm(F.relu(x)))
    return pooled


def both(way: Any, x: Tensor, norm: LocalResponseNorm, pool: nn.MaxPool2d) -> tuple[Tensor, Tensor]:
    """What comes out, and the gradient of a random weighting of it."""
    given = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = way(given, norm, pool)
    weighting = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(x.dtype)
    y.backward(weighting.contiguous(memory_format=lrn.memory_format(x)))
    assert given.grad is not None and torch.equal(given, x)
    return y.detach(), given.grad


@pytest.mark.parametrize("pool", [OVERLAPPING, HANGING_OVER], ids=["overlapping", "hanging over"])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_it_is_the_three_layers_bit_for_bit(
    batch: int, dtype: torch.dtype, form: torch.memory_format, pool: nn.MaxPool2d, threads: int
) -> None:
    x = maps(batch, 16, 13, dtype, form)
    found, expected = both(rectified_normalized_pooled, x, norm(), pool), both(one_by_one, x, norm(), pool)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert found[0].stride() == expected[0].stride() and found[1].stride() == x.stride()
    assert (expected[0] == 0).any() and expected[1].count_nonzero() > x.numel() / 20
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("pictures", [0.1, 2, 3])
def test_pieces_of_any_size_leave_nothing_out(pictures: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x = maps(7, 16, 13, torch.float32, torch.channels_last)
    expected = both(one_by_one, x, norm(), OVERLAPPING)
    monkeypatch.setattr(lrn, "PIECE_ELEMENTS", pictures * x[0].numel())
    found = both(rectified_normalized_pooled, x, norm(), OVERLAPPING)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_the_papers_two_layers() -> None:
    for channels, side in ((96, 55), (256, 27)):
        x = maps(3, channels, side, torch.float32, torch.channels_last)
        found = both(rectified_normalized_pooled, x, norm(), OVERLAPPING)
        expected = both(one_by_one, x, norm(), OVERLAPPING)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)], ids=str)
def test_half_precision_is_rounded_once(dtype: torch.dtype, rounding: float) -> None:
    """With values of ±300, whose squares float16 does not hold."""
    x = (maps(4, 16, 13, torch.float32, torch.channels_last) * 2).clamp(-300, 300).to(dtype)
    y, gradient = both(rectified_normalized_pooled, x, norm(), OVERLAPPING)
    assert y.dtype == gradient.dtype == dtype
    full = both(one_by_one, x.float(), norm(), OVERLAPPING)[0]
    assert torch.equal(y, full.to(dtype))
    weighting = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    given = x.double().requires_grad_()
    one_by_one(given, norm(), OVERLAPPING).backward(weighting.double())
    # float64 may find another maximum among values that float32 rounds to one: too few to count.
    close = torch.isclose(gradient.double(), given.grad, rtol=1.01 * rounding, atol=1e-6)
    assert close.double().mean() > 0.999


@pytest.mark.parametrize("layer", ["norm", "pool"])
@pytest.mark.parametrize("before", [False, True], ids=["forward hook", "forward pre-hook"])
def test_hooks_on_the_layers_see_what_they_would_see(layer: str, before: bool) -> None:
    x, normalization, pool, seen = (
        maps(2, 8, 7, torch.float32, torch.channels_last),
        norm(),
        nn.MaxPool2d(3, 2),
        [],
    )
    hooked = {"norm": normalization, "pool": pool}[layer]
    if before:
        hooked.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    else:
        hooked.register_forward_hook(lambda _, _given, result: seen.append(result))
    y = rectified_normalized_pooled(x.clone(), normalization, pool)
    assert torch.equal(y, one_by_one(x, norm(), OVERLAPPING)) and len(seen) == 1
    normalized = norm()(F.relu(x))
    sights = {"norm": (F.relu(x), normalized), "pool": (normalized, y)}
    assert torch.equal(seen[0], sights[layer][not before])


@pytest.mark.parametrize("kind", ["full_backward_hook", "full_backward_pre_hook"])
def test_hooks_on_the_way_back_are_called(kind: str) -> None:
    normalization, seen = norm(), []
    getattr(normalization, f"register_{kind}")(lambda *given: seen.append(given))
    x = maps(2, 8, 7, torch.float32, torch.channels_last).requires_grad_()
    rectified_normalized_pooled(x * 1, normalization, OVERLAPPING).sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_two_threads_work_in_the_mode_of_their_caller(mode: Any, threads: int) -> None:
    x = maps(5, 16, 13, torch.float32, torch.channels_last)
    expected = one_by_one(x, norm(), OVERLAPPING)
    with mode():
        y = rectified_normalized_pooled(x * 1, norm(), OVERLAPPING)
    assert torch.equal(y, expected) and y.is_inference() == (mode is torch.inference_mode)
    assert torch.get_num_threads() == threads


def test_no_pictures_are_none() -> None:
    x = torch.zeros(0, 16, 13, 13, requires_grad=True)
    y = rectified_normalized_pooled(x * 1, norm(), OVERLAPPING)
    y.sum().backward()
    assert y.shape == (0, 16, 6, 6) and x.grad is not None and x.grad.shape == x.shape


def test_a_net_in_training_takes_it_and_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net = recipes.chosen("paper", ["network.width=0.125", "network.hidden=64"]).network
    model = AlexNet(net, 10)
    initialise(model, net, 3)
    pixels = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(4)) * 60
    masks = tuple((torch.rand(3, n) > 0.5).float() for n in net.mask_widths)
    taken: list[object] = []
    apply = stage._Stage.apply

    def noted(*given: Any) -> Any:
        taken.append(given[1])
        return apply(*given)

    def pass_through() -> list[Tensor]:
        model.zero_grad()
        logits = model(pixels, (masks[0], masks[1]))
        logits.square().sum().backward()
        return [logits.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    monkeypatch.setattr(stage._Stage, "apply", noted)
    found = pass_through()
    assert taken == [model.norm1, model.norm2]
    for layer in (model.norm1, model.norm2):
        layer.register_forward_hook(lambda *_: None)
    assert all(map(torch.equal, found, pass_through())) and len(taken) == 2


def test_what_is_no_number_stays_none() -> None:
    """In the gradient it may reach more places: units that ReLU holds back are 0 times it, not left out."""
    x = maps(2, 16, 13, torch.float32, torch.channels_last)
    x[1, 3, 6, 6] = torch.nan
    (y, gradient), (expected, other) = both_with_nan(rectified_normalized_pooled, x), both_with_nan(one_by_one, x)
    assert expected.isnan().any() and torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.nan_to_num(), expected.nan_to_num())
    assert other.isnan().any() and gradient[other.isnan()].isnan().all() and not gradient[0].isnan().any()


def both_with_nan(way: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    given = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = way(given, norm(), OVERLAPPING)
    y.sum().backward()
    assert given.grad is not None
    return y.detach(), given.grad
