"""One step of the search for the block at a byte offset.

Sizes that peers merely claim (hints) lead the way. The block they lead to is fetched, which makes
the sizes along its path certain, and only by these a seek is settled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corestore.replication.actions import Outcome, Settle
from corestore.tree.seek import Position, SeekStopped, seek

if TYPE_CHECKING:
    from corestore.replication.shared import Shared
    from corestore.replication.wants import SeekWant
    from corestore.tree.verify import NodeOverlay


def next_step(
    want: SeekWant, shared: Shared, hints: NodeOverlay
) -> Settle | SeekStopped | int | None:
    """Its end; or where it stops for want of nodes; or the block it needs. None while nodes are on
    their way."""
    if want.waiting:
        return None
    head, padding = shared.head, want.padding
    try:
        found = seek(want.offset, head, nodes=shared.nodes, padding=padding)
        if isinstance(found, Position):
            return Settle(want.ticket, Outcome.DONE, (found.index, found.offset))
        hinted = seek(want.offset, head, nodes=hints, padding=padding)
    except ValueError:
        return Settle(want.ticket, Outcome.OUT_OF_BOUNDS, None)
    if isinstance(hinted, SeekStopped):
        return hinted
    block = hinted.index
    if block < head.length and not shared.view.bitfield.get(block):
        return block
    # Somebody lied: forget the hints, start again from what is certain.
    hints.clear()
    return found
