"""Subscriptions to what others change in a drive."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from hyperfs.changes import Changed

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_QUEUED: Final = 64


class Changes:
    """A subscription to `Changed`, as an async iterator; made by `Drive.watch_changes`."""

    def __init__(self) -> None:
        self._queue: deque[Changed] = deque()
        self._arrived = trio.Event()
        self._closed = False

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> Changed:
        await trio.lowlevel.checkpoint()
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            await self._arrived.wait()
        change = self._queue.popleft()
        if not self._queue and not self._closed:
            self._arrived = trio.Event()
        return change

    def put(self, change: Changed) -> None:
        """Queue a change; a subscriber that does not keep up is told that everything changed."""
        if len(self._queue) >= MAX_QUEUED:
            self._queue.clear()
            change = Changed(change.version, (), complete=False)
        self._queue.append(change)
        self._arrived.set()

    def close(self) -> None:
        """End the iteration."""
        self._closed = True
        self._arrived.set()


@contextmanager
def subscribed(subscribers: set[Changes]) -> Iterator[Changes]:
    """A subscription that is among *subscribers* for the length of a block."""
    changes = Changes()
    subscribers.add(changes)
    try:
        yield changes
    finally:
        subscribers.discard(changes)
        changes.close()
