import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def unconnected(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched from the network, and what this machine's torch.hub keeps is not seen."""
    from alexnet_cli.engine import published

    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
    monkeypatch.setattr(published, "URL", "http://127.0.0.1:9/alexnet-owt-7be5be79.pth")  # where nobody listens


@pytest.fixture(scope="session")
def three_steps(tiny: Path, net: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from alexnet_cli.cli import main

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        where = ("--data", str(tiny), "--runs", str(folder), "--max-steps", "3")
        patch.setattr(sys, "argv", ["alexnet", "train", *net, *where])
        with pytest.raises(SystemExit, match="0"):
            main()
    return folder / "small-1"


@pytest.fixture
def trained(place: Path, three_steps: Path) -> Path:
    """A run of three steps in the working directory, as new as if it had just been made."""
    shutil.copytree(three_steps, place / "runs" / "small-1", copy_function=shutil.copy)
    return (place / "runs" / "small-1").relative_to(place)


@pytest.fixture
def six(place: Path) -> Path:
    """The dataset directory of six classes, so that top-5 means something."""
    from PIL import Image

    from alexnet_cli.dataset.preparation import prepare
    from alexnet_cli.dataset.sources.recognise import open_source

    for label in range(6):
        for split in ("train", "val"):
            folder = place / "six" / split / f"class {label}"
            folder.mkdir(parents=True)
            Image.new("RGB", (20, 20), (40 * label, 90, 250 - 40 * label)).save(folder / "1.png")
    list(prepare(open_source("six"), place / "six-classes"))  # in this process, without the start of another
    return (place / "six-classes").relative_to(place)
