"""Who waits for what a machine is to bring, and is woken when it settles."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from corestore.replication.actions import Settle, Ticket
    from corestore.state import CoreState


@dataclass(eq=False, slots=True)
class _Waiter:
    """Somebody waits for *tickets* of a machine; `event`: all have settled, one has failed, or one
    will never settle."""

    state: CoreState
    tickets: tuple[Ticket, ...]
    event: trio.Event = field(default_factory=trio.Event)
    settled: dict[Ticket, Settle] = field(default_factory=dict)


class Waiting:
    """All tickets of a store that somebody waits for, and all cores of which news are wanted.

    *drain* carries out what a machine decides, *offer* asks all peers for a core, *check* raises if
    nothing can be stored any more.
    """

    def __init__(
        self,
        drain: Callable[[CoreState], None],
        offer: Callable[[CoreState], None],
        check: Callable[[], None],
    ) -> None:
        self._drain = drain
        self._offer = offer
        self._check = check
        self._waiters: dict[Ticket, _Waiter] = {}
        # How many want news of a core.
        self._wanting: dict[CoreState, int] = {}

    async def wait(self, state: CoreState, *tickets: Ticket) -> list[Settle]:
        """See `Driver.wait`."""
        waiter = _Waiter(state, tickets)
        self._waiters.update(dict.fromkeys(tickets, waiter))
        with self.wanting(state):
            self._drain(state)
            try:
                if not waiter.event.is_set():
                    # What comes from peers could not be kept.
                    self._check()
                await waiter.event.wait()
                return self._result(waiter)
            # Cancelled, or one has failed: nobody waits any more.
            except BaseException:
                left = [each for each in tickets if self._waiters.pop(each, None) is not None]
                for ticket in left:
                    state.replicator.cancel(ticket)
                if left:
                    self._drain(state)
                raise

    def _result(self, waiter: _Waiter) -> list[Settle]:
        settled = waiter.settled
        for each in settled.values():
            if each.error is not None:
                raise each.error
        if len(settled) < len(waiter.tickets):
            self._check()
            raise trio.ClosedResourceError("the core was closed")
        return [settled[ticket] for ticket in waiter.tickets]

    @contextmanager
    def wanting(self, state: CoreState) -> Iterator[None]:
        """See `Driver.wanting`."""
        count = self._wanting.get(state, 0)
        self._wanting[state] = count + 1
        if not count and not state.peers:
            self._offer(state)
        try:
            yield
        finally:
            self._wanting[state] -= 1
            if not self._wanting[state]:
                del self._wanting[state]

    def settle(self, action: Settle) -> None:
        """A machine has settled a ticket."""
        waiter = self._waiters.pop(action.ticket, None)
        if waiter is not None:
            waiter.settled[action.ticket] = action
            if action.error is not None or len(waiter.settled) == len(waiter.tickets):
                waiter.event.set()

    def abandon(self, ticket: Ticket) -> None:
        """Whoever waits for *ticket* is told that it will not settle."""
        waiter = self._waiters.pop(ticket, None)
        if waiter is not None:
            waiter.event.set()

    def abandon_all(self) -> None:
        """As `abandon`, for every ticket."""
        for waiter in self._waiters.values():
            waiter.event.set()
        self._waiters.clear()

    def offer_again(self, *, all_of_them: bool) -> None:
        """Ask again for cores somebody waits for and no peer speaks of: those of which blocks or
        answers are due, or all."""
        wanted = set(self._wanting) if all_of_them else {w.state for w in self._waiters.values()}
        for state in wanted:
            if not state.peers:
                self._offer(state)
