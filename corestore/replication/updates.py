"""When those who wait for a longer log have waited enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore.replication.actions import Outcome, Settle

if TYPE_CHECKING:
    from corestore.replication.peer import Peer
    from corestore.replication.shared import Shared
    from corestore.tree.types import Head

# An upgrade is small: who has not sent one after so long will not.
UPGRADE_PATIENCE: Final = 5.0


def settle_upgrades(shared: Shared) -> None:
    """End upgrade wants that no peer can be expected to fulfil."""
    hopeful = shared.pending_head is not None or (
        shared.follows and any(_may_lengthen(peer, shared.head) for peer in shared.peers.values())
    )
    waiting = []
    for want in shared.wants.upgrades:
        if want.since is None:
            want.since = shared.now
        if hopeful and shared.now - want.since < UPGRADE_PATIENCE:
            waiting.append(want)
        else:
            want.ticket.settled = True
            shared.out.append(Settle(want.ticket, Outcome.UNCHANGED))
    shared.wants.upgrades = waiting


def _may_lengthen(peer: Peer, head: Head) -> bool:
    """Whether the peer has not answered yet, or has more than we have."""
    if not peer.synced:
        return True
    if peer.upgrade_refused or not peer.length:
        return False
    if peer.fork != head.fork:
        return peer.fork > head.fork
    return peer.length > head.length and (peer.can_upgrade or peer.acknowledged != head.length)
