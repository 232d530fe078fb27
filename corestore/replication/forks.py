"""From one history of a log to the next: a higher fork that a peer has proved, until it is ours.

First what stays is searched for (`reorg`), then it waits to be committed. Meanwhile nothing else is
asked for or verified: it would be of the past.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore.errors import ProtocolError, VerificationError
from corestore.replication.actions import CommitBatch
from corestore.replication.peer import check_answers
from corestore.replication.reorg import Reorganisation
from corestore.tree.verify import verify

if TYPE_CHECKING:
    from corestore.manifest import Manifest
    from corestore.replication.download import Downloads
    from corestore.replication.messages import Data
    from corestore.replication.peer import Flight, Peer
    from corestore.replication.shared import Shared
    from corestore.tree.verify import VerifiedBatch

# The search for what two histories share saves a download; it must not cost more than this.
SEARCH_PATIENCE: Final = 5.0


class Forks:
    """Follows one machine's core to higher forks."""

    def __init__(self, shared: Shared, downloads: Downloads) -> None:
        self._shared = shared
        self._downloads = downloads
        self._search: Reorganisation | None = None
        self._waiting: CommitBatch | None = None

    @property
    def busy(self) -> bool:
        """Whether a new history is on its way."""
        return self._search is not None or self._waiting is not None

    @property
    def searching(self) -> bool:
        """Whether a peer owes an answer, or time must end the search."""
        return self._search is not None

    def begin(self, peer: Peer, batch: VerifiedBatch, manifest: Manifest | None) -> None:
        """*peer* has proved a higher fork."""
        shared = self._shared
        self._downloads.paused = True
        self._downloads.abandon_all()
        shared.pending_manifest = manifest or shared.pending_manifest
        self._search = Reorganisation(
            peer,
            batch,
            manifest,
            own=shared.nodes,
            own_length=shared.head.length,
            deadline=shared.now + SEARCH_PATIENCE,
        )
        self._go_on(self._search)

    def asked(self, flight: Flight) -> bool:
        """Whether *flight* is a request of the search."""
        return self._search is not None and flight is self._search.flight

    def answered(self, flight: Flight, message: Data) -> None:
        """A request of the search was answered. Raises what a bad answer is worth."""
        search = self._search
        assert search is not None
        search.flight = None
        try:
            check_answers(flight, message.proof)
            verifier = self._shared.verifier(search.manifest)
            batch = verify(message.proof, search.head, nodes=search, verifier=verifier)
        except (ProtocolError, VerificationError):
            self.give_up()
            raise
        search.answered(batch)
        self._go_on(search)

    def peer_closed(self, peer: Peer) -> None:
        """A peer has gone."""
        if self._search is not None and self._search.peer is peer:
            self.give_up()

    def tick(self, now: float) -> None:
        """Time has passed."""
        search = self._search
        if search is not None:
            flight = search.flight
            if flight is None or flight.late or now > search.deadline:
                self.give_up()

    def give_up(self) -> None:
        """Go on with what is known to be in both histories."""
        shared, search = self._shared, self._search
        assert search is not None
        self._search = None
        if search.flight is not None:
            self._downloads.abandon(search.flight)
        batch = search.result()
        commit = CommitBatch(batch, search.manifest, search.peer.id, search.head.fork)
        self._waiting = commit
        shared.pending_head = batch.head
        shared.nodes.add(batch.nodes)
        shared.out.append(commit)

    def committed(self, commit: CommitBatch) -> bool:
        """Whether *commit* is the new history; then it is ours now."""
        if self._waiting is not commit:
            return False
        self._waiting = None
        return True

    def forget(self) -> None:
        """The log has changed otherwise, or the commit was refused."""
        self._search = self._waiting = None

    def _go_on(self, search: Reorganisation) -> None:
        node = search.next_request(search.peer.blocks)
        if node is None or search.peer.fork != search.head.fork:
            self.give_up()
        else:
            search.flight = self._downloads.ask(search.peer, search.head.fork, node=node)
