"""Which blocks to ask a full copy for, while others are fetching the same log and serve each other.

If everybody asked for the beginning first, a full copy would send each block to everybody. So it is
asked for *rare* blocks: those that nobody else has who could send them soon. Every reader begins
somewhere else and goes on from there; where it meets what others have got meanwhile, it begins
again somewhere else. What it skips comes from the others.

Readers alone with full copies fetch in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore.bitfield import first_gap

if TYPE_CHECKING:
    from collections.abc import Container
    from random import Random

    from corestore.bitfield import Bitfield
    from corestore.replication.peer import Peer

# A block is left to somebody who would send it at most so much later than the full copy (seconds).
SPARE_SECONDS: Final = 1.0
# Blocks asked of a full copy and not received are asked of it by others too, who cannot know. So no
# more than this part of everybody's share of what is missing is asked for at once.
SHARE: Final = 8
LEAST_IN_FLIGHT: Final = 8
# Up to here what is missing is counted; beyond, it is taken for all of the range.
COUNTED_BLOCKS: Final = 1 << 17


class Crowd:
    """Who else is fetching the log: made anew whenever requests are handed out.

    Attributes:
      others: peers that have a part of the log, and want more.
    """

    __slots__ = ("_length", "others")

    def __init__(self, peers: list[Peer], length: int) -> None:
        self._length = length
        self.others = [
            peer
            for peer in peers
            if peer.downloading and not self.is_full(peer) and not peer.stalled
        ]

    def is_full(self, peer: Peer) -> bool:
        """Whether the peer has everything."""
        return peer.blocks.contiguous_length >= self._length

    def at_once(self, low: int, end: int, held: Bitfield) -> int:
        """How many of the missing blocks in `low..end` may be asked of one full copy at once."""
        missing = end - low
        if missing <= COUNTED_BLOCKS:
            missing -= held.count(low, end)
        return max(LEAST_IN_FLIGHT, missing // (SHARE * (len(self.others) + 1)))

    def rare(self, peer: Peer) -> list[Bitfield]:
        """The blocks that are not rare, seen from a full copy: they are in any of these."""
        limit = peer.estimate() + SPARE_SECONDS
        return [other.blocks for other in self.others if other.estimate() <= limit]


def take_rare(
    place: int | None,
    count: int,
    span: tuple[int, int],
    elsewhere: list[Bitfield],
    claimed: tuple[Container[int], Container[int]],
    rng: Random,
) -> tuple[list[int], int | None]:
    """Up to *count* blocks of *span* that are in none of *elsewhere* (which includes what we hold)
    and not claimed, a run if possible; and the place to go on from, None to begin elsewhere."""
    low, end = span
    asked, pending = claimed
    start = place
    if start is None or not low <= start < end:
        start = rng.randrange(low, end)
    found: list[int] = []
    first = _next(start, end, elsewhere, claimed)
    if first is not None and place is not None and first != place:
        # Somebody else was here: begin where it is quiet.
        first = _next(rng.randrange(low, end), end, elsewhere, claimed)
    if first is None:
        first = _next(low, end, elsewhere, claimed)
    if first is None:
        return found, None
    stop = min(end, first + count)
    for blocks in elsewhere:
        stop = blocks.first(True, first, stop) or stop
    for index in range(first, stop):
        if index in asked or index in pending:
            return found, None
        found.append(index)
    return found, stop


def _next(
    start: int,
    end: int,
    elsewhere: list[Bitfield],
    claimed: tuple[Container[int], Container[int]],
) -> int | None:
    """The first block from *start* on that is in none of *elsewhere* and not claimed."""
    asked, pending = claimed
    index = first_gap(elsewhere, start, end)
    while index is not None and (index in asked or index in pending):
        while index in asked or index in pending:
            index += 1
        index = first_gap(elsewhere, index, end)
    return index
