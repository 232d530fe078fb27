"""Fetches what there is to be had of a core, and does not wait for what nobody has.

Blocks may have been cleared everywhere: a drive gives back what no version shows any more. A peer
tells which blocks it has when it is asked, and nothing if it has none; so what no peer has told of
for a while is not there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from corestore.errors import CorestoreError

if TYPE_CHECKING:
    from corestore.driver import Driver
    from corestore.state import CoreState

logger: Final = logging.getLogger("corestore")

# A peer announces what it has within a round trip; the greatest usual one is well below a second.
PATIENCE_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.25


async def download_obtainable(driver: Driver, state: CoreState, end: int) -> None:
    """Fetch all blocks below *end* that any peer has. Without peers it waits for one.

    Cancelled, what has arrived stays.

    Raises: as `Driver.wait`.
    """
    ticket = state.replicator.want_range(0, end)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            await _wait_idle(state, end)
            missing = end - state.bitfield.count(0, end)
            logger.info("core %s: no peer has the %d blocks still missing", state.key, missing)
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        try:
            await driver.wait(state, ticket)
        except (OSError, CorestoreError, trio.ClosedResourceError) as error:
            # Raised again outside of the nursery: not wrapped in a group.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _wait_idle(state: CoreState, end: int) -> None:
    """Wait until there are peers, and none of them has had any missing block for a while."""
    since = trio.current_time()
    while True:
        await trio.sleep(LOOK_SECONDS)
        now = trio.current_time()
        if not state.peers or state.replicator.obtainable(0, end):
            since = now
        elif now - since >= PATIENCE_SECONDS:
            return
