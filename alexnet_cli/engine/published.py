"""torchvision's published AlexNet, for those who have trained none: fetched once, kept where torch.hub does."""

import os
import socket
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from alexnet_cli import runs as directories
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import disk_errors

# torchvision.models.AlexNet_Weights.IMAGENET1K_V1; the name ends in the first digits of the file's SHA-256.
URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
SHA256 = "7be5be79"
PATIENCE = 60.0  # seconds without a byte

Say = Callable[[str], None]


def newest_or_published(runs: Path, say: Say) -> Path:
    """The best checkpoint of the newest run; where there is none, torchvision's weights, and it says so."""
    try:
        return directories.newest_model(runs)
    except AlexNetError as error:
        nothing = error.message
    say(f"{nothing}: torchvision's published AlexNet is used, which was trained on ILSVRC-2012")
    path = place(URL)
    if not path.exists():
        fetch(URL, SHA256, path, nothing, say)
    return path


def place(url: str) -> Path:
    """Where the file lies once it is fetched: torch.hub's folder, which TORCH_HOME moves."""
    import torch.hub

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def fetch(url: str, digest: str, path: Path, reason: str, say: Say) -> None:
    """Download the file, whole and with the SHA-256 that begins with `digest`, or not at all.

    `reason` says why it is needed, for the error that says where to put it by hand.
    """
    import torch.hub

    say(f"downloading {url} to {path}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)  # torch.hub would wait for ever
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, os.fspath(path), digest, progress=sys.stderr.isatty())
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: another SHA-256
        if isinstance(error, HTTPError):
            error.close()
        raise AlexNetError(
            f"{reason}, and torchvision's published AlexNet could not be fetched: {error}",
            f"train one with `alexnet train`, name a model, or put {url} there by hand: {path}",
        ) from error
    finally:
        socket.setdefaulttimeout(before)
