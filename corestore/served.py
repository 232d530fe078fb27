"""What a link has sent lately: if the peer leaves right after it, something may be wrong with it.

A peer cannot tell us that a block of ours is not what the tree says; it ends the connection. Then
what it got last is looked at again (`corestore.checking`), for our disk may have damaged it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from corestore.state import CoreState

# What may have been on its way when the peer met the block that made it leave.
RECENT_BLOCKS: Final = 1024
RECENT_BYTES: Final = 32 << 20
# A peer that leaves later than this after the last block had nothing against it.
RECENT_SECONDS: Final = 5.0


class Served:
    """The blocks sent last over one link, at most `RECENT_BLOCKS` and `RECENT_BYTES`."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[CoreState, int, int]] = deque()
        self._bytes = 0
        self._last = 0.0

    def add(self, state: CoreState, index: int, size: int, now: float) -> None:
        """A block of *size* bytes was sent."""
        blocks = self._blocks
        blocks.append((state, index, size))
        self._bytes += size
        self._last = now
        while len(blocks) > RECENT_BLOCKS or self._bytes > RECENT_BYTES:
            self._bytes -= blocks.popleft()[2]

    def recent(self, now: float) -> dict[CoreState, list[int]]:
        """The blocks of each core, if the last of all was sent a moment ago."""
        found: dict[CoreState, list[int]] = {}
        if now - self._last < RECENT_SECONDS:
            for state, index, _ in self._blocks:
                found.setdefault(state, []).append(index)
        return found
