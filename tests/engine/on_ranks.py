"""A command on several ranks as torchrun or srun starts them, without their agents: nobody ends the others."""

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from alexnet_cli.cli import main

CONTEXT = get_context("forkserver")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def rank_main(
    rank: int, ranks: int, port: int, folder: str, work: Callable[[], None], variables: dict[str, str]
) -> None:
    """One rank as torchrun starts it; its stderr goes to a file."""
    os.chdir(folder)
    with Path(f"stderr-{rank}").open("w", buffering=1) as file:
        sys.stderr = sys.stdout = file
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
        os.environ |= {
            "WORLD_SIZE": str(ranks),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(ranks),
            **variables,
        }
        work()


class Command:
    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = arguments

    def __call__(self) -> None:
        sys.argv = ["alexnet", *self.arguments]
        main()


@contextmanager
def started(
    ranks: int, work: Callable[[], None], folders: Sequence[Path] = (), port: int = 0, **variables: str
) -> Iterator[list[BaseProcess]]:
    """The ranks at work, each in its folder or all in this one; nobody is left of them in the end."""
    port = port or free_port()
    places = [str(folder) for folder in folders or [Path.cwd()] * ranks]
    jobs: list[BaseProcess] = [
        CONTEXT.Process(target=rank_main, args=(rank, ranks, port, places[rank], work, variables))
        for rank in range(ranks)
    ]
    for job in jobs:
        job.start()
    try:
        yield jobs
    finally:
        for job in jobs:
            job.kill()
            job.join()


def on_ranks(ranks: int, *arguments: str, **variables: str) -> list[int]:
    """The command on several ranks; the exit code of each."""
    with started(ranks, Command(arguments), **variables) as jobs:
        return ended(jobs)


def ended(jobs: Sequence[BaseProcess], seconds: float = 120) -> list[int]:
    for job in jobs:
        job.join(seconds)
    return [job.exitcode if job.exitcode is not None else -1 for job in jobs]
