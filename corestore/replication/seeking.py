"""The search for the block at a byte offset.

Sizes that peers merely claim (hints) lead the way. The block they lead to is fetched, which makes
the sizes along its path certain, and only by these a seek is settled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore.replication.actions import Outcome, Settle
from corestore.replication.peer import Flight
from corestore.tree import flat
from corestore.tree.proof import missing_levels
from corestore.tree.seek import Position, SeekStopped, seek
from corestore.tree.types import HashRequest, SeekRequest
from corestore.tree.verify import NodeOverlay

if TYPE_CHECKING:
    from corestore.replication.shared import Asker, Shared
    from corestore.replication.wants import SeekWant

# A block that a seek needs goes before those of other readers' single wants.
SEEK_PRIORITY: Final = 1


class Seeks:
    """The byte positions that are wanted of one core.

    Attributes:
      due: something has changed, so that `go_on` may have to ask.
      hints: nodes that peers only claim.
    """

    def __init__(self, shared: Shared, asker: Asker) -> None:
        self._shared = shared
        self._asker = asker
        self.due = False
        self.hints = NodeOverlay(shared.nodes)

    def go_on(self) -> None:
        """Settle what can be settled, ask for what the others stop at."""
        self.due = False
        for want in self._shared.wants.seeks.copy():
            self._go_on(want)

    def _go_on(self, want: SeekWant) -> None:
        shared, asker = self._shared, self._asker
        step = next_step(want, shared, self.hints)
        match step:
            case Settle():
                shared.wants.seeks.remove(want)
                want.ticket.settled = True
                shared.out.append(step)
                if not shared.wants.seeks:
                    self.hints.clear()
            case int(block):
                if block not in shared.wants.blocks and not asker.claimed(block):
                    length = shared.head.length
                    shared.wants.add_block(block, SEEK_PRIORITY, length, claimed=False)
                    asker.block_wanted(block)
            case SeekStopped():
                self._ask_nodes(want, step)

    def _ask_nodes(self, want: SeekWant, stop: SeekStopped) -> None:
        shared, asker = self._shared, self._asker
        best = None
        for peer in shared.peers.values():
            if peer.serves(shared.head.fork) and peer.seeks:
                index = peer.blocks.first(True, stop.start, stop.end)
                if index is not None and (best is None or asker.better(peer, best[0])):
                    best = peer, index
        if best is None:
            return
        peer, index = best
        want.waiting = True
        flight = Flight(
            peer.take_id(), peer, shared.now, shared.head.fork, seek=want, hash=2 * index
        )
        # The answer must reach a node that is certain, which `stop.node` need not be.
        levels = max(missing_levels(2 * index, shared.head, shared.nodes), flat.depth(stop.node))
        request = SeekRequest(want.offset, want.padding)
        asker.launch(flight, HashRequest(2 * index, levels), request)


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
