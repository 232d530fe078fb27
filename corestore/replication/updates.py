"""Who is asked for a longer log, and when those who wait for one have waited enough."""

from __future__ import annotations

from heapq import nlargest
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from corestore.replication.actions import Outcome, Settle
from corestore.replication.peer import Flight

if TYPE_CHECKING:
    from corestore.replication.peer import Peer
    from corestore.replication.shared import Asker, Shared
    from corestore.tree.types import Head

# An upgrade is small: who has not sent one after so long will not.
UPGRADE_PATIENCE: Final = 5.0


class Updates:
    """The log's end, of one core.

    Attributes:
      due: something has changed, so that `ask` may have to ask.
    """

    def __init__(self, shared: Shared, asker: Asker) -> None:
        self._shared = shared
        self._asker = asker
        # What was asked for last, until it is answered or late.
        self._flight: Flight | None = None
        self.due = False

    def over(self, flight: Flight) -> None:
        """*flight* was answered, or is late: if it was for a longer log, somebody may be asked."""
        if flight is self._flight:
            self._flight = None
            self.due = True
        elif flight.upgrade is not None:
            # A late one: until now its peer was not asked again, whatever it told meanwhile.
            self.due = True

    def ask(self) -> None:
        """Ask for a longer log if nobody is asked and somebody may have one."""
        self.due = False
        shared = self._shared
        if self._flight is not None or shared.pending_head is not None or not shared.follows:
            return
        if not (shared.downloading or shared.wants or shared.wants.upgrades):
            return
        late = 0
        ranked: list[tuple[tuple[int, int, int, bool, float], Peer]] = []
        for peer in shared.peers.values():
            if any(flight.upgrade for flight in peer.late.values()):
                late += 1
            elif self._can_ask(peer):
                # Who broke its word comes last, else one that claims ever more is asked for ever.
                rank = peer.trust, peer.fork, peer.length, not peer.stalled, -peer.estimate()
                ranked.append((rank, peer))
        # As many more as have not answered: a crowd of silent ones is gone through soon.
        for _, peer in nlargest(max(1, late), ranked, key=itemgetter(0)):
            self._send(peer)
        if not ranked and shared.manifest is None:
            self._ask_manifest()

    def _can_ask(self, peer: Peer) -> bool:
        """Whether the peer says that it can lengthen our log, or has a newer history."""
        head = self._shared.head
        if not peer.length or peer.upgrade_refused or not peer.serves(peer.fork):
            return False
        if peer.fork != head.fork:
            return peer.fork > head.fork
        # A Node peer waits until its length was acknowledged, so that `can_upgrade` is about it. We
        # do not: a copy that could serve us before can as a rule still, and if not says so. It
        # saves a round trip whenever appends follow each other closely.
        return peer.can_upgrade and peer.length > head.length

    def _send(self, peer: Peer) -> None:
        shared = self._shared
        head = shared.head
        start = head.length if peer.fork == head.fork else 0
        index = self._block_beyond(peer, start) if peer.fork == head.fork else -1
        flight = Flight(
            peer.take_id(),
            peer,
            shared.now,
            peer.fork,
            block=index,
            upgrade=(start, peer.length - start),
            manifest=shared.manifest is None,
            believed=peer.sync,
        )
        self._flight = flight
        self._asker.launch(flight)

    def _ask_manifest(self) -> None:
        """Get at least the manifest: from it other keys may derive, before there is any block."""
        shared = self._shared
        for peer in shared.peers.values():
            if peer.serves(peer.fork) and peer.has_manifest and not peer.upgrade_refused:
                flight = Flight(
                    peer.take_id(),
                    peer,
                    shared.now,
                    peer.fork,
                    manifest=True,
                    believed=peer.sync,
                )
                self._flight = flight
                self._asker.launch(flight)
                return

    def _block_beyond(self, peer: Peer, start: int) -> int:
        """A block from *start* on to ask for together with the upgrade: it saves a round trip."""
        wants = self._shared.wants
        index = wants.first_beyond()
        if index is not None and start <= index < peer.length and peer.blocks.get(index):
            return index
        for want in wants.ranges:
            index = self._shared.view.bitfield.first(False, want.low)
            # Only if the range has come to the end of our log: it goes on in order.
            if (
                want.blocks is None
                and index is not None
                and start <= index < peer.length
                and want.contains(index)
                and peer.blocks.get(index)
                and not self._asker.claimed(index)
            ):
                return index
        return -1

    def settle(self) -> None:
        """End upgrade wants that no peer can be expected to fulfil."""
        shared = self._shared
        hopeful = shared.pending_head is not None or (
            shared.follows
            and any(_may_lengthen(peer, shared.head) for peer in shared.peers.values())
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
