"""`alexnet verify`: a dataset directory is read again and held against its manifest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_cli import console, machine
from alexnet_cli.errors import AlexNetError
from alexnet_cli.options import Json, not_far

if TYPE_CHECKING:
    from alexnet_cli.dataset.rereading import Finding

SHOWN = 10


def verify(
    dataset: Annotated[
        Path,
        typer.Argument(
            envvar="ALEXNET_DATASET", help="The dataset directory that `prepare` wrote.", callback=not_far
        ),
    ] = Path("dataset"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; if not given, one a core.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a whole dataset again: checksums, counts, labels, every picture, and how classes are mixed.

    Exit code 1 and every finding, if there is one.

    Example: alexnet verify dataset
    """
    from alexnet_cli.dataset.manifest import read_manifest

    facts = read_manifest(dataset)
    found = findings(dataset, workers or machine.cores())
    wrong, odd = [f for f in found if not f.odd], [f for f in found if f.odd]
    for finding in odd[:SHOWN]:
        console.warn(f"{finding.file}: {finding.what}")
    if len(odd) > SHOWN:
        console.warn(f"{len(odd) - SHOWN} more such")
    if as_json:
        console.result_json(summary(dataset, facts, wrong, odd))
    else:
        console.table(f"Dataset in {dataset}", ("", ""), rows(facts, wrong, odd))
    if wrong:
        shown = "".join(f"\n  {finding.file}: {finding.what}" for finding in wrong[:SHOWN])
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise AlexNetError(
            f"{dataset} is not what its manifest says:{shown}{more}",
            "prepare it again with --overwrite, or copy it again from where it is whole",
        )


def findings(root: Path, workers: int) -> "list[Finding]":
    from alexnet_cli.dataset.verification import verify

    steps = verify(root, workers)
    first = next(steps)
    found = [*first.findings]
    with console.progress("verifying", first.total, "pictures") as bar:
        for step in steps:
            found += step.findings
            bar.update(step.done, f"{len(found)} findings" if found else "")
    return found


def summary(root: Path, facts: dict[str, Any], wrong: "list[Finding]", odd: "list[Finding]") -> dict[str, Any]:
    return {
        "dataset": str(root),
        "sound": not wrong,
        "pictures": {name: split["pictures"] for name, split in facts["splits"].items()},
        "shards": sum(len(split["shards"]) for split in facts["splits"].values()),
        "findings": [{"file": finding.file, "what": finding.what} for finding in wrong],
        "warnings": [{"file": finding.file, "what": finding.what} for finding in odd],
    }


def rows(facts: dict[str, Any], wrong: "list[Finding]", odd: "list[Finding]") -> list[tuple[str, str]]:
    return [
        ("classes", f"{len(facts['classes']):,}"),
        *(
            (f"{name} pictures, shards", f"{split['pictures']:,}, {len(split['shards']):,}")
            for name, split in facts["splits"].items()
        ),
        ("wrong", f"{len(wrong):,}"),
        ("worth a look", f"{len(odd):,}"),
    ]
