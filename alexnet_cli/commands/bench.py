"""`alexnet bench`: how fast the parts are on this machine, each next to the plain ways of doing the same."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alexnet_cli import console, paper
from alexnet_cli.options import Device, Gpus, Json, Processes

if TYPE_CHECKING:
    from alexnet_cli.runs import Precision

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Measure the parts on this machine, next to the plain ways of doing the same work.",
)

Batch = Annotated[int, typer.Option(min=1, help="Pictures at once.")]
Width = Annotated[float, typer.Option(min=0.01, max=1, help="Of each layer, beside the paper's.")]
Rounds = Annotated[int, typer.Option(min=1, help="Of which the median counts, after one to warm up.")]
Only = Annotated[
    Literal["fp32", "tf32", "bf16", "fp16"] | None,
    typer.Option("--precision", help="This one alone, not all that suit the device.", show_default=False),
]
Compile = Annotated[bool, typer.Option("--compile", help="Compiled as well: needs a C++ compiler, and minutes.")]


@app.command()
def prepare(
    pictures: Annotated[Path, typer.Argument(help="A folder of pictures.", exists=True, file_okay=False)],
    count: Annotated[int, typer.Option(min=1, help="Pictures to measure on.")] = 300,
    whole: Annotated[
        bool, typer.Option("--whole", help="Instead, thousands of pictures to disk, by one worker and by two.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pictures a second, on one core, from files in memory to stored 256×256 JPEG.

    Example: alexnet bench prepare ~/pictures --count 100
    """
    if whole:
        _whole(pictures, as_json)
        return
    from alexnet_cli.bench.prepare import rows

    found = rows(pictures, count)
    if as_json:
        console.result_json([asdict(row) for row in found])
        return
    cells = [(row.way, f"{row.rate:.0f}", f"{row.ours:.2f}×") for row in found]
    console.table("Preparing, one core", ("way", "pictures/s", "ours is faster by"), cells, right=(1, 2))


def _whole(pictures: Path, as_json: bool) -> None:
    from alexnet_cli.bench.prepare import whole

    found = whole(pictures)
    if as_json:
        console.result_json([asdict(row) for row in found])
        return
    cells = [(row.workers, f"{row.rate:.0f}", f"{row.times:.2f}×") for row in found]
    console.table("Preparing, to disk", ("workers", "pictures/s", "one worker's"), cells, right=(0, 1, 2))


@app.command()
def loader(
    data: Annotated[str, typer.Argument(metavar="DATASET", help="A directory that `prepare` wrote, or its URL.")],
    count: Annotated[int, typer.Option(min=1, help="Pictures to measure on.")] = 2000,
    rounds: Rounds = 3,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Pictures a second out of shards into batches, by one thread and by two, beside the bare decode.

    Example: alexnet bench loader dataset --count 1000
    """
    from alexnet_cli.bench.loader import CONSUMED, bound, rows
    from alexnet_cli.engine import launch

    place = launch.device(device)
    found = rows(data, count, rounds)
    limits = bound(data, count, found, place)
    if as_json:
        verdict = {"by": limits.by, **asdict(limits)}
        console.result_json({"rows": [asdict(row) for row in found], "bound": verdict})
        return
    cells = [(row.way, row.threads, f"{row.rate:.0f}", f"{row.of_bare:.2f}") for row in found]
    console.table("Batches out of shards", ("way", "threads", "pictures/s", "of bare"), cells, right=(1, 2, 3))
    waits = [f"{row.waiting:.1%} of its time ({row.threads})" for row in found if row.waiting is not None]
    console.note(f"what takes {CONSUMED:.0%} of the bare decode's rate waits, by threads: {', '.join(waits)}")
    disk = "not known" if limits.disk is None else f"{limits.disk:.0f}"
    console.note(
        f"a training of the paper's net is bound by the {limits.by} here, in pictures/s: disk {disk}, "
        f"decode and cut {limits.decode:.0f}, {place.type} {limits.device:.0f}"
    )


@app.command()
def lrn(
    batch: Batch = paper.BATCH_SIZE,
    width: Width = 1.0,
    rounds: Rounds = 5,
    precision: Only = None,
    compiled: Compile = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """The first layer's response normalization, forward and backward, beside torch's.

    Example: alexnet bench lrn --precision fp32
    """
    from alexnet_cli.bench.lrn import OURS, rows

    found = rows(*_subject(device, batch, width, rounds, precision, compiled))
    if as_json:
        console.result_json([asdict(row) for row in found])
        return
    cells = [
        (row.precision, row.layout, row.way, f"{row.ms:.1f}", f"{row.faster:.2f}×", f"{row.over_bytes:.2f}×")
        for row in found
    ]
    columns = ("", "layout", "way", "ms", "faster", "of bytes")
    console.table(f"Response normalization, batch {batch}", columns, cells, right=(3, 4, 5))
    console.note(_best(min(found, key=lambda row: (OURS not in row.way, row.ms))))


@app.command()
def step(
    batch: Batch = paper.BATCH_SIZE,
    width: Width = 1.0,
    rounds: Rounds = 3,
    precision: Only = None,
    compiled: Compile = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """A training step of the paper's net, beside the plain way, no normalization, a matrix product: some minutes.

    Example: alexnet bench step --batch 32 --precision bf16
    """
    from alexnet_cli.bench.step import OURS, rows

    found = rows(*_subject(device, batch, width, rounds, precision, compiled))
    if as_json:
        console.result_json([asdict(row) for row in found])
        return
    cells = [
        (
            row.precision, row.layout, row.way, f"{row.rate:.1f}", f"{row.faster:.2f}×", f"{row.over_none:.2f}",
            f"{row.over_roof:.2f}",
        )
        for row in found
    ]  # fmt: skip
    columns = ("", "layout", "way", "pictures/s", "faster", "no LRN", "roof")
    console.table(f"A training step, batch {batch}", columns, cells, right=(3, 4, 5, 6))
    console.note(_best(max(found, key=lambda row: (OURS in row.way, row.rate))))


@app.command()
def parallel(
    batch: Annotated[int | None, typer.Option(min=1, help="Over all processes; 128.", show_default=False)] = None,
    width: Width = 1.0,
    rounds: Rounds = 5,
    device: Device = None,
    gpus: Gpus = None,
    processes: Processes = None,
    towers: Annotated[bool, typer.Option("--towers", help="Two GPUs for each process.")] = False,
    model: Annotated[bool, typer.Option("--model", help="On paper instead: 1 to 1,024 devices.")] = False,
    rate: Annotated[float, typer.Option(min=0.1, help="--model: pictures a second of one device.")] = 3000,
    bandwidth: Annotated[float, typer.Option(min=0.001, help="--model: GB a second of each device.")] = 12.5,
    latency: Annotated[float, typer.Option(min=0, help="--model: microseconds of a message.")] = 20,
    as_json: Json = False,
) -> None:
    """A step of each way of training on several devices: bytes sent and time. --model: 128 pictures for each.

    Example: alexnet bench parallel --device cpu --processes 2 --batch 32
    """
    if model:
        _on_paper(rate, bandwidth, latency, batch, as_json)
        return
    from alexnet_cli.bench.parallel import rows
    from alexnet_cli.engine import launch
    from alexnet_cli.engine import parallel as engine

    place = launch.placement(device, gpus, processes, "towers" if towers else None)
    if place.ranks > 1 and not launch.launched():
        raise typer.Exit(launch.relaunch(place.ranks))
    with engine.joined(place.device, place.each) as ranks:
        found = rows(ranks, batch or paper.BATCH_SIZE, width, rounds, place.each == 2)
    if as_json:
        console.result_json([asdict(row) for row in found])
        return
    cells = [
        (row.way, f"{row.ms:.0f}", f"{row.rate:.1f}", f"{row.sent:.1f}", f"{100 * row.waits:.0f} %")
        for row in found
    ]
    columns = ("way", "ms", "pictures/s", "MB sent", "stands still")
    title = f"A step, batch {batch or paper.BATCH_SIZE}, on {place.said}"
    console.table(title, columns, cells, right=(1, 2, 3, 4))
    console.note(
        "MB sent: by each process, of towers also from half to half. stands still: the share of the time in which "
        "its arithmetic waits for that, or for a slower process"
    )


def _on_paper(rate: float, bandwidth: float, latency: float, batch: int | None, as_json: bool) -> None:
    from alexnet_cli.bench.scaling import Machine, rows

    found = rows(Machine(rate, bandwidth * 1e9, latency * 1e-6), batch=batch)
    if as_json:
        console.result_json([asdict(row) for row in found])
        return
    cells = [
        (
            row.devices, f"{row.batch:,}", row.way, f"{row.ms:.1f}", f"{row.speedup:.1f}×", f"{row.sent:,.0f}",
            f"{row.hours:.2f}",
        )
        for row in found
    ]  # fmt: skip
    columns = ("devices", "batch", "way", "ms", "faster", "MB sent", "hours of 90 epochs")
    title = f"On paper: {rate:g} pictures/s, {bandwidth:g} GB/s, {latency:g} µs"
    console.table(title, columns, cells, right=(0, 1, 3, 4, 5, 6))


def _subject(
    device: str | None, batch: int, width: float, rounds: int, precision: "Precision | None", compiled: bool
) -> tuple[Any, int, float, int, "list[Precision]", bool]:
    from alexnet_cli.bench.timing import precisions_of
    from alexnet_cli.engine import launch
    from alexnet_cli.engine.arithmetic import check_compiler, check_precision, emulated

    place = launch.device(device)
    if precision:
        check_precision(precision, place.type)
    if compiled:
        check_compiler(place.type)
    left_out = not precision and emulated("bf16", place.type)
    console.note(f"on {place.type}" + (", where torch has no quick bf16: in fp32 only" if left_out else ""))
    return place, batch, width, rounds, [precision] if precision else precisions_of(place), compiled


def _best(row: Any) -> str:
    return f"fastest here: {row.way}, {row.precision}, {row.layout}"
