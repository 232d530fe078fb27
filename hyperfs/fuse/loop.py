"""Waiting for FUSE requests without going through the scheduler for each.

pyfuse3's loop takes a `trio.Lock` and calls `trio.lowlevel.wait_readable` before every request: two
trips through the scheduler and three system calls, 75 to 95 µs a request where the handler takes 5.
It looks both up through its module global `trio` when it needs them, which is how its own asyncio
support replaces them, and how `install` does. With what is here a request costs 16 to 20 µs on
one processor.

`FastTrio.lowlevel.wait_readable` looks whether the next request is there already and then returns
at once. If not it looks again for `SPIN_NS`, since a program that just got an answer mostly asks
again, and to be woken from another processor costs 30 to 60 µs. Every `YIELD_NS` it takes the real
way, so that all other tasks and timers run, however busy the mount is. It spins only after it has
been woken within that time, so an idle mount costs nothing.
"""

from __future__ import annotations

import select
from time import perf_counter_ns
from typing import Final

import pyfuse3
import trio

from hyperfs.fuse.locks import QuickLock

SPIN_NS: Final = 50_000
# The longest that requests alone keep the loop: no slice of it may take over a millisecond.
YIELD_NS: Final = 1_000_000


class FastLowlevel:
    """The part of `trio.lowlevel` that pyfuse3 uses."""

    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, spin_ns: int = SPIN_NS, yield_ns: int = YIELD_NS) -> None:
        self._spin_ns = spin_ns
        self._yield_ns = yield_ns
        self._yield_at = 0
        self._poll: select.poll | None = None
        self._fd = -1

    async def wait_readable(self, fd: int) -> None:
        """Return when there is a request on *fd*; see the module for when that is a checkpoint.

        Raises `trio.ClosedResourceError` when woken by `notify_closing`.
        """
        now = perf_counter_ns()
        yield_at = self._yield_at
        if now < yield_at:
            poll = self._poll
            if poll is None or fd != self._fd:
                poll = self._watch(fd)
            if poll.poll(0):
                return
            stop = min(now + self._spin_ns, yield_at)
            while perf_counter_ns() < stop:
                if poll.poll(0):
                    return
        await trio.lowlevel.wait_readable(fd)
        self._yield_at = perf_counter_ns() + self._yield_ns

    def _watch(self, fd: int) -> select.poll:
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._fd = fd
        return self._poll


class FastTrio:
    """What pyfuse3 finds under the name `trio`."""

    ClosedResourceError = trio.ClosedResourceError
    Lock = QuickLock
    open_nursery = staticmethod(trio.open_nursery)

    def __init__(self) -> None:
        self.lowlevel = FastLowlevel()


def install(*, fast: bool) -> None:
    """Choose how pyfuse3 waits; to be called before its `init`."""
    pyfuse3.trio = FastTrio() if fast else trio  # type: ignore[attr-defined]  # untyped
