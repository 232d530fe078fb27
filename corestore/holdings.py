"""What links hold in memory for single peers: how much of it is held at once, over all links.

A link may hold one frame of 16 MiB that has arrived in part, for it may carry a block of 15, and as
much that its peer does not read. Hundreds of links that begin a frame each and never end it, or
never read, would fill the memory. So what is held for those that cause much of it has a bound, and
what is beyond is taken from the peer that has caused much of it for longest; of what waits to be
read, from the one that has read none of it for longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore.errors import LimitExceeded

if TYPE_CHECKING:
    from corestore.ports import LinkHandle

# Less than this does not count: most frames have some 64 KiB, and most peers read.
LARGE_BYTES: Final = 1 << 20
# Eight of the largest frames. The buffers they lie in take up to twice as much.
MAX_BYTES: Final = 128 << 20


class Holdings:
    """What the links of one store hold, of one kind. *complaint*: what is wrong with a peer if all
    hold too much."""

    def __init__(self, complaint: str) -> None:
        self._complaint = complaint
        # In the order in which they became large.
        self._bytes: dict[LinkHandle, int] = {}

    def note(self, link: LinkHandle, held: int) -> None:
        """*link* holds so many bytes now. The link that has held much for longest is stopped when
        all of them hold too much."""
        if held < LARGE_BYTES:
            self._bytes.pop(link, None)
            return
        self._bytes[link] = held
        while sum(self._bytes.values()) > MAX_BYTES:
            slowest = next(iter(self._bytes))
            del self._bytes[slowest]
            slowest.stop(LimitExceeded(f"{self._complaint}, and others need the room"))
