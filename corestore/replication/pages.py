"""Which blocks peers have: every peer is asked once about each page in which anything is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore.bitfield import MAX_WIRE_BLOCKS
from corestore.replication.messages import Want

if TYPE_CHECKING:
    from corestore.replication.shared import Shared

# A page is what one want covers; of a longer log than this many pages, the rest is downloaded only
# from peers that announce it unasked.
MAX_PAGES: Final = 4096


class Pages:
    """The pages of a log in which anything was ever wanted.

    Attributes:
      due: something has changed, so that `ask` may have to ask.
    """

    __slots__ = ("_pages", "_shared", "due")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._pages: set[int] = set()
        self.due = False

    def block_wanted(self, index: int) -> None:
        """A block is wanted."""
        self._wanted(index // MAX_WIRE_BLOCKS)

    def range_wanted(self, start: int, end: int) -> None:
        """Blocks of a range are wanted."""
        for page in range(start // MAX_WIRE_BLOCKS, min(-(-end // MAX_WIRE_BLOCKS), MAX_PAGES)):
            self._wanted(page)

    def _wanted(self, page: int) -> None:
        if page not in self._pages and len(self._pages) < MAX_PAGES:
            self._pages.add(page)
            self.due = True

    def ask(self) -> None:
        """Ask every peer that serves our fork what it was not asked yet."""
        shared = self._shared
        length = shared.head.length
        if shared.wants.seeks or any(want.end is None for want in shared.wants.ranges):
            low = 0 if shared.wants.seeks else min(want.low for want in shared.wants.ranges)
            self.range_wanted(low, length)
        self.due = False
        for peer in shared.peers.values():
            if not peer.serves(shared.head.fork):
                continue
            theirs = peer.blocks.contiguous_length
            for page in sorted(self._pages - peer.pages):
                end = min((page + 1) * MAX_WIRE_BLOCKS, length)
                if page * MAX_WIRE_BLOCKS < end and theirs < end:
                    peer.pages.add(page)
                    shared.send(peer, Want(page * MAX_WIRE_BLOCKS, MAX_WIRE_BLOCKS))
