"""What runs for a store while it is open: syncs, what peers proved, timers, checks of what peers
were sent, and what is due at intervals.

At intervals what other processes committed is taken over, links are told that time passes, cores
that somebody waits for are offered to peers again, and passive ones leave the cache.

Tasks of a store and its links are protected from KeyboardInterrupt, which comes up in the program's
own tasks: one that died of it would be waited for.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Final

import trio

from corestore.checking import check_served
from corestore.errors import StorageError
from corestore.receiving import Receiving

if TYPE_CHECKING:
    from corestore.driver import Driver

logger: Final = logging.getLogger("corestore")

# How soon a commit of another process is noticed while nothing else happens.
POLL_INTERVAL: Final = 0.5
# Every so many polls passive cores leave the cache, and cores only followed are offered again to
# peers that closed them. Both cost a channel each time.
SLOW_POLLS: Final = 4


@trio.lowlevel.enable_ki_protection
async def run(driver: Driver) -> None:
    """Sync, commit, keep time; until cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.sync_group.run)
        nursery.start_soon(Receiving(driver).run)
        nursery.start_soon(driver.timers.run)
        nursery.start_soon(_run_checkpoints, driver)
        nursery.start_soon(_run_polls, driver)
        nursery.start_soon(_run_checks, driver)


@trio.lowlevel.enable_ki_protection
async def _run_checkpoints(driver: Driver) -> None:
    # Its own, so that an application that uses up trio's threads does not stop checkpoints.
    one_thread = trio.CapacityLimiter(1)
    while True:
        await driver.checkpoint_wanted.wait()
        driver.checkpoint_wanted = trio.Event()
        try:
            await trio.to_thread.run_sync(driver.storage.checkpoint, limiter=one_thread)
        except (OSError, StorageError) as error:
            driver.sync_group.fail(error)
            return


@trio.lowlevel.enable_ki_protection
async def _run_polls(driver: Driver) -> None:
    for number in itertools.count(1):
        await trio.sleep(POLL_INTERVAL)
        for link in tuple(driver.links):
            link.tick(trio.current_time())
        try:
            _look_for_changes(driver)
            slow = number % SLOW_POLLS == 0
            driver.waiting.offer_again(all_of_them=slow)
            if slow:
                driver.forget_surplus(channels=True)
        except (OSError, StorageError) as error:
            driver.sync_group.fail(error)
            return


@trio.lowlevel.enable_ki_protection
async def _run_checks(driver: Driver) -> None:
    async for served in driver.suspects:
        for state, indices in served.items():
            try:
                await check_served(driver, state, indices)
            except (OSError, StorageError) as error:
                logger.warning("core %s: what a peer was sent is not checked: %s", state.key, error)


def _look_for_changes(driver: Driver) -> None:
    """Take over what other processes committed."""
    for state in list(driver.states.values()):
        if not state.reload():
            continue
        driver.drain(state)
        if state.writable:
            # What the process that signs has published shows after a sync of ours.
            driver.sync_group.committed(publish=True)
