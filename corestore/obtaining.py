"""Ends a wait for blocks that nobody has.

Blocks may have been cleared everywhere: a drive gives back what no version shows any more. A peer
tells which blocks it has when it is asked, and nothing if it has none; so what no peer has told of
for a while is not there.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from corestore.state import CoreState

logger: Final = logging.getLogger("corestore")

# A peer announces what it has within a round trip; the greatest usual one is well below a second.
PATIENCE_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.25


@asynccontextmanager
async def while_obtainable(state: CoreState, blocks: Sequence[int]) -> AsyncIterator[None]:
    """Cancel the body when none of *blocks* (a range, or sorted) is to be had any more.

    Without peers it waits for one. What the body raises is raised as it is.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            await _wait_idle(state, blocks)
            missing = sum(not state.bitfield.get(index) for index in blocks)
            logger.info("core %s: no peer has the %d blocks still missing", state.key, missing)
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        try:
            yield
        # Raised again outside of the nursery: not wrapped in a group.
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _wait_idle(state: CoreState, blocks: Sequence[int]) -> None:
    """Wait until there are peers, and none of them has had any missing block for a while."""
    since = trio.current_time()
    while True:
        await trio.sleep(LOOK_SECONDS)
        now = trio.current_time()
        if not state.peers or state.replicator.obtainable(blocks):
            since = now
        elif now - since >= PATIENCE_SECONDS:
            return
