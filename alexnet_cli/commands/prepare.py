"""`alexnet prepare`: labelled pictures become a dataset directory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_cli import console, imagenet, machine, paper
from alexnet_cli.dataset.treatment import CHROMA, LARGEST, QUALITY, Encoding, Geometry, Treatment
from alexnet_cli.errors import AlexNetError
from alexnet_cli.options import Json, not_far

if TYPE_CHECKING:
    from alexnet_cli.dataset.manifest import Dataset
    from alexnet_cli.dataset.preparation import Progress

SHOWN = 10  # rejects and ignored files that are named; the manifest has all rejects


Source = Annotated[
    str,
    typer.Argument(
        help="A folder of ImageNet's archives, packed or unpacked, of class folders, IDX files, WebDataset shards "
        "or Parquet; or torchvision:NAME.",
        show_default=False,
    ),
]
Out = Annotated[
    Path,
    typer.Option("--out", envvar="ALEXNET_DATASET", help="The dataset directory to write.", callback=not_far),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes; if not given, one a core as far as the pictures occupy them.", show_default=False
    ),
]
ValFraction = Annotated[
    float, typer.Option(min=0.0, max=0.9, help="Part of each class kept for validation if the source has no val.")
]
MaxRejects = Annotated[float, typer.Option(min=0.0, max=1.0, help="Part of the pictures that may be unusable.")]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="At most this many pictures of each split, evenly over classes.", show_default=False),
]
HowCut = Annotated[
    Geometry,
    typer.Option(help="crop: shorter side to --size, the middle cut out; warp: both sides; shorter: not cut."),
]
Size = Annotated[int, typer.Option(min=1, max=LARGEST, help="Pixels.")]
HowStored = Annotated[Encoding, typer.Option(help="raw: the bytes of the pixels, as numpy's .npy.")]
Quality = Annotated[int, typer.Option(min=1, max=100, help="Of JPEG.")]
Exif = Annotated[
    bool, typer.Option("--exif/--no-exif", help="Turn pictures as their EXIF says; in 2012 they were not.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a dataset that is there; go on if this has begun to.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the order of training pictures and the validation part.")]
ClassNames = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Names for IDX labels, one a line.", show_default=False),
]
Root = Annotated[Path | None, typer.Option(help="Where a torchvision set lies or goes.", show_default=False)]
Download = Annotated[bool, typer.Option("--download", help="Fetch the torchvision set first.")]
Spool = Annotated[
    Path | None,
    typer.Option(
        file_okay=False,
        metavar="DIR",
        help="For a source on a hard disk: copy its pictures here first, reading it once from front to back.",
        show_default=False,
    ),
]


def prepare(
    source: Source,
    out: Out = Path("dataset"),
    workers: Workers = None,
    val_fraction: ValFraction = 0.1,
    max_rejects: MaxRejects = 0.01,
    limit: Limit = None,
    geometry: HowCut = "crop",
    size: Size = paper.IMAGE_SIZE,
    encoding: HowStored = "jpeg",
    quality: Quality = QUALITY,
    exif: Exif = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    class_names: ClassNames = None,
    root: Root = None,
    download: Download = False,
    spool: Spool = None,
    as_json: Json = False,
) -> None:
    """Make a dataset of small pictures in shards, 256×256 as the paper's, with their mean and colour components.

    A run that was stopped goes on where it was when the same command is given again.

    Example: alexnet prepare ~/pictures --out dataset
    """
    from alexnet_cli.dataset import preparation
    from alexnet_cli.dataset.manifest import open_dataset
    from alexnet_cli.dataset.preparation import Options
    from alexnet_cli.dataset.sources.recognise import open_source

    machine.adopt_slurm()
    job = machine.job()
    if download and job.size > 1:
        raise AlexNetError(
            f"--download with {job.size} processes would fetch the set {job.size} times, into the same files",
            "fetch it first, by this command without the launcher; it may be stopped when it begins to prepare",
        )
    if Path(source).exists() and out.exists() and out.samefile(source):
        raise AlexNetError(f"{out} is the source itself, of which nothing would be left", "name another --out")
    listing = open_source(source, root, download, class_names)
    for text in listing.notes:
        console.note(text)
    warn_of("not a picture by its name, left out", listing.ignored)
    steps = preparation.prepare(
        listing,
        out,
        Options(seed, val_fraction, limit, Treatment(geometry, size, encoding, quality, exif)),
        workers=workers or preparation.usual_workers(listing),
        overwrite=overwrite,
        max_rejects=max_rejects,
        spool=spool,
        job=job,
    )
    with closing(steps):
        show_progress(steps)
    show(open_dataset(out), as_json)


def show(dataset: "Dataset", as_json: bool) -> None:
    warn_of("cannot be used", [f"{bad['name']}: {bad['reason']}" for bad in rejects(dataset)])
    if as_json:
        console.result_json(summary(dataset))
    else:
        console.table(f"Dataset in {dataset.root}", ("", ""), summary_rows(dataset))
        console.table("Colours of the training pixels, R, G, B of 0 to 255", *colour_table(dataset))


def warn_of(what: str, names: Sequence[str]) -> None:
    """Name the first few and count the rest."""
    for name in names[:SHOWN]:
        console.warn(f"{what}: {name}")
    if len(names) > SHOWN:
        console.warn(f"{what}: {len(names) - SHOWN} more")


def show_progress(steps: "Iterator[Progress]") -> None:
    """Show a bar for each phase."""
    for phase, its in groupby(steps, key=lambda step: step.phase):
        first = next(its)
        if first.kept and phase == "preparing":
            console.note(f"going on: {first.kept} of {first.total} pictures were finished before")
        with console.progress(phase, first.total, "pictures") as bar:
            for step in chain([first], its):
                bar.update(step.done, f"{step.rejected} rejected" if step.rejected else "")


def rejects(dataset: "Dataset") -> list[dict[str, str]]:
    return [reject for split in dataset.manifest["splits"].values() for reject in split["rejects"]]


def summary(dataset: "Dataset") -> dict[str, Any]:
    """Give what the command reports, as plain values."""
    return {
        "out": str(dataset.root),
        "form": dataset.manifest["form"],
        "classes": len(dataset.classes),
        "pictures": {name: len(split.index) for name, split in dataset.splits.items()},
        "rejects": rejects(dataset),
        "bytes": sum(path.stat().st_size for path in dataset.root.iterdir() if path.is_file()),
        **asdict(dataset.treatment),
        "kinds": kinds(dataset),
        "rgb_mean": dataset.rgb_mean.tolist(),
        "eigenvalues": dataset.eigenvalues.tolist(),
        "eigenvectors": dataset.eigenvectors.tolist(),
        **ilsvrc_2012(dataset),
        "fingerprint": dataset.fingerprint,
    }


def kinds(dataset: "Dataset") -> dict[str, int]:
    """Count what the pictures of all splits were before they were prepared."""
    counts = (Counter(split["kinds"]) for split in dataset.manifest["splits"].values())
    return dict(sum(counts, Counter()).most_common())


def is_ilsvrc_2012(dataset: "Dataset") -> bool:
    return str(dataset.manifest["form"]).startswith("ILSVRC-2012")


def ilsvrc_2012(dataset: "Dataset") -> dict[str, Any]:
    """Give what is known of ILSVRC-2012 beside what was found of it."""
    if not is_ilsvrc_2012(dataset):
        return {}
    odd = {Path(found["name"]).stem for split in dataset.manifest["splits"].values() for found in split["odd"]}
    return {
        "odd_files": {"known": len(imagenet.ODD), "found": len(imagenet.ODD & odd)},
        "published": {
            "rgb_mean": imagenet.RGB_MEAN,
            "eigenvalues": [deviation**2 for deviation in imagenet.DEVIATIONS],
            "eigenvectors": [list(row) for row in zip(*imagenet.AXES, strict=True)],
        },
    }


def summary_rows(dataset: "Dataset") -> list[tuple[str, str]]:
    facts = summary(dataset)
    return [
        ("source", facts["form"]),
        ("classes", f"{facts['classes']:,}"),
        *((f"{name} pictures", f"{count:,}") for name, count in facts["pictures"].items()),
        ("rejected", f"{len(facts['rejects']):,}"),
        (
            "they were",
            ", ".join(f"{count:,} {kind}" for kind, count in facts["kinds"].items()) or "decoded pixels",
        ),
        *odd_rows(facts),
        ("they are", ", ".join(treatment_words(dataset.treatment))),
        ("on disk", f"{facts['bytes'] / 1e6:,.1f} MB"),
    ]


def odd_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    odd = facts.get("odd_files")
    return [(f"{odd['known']} known odd files", f"{odd['found']} found")] if odd else []


def treatment_words(treatment: Treatment) -> Iterator[str]:
    size = treatment.size
    yield f"{size} on the shorter side" if treatment.geometry == "shorter" else f"{size}×{size}"
    yield {"crop": "the middle", "warp": "warped", "shorter": "uncropped"}[treatment.geometry]
    yield f"JPEG {treatment.quality}, {CHROMA}" if treatment.encoding == "jpeg" else treatment.encoding
    yield "turned by EXIF" if treatment.exif else "EXIF rotation not applied"


def colour_table(dataset: "Dataset") -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Give titles and rows: mean, eigenvalues and axes, for ILSVRC-2012 beside those of the code of 2012."""
    ours = colour_cells(
        dataset.rgb_mean.tolist(), [value**0.5 for value in dataset.eigenvalues], dataset.eigenvectors.T.tolist()
    )
    names = ("mean", "first axis", "second axis", "third axis", "standard deviations along them", "eigenvalues")
    if not is_ilsvrc_2012(dataset):
        return ("", ""), list(zip(names, ours, strict=True))
    theirs = colour_cells(imagenet.RGB_MEAN, imagenet.DEVIATIONS, imagenet.AXES)
    return ("", "here", "Krizhevsky's, released with cuda-convnet2"), list(zip(names, ours, theirs, strict=True))


def colour_cells(
    mean: Sequence[float], deviations: Sequence[float], axes: Sequence[Sequence[float]]
) -> tuple[str, ...]:
    return (
        listed(mean, 2),
        *(listed(axis, 4) for axis in axes),
        listed(deviations, 3),
        listed([deviation**2 for deviation in deviations], 1),
    )


def listed(values: Sequence[float], digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)
