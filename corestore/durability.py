"""Group sync: makes commits durable, then publishes them; many commits share one sync.

A head is published only when it cannot be lost any more, because a signature once shown to a peer
and then forgotten would let us sign a second history of the same length. A sync has three steps
that must follow one another: the data files, then the watermark (a commit), then the write-ahead
log. The two that wait for the disk run in a thread.

One sync is in flight at a time. A caller may share only a sync that begins after its commit: one
already in flight may have passed the file its bytes are in (corestore/STORAGE.md).

A failure is final. After a failed fdatasync the kernel reports success the next time although the
pages are gone, so nothing may be retried: the store stops acknowledging and recovers when it is
opened the next time. Only a disk too full for the watermark is not: nothing was written then, and
the sync is begun again from its first step.
"""

from __future__ import annotations

import enum
import logging
import math
from typing import TYPE_CHECKING, Final

import trio

from corestore.errors import StorageError
from corestore.storage.rules import is_full

if TYPE_CHECKING:
    from collections.abc import Callable

    from corestore.storage.base import Storage, SyncTicket

logger: Final = logging.getLogger("corestore")

# Between the beginnings of two syncs that nobody waits for: a change is still seen by peers well
# within 100 ms, and a stream of small commits does not spend its time in fdatasync.
SYNC_INTERVAL: Final = 0.01
# What was downloaded can be downloaded again; after a power cut at most this many seconds of it.
DOWNLOAD_SYNC_DELAY: Final = 1.0
# Before a disk that was full is tried again, unless somebody asks for it.
FULL_DELAY: Final = 1.0


class SyncPolicy(enum.Enum):
    """When commits become durable.

    GROUP: soon after each commit, many of them together; `sync` waits for it. The default.
    ALWAYS: an append returns only when it is durable and published.
    NONE: only `sync` and closing the store; heads are published as soon as they are committed. A
      power cut can then lose a head that peers have seen: for tests, and for cores nobody reads.
    """

    GROUP = "group"
    ALWAYS = "always"
    NONE = "none"


class SyncGroup:
    """The one place that syncs a store. `run` must be running for `sync` to return.

    *sign* is called, on the loop, before every sync: what it makes durable may then be shown.
    *published* is called after it with what became durable, and *stopped* when nothing can be
    written any more.
    """

    def __init__(
        self,
        storage: Storage,
        policy: SyncPolicy,
        *,
        sign: Callable[[], object],
        published: Callable[[SyncTicket], None],
        stopped: Callable[[], None],
    ) -> None:
        self.policy = policy
        self._storage = storage
        self._sign = sign
        self._published = published
        self._stopped = stopped
        self._failure: BaseException | None = None
        self._unsynced = False
        # Syncs are numbered; a waiter waits for the number of the first one that covers it.
        self._begun = 0
        self._finished = 0
        # The number of the last one that found the disk full, and how it was told.
        self._full: tuple[int, OSError] | None = None
        self._due = math.inf
        self._last_begin = -math.inf
        self._wake = trio.Event()
        self._done = trio.lowlevel.ParkingLot()
        # Its own, so that an application that uses up trio's threads does not stop syncs.
        self._one_thread = trio.CapacityLimiter(1)

    def check(self) -> None:
        """Raises StorageError if a sync has failed: nothing may be committed any more."""
        if self._failure is not None:
            raise StorageError(
                "an earlier write to the store failed; open it again"
            ) from self._failure

    def fail(self, error: BaseException) -> None:
        """Refuse everything from now on: *error* left the store in an unknown state."""
        if self._failure is None:
            logger.error("the store stops writing: %s", error)
            self._failure = error
            self._stopped()
        self._done.unpark_all()

    def committed(self, *, publish: bool) -> None:
        """Note that something was committed; *publish*: peers wait to see it."""
        self._unsynced = True
        if self.policy is SyncPolicy.NONE:
            return
        if publish:
            due = self._last_begin + SYNC_INTERVAL
        else:
            due = trio.current_time() + DOWNLOAD_SYNC_DELAY
        self._request(due)

    async def sync(self) -> None:
        """Wait until everything committed before this call is durable and published.

        Cancelling stops the waiting, not the sync.

        Raises:
          OSError: the disk is full; what was committed is still to be synced.
          StorageError: it failed, now or earlier; the store must be opened again.
        """
        self.check()
        await trio.lowlevel.checkpoint()
        if self._unsynced:
            target = self._begun + 1
            self._request(-math.inf)
        else:
            target = self._begun
        while self._finished < target:
            self.check()
            if self._full is not None and self._full[0] >= target:
                error = self._full[1]
                raise OSError(error.errno, error.strerror, error.filename) from error
            await self._done.park()
        self.check()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Sync whenever it is due, until cancelled. A sync under way is finished first."""
        while True:
            await self._wait_due()
            with trio.CancelScope(shield=True):
                await self._sync_once()

    def _request(self, due: float) -> None:
        if due < self._due:
            self._due = due
            self._wake.set()

    async def _wait_due(self) -> None:
        while True:
            if self._failure is not None:
                await trio.sleep_forever()
            if self._due <= trio.current_time():
                await trio.lowlevel.checkpoint()
                return
            self._wake = trio.Event()
            with trio.move_on_at(self._due):
                await self._wake.wait()

    async def _sync_once(self) -> None:
        self._begun += 1
        self._due = math.inf
        self._last_begin = trio.current_time()
        self._unsynced = False
        storage = self._storage
        try:
            self._sign()
            ticket = storage.begin_sync()
            if ticket is not None:
                await trio.to_thread.run_sync(storage.flush, ticket, limiter=self._one_thread)
                storage.mark_synced(ticket)
                await trio.to_thread.run_sync(storage.flush_log, ticket, limiter=self._one_thread)
                storage.finish_sync(ticket)
        # Whatever went wrong, what is on disk is unknown: nobody may be told that it is safe.
        except Exception as error:
            # But for this: storage tells a failure that is its end by another class.
            if isinstance(error, OSError) and is_full(error):
                self._postpone(error)
            else:
                self.fail(error)
            return
        self._finished = self._begun
        if self._full is not None:
            self._full = None
            logger.info("there is room again: what was committed is durable")
        if ticket is not None:
            self._published(ticket)
        self._done.unpark_all()

    def _postpone(self, error: OSError) -> None:
        """The disk is full: whoever waits is told, and what is to be synced still is."""
        if self._full is None:
            logger.warning("nothing can be made durable: %s", error)
        self._full = (self._begun, error)
        self._unsynced = True
        if self.policy is not SyncPolicy.NONE:
            self._request(trio.current_time() + FULL_DELAY)
        self._done.unpark_all()
