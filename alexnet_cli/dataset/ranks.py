"""Several processes of one job that prepare one dataset: each writes its shards, the first plans and seals.

They meet in `.unfinished` and need no network, but a folder that all see, on a file system with locks that all
respect (NFS 4, Lustre, GPFS). A process holds a lock as long as it lives. Before one after the first takes its
own, it leaves a word made up for this run; the first answers with the words of all when the plan is settled. So
nothing that a killed job left behind can be taken for an answer.

torchrun ends all processes when one dies. Under Slurm `srun --kill-on-bad-exit=1` does; without it, the first
notices a death by the lock, and the others notice that of the first.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from alexnet_cli.dataset.manifest import MANIFEST, UNFINISHED
from alexnet_cli.errors import AlexNetError
from alexnet_cli.files import disk_errors, is_locked, locked, read_json, write_json
from alexnet_cli.machine import Job

POLL_SECONDS = 0.1
START_SECONDS = 600.0  # in which all processes of a job must have come
MEETING = "job"  # how the names of this module's files begin
AGAIN = "the same command goes on from the finished shards"


@dataclass(frozen=True)
class Team:
    """The processes of one job at one output, seen from one of them."""

    out: Path
    job: Job

    def lock(self, rank: int) -> Path:
        return self.out / UNFINISHED / f"{MEETING}-lock-{rank}"

    def word(self, rank: int) -> Path:
        return self.out / UNFINISHED / f"{MEETING}-word-{rank}.json"

    @property
    def answer(self) -> Path:
        return self.out / UNFINISHED / f"{MEETING}.json"

    def lives(self, rank: int) -> bool:
        return is_locked(self.lock(rank))

    def wait_until(self, done: Callable[[], bool], message: str, hint: str) -> None:
        end = time.monotonic() + START_SECONDS
        while not done():
            if time.monotonic() > end:
                raise AlexNetError(message, hint)
            time.sleep(POLL_SECONDS)

    def begin(self) -> None:
        """Of the first process: tell the others that the plan is settled."""
        words = {}
        for rank in range(1, self.job.size):
            self.wait_until(
                lambda rank=rank: self.lives(rank),  # type: ignore[misc]
                f"process {rank} of {self.job.size} has not come to {self.out}",
                "was it started, and does it see this folder, with file locks?",
            )
            words[str(rank)] = read_json(self.word(rank))
        if words:
            write_json(self.answer, words)

    def follow(self, word: str) -> None:
        """Of the others: wait until the first has settled the plan."""
        self.wait_until(
            lambda: self.answer.is_file() and read_json(self.answer).get(str(self.job.rank)) == word,
            f"process 0 of the job did not begin in {self.out}",
            "did it end with an error? Is this folder the same for all?",
        )

    def wait_for_seal(self) -> None:
        """Of the others: wait for the manifest, as long as the first process lives to write it."""
        while not (self.out / MANIFEST).is_file():
            if not self.lives(0) and not (self.out / MANIFEST).is_file():
                raise AlexNetError(f"process 0 of the job ended before {self.out} was finished", AGAIN)
            time.sleep(POLL_SECONDS)

    def check_alive(self, rank: int) -> None:
        if not self.lives(rank):
            raise AlexNetError(f"process {rank} of {self.job.size} ended before its shards were written", AGAIN)


@contextmanager
def joined(out: Path, job: Job) -> Iterator[Team]:
    """Be one of a job's processes at `out`, or say that another job is there; the first must call `begin`."""
    team = Team(out, job)
    busy = f"another alexnet is preparing {out}", "wait for it, or name another --out"
    patience = 1.0 if job.size > 1 else 0.0  # the others of the job may be trying the lock at this moment
    if job.rank == 0:
        with disk_errors(out):
            (out / UNFINISHED).mkdir(parents=True, exist_ok=True)
        with locked(team.lock(0), *busy, patience):
            yield team
        if (out / MANIFEST).is_file():
            with suppress(OSError):  # gone already where an open file can be removed: on NFS it cannot
                (out / UNFINISHED).rmdir()
        return
    team.wait_until(
        lambda: team.lives(0),
        f"process 0 of {job.size} has not come to {out}",
        "was it started, and does it see this folder, with file locks?",
    )
    word = secrets.token_hex()
    write_json(team.word(job.rank), word)
    with locked(team.lock(job.rank), *busy, patience):
        team.follow(word)
        yield team


def is_meeting(name: str) -> bool:
    """Tell whether a file in `.unfinished` belongs to processes that may be at work."""
    return name.lstrip(".").startswith(MEETING)
