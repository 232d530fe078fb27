"""What peers proved, on its way into storage: in order, and many batches to a transaction.

A transaction costs as much as five blocks do, however many it writes. So what is to be committed
is gathered while every turn of the other tasks brings more, and no timer is needed: when nothing
more has come, nothing more is there. What somebody waits for is written at once. Links stop reading
while too much waits (`wait_room`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from corestore.replication.actions import CommitBatch
    from corestore.state import CoreState

# One storage transaction takes at most this many bytes of blocks: 1 ms of the loop. A block takes
# as long as 16 KiB more would, whatever its size.
COMMIT_BYTES: Final = 1 << 20
BATCH_COST: Final = 16 << 10
# Verified blocks that wait for a transaction, counted alike; links stop reading beyond it.
MAX_PENDING_BYTES: Final = 8 << 20


class Incoming:
    """The verified batches of all cores that are not written yet."""

    def __init__(self) -> None:
        self._queue: deque[tuple[CoreState, CommitBatch]] = deque()
        self._bytes = 0
        # Whether somebody waits for a block that is in the queue.
        self._awaited = False
        self._wanted = trio.Event()
        self._room = trio.lowlevel.ParkingLot()

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def cores(self) -> set[CoreState]:
        """Those with a batch in the queue."""
        return {state for state, _ in self._queue}

    def put(self, state: CoreState, batch: CommitBatch) -> None:
        """Queue a batch of *state*'s machine."""
        self._queue.append((state, batch))
        self._bytes += _size(batch)
        self._awaited |= batch.awaited
        self._wanted.set()

    async def wait(self) -> None:
        """Wait until there is anything."""
        await self._wanted.wait()
        self._wanted = trio.Event()

    async def gather(self) -> None:
        """Wait while every turn of the other tasks brings more, up to what one transaction takes,
        or until somebody waits for what is there.

        A second turn without news is waited for: the first may have been spent on waking a link.
        """
        before, idle = -1, 0
        while self._bytes < COMMIT_BYTES and idle < 2 and not self._awaited:
            idle = idle + 1 if self._bytes == before else 0
            before = self._bytes
            await trio.lowlevel.checkpoint()

    async def wait_room(self) -> None:
        """Wait while too much waits to be written."""
        while self._bytes > MAX_PENDING_BYTES:
            await self._room.park()

    def made_room(self) -> None:
        """Something was taken."""
        self._room.unpark_all()

    def take(
        self,
    ) -> tuple[dict[CoreState, list[CommitBatch]], list[tuple[CoreState, CommitBatch]]]:
        """The batches of the next transaction, by core, and those that can no longer be written:
        the log has another history now. A batch that changes a history comes alone."""
        taken: dict[CoreState, list[CommitBatch]] = {}
        outdated: list[tuple[CoreState, CommitBatch]] = []
        size = 0
        while self._queue and size < COMMIT_BYTES:
            state, batch = self._queue[0]
            alone = batch.batch.truncate is not None
            if alone and taken:
                break
            self._queue.popleft()
            self._bytes -= _size(batch)
            if state.lease.evidence is not None:
                continue
            fork = state.head.fork
            if batch.fork <= fork if alone else batch.fork != fork:
                # Truncated meanwhile, by us or by another process: it belongs to the past.
                outdated.append((state, batch))
                continue
            taken.setdefault(state, []).append(batch)
            size += _size(batch)
            if alone:
                break
        self._awaited &= bool(self._queue)
        return taken, outdated

    def forget(self, state: CoreState) -> list[CommitBatch]:
        """Take out what is left of one core: it is gone, or cannot be written. In order."""
        forgotten = [batch for other, batch in self._queue if other is state]
        self._queue = deque(entry for entry in self._queue if entry[0] is not state)
        self._bytes -= sum(_size(batch) for batch in forgotten)
        self.made_room()
        return forgotten


def _size(batch: CommitBatch) -> int:
    block = batch.batch.block
    return BATCH_COST if block is None else BATCH_COST + len(block[1])
