"""Large frames that have arrived in part, over all links: how much of them is held at once.

A link may hold one frame of 16 MiB, for it may carry a block of 15; hundreds of links that begin
one each and never end it would fill the memory. So what is held of large ones has a bound, and what
is beyond is taken from the peer that has been at its frame for longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore.errors import LimitExceeded

if TYPE_CHECKING:
    from corestore.ports import LinkHandle

# Frames of which less than this has arrived do not count: most have some 64 KiB.
LARGE_BYTES: Final = 1 << 20
# Eight of the largest frames. The buffers they lie in take up to twice as much.
MAX_BYTES: Final = 128 << 20


class PartialFrames:
    """The large frames of one store's links that have not arrived whole."""

    def __init__(self) -> None:
        # In the order in which they became large.
        self._bytes: dict[LinkHandle, int] = {}

    def note(self, link: LinkHandle, held: int) -> None:
        """*link* holds so many bytes of a frame now. The link that has done so for longest is
        stopped when all of them hold too much."""
        if held < LARGE_BYTES:
            self._bytes.pop(link, None)
            return
        self._bytes[link] = held
        while sum(self._bytes.values()) > MAX_BYTES:
            slowest = next(iter(self._bytes))
            del self._bytes[slowest]
            slowest.stop(LimitExceeded("a large frame took too long, and others need the room"))
