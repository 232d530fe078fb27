"""`Corestore`: many cores in one place, and their keys.

All key pairs derive from the store's primary key, a namespace and a name, so losing everything but
the primary key loses no identity. What one does with a store is in `corestore.namespace`; here is
how one is opened, kept running and closed.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from corestore import background
from corestore.driver import Driver
from corestore.durability import SyncPolicy
from corestore.events import Broadcast
from corestore.identity import notice_copy
from corestore.keyring import KeyRing
from corestore.keys import ROOT_NAMESPACE, KeyPair
from corestore.namespace import Namespace, Parts
from corestore.passive import PASSIVE_CORES
from corestore.signing import sign_recovered
from corestore.storage.disk import DiskStorage
from corestore.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from corestore.namespace import CoreOpened
    from corestore.storage.base import Storage


class Corestore(Namespace):
    """An open store. Made by `corestore.open`; as a `Namespace` it is the root one."""

    def __init__(
        self,
        storage: Storage,
        policy: SyncPolicy,
        path: Path | None,
        *,
        cache_size: int = PASSIVE_CORES,
    ) -> None:
        keys = KeyRing(storage.primary_key)
        driver = Driver(storage, policy, keys.find, cache_size=cache_size)
        events: Broadcast[CoreOpened] = Broadcast()
        shortened = tuple(
            (core.record.key.discovery_key, before)
            for core, before in storage.recovered()
            if core.head.length < before
        )
        super().__init__(
            Parts(storage, driver, keys, events, KeyPair.generate(), shortened), ROOT_NAMESPACE
        )
        self.path = path

    def _close(self) -> None:
        self._events.close()
        self._driver.close()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open(
    storage: str | os.PathLike[str] | Callable[[], Storage] | None,
    *,
    sync: str = "group",
    cache_size: int = PASSIVE_CORES,
) -> AsyncIterator[Corestore]:
    """Open the store in the folder *storage*, making it if it is missing.

    Leaving the block closes all its cores and makes everything durable.

    Args:
      storage: a folder (`~` is expanded), None to keep everything in memory, or a function that
        opens something else that stores cores; the store closes it.
      cache_size: how many cores that nobody has open here are kept ready for peers who ask for
        them. The one asked for longest ago goes first; it is loaded again when asked for.
      sync: "group" (soon after each commit, and on `sync`), "always" (an append returns when it
        is durable) or "none" (only on `sync` and closing). See `SyncPolicy`.

    Raises:
      ValueError: no such policy, or a negative *cache_size*.
      OSError: the folder cannot be read or written.
      StorageError: it holds a store this version cannot use, or a damaged one.
    """
    policy = SyncPolicy(sync)
    if cache_size < 0:
        raise ValueError("a cache cannot be smaller than empty")
    async with running(_opened(storage, policy, cache_size)) as store:
        yield store


# A Ctrl-C that came up in here, and not in the block or where the program waits next, would leave
# the shielded tasks running, and whoever closes the store waiting for them.
@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def running(store: Corestore) -> AsyncIterator[Corestore]:
    """Run what *store* does in the background, and close it at the end of the block."""
    failure: BaseException | None = None
    # A cancelled block may still have something to make durable as it ends.
    scope = trio.CancelScope(shield=True)

    @trio.lowlevel.enable_ki_protection
    async def run() -> None:
        with scope:
            await background.run(store._driver)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            try:
                yield store
            except BaseException as error:
                # Raised again below, outside of the nursery: callers see their own exception and
                # not a group around it.
                failure = error
            scope.cancel()
    finally:
        store._close()
    if failure is not None:
        raise failure


def _opened(
    storage: str | os.PathLike[str] | Callable[[], Storage] | None,
    policy: SyncPolicy,
    cache_size: int,
) -> Corestore:
    folder: Path | None = None
    if storage is None:
        opened: Storage = MemoryStorage()
    elif isinstance(storage, (str, os.PathLike)):
        folder = Path(storage).expanduser()
        opened = DiskStorage(folder)
    else:
        opened = storage()
    try:
        if folder is not None:
            notice_copy(opened, folder)
        store = Corestore(opened, policy, folder, cache_size=cache_size)
        sign_recovered(store._driver)
    except BaseException:
        opened.close()
        raise
    return store
