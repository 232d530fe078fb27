"""The clock of the tests that run in real time."""

from __future__ import annotations

import time
from typing import Final

import trio

# Above the longest pause for which tests let everything come to rest.
SLICE_SECONDS: Final = 0.1


class PatientClock(trio.abc.Clock):
    """Real time, but for what the machine stood still: of a stall a slice counts.

    Trio looks at the clock each time round its loop, and here goes round at least once a slice.
    What is more between two looks is time in which nobody in this process could do anything, so
    that no patience may end by it: neither of a test, nor of what is tested.
    """

    def start_clock(self) -> None:
        self._looked = time.perf_counter()
        # As with trio's own: nobody may mistake it for the time of the process.
        self._now = 100_000.0

    def current_time(self) -> float:
        looked = time.perf_counter()
        self._now += min(looked - self._looked, SLICE_SECONDS)
        self._looked = looked
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return min(deadline - self.current_time(), SLICE_SECONDS)
