"""A run of some seconds, whole and in pieces."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .same import OPTIONS, STEPS


@pytest.fixture
def train(alexnet: Callable[..., Any], net: tuple[str, ...], place: Path) -> Callable[..., Any]:
    """`alexnet train` with the options of these runs."""
    return lambda *options: alexnet("train", *net, *OPTIONS, "--data", place / "dataset", *options)


@pytest.fixture(scope="session")
def whole(tiny: Path, net: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without a pause."""
    from alexnet_cli.cli import main

    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        where = ("--data", str(tiny), "--runs", str(folder), "--max-steps", str(STEPS))
        patch.setattr(sys, "argv", ["alexnet", "train", *net, *OPTIONS, *where])
        with pytest.raises(SystemExit, match="0"):
            main()
    return folder / "small-1"
