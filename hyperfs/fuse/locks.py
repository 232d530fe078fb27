"""A lock that costs nothing while nobody contends for it."""

from __future__ import annotations

import trio


class QuickLock:
    """A mutual exclusion that is no checkpoint unless it has to wait.

    `trio.Lock` goes through the scheduler each time it is taken, which is half the cost of a FUSE
    request. Here a task that finds it free takes it and goes on; of those waiting, the first is
    woken, and waits again if somebody was quicker. A waiter can be cancelled until it is woken and
    then always looks again, so no wake-up is lost.
    """

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            await self._waiting.park()
        self._held = True

    async def __aexit__(self, *_error: object) -> None:
        self._held = False
        if self._waiting:
            self._waiting.unpark()
