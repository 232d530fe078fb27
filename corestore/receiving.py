"""Writes what peers proved: one task for a store, many batches to a transaction.

What storage refuses is refused to the machine it came from, which asks for nothing for a second,
and then for it again; what is queued behind it may build on it, and goes with it.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Final

import trio

from corestore.errors import StorageConflict, StorageError

if TYPE_CHECKING:
    from corestore.driver import Driver
    from corestore.replication.actions import CommitBatch
    from corestore.state import CoreState

logger: Final = logging.getLogger("corestore")


class Receiving:
    """Writes the incoming batches of *driver*; `run` does everything."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._incoming = driver.incoming
        # Cores of which the last that came could not be stored: that is said once.
        self._refused: weakref.WeakSet[CoreState] = weakref.WeakSet()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Write what comes; until cancelled."""
        incoming = self._incoming
        while True:
            await incoming.wait()
            while incoming:
                await incoming.gather()
                self._commit_some()
                incoming.made_room()
                await trio.lowlevel.checkpoint()

    def _commit_some(self) -> None:
        """One transaction of what peers proved."""
        taken, outdated = self._incoming.take()
        for state, batch in outdated:
            state.replicator.refused(batch, StorageConflict("the log has another history"))
            self._driver.drain(state)
        if not taken or (error := self._store(taken)) is None:
            return
        if len(taken) == 1:
            self._refuse(*taken.popitem(), error)
            return
        # It may be about one of them: who signs a core can place its blocks where no file ends.
        for state, batches in taken.items():
            if (error := self._store({state: batches})) is not None:
                self._refuse(state, batches, error)

    def _store(self, taken: dict[CoreState, list[CommitBatch]]) -> OSError | StorageError | None:
        """Write *taken* in one transaction, or nothing and say why."""
        driver = self._driver
        try:
            driver.write([(state, state.verified_commit(own)) for state, own in taken.items()])
        except (OSError, StorageError) as error:
            return error
        # What was verified has all its nodes, and places and sizes that a store can hold: that it
        # has not is a bug, and not the store's end.
        except (LookupError, ValueError) as error:
            logger.exception("what peers sent does not fit")
            return StorageError(str(error))
        for state, batches in taken.items():
            if state in self._refused:
                self._refused.discard(state)
                logger.info("what peers send of core %s is stored again", state.key)
            for batch in batches:
                state.replicator.committed(batch)
            state.report_downloads(batches)
            if state.writable and batches[0].batch.truncate is not None and state.publish():
                driver.published(state)
            driver.drain(state)
        # Our own log, recovered from peers: it is not shown before it is durable.
        driver.sync_group.committed(publish=any(state.writable for state in taken))
        return None

    def _refuse(
        self, state: CoreState, batches: list[CommitBatch], error: OSError | StorageError
    ) -> None:
        """Take back *batches*, and what is queued behind them: that may build on them."""
        if state not in self._refused:
            self._refused.add(state)
            logger.warning("what peers sent of core %s cannot be stored: %s", state.key, error)
        state.reload()
        for batch in (*batches, *self._incoming.forget(state)):
            state.replicator.refused(batch, error)
        self._driver.drain(state)
        self._notice_end(state)

    def _notice_end(self, state: CoreState) -> None:
        """After an error: whether it was the store's last one is found out by asking it."""
        try:
            self._driver.storage.open_core(state.discovery_key)
        except StorageError as error:
            self._driver.sync_group.fail(error)
