"""Wakes the machines of a store at the times they ask for."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from corestore.state import CoreState


class Timers:
    """One time for each core: the latest that was set. *due* is called when it has come."""

    def __init__(self, due: Callable[[CoreState, float], None]) -> None:
        self._due = due
        self._timers: list[tuple[float, int, CoreState]] = []
        self._numbers = itertools.count()
        self._earlier = trio.Event()

    def set(self, state: CoreState, time: float) -> None:
        """Wake *state* at *time* (trio's clock), and not when it was to be woken before."""
        state.wake_at = time
        heapq.heappush(self._timers, (time, next(self._numbers), state))
        self._earlier.set()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Keep time; until cancelled."""
        timers = self._timers
        while True:
            now = trio.current_time()
            while timers and timers[0][0] <= now:
                time, _, state = heapq.heappop(timers)
                if time == state.wake_at:
                    state.wake_at = math.inf
                    self._due(state, now)
            self._earlier = trio.Event()
            with trio.move_on_at(timers[0][0] if timers else math.inf):
                await self._earlier.wait()
