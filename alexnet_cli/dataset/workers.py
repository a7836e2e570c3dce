"""Work on tasks in several processes, each on its own pipe and watched, so that a death names what it cost.

Workers are spawned, take one task at a time, and end by themselves when the pipe closes: a parent that is
killed leaves none behind. In shared memory a worker says at which picture its decoder is. A decoder that
crashes, or does not return, costs that picture: the task is begun anew without it.
"""

import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from ctypes import c_int64
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, Protocol, TypeVar

import torch

from alexnet_cli.errors import AlexNetError
from alexnet_cli.machine import end_with_parent, signals_handled

PICTURE_SECONDS = 60.0  # that a decoder may take for one picture; the largest allowed takes some ten
LOOK_SECONDS = 0.5  # between two looks at where the workers are
MOST_LOST = 50  # pictures that one task may lose; beyond it is not the pictures that are at fault
LEAVING_SECONDS = 1.0  # that killed workers are waited for: an fsync on its way holds one for longer
NOWHERE = -1
CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})

Lost = dict[int, str]  # positions in a task that its decoder did not survive, and why
Watch = Callable[[int], None]  # told the position before its decoder runs, and NOWHERE after


class Named(Protocol):
    @property
    def name(self) -> str: ...


Task = TypeVar("Task", bound=Named)
Message = TypeVar("Message")

Body = Callable[..., Iterator[Message]]
"""body(task, lost=…, watch=…): skips what is lost, tells `watch` where it is, and gives messages."""

Steps = Generator[tuple[str, Message | None], None, None]
"""The name of a task with each message about it, or with None where it is begun anew: what was said is void."""


def unwatched(_: int) -> None:
    pass


def run_here(tasks: Iterable[Task], body: Body[Message]) -> Steps[Message]:
    """Do the tasks in this process, on one thread as a worker would, and without its safety."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for task in tasks:
            for message in body(task, lost={}, watch=unwatched):
                yield task.name, message
    finally:
        torch.set_num_threads(threads)


def run_with(
    workers: int, tasks: Iterator[Task], body: Body[Message], seconds: float = PICTURE_SECONDS
) -> Steps[Message]:
    """Do the tasks in `workers` processes, drawing each when a worker is free for it.

    Raises AlexNetError when a worker meets one, or dies without a picture's fault.
    """
    crew: list[Worker[Task, Message]] = []
    looked = time.monotonic()
    try:
        for task in islice(tasks, workers):
            crew.append(start_worker(body, task, {}))
        while crew:
            for worker in talking(crew):
                message = worker.hear()
                if isinstance(message, Begin):
                    yield worker.task.name, None
                    crew.remove(worker)
                    crew.append(start_worker(body, worker.task, message.lost))
                elif message is not None:
                    yield worker.task.name, message
                elif (task_or_none := next(tasks, None)) is not None:
                    worker.give(task_or_none, {})
                else:
                    crew.remove(worker)
                    worker.stop()
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                for worker in crew:
                    worker.look(seconds)
    finally:
        for worker in crew:
            worker.process.kill()
        end = time.monotonic() + LEAVING_SECONDS
        for worker in crew:
            worker.stop(max(0.0, end - time.monotonic()))


@dataclass(frozen=True)
class Begin:
    """A worker is gone: its task is to be begun anew without what is lost."""

    lost: Lost


@dataclass(eq=False)
class Worker(Generic[Task, Message]):
    """One process, this end of its pipe, the task it has and the place where its decoder is."""

    process: SpawnProcess
    pipe: "Connection[tuple[Task, Lost], Message | AlexNetError | None]"
    place: Any  # ctypes c_int64 in shared memory
    task: Task
    lost: Lost = field(default_factory=dict)
    seen: int = NOWHERE
    looks: int = 0
    hung: str = ""

    def give(self, task: Task, lost: Lost) -> None:
        self.task, self.lost, self.looks = task, lost, 0
        try:
            self.pipe.send((task, lost))
        except OSError as error:
            raise self.death() from error

    def hear(self) -> Message | Begin | None:
        """Take one message, None when the task is finished. Raises what the worker met."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            return self.without_picture()
        if isinstance(message, AlexNetError):
            raise message
        return message

    def look(self, seconds: float) -> None:
        """End a process that was at the same picture for so long.

        Looks are counted and not the clock read: after Ctrl-Z and `fg` no picture was slow.
        """
        place = int(self.place.value)
        self.looks = self.looks + 1 if place == self.seen != NOWHERE else 0
        self.seen = place
        if self.looks * LOOK_SECONDS >= seconds and not self.hung:
            self.hung = f"the decoder did not return within {seconds:g} s"
            self.process.kill()

    def without_picture(self) -> Begin:
        """Blame the picture at which the process died, if it died of one."""
        self.process.join()
        self.pipe.close()
        place, code = int(self.place.value), -(self.process.exitcode or 0)
        crashed = code in CRASHES
        if place == NOWHERE or not (self.hung or crashed):
            raise self.death()
        if len(self.lost) >= MOST_LOST:
            raise AlexNetError(
                f"the decoder crashed at {len(self.lost) + 1} pictures of {self.task.name}",
                "that is hardly the pictures' fault: are torch, simplejpeg and Pillow made for this machine?",
            )
        reason = self.hung or f"the decoder crashed ({signal.Signals(code).name})"
        return Begin({**self.lost, place: reason})

    def death(self) -> AlexNetError:
        self.process.join()
        return AlexNetError(
            f"a worker died while at shard {self.task.name} (exit code {self.process.exitcode})",
            "was the machine out of memory? The same command goes on from the finished shards; "
            "fewer --workers need less memory",
        )

    def stop(self, seconds: float | None = None) -> None:
        # Not SIGTERM: a decoder that hangs may hold it off, and there is nothing to tidy that a start does not.
        self.process.kill()
        self.process.join(seconds)
        self.pipe.close()


def talking(crew: "list[Worker[Task, Message]]") -> "list[Worker[Task, Message]]":
    """Wait for workers to say something or to die, and no longer than until the next look."""
    ready = wait([worker.pipe for worker in crew], LOOK_SECONDS)
    return [worker for worker in crew if worker.pipe in ready]


def start_worker(body: Body[Message], task: Task, lost: Lost) -> "Worker[Task, Message]":
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    place = context.RawValue(c_int64, NOWHERE)
    process = context.Process(target=work, args=(theirs, place, body), daemon=True)
    # A child is born deaf to Ctrl-C, which reaches a whole terminal group: its parent decides.
    with signals_handled([signal.SIGINT], signal.SIG_IGN):
        process.start()
    theirs.close()
    worker: Worker[Task, Message] = Worker(process, ours, place, task)
    worker.give(task, lost)
    return worker


def work(
    pipe: "Connection[Message | AlexNetError | None, tuple[Task, Lost]]", place: Any, body: Body[Message]
) -> None:
    """Do tasks until the pipe closes; the body of a worker process."""

    def watch(position: int) -> None:
        place.value = position

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    parent = parent_process()
    if parent is None or not parent.is_alive():  # it was killed while this process was starting
        return
    torch.set_num_threads(1)
    try:
        while True:
            task, lost = pipe.recv()
            try:
                for message in body(task, lost=lost, watch=watch):
                    pipe.send(message)
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
