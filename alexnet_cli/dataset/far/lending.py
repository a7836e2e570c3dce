"""The shards of a far dataset for one reader: fetched ahead, lent while they are wanted, then let go."""

import os
from collections import Counter, OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

from alexnet_cli.dataset.far import shelf
from alexnet_cli.dataset.far.address import Address
from alexnet_cli.dataset.far.fetching import Expected, Stopped

AT_ONCE = 4
"""Shards that one process fetches at once: a single connection seldom fills a line."""

AHEAD = 48
"""Shards that a training holds for a moment: three of its plan's windows."""

MOST = 64
"""Shards kept open beside those that were asked for ahead."""


@dataclass(frozen=True)
class Far:
    """Where the shards of a split come from and where they lie when they are here, in the order of the split."""

    address: Address
    paths: tuple[Path, ...]
    expected: tuple[Expected, ...]

    def lend(self) -> "Lent":
        """Raises AlexNetError where there is no space for what will be here at once."""
        shelf.check_space(self.paths[0].parent, sum(self.missing()), f"shards of {self.address} need")
        return Lent(self)

    @contextmanager
    def brought(self, shards: tuple[int, ...]) -> Iterator[None]:
        """While entered, these shards lie at their paths."""
        with closing(self.lend()) as lent:
            lent.want((0, 0), shards)
            for shard in shards:
                with lent.opened(shard):
                    pass
            yield

    def missing(self) -> list[int]:
        """The bytes, at least, of the shards that are not here yet, as many as will be here at once."""
        away = [n for n, path in enumerate(self.paths) if not path.exists()]
        staying = [self.expected[n].least for n in away if not shelf.is_passing(self.paths[n])]
        passing = [self.expected[n].least for n in away if shelf.is_passing(self.paths[n])]
        return staying + sorted(passing)[-AHEAD:]


class Lent:
    """Safe to use from several threads. Close it at the end."""

    def __init__(self, far: Far) -> None:
        self._far, self._stop, self._lock = far, Event(), Lock()
        self._threads = ThreadPoolExecutor(AT_ONCE, "fetching")
        self._held: OrderedDict[int, Future[int]] = OrderedDict()
        self._users: Counter[int] = Counter()
        self._wanted: tuple[tuple[int, ...], tuple[int, ...]] = (), ()
        self._place = (-1, -1)

    def want(self, place: tuple[int, int], shards: tuple[int, ...], going: tuple[int, ...] = ()) -> None:
        """At `place` (epoch, step) have these `shards` brought here, the first first, and let go of others.

        Those in `going` stay for a while if they are here. Loader threads may call out of order: what the furthest
        place wants counts.
        """
        with self._lock:
            if place <= self._place:
                return
            self._place, before, self._wanted = place, self._wanted, (shards, going)
            for shard in shards:
                if shard not in self._held:
                    self._threads.submit(self._fulfil, shard, self._promised(shard))
            if (not_wanted := self._not_wanted()) or before != self._wanted:
                self._let_go(not_wanted)

    @contextmanager
    def opened(self, shard: int) -> Iterator[int]:
        """The descriptor of a shard, once it is here."""
        with self._lock:
            self._users[shard] += 1
            promise, unforeseen = self._held.get(shard), False
            if promise is None:
                promise, unforeseen = self._promised(shard), True
                self._let_go(self._not_wanted()[:-MOST])
        try:
            if unforeseen:
                self._fulfil(shard, promise)
            yield promise.result()
        finally:
            with self._lock:
                self._users[shard] -= 1
                if self._stop.is_set():
                    self._let_go(self._not_wanted())

    def close(self) -> None:
        """Those who wait for a shard are given up, too."""
        self._stop.set()
        self._threads.shutdown(cancel_futures=True)
        with self._lock:
            for promise in self._held.values():
                if not promise.done():
                    promise.set_exception(Stopped())
            self._wanted = ((), ())
            self._let_go(self._not_wanted())

    def _not_wanted(self) -> list[int]:
        return [shard for shard in self._held if not any(shard in wanted for wanted in self._wanted)]

    def _promised(self, shard: int) -> "Future[int]":
        promise = self._held[shard] = Future()
        return promise

    def _fulfil(self, shard: int, promise: "Future[int]") -> None:
        far = self._far
        path = far.paths[shard]
        try:
            promise.set_result(shelf.take(path, far.address.file(path.name), far.expected[shard], self._stop))
        except BaseException as error:
            promise.set_exception(error)

    def _let_go(self, shards: list[int]) -> None:
        """Close those of `shards` that nobody reads at this moment; the others at the next occasion."""
        for shard in shards:
            promise = self._held[shard]
            if promise.done() and not self._users[shard]:
                del self._held[shard]
                if promise.exception() is None:
                    os.close(promise.result())
        shelf.tidy(self._far.paths, {*self._held, *self._wanted[0], *self._wanted[1]})
