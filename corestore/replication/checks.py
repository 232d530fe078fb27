"""Whether a peer has the same history as we have: asked when there is reason to doubt it.

Two reasons. A proof of a peer did not fit: either it is broken, or the core's key has signed two
histories, and then both signatures are the evidence. And a peer of a core of ours claims more than
we have, or we do not trust our own copy to be the newest: then it has to show what is signed.

The question is the same: an upgrade from nothing through the length both have. With it come the
peer's whole length and a signature. A check of the first kind has request id 0, as the reference
has it, so that the other side may doubt too.

An unsigned tail of ours, which nobody was shown, is no history: if a peer's signed one contradicts
it, the tail is what counts no more, and what is before it is compared.

Format: holepunchto/hypercore 11, its replicator's conflict check.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from corestore.errors import ForkConflict, InvalidProof
from corestore.replication.actions import Confirmed, Outcome, Overtaken, Settle, Ticket
from corestore.tree.types import Head, NoNodes
from corestore.tree.verify import OutdatedProof, verify

if TYPE_CHECKING:
    from corestore.errors import VerificationError
    from corestore.replication.download import Downloads
    from corestore.replication.messages import Sync
    from corestore.replication.peer import Flight, Peer
    from corestore.replication.shared import Shared
    from corestore.tree.types import Proof, Verifier

CHECK_ID: Final = 0
# A suspected peer is dropped, and one that claims more than we have is not waited for any more,
# when it has not shown its history after so long.
CHECK_PATIENCE: Final = 5.0


class Checks:
    """The checks of one machine.

    Attributes:
      watching: we sign this core here and now: claims of peers to have more are looked into.
      every: all peers are asked, whatever they claim, until they have confirmed our length.
      shown: a peer has shown a signed head of this core of ours since `doubt`.
      longer: the newest head that a peer has shown of a core of ours, if ever one was newer.
      refuted: what we have beyond the published head is contradicted by what a peer has shown.
    """

    def __init__(self, shared: Shared, downloads: Downloads) -> None:
        self._shared = shared
        self._downloads = downloads
        self.watching = False
        self.every = False
        self.longer: Head | None = None
        self.refuted = False
        self._waiting: list[tuple[Ticket, float | None]] = []
        self.shown = False

    def doubt(self, *, every: bool) -> None:
        """Look at what peers claim from now on; *every*: all of them must show what they have."""
        self.watching = True
        self.every = every
        self.shown = self.refuted = False
        for peer in self._shared.peers.values():
            peer.checked = None
            self.peer_changed(peer)

    # -- asking ----------------------------------------------------------------------------------

    def suspect(self, peer: Peer, error: VerificationError) -> bool:
        """A proof of *peer* did not fit. False if that cannot be looked into: then drop it."""
        if peer.suspected is not None:
            return peer.check is not None
        if not self._comparable(peer) or peer.check is not None:
            return False
        self._downloads.leave(peer)
        self._compare(peer, request_id=CHECK_ID)
        peer.suspected = error
        return True

    def doubted(self, peer: Peer) -> None:
        """The peer asked for a check itself: it may know something."""
        if self._comparable(peer) and peer.check is None and peer.checked != _claim(peer.sync):
            peer.checked = _claim(peer.sync)
            self._compare(peer)

    def peer_changed(self, peer: Peer) -> None:
        """A peer told its state."""
        if peer.check is None and self._open_question(peer):
            head = self._own
            if peer.fork == head.fork and head.length:
                self._compare(peer)
            else:
                peer.check = self._downloads.ask(peer, peer.fork, upgrade=(0, peer.length))

    def _open_question(self, peer: Peer) -> bool:
        """Whether the peer should show its history, and has not yet."""
        if not self.watching or not peer.length or peer.checked == _claim(peer.sync):
            return False
        if peer.fork < self._own.fork or not peer.serves(peer.fork):
            return False
        # What we have not shown it cannot have from us.
        shown = self._shared.view.published
        return self.every or (peer.fork, peer.length) > (shown.fork, shown.length)

    @property
    def _own(self) -> Head:
        """Our history, as far as it counts."""
        return self._shared.view.published if self.refuted else self._shared.head

    def _comparable(self, peer: Peer) -> bool:
        head = self._own
        return peer.serves(head.fork) and min(peer.length, head.length) > 0

    def _compare(self, peer: Peer, *, request_id: int | None = None) -> None:
        head = self._own
        upgrade = 0, min(peer.length, head.length)
        peer.check = self._downloads.ask(peer, head.fork, request_id=request_id, upgrade=upgrade)

    # -- answers ---------------------------------------------------------------------------------

    def answered(self, flight: Flight, proof: Proof, verifier: Verifier) -> None:
        """The peer has shown its history.

        Raises:
          ForkConflict: it is another one than ours, and signed.
          VerificationError: it is not proven; or the peer was suspected, and it is the same.
        """
        peer = flight.peer
        suspected = peer.suspected
        peer.check = None
        peer.checked = _claim(flight.believed)
        head = self._own
        if proof.fork < head.fork:
            return
        theirs = verify(proof, Head(proof.fork), nodes=NoNodes(), verifier=verifier).head
        if theirs is None:
            raise InvalidProof("a history of no length")
        compare_again = False
        if proof.fork == head.fork and head.length:
            try:
                # A sparse copy does not know its own past everywhere. It is signed, at least.
                with contextlib.suppress(OutdatedProof):
                    verify(proof, head, nodes=self._shared.nodes, verifier=verifier)
            except ForkConflict:
                if not self._has_tail or theirs.length <= self._shared.view.published.length:
                    raise
                compare_again = self._refute(peer)
        if suspected is not None and not compare_again:
            raise InvalidProof(str(suspected)) from suspected
        if not self.watching:
            return
        self.shown = True
        if self._is_newer(theirs):
            self.longer = theirs
            self._shared.out.append(Overtaken(peer.id, theirs))

    @property
    def _has_tail(self) -> bool:
        """Whether our history ends in blocks that are not signed, and nobody was shown."""
        head, view = self._own, self._shared.view
        return view.writable and not head.signature and view.published.length < head.length

    def _refute(self, peer: Peer) -> bool:
        """Our tail counts no more; whether what we have shown is now compared."""
        self.refuted = True
        if not self._own.length:
            return False
        peer.checked = None
        self._compare(peer)
        return True

    def refused(self, flight: Flight) -> None:
        """The peer cannot show it. Raises what it was suspected of."""
        peer = flight.peer
        peer.check = None
        peer.checked = _claim(flight.believed)
        if peer.suspected is not None:
            raise peer.suspected

    def overdue(self, now: float) -> list[tuple[Peer, VerificationError]]:
        """The peers to drop because they did not answer a suspicion."""
        late = []
        for peer in self._shared.peers.values():
            flight = peer.check
            if flight is None:
                continue
            gone = peer.flight(flight.id) is not flight
            if gone or now - flight.sent_at > CHECK_PATIENCE:
                peer.check = None
                if peer.suspected is not None:
                    late.append((peer, peer.suspected))
                elif not gone:
                    peer.checked = _claim(flight.believed)
                    peer.check_late = True
                    self._downloads.abandon(flight)
                else:
                    self.peer_changed(peer)
        return late

    # -- waiting ---------------------------------------------------------------------------------

    @property
    def newer(self) -> Head | None:
        """What a peer has shown to be signed beyond what we have."""
        return self.longer if self.longer is not None and self._is_newer(self.longer) else None

    def _is_newer(self, theirs: Head) -> bool:
        own = self._own
        return (theirs.fork, theirs.length) > (own.fork, own.length)

    @property
    def waiting(self) -> bool:
        """Whether anything here ends with time."""
        return bool(self._waiting) or any(peer.check for peer in self._shared.peers.values())

    def want(self) -> Ticket:
        """Settles DONE when every peer of now has shown its history where that was open."""
        for peer in self._shared.peers.values():
            # Who waits on asks again: a slow peer may have what nobody else has.
            if peer.check_late:
                peer.check_late = False
                peer.checked = None
                self.peer_changed(peer)
        ticket = Ticket()
        self._waiting.append((ticket, None))
        return ticket

    def settle(self) -> None:
        """End the waiting of those whose question is answered, and say so if all is confirmed."""
        if not (self._waiting or self.every):
            return
        shared = self._shared
        peers = shared.peers.values()
        open_ = any(not peer.synced or self._open_question(peer) for peer in peers)
        if self.every and self.shown and not open_ and self.newer is None:
            self.every = False
            shared.out.append(Confirmed())
        waiting: list[tuple[Ticket, float | None]] = []
        for ticket, noted in self._waiting:
            since = shared.now if noted is None else noted
            if ticket.settled:
                continue
            if open_ and shared.now - since < CHECK_PATIENCE:
                waiting.append((ticket, since))
            else:
                ticket.settled = True
                shared.out.append(Settle(ticket, Outcome.DONE))
        self._waiting = waiting

    def clear(self) -> list[Ticket]:
        """Forget all; returns who waited."""
        tickets = [ticket for ticket, _ in self._waiting if not ticket.settled]
        self._waiting.clear()
        self.watching = self.every = False
        return tickets


def _claim(sync: Sync | None) -> tuple[int, int] | None:
    """Which log a peer said it has, by fork and length."""
    return None if sync is None else (sync.fork, sync.length)
