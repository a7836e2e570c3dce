"""In other numbers, in parts, without what stands still: the same training."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alexnet_cli import runs
from alexnet_cli.engine import arithmetic, optimizer
from alexnet_cli.engine import checkpoint as checkpoints
from alexnet_cli.engine.arithmetic import Scaling
from alexnet_cli.engine.optimizer import Row
from alexnet_cli.engine.placed import Placed
from alexnet_cli.runs import Precision

from .on_ranks import on_ranks
from .same import STEPS, assert_same, assert_same_tensors, metrics, state

Run = Callable[..., Any]


def assert_close(run: Path, other: Path) -> None:
    """To rounding: 1e-4 of the largest number of each tensor."""
    ours, theirs = state(run)[0], state(other)[0]
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert (ours[name] - theirs[name]).abs().max() <= 1e-4 * theirs[name].abs().max(), name
    losses = [[line["loss"] for line in metrics(folder) if line["kind"] == "step"] for folder in (run, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# --- in parts


def test_a_batch_in_parts_is_the_same_batch(train: Run) -> None:
    """The last of the epoch too, of five pictures in seven rows."""
    train("--max-steps", 7, "--name", "whole").succeeded()
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        cut = arithmetic.parts

        def watched(*given: Any) -> Any:
            for part, context in cut(*given):
                seen.append(len(part.pixels))
                yield part, context

        patch.setattr("alexnet_cli.engine.loop.parts", watched)
        train("--max-steps", 7, "--accumulate", 7, "--name", "parts").succeeded()
    assert seen == [1] * 49
    assert_close(Path("runs/parts"), Path("runs/whole"))


def test_two_ranks_in_parts_are_the_same_too(train: Run, net: tuple[str, ...], place: Path) -> None:
    train("--batch-size", 8, "--max-steps", 3, "--name", "alone").succeeded()
    options = ("train", *net, "--set", "patience=1", "--device", "cpu", "--max-steps", "3", "--accumulate", "2")
    assert on_ranks(2, *options, "--name", "both") == [0, 0]
    assert_close(place / "runs" / "both", Path("runs/alone"))


def test_parts_must_be_equal(train: Run) -> None:
    train("--accumulate", 3).failed("a batch has 7 pictures, which are not 3 equal parts", "take one of 7")
    train("--accumulate", 3, "--batch-size", 12, "--device", "cpu", "--max-steps", 1).succeeded()
    assert [path.name for path in Path("runs").iterdir()] == ["small-1"], "nothing is left of what was refused"


# --- as it began


def test_a_run_goes_on_as_it_was_begun(train: Run) -> None:
    begun = ("--accumulate", 7, "--deterministic")
    train(*begun, "--max-steps", 4, "--name", "whole").succeeded()
    train(*begun, "--max-steps", 2, "--name", "parts").succeeded()
    machine = runs.open_run(Path("runs/parts")).config.machine
    assert (machine.accumulate, machine.deterministic, machine.compiled) == (7, True, False)
    torch.use_deterministic_algorithms(False)
    outcome = train("--max-steps", 4, "--name", "parts").succeeded()
    assert torch.are_deterministic_algorithms_enabled() and "began " not in outcome.err
    assert_same(Path("runs/parts"), Path("runs/whole"))
    train("--max-steps", 1, "--name", "other").succeeded()
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_is_computed_otherwise_is_said(train: Run) -> None:
    train("--max-steps", 2).succeeded()
    outcome = train("--accumulate", 7, "--max-steps", 3).succeeded()
    assert "the run began with accumulate = 1 and goes on with 7: equal to rounding" in outcome.err


def test_a_run_from_before_there_were_these_choices_goes_on(train: Run, whole: Path) -> None:
    train("--max-steps", 4).succeeded()
    path = Path("runs/small-1/config.json")
    stored = runs.read_json(path)
    for name in ("accumulate", "compiled", "deterministic"):
        del stored["config"]["machine"][name]
    runs.write_json(path, stored)
    train("--max-steps", STEPS).succeeded()
    assert_same(Path("runs/small-1"), whole)


# --- numbers


def test_scaling_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside torch.amp.GradScaler, over gradients that overflow now and then."""
    monkeypatch.setattr(arithmetic, "GROWTH_STEPS", 5)
    theirs, ours = torch.amp.GradScaler("cpu", growth_interval=5), Scaling()
    weight = nn.Parameter(torch.zeros(()))
    sgd = torch.optim.SGD([weight], lr=1.0)
    generator, skipped = torch.Generator().manual_seed(4), 0
    for _ in range(200):
        finite = bool(torch.rand((), generator=generator) < 0.9)
        theirs.scale(torch.ones(()))
        weight.grad = torch.tensor(1.0 if finite else float("inf"))
        before = weight.item()
        theirs.step(sgd)
        theirs.update()
        skipped += weight.item() == before
        ours = ours.after(finite)
        assert ours.scale == theirs.get_scale() and ours.skipped == skipped
    assert 5 < skipped < 40


def scaled(run: Path, scale: float) -> None:
    """Let the run go on with another scale."""
    made = checkpoints.load(run / "last.safetensors")
    position = replace(made.position, scaling=Scaling(scale))
    checkpoints.save(run / "last.safetensors", replace(made, position=position))


def test_fp16_leaves_out_what_overflows_and_goes_on_bit_equal(train: Run) -> None:
    half = ("--precision", "fp16")
    for name, pauses in (("whole", (2, 9)), ("parts", (2, 4, 9))):
        said = ""
        for steps in pauses:
            said += train(*half, "--name", name, "--max-steps", steps).succeeded().err
            if steps == 2:
                scaled(Path("runs", name), 2.0**22)
        assert "step 3 left out: its gradients overflow fp16 at scale 4.1943e+06" in said
    assert_same(Path("runs/parts"), Path("runs/whole"))
    _, facts = state(Path("runs/whole"))
    left_out = [line["step"] for line in metrics(Path("runs/whole")) if line.get("gradient", 1) is None]
    assert left_out and facts["scaling"]["skipped"] == len(left_out) < 7
    assert facts["scaling"]["scale"] == 2.0 ** (22 - len(left_out))


def test_fp16_is_near_fp32(train: Run) -> None:
    losses, lengths = [], []
    for precision in ("fp32", "fp16", "bf16"):
        train("--precision", precision, "--name", precision, "--max-steps", 3).succeeded()
        lines = [line for line in metrics(Path("runs", precision)) if line["kind"] == "step"]
        losses.append([line["loss"] for line in lines])
        lengths.append([line["gradient"] for line in lines])
    assert losses[1] == pytest.approx(losses[0], rel=5e-3) and losses[1] != losses[0]
    assert lengths[1] == pytest.approx(lengths[0], rel=5e-2), "of the gradient without its scale"
    assert losses[2] == pytest.approx(losses[0], rel=5e-2) and losses[2] != losses[1]


def test_gradients_that_overflow_at_any_scale_stop_it(train: Run) -> None:
    train("--precision", "fp16", "--max-steps", 2).succeeded()
    scaled(Path("runs/small-1"), 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Placed, "gradient_square", lambda _: torch.tensor(float("inf")))
        outcome = train("--precision", "fp16", "--max-steps", 3)
    outcome.failed("the gradients became infinite or no numbers at step 3", "--precision fp32")
    assert state(Path("runs/small-1"))[1]["steps"] == 2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_half_is_emulated_where_onednn_leaves_it_alone(
    precision: Precision, capfd: pytest.CaptureFixture[str]
) -> None:
    """By what oneDNN itself says of a convolution, or says nothing."""
    maps, kernels = (
        torch.ones(shape, dtype=arithmetic.HALVES[precision]) for shape in ((2, 8, 9, 9), (8, 8, 3, 3))
    )
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON), torch.no_grad():
        torch.conv2d(maps, kernels)
    assert arithmetic.emulated(precision, "cpu") == (",convolution," not in capfd.readouterr().out)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON), torch.no_grad():
        torch.conv2d(maps.float(), kernels.float())
    assert ",convolution," in capfd.readouterr().out and not arithmetic.emulated("fp32", "cpu")
    assert not arithmetic.emulated(precision, "cuda")


def test_a_half_without_instructions_is_said(train: Run, alexnet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    doctor = ("doctor", "--recipe", "small", "--set", "width=0.05", "--set", "batch_size=8", "--precision", "bf16")
    said = "torch has no quick bf16 on this processor"
    for without in (False, True):
        if without:
            monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
            monkeypatch.setattr(torch.ops, "mkldnn", object())  # as on macOS
        emulated = arithmetic.emulated("bf16", "cpu")
        assert emulated or not without
        outcome = train("--precision", "bf16", "--max-steps", 1, "--new").succeeded()
        assert (said in outcome.err) == emulated
        assert (said in alexnet(*doctor).out) == emulated
    assert said not in train("--max-steps", 1, "--new").succeeded().err


def test_tf32_is_cudas(train: Run) -> None:
    train("--precision", "tf32", "--device", "cpu").failed("only CUDA GPUs have it, and this is the CPU", "bf16")
    assert not Path("runs").exists()


def test_a_scaled_gradient_moves_as_the_plain_one() -> None:
    """A power of two is multiplied and divided without rounding."""
    plain, other = (nn.Linear(5, 3) for _ in range(2))
    other.load_state_dict(plain.state_dict())
    table = {"weight": Row(0.01, 0.0005), "bias": Row(0.02, 0.0)}
    for kind in ("rate-inside", "rate-outside"):
        for model, scale in ((plain, 1.0), (other, 65536.0)):
            generator = torch.Generator().manual_seed(1)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator) * scale
            optimizer.update(model, optimizer.still(model), table, 0.9, kind, scale)
        assert_same_tensors(dict(other.named_parameters()), dict(plain.named_parameters()))


# --- what stands still

FROZEN = ("--recipe", "original", "--set", "width=0.05", "--set", "conv1_freeze=1", "--set", "biased=")


def test_what_stands_still_gets_no_gradient_and_nothing_else_changes(train: Run) -> None:
    train(*FROZEN, "--name", "frozen", "--max-steps", 9).succeeded()
    seen = []
    with pytest.MonkeyPatch.context() as patch:

        def watched(placed: Placed, _: Any) -> bool:
            seen.append(all(p.requires_grad for p in placed.model.parameters()))
            return False

        patch.setattr(Placed, "freeze", watched)
        train(*FROZEN, "--name", "in vain", "--max-steps", 9).succeeded()
    assert seen == [True] * 9
    ours, theirs = (state(Path("runs", name))[0] for name in ("frozen", "in vain"))
    assert_same_tensors(ours, theirs)


def test_freezing_is_by_rate_and_at_least_something_moves() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    still, moving = Row(0.0, 0.0), Row(0.1, 0.0)
    names = [name for name, _ in model.named_parameters()]

    def asked() -> list[str]:
        return [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    table = {name: still if name.startswith("a.") else moving for name in names}
    assert optimizer.freeze(model, table) and asked() == ["b.weight", "b.bias"]
    assert not optimizer.freeze(model, table)
    assert optimizer.freeze(model, dict.fromkeys(names, still)) and asked() == names


def test_two_ranks_freeze_together(train: Run, place: Path) -> None:
    """DistributedDataParallel waits for the gradients that it was told of: it is told anew."""
    train(*FROZEN, "--batch-size", 8, "--name", "alone", "--max-steps", 7).succeeded()
    options = ("train", *FROZEN, "--batch-size", "8", "--set", "patience=1", "--device", "cpu", "--max-steps", "7")
    assert on_ranks(2, *options, "--name", "both") == [0, 0]
    assert_close(place / "runs" / "both", Path("runs/alone"))


# --- compiled


def test_without_a_compiler_it_is_said(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    outcome = train("--compile", "--device", "cpu", "--max-steps", 1)
    outcome.failed("there is no C++ compiler no-such-compiler here", "leave it out")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's own, while it compiles
def test_a_compiled_run_compiles_once_and_goes_on_bit_equal(train: Run, whole: Path) -> None:
    """Through short batches, validations and a pause."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    train("--compile", "--name", "straight", "--max-steps", STEPS).succeeded()
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert runs.open_run(Path("runs/straight")).config.machine.compiled
    for steps in (5, 12, STEPS):
        torch._dynamo.reset()
        train("--name", "parts", "--max-steps", steps, *(("--compile",) if steps == 5 else ())).succeeded()
    assert_same(Path("runs/parts"), Path("runs/straight"))
    assert_close(Path("runs/parts"), whole)
    logging.getLogger("torch").setLevel(logging.WARNING)
