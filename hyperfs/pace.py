"""Loops that may take long let others run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Generator

T = TypeVar("T")

# A request on a mount waits for whatever runs before it: so long at most.
SLICE_SECONDS: Final = 0.001


class Pace:
    """Suspends a loop that has run for a millisecond, whenever it asks."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new slice begins now."""
        self._since = time.perf_counter()

    @property
    def due(self) -> bool:
        """Whether the slice is over."""
        return time.perf_counter() - self._since > SLICE_SECONDS

    async def keep(self) -> None:
        """Suspend if it is time to."""
        if time.perf_counter() - self._since > SLICE_SECONDS:
            await trio.lowlevel.checkpoint()
            self.begin()


async def run_paced(steps: Generator[None, None, T]) -> T:
    """What *steps* returns; wherever it yields, others run if it is time. Raises what it raises."""
    pace = Pace()
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        await pace.keep()
