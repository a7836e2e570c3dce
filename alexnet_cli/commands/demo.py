"""`alexnet demo`: the whole chain on pictures it draws itself."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from alexnet_cli import console


def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("alexnet-demo"),
    steps: Annotated[int, typer.Option(min=1, help="Of training.")] = 200,
) -> None:
    """Draw pictures of shapes, prepare them, train a small net on them, evaluate it and ask it about one.

    It takes about two minutes on two cores and shows each command it runs.

    Example: alexnet demo --out /tmp/alexnet-demo
    """
    from alexnet_cli.dataset.demo import draw_demo
    from alexnet_cli.runs import checkpoint_header, newest_model

    pictures, dataset, runs = out / "pictures", out / "dataset", out / "runs"
    console.note(f"drawing labelled pictures in {pictures}")
    draw_demo(pictures, seed=1)
    where = ["--runs", str(runs)]
    _run("prepare", str(pictures), "--out", str(dataset), "--overwrite")
    _run(
        *("train", "--recipe", "small", "--data", str(dataset), *where, "--new"),
        *("--max-steps", str(steps), "--batch-size", "64", "--eval-every", "1"),
    )
    _run("eval", "--data", str(dataset), *where, "--crops", "10")
    _run("predict", str(min((pictures / "val" / "star").glob("star-*"))), *where, "--top", "3")
    error = checkpoint_header(newest_model(runs))["best_error"]
    console.note(f"\nOf pictures it had never seen it names {100 - error:.1f} % right.")
    console.note(f"All of it lies in {out}; remove it when you have seen enough.")


def _run(*arguments: str) -> None:
    """Run one of our commands as a user would, showing it; where it fails, the demo ends with its exit code."""
    console.command("alexnet " + shlex.join(arguments))
    code = subprocess.run([sys.executable, "-m", "alexnet_cli", *arguments], check=False).returncode
    if code:
        raise typer.Exit(code)
