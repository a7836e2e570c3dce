"""What every test needs before torch is imported, and what the tests of several folders share."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, get_context, set_forkserver_preload
from pathlib import Path

import pytest

# As the command line sets it: threads that wait by spinning are ten times slower beside another process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What takes seconds to import, once for the processes of all tests; it counts only before the first begins.
PRELOADED = (
    *("torch.distributed.fsdp", "torchvision", "webdataset", "pytest", "pydantic", "rich.console"),
    *("alexnet_cli.engine.training", "alexnet_cli.engine.tensorboard", "alexnet_cli.dataset.preparation"),
)
# The tests name what they want of these themselves.
for variable in ("ALEXNET_DATASET", "ALEXNET_RUNS", "ALEXNET_DEVICE"):
    os.environ.pop(variable, None)


def pytest_sessionstart() -> None:
    """Start the server from which the tests fork their processes, with the package that the tests have."""
    set_forkserver_preload([*PRELOADED])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", python_path())
        forkserver.ensure_running()


def python_path() -> str:
    import alexnet_cli

    package = Path(alexnet_cli.__file__).parents[1]
    return os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session", autouse=True)
def forked_workers() -> Iterator[None]:
    """Workers of preparations in this process are forked from that server, not begun anew each time.

    How they begin for users is tested by preparations in processes of their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet_cli.dataset.workers.get_context", lambda _: get_context("forkserver"))
        yield


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def succeeded(self) -> "Outcome":
        assert self.code == 0, self.err
        return self

    def failed(self, message: str, hint: str, code: int = 1) -> "Outcome":
        """As every mistake must leave: a message and a hint on stderr, nothing on stdout, no traceback."""
        assert self.code == code, self.err
        assert "Traceback" not in self.err and self.out == ""
        first, _, rest = self.err.partition("\nhint: ")
        assert message in first.rpartition("error: ")[2] and hint in rest, self.err
        return self


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: 20 pictures of each to train on, 9 to validate and 5 to test."""
    from PIL import Image, ImageDraw

    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 20), ("val", 9), ("test", 5)):
        for name in ("bars", "discs"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (96, 72), (9 * number, 120, 255 - 9 * number))
                pen = ImageDraw.Draw(picture)
                if name == "discs":
                    pen.ellipse((20 + number, 12, 60 + number, 52), fill=(250, 40, 8 * number))
                else:
                    pen.rectangle((0, 10 + number, 96, 24 + number), fill=(20, 8 * number, 60))
                picture.save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def tiny(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset directory of these pictures."""
    from alexnet_cli.dataset.preparation import prepare
    from alexnet_cli.dataset.sources.recognise import open_source

    out = tmp_path_factory.mktemp("tiny") / "dataset"
    assert [*prepare(open_source(str(pictures)), out)][-1].done == 68
    return out


@pytest.fixture(scope="session")
def net() -> tuple[str, ...]:
    """The options of a training whose steps take some 20 ms."""
    return ("--recipe", "small", "--set", "width=0.05", "--batch-size", "8")


@pytest.fixture
def disk() -> Iterator[Callable[[Path, str], Path]]:
    """Puts a disk of its own, of a size as 400k or 10m, at a folder."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root may mount a disk of its own")
        mounted.append(folder.absolute())
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def place(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory where `dataset` is the tiny one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset").symlink_to(tiny)
    return tmp_path


@pytest.fixture
def alexnet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Outcome]]:
    """The command line in this process, through its one door."""
    from alexnet_cli.cli import main

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["alexnet", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        code = left.value.code
        return Outcome(code if isinstance(code, int) else int(bool(code)), *capsys.readouterr())

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


class Command:
    """The command line in a process of its own, in the current directory and a process group of its own."""

    def __init__(self, *arguments: object, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "alexnet_cli", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": python_path(), **variables},
            start_new_session=True,
        )

    def outcome(self, seconds: float = 120) -> Outcome:
        """Wait for its end; whatever is left of it after that is a failure."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            out, err = self.process.communicate()
            pytest.fail(f"no end after {seconds} s\n{out}\n{err}")
        return Outcome(self.process.returncode, out, err)


@pytest.fixture
def spawn() -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def run(*arguments: object, **variables: str) -> Command:
        started.append(Command(*arguments, **variables))
        return started[-1]

    yield run
    for command in started:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.communicate()
