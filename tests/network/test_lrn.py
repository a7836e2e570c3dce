"""Response normalization: against torch's (alpha times size, a tower at a time), its gradient, its arithmetic."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet_cli.network import lrn
from alexnet_cli.network.lrn import LocalResponseNorm


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def maps(batch: int, channels: int, side: int, scale: float = 60.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 1000 + channels)
    return torch.randn(batch, channels, side, side, generator=generator, dtype=torch.float64).mul(scale).to(dtype)


def torchs(x: Tensor, size: int, alpha: float, beta: float, k: float, towers: int = 1) -> Tensor:
    """torch divides alpha by the window's size; ours multiplies the sum, as printed."""
    norm = nn.LocalResponseNorm(size, alpha * size, beta, k)
    return torch.cat([norm(tower) for tower in x.chunk(towers, 1)], 1)


def difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()).item()


def both(x: Tensor, size: int, alpha: float, beta: float, k: float, towers: int = 1) -> tuple[float, float]:
    """Differences of the outputs and of the gradients from torch's."""
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = LocalResponseNorm(size, alpha, beta, k, towers)(ours)
    expected = torchs(theirs, size, alpha, beta, k, towers)
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    y.backward(gradient)
    expected.backward(gradient)
    assert ours.grad is not None
    assert theirs.grad is not None
    found = difference(y.detach(), expected.detach()), difference(ours.grad, theirs.grad)
    print(f"output {found[0]:.1e}, gradient {found[1]:.1e}")
    return found


@pytest.mark.parametrize("towers", [1, 2, 4])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.3])
@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_it_is_torchs_tower_by_tower(size: int, beta: float, towers: int) -> None:
    assert max(both(maps(2, 16, 5), size, 1e-4, beta, 2.0, towers)) < 1e-13


def by_hand(x: np.ndarray, g: np.ndarray, size: int, alpha: float, beta: float, k: float, towers: int) -> Any:
    """The formulas, map by map: the output, and the gradient of sum(g · output)."""
    y, gradient = np.zeros_like(x), np.zeros_like(x)
    apart = x.shape[1] // towers
    for i in range(x.shape[1]):
        first = i // apart * apart
        around = range(max(first, i - size // 2), min(first + apart, i + size // 2 + 1))
        s = k + alpha * sum(x[:, j] ** 2 for j in around)
        y[:, i] = x[:, i] / s**beta
        gradient[:, i] += g[:, i] / s**beta
        for j in around:
            gradient[:, j] -= 2 * alpha * beta * g[:, i] * x[:, i] * s ** (-beta - 1) * x[:, j]
    return y, gradient


@pytest.mark.parametrize("compiling", [False, True])
@pytest.mark.parametrize("towers", [1, 2])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_formulas(
    form: torch.memory_format, towers: int, compiling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Away from the CPU and compiled, it takes the other road: the plain formulas.
    monkeypatch.setattr(lrn, "by_formula", lambda _: compiling)
    x, g = maps(2, 12, 5).contiguous(memory_format=form), maps(3, 12, 5)[:2]
    given = x.clone().requires_grad_()
    y = LocalResponseNorm(5, 1e-3, 0.75, 2.0, towers)(given)
    y.backward(g)
    expected = by_hand(x.numpy(), g.numpy(), 5, 1e-3, 0.75, 2.0, towers)
    assert difference(y.detach(), torch.from_numpy(expected[0])) < 1e-14
    assert difference(given.grad, torch.from_numpy(expected[1])) < 1e-14
    if not compiling:
        assert y.stride() == given.grad.stride() == x.stride()


def test_a_window_may_be_wider_than_the_tower() -> None:
    assert max(both(maps(2, 4, 5), 9, 1e-4, 0.75, 2.0, 2)) < 1e-13


def test_the_papers_two_layers_in_single_precision() -> None:
    assert max(both(maps(3, 96, 55, dtype=torch.float32), 5, 1e-4, 0.75, 2.0, 2)) < 1e-6
    assert max(both(maps(3, 256, 27, dtype=torch.float32), 5, 1e-4, 0.75, 2.0, 2)) < 1e-6


def test_towers_do_not_see_each_other_and_a_whole_layer_does() -> None:
    x = maps(1, 12, 3)
    changed = x.clone()
    changed[:, 5] *= 2  # the last map of the first tower
    apart, whole = (LocalResponseNorm(5, 1e-4, 0.75, 2.0, towers) for towers in (2, 1))
    assert torch.equal(apart(x)[:, 6:], apart(changed)[:, 6:])
    assert not torch.equal(whole(x)[:, 6:8], whole(changed)[:, 6:8])
    assert torch.equal(whole(x)[:, 8:], whole(changed)[:, 8:])


@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_its_gradient_is_that_of_finite_differences(beta: float) -> None:
    x = maps(2, 8, 2, scale=1.0).requires_grad_()
    assert torch.autograd.gradcheck(LocalResponseNorm(5, 0.3, beta, 2.0, 2), (x,))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_squares_beyond_half_precision_stay_finite_and_close(dtype: torch.dtype, rounding: float) -> None:
    x = (torch.rand(2, 16, 7, 7, generator=torch.Generator().manual_seed(1)) * 600 - 300).to(dtype)
    x[:, :, 0] = 300
    half, full = x.clone().requires_grad_(), x.double().requires_grad_()
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    norm = LocalResponseNorm(5, 1e-4, 0.75, 2.0, 2)
    y, expected = norm(half), norm(full)
    y.backward(gradient)
    expected.backward(gradient.double())
    assert y.dtype == dtype
    assert half.grad is not None
    assert full.grad is not None
    assert torch.isfinite(y).all()
    assert torch.isfinite(half.grad).all()
    # Computed in single precision and rounded once.
    assert torch.allclose(y.double(), expected, rtol=1.01 * rounding, atol=1e-7)
    assert torch.allclose(half.grad.double(), full.grad, rtol=1.01 * rounding, atol=1e-6)


@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_twice_the_same_is_bit_equal(beta: float) -> None:
    results = []
    for _ in range(2):
        x = maps(5, 16, 27, dtype=torch.float32).requires_grad_()
        y = LocalResponseNorm(5, 1e-4, beta, 2.0, 2)(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


# Of torch.use_deterministic_algorithms (2.14): operators without a deterministic form, in their aten names.
NOT_DETERMINISTIC = (
    "adaptive_avg_pool", "adaptive_max_pool", "avg_pool3d_backward", "bincount", "ctc_loss", "cumsum",
    "embedding_bag", "embedding_dense_backward", "fractional_max_pool", "gather", "grid_sampler", "histc", "index",
    "kthvalue", "max_pool", "max_unpool", "median", "multilabel_margin_loss", "nll_loss2d", "put",
    "reflection_pad", "replication_pad", "resize", "scatter", "upsample",
)  # fmt: skip


@pytest.mark.parametrize("by_formula", [False, True])
def test_no_operator_is_on_torchs_list_of_non_deterministic_ones(
    by_formula: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.add(func._schema.name.removeprefix("aten::").lstrip("_"))
            return func(*args, **(kwargs or {}))

    names: set[str] = set()
    monkeypatch.setattr(lrn, "by_formula", lambda _: by_formula)
    with Recorded():
        LocalResponseNorm(5, 1e-4, 0.75, 2.0, 2)(maps(2, 8, 6).requires_grad_()).sum().backward()
    print(sorted(names))
    assert {"rsqrt", "mul", "div"} <= {name.rstrip("_") for name in names}
    assert not [name for name in names if name.startswith(NOT_DETERMINISTIC)]
    norm = nn.LocalResponseNorm(5)
    with Recorded():  # so the test finds what it looks for
        norm(maps(2, 8, 6).requires_grad_()).sum().backward()
    assert [name for name in names if name.startswith(NOT_DETERMINISTIC)] == ["avg_pool3d_backward"]


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_it_compiles_as_one_graph_and_needs_no_compiler_for_that(form: torch.memory_format) -> None:
    norm = LocalResponseNorm(5, 1e-4, 0.75, 2.0, 2)
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    x = maps(2, 8, 6).contiguous(memory_format=form)
    plain, traced = x.clone().requires_grad_(), x.clone().requires_grad_()
    norm(plain).sin().sum().backward()
    compiled(traced).sin().sum().backward()
    assert difference(traced.grad, plain.grad) < 1e-14


def test_autocast_changes_nothing() -> None:
    x = maps(2, 8, 6, dtype=torch.bfloat16)
    norm = LocalResponseNorm(5, 1e-4, 0.75, 2.0, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(x), norm(x.float()).bfloat16())


def test_a_second_derivative_is_refused() -> None:
    x = maps(1, 8, 2).requires_grad_()
    (first,) = torch.autograd.grad(LocalResponseNorm(5, 1e-4, 0.75, 2.0)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_window_without_a_middle_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        LocalResponseNorm(4, 1e-4, 0.75, 2.0)


def test_channels_last_and_strided_inputs_and_gradients_give_the_same() -> None:
    norm, x = LocalResponseNorm(5, 1e-4, 0.75, 2.0, 2), maps(3, 8, 6)
    plain = x.clone().requires_grad_()
    norm(plain).sin().sum().backward()
    wide = torch.zeros(3, 8, 6, 12, dtype=x.dtype)
    wide[..., ::2] = x
    for laid_out in (x.to(memory_format=torch.channels_last), wide[..., ::2]):
        assert not laid_out.is_contiguous()
        given = laid_out.detach().requires_grad_()
        y = norm(given)
        assert torch.equal(y, norm(x))
        y.sin().contiguous(memory_format=torch.channels_last).sum().backward()
        assert torch.equal(given.grad, plain.grad)


@pytest.mark.usefixtures("torch_threads")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_pieces_leave_nothing_out_on_any_number_of_threads(
    batch: int, form: torch.memory_format, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(threads)
    x = maps(batch, 8, 6).contiguous(memory_format=form)
    whole = x.clone().requires_grad_()
    y = LocalResponseNorm(5, 1e-4, 0.75, 2.0, 2)(whole)
    y.square().sum().backward()
    monkeypatch.setattr(lrn, "PIECES_PER_THREAD", 1)
    for pictures in (0.1, 2, 3):
        monkeypatch.setattr(lrn, "PIECE_ELEMENTS", pictures * x[0].numel())
        given = x.clone().requires_grad_()
        z = LocalResponseNorm(5, 1e-4, 0.75, 2.0, 2)(given)
        z.square().sum().backward()
        assert torch.equal(y, z)
        assert torch.equal(whole.grad, given.grad)
        assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("torch_threads")
def test_an_error_in_another_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            failed.set()
            raise ArithmeticError
        failed.wait(10)

    failed = threading.Event()
    torch.set_num_threads(2)
    monkeypatch.setattr(lrn.Workspace, "forward", failing)
    with pytest.raises(ArithmeticError):
        LocalResponseNorm(5, 1e-4, 0.75, 2.0, 2)(maps(8, 96, 55))
    assert torch.get_num_threads() == 2


def test_the_input_is_left_as_it_was() -> None:
    x = maps(2, 8, 6)
    before, given = x.clone(), x.requires_grad_()
    LocalResponseNorm(5, 1e-4, 0.75, 2.0, 2)(given).sum().backward()
    assert torch.equal(given, before)


def test_maps_that_towers_do_not_divide_are_refused() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        LocalResponseNorm(5, 1e-4, 0.75, 2.0, 2)(maps(1, 7, 3))
