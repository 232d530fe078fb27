"""Facts that cores and stores report, and the subscriptions that receive them.

Reporting never waits and never fails: a subscriber that does not keep up loses the oldest events
and is told how many (`Missed`). What must not be missed is state, not events: wait for
`core.wait_length(n)` or look at `core.length` after each event.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from types import TracebackType

    from corestore.conflict import ForkEvidence

# Some seconds of single-block downloads at the highest rate measured (3,000 blocks/s).
MAX_QUEUED_EVENTS: Final = 8192


@dataclass(frozen=True, slots=True)
class Appended:
    """The core grew to *length* blocks, by a local append or by a verified upgrade."""

    length: int


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Block *index* came from a peer, was verified and is stored."""

    index: int


@dataclass(frozen=True, slots=True)
class Truncated:
    """The core was shortened to *length* blocks; from now on it has fork number *fork*."""

    length: int
    fork: int


@dataclass(frozen=True, slots=True)
class Published:
    """Everything up to *length* is durable and may be shown to peers."""

    length: int


@dataclass(frozen=True, slots=True)
class PeerAdded:
    """A peer opened a channel for this core and proved that it knows the key."""

    remote_public_key: bytes


@dataclass(frozen=True, slots=True)
class PeerRemoved:
    """The channel to a peer closed."""

    remote_public_key: bytes


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A peer has proved a longer log of a core that we sign: it was written elsewhere. Nothing is
    appended here before `Hypercore.recover`. *length* blocks, of fork number *fork*."""

    length: int
    fork: int


@dataclass(frozen=True, slots=True)
class ForkDetected:
    """The core's key has signed two histories. The core is stopped: nothing is appended, fetched
    or served any more; what is held can be read. The evidence is kept with it."""

    evidence: ForkEvidence


@dataclass(frozen=True, slots=True)
class Missed:
    """This subscriber was too slow: *count* events before this one were dropped."""

    count: int


CoreEvent = (
    Appended
    | Downloaded
    | Truncated
    | Published
    | PeerAdded
    | PeerRemoved
    | Overtaken
    | ForkDetected
    | Missed
)

Event = TypeVar("Event")


class Subscription(Generic[Event]):
    """Events from the moment of subscribing on, as an async iterator.

    Used in `with`: leaving the block ends the subscription, and ends an iteration that is waiting
    in another task. A waiting `receive` may be cancelled without losing an event.
    """

    def __init__(self, source: Broadcast[Event]) -> None:
        self._source = source
        self._queue: deque[Event | Missed] = deque()
        self._missed = 0
        self._lot = trio.lowlevel.ParkingLot()
        self._closed = False
        source._subscriptions.add(self)

    def __enter__(self) -> Subscription[Event]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Subscription[Event]:
        return self

    async def __anext__(self) -> Event | Missed:
        await trio.lowlevel.checkpoint()
        while True:
            if self._missed:
                count, self._missed = self._missed, 0
                return Missed(count)
            if self._queue:
                return self._queue.popleft()
            if self._closed:
                raise StopAsyncIteration
            await self._lot.park()

    async def receive(self) -> Event | Missed:
        """The next event.

        Raises:
          trio.EndOfChannel: the subscription, or what it subscribes to, was closed.
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise trio.EndOfChannel from None

    def receive_nowait(self) -> Event | Missed | None:
        """The next event if there is one already, else None."""
        if self._missed:
            count, self._missed = self._missed, 0
            return Missed(count)
        return self._queue.popleft() if self._queue else None

    def close(self) -> None:
        """End the subscription; what is queued can still be received. Idempotent."""
        self._closed = True
        self._source._subscriptions.discard(self)
        self._lot.unpark_all()

    def _put(self, event: Event) -> None:
        if len(self._queue) >= MAX_QUEUED_EVENTS:
            self._queue.popleft()
            self._missed += 1
        self._queue.append(event)
        self._lot.unpark_all()


class Broadcast(Generic[Event]):
    """Where events are reported to; hands each to every subscription."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription[Event]] = set()

    def subscribe(self) -> Subscription[Event]:
        """A subscription to everything reported from now on."""
        return Subscription(self)

    def send(self, event: Event) -> None:
        """Report *event*. Does not wait."""
        for subscription in tuple(self._subscriptions):
            subscription._put(event)

    def __bool__(self) -> bool:
        """Whether anybody listens: events that are costly to make need not be made."""
        return bool(self._subscriptions)

    def close(self) -> None:
        """End all subscriptions."""
        for subscription in tuple(self._subscriptions):
            subscription.close()
