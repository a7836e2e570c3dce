"""Writing shards in several processes, each on its own pipe, so that a death names the shard it cost.

Workers are spawned, take one task at a time, and end by themselves when the pipe closes: a parent that is
killed leaves none behind.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from alexnet_cli.dataset.shards import Task, write_shard
from alexnet_cli.errors import AlexNetError

Advance = tuple[int, int]  # pictures done and pictures rejected since the last report


def write_here(tasks: Iterator[Task], out: Path) -> Iterator[Advance]:
    """Write shards in this process, on one thread as a worker would."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for task in tasks:
            yield from write_shard(task, out)
    finally:
        torch.set_num_threads(threads)


def write_with(workers: int, tasks: Iterator[Task], out: Path) -> Iterator[Advance]:
    """Write shards in `workers` processes, drawing each task when a worker is free for it."""
    crew: dict[object, Worker] = {}
    try:
        for task in islice(tasks, workers):
            worker = start_worker(out, task)
            crew[worker.pipe] = worker
        while crew:
            for pipe in wait([worker.pipe for worker in crew.values()]):
                message = crew[pipe].hear()
                if message is not None:
                    yield message
                elif (task_or_none := next(tasks, None)) is not None:
                    crew[pipe].give(task_or_none)
                else:
                    crew.pop(pipe).stop()
    finally:
        for worker in crew.values():
            worker.stop()


@dataclass
class Worker:
    """One process, this end of its pipe, and the shard it is writing."""

    process: SpawnProcess
    pipe: "Connection[Task, Advance | AlexNetError | None]"
    shard: str

    def give(self, task: Task) -> None:
        self.shard = task.name
        try:
            self.pipe.send(task)
        except OSError as error:
            raise self.death() from error

    def hear(self) -> Advance | None:
        """Take one message: an advance, or None when the shard is finished. Raises what the worker met."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self.death() from error
        if isinstance(message, AlexNetError):
            raise message
        return message

    def death(self) -> AlexNetError:
        self.process.join()
        return AlexNetError(
            f"a worker died while writing shard {self.shard} (exit code {self.process.exitcode})",
            "was the machine out of memory? The same command goes on from the finished shards; "
            "fewer --workers need less memory",
        )

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def start_worker(out: Path, task: Task) -> Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, out), daemon=True)
    with interrupts_ignored():
        process.start()
    theirs.close()
    worker = Worker(process, ours, task.name)
    worker.give(task)
    return worker


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Let a child be born deaf to Ctrl-C, which reaches a whole terminal group: its parent decides."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # only the main thread may set handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def work(pipe: "Connection[Advance | AlexNetError | None, Task]", out: Path) -> None:
    """Write shards until the pipe closes; the body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        while True:
            task = pipe.recv()
            try:
                for advance in write_shard(task, out):
                    pipe.send(advance)
            except OSError as error:
                pipe.send(
                    AlexNetError(
                        f"shard {task.name}: {error}", "the same command goes on from the finished shards"
                    )
                )
                return
            pipe.send(None)
    except AlexNetError as error:
        pipe.send(error)
    except (EOFError, OSError):  # the parent is gone, and with it the reason to go on
        return
