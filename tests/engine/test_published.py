"""torchvision's published weights, from a server of our own: fetched once, whole and with its hash, or not."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from alexnet_cli import imagenet, recipes
from alexnet_cli.engine import models, published
from alexnet_cli.errors import AlexNetError
from alexnet_cli.network.alexnet import AlexNet, initialise
from alexnet_cli.network.interchange.torchvision import NAMES


@dataclass
class Server:
    url: str = ""
    data: bytes = b""
    sent: int | None = None
    """Bytes after which the line breaks, if it does."""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    facts = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            facts.asked.append(self.path)
            self.send_response(200 if facts.data else 404)
            self.send_header("Content-Length", str(len(facts.data)))
            self.end_headers()
            self.wfile.write(facts.data[: facts.sent])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        facts.url = f"http://127.0.0.1:{running.server_port}/models/alexnet-small.pth"
        yield facts
        running.shutdown()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> bytes:
    """A narrow net of torchvision's layout, as the server has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    net = replace(recipes.torchvision().network, kernels=(8, 12, 12, 12, 8), hidden=16)
    model = AlexNet(net, 1000)
    initialise(model, net, 1)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    torch.save(OrderedDict((theirs, state[ours]) for ours, theirs in NAMES.items()), "made.pth")
    server.data = Path("made.pth").read_bytes()
    monkeypatch.setattr(published, "URL", server.url)
    monkeypatch.setattr(published, "SHA256", hashlib.sha256(server.data).hexdigest()[:8])
    return server.data


def test_it_is_fetched_once_and_said(file: bytes, server: Server) -> None:
    said: list[str] = []
    path = published.newest_or_published(Path("runs"), said.append)
    assert path == Path("torch/hub/checkpoints/alexnet-small.pth").absolute() and path.read_bytes() == file
    assert said[0].startswith("there is no trained run in runs: torchvision's published AlexNet is used")
    assert said[1] == f"downloading {server.url} to {path}"
    assert published.newest_or_published(Path("runs"), said.append) == path and len(said) == 3
    assert server.asked == ["/models/alexnet-small.pth"]
    model = models.load(path)
    assert model.subject.wnids == tuple(imagenet.classes()) and model.origin == "torchvision's weights"


@pytest.mark.parametrize("fault", ["another file", "cut short", "none", "nobody"])
@pytest.mark.usefixtures("file")
def test_what_goes_wrong_leaves_nothing(server: Server, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "another file":
        server.data = server.data[:-1] + b"x"
    elif fault == "cut short":
        server.sent = 1000
    elif fault == "none":
        server.data = b""
    else:
        monkeypatch.setattr(published, "URL", "http://127.0.0.1:9/alexnet-small.pth")
    with pytest.raises(
        AlexNetError, match="there is no trained run in runs, and torchvision's published"
    ) as caught:
        published.newest_or_published(Path("runs"), lambda _: None)
    assert "train one with `alexnet train`" in caught.value.hint
    assert f"put {published.URL} there by hand: " in caught.value.hint
    assert str(Path("torch/hub/checkpoints/alexnet-small.pth").absolute()) in caught.value.hint
    assert not [path for path in Path("torch").rglob("*") if path.is_file()]
    assert torch.hub.get_dir().startswith(str(Path("torch").absolute()))


def test_a_folder_that_may_not_be_written(file: bytes, server: Server) -> None:
    Path("torch").touch()
    with pytest.raises(AlexNetError, match="may not be written"):
        published.newest_or_published(Path("runs"), lambda _: None)
    assert file and not server.asked
