"""What answers to our requests bring: blocks and upgrades that prove themselves, or refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore.errors import InvalidProof, LimitExceeded, ProtocolError, VerificationError
from corestore.replication.actions import CommitBatch
from corestore.replication.peer import GREATEST_WINDOW, check_answers
from corestore.tree.verify import OutdatedProof, VerifiedBatch, verify

if TYPE_CHECKING:
    from corestore.manifest import Manifest
    from corestore.replication.download import Downloads
    from corestore.replication.forks import Forks
    from corestore.replication.messages import Data
    from corestore.replication.peer import Flight
    from corestore.replication.shared import Shared
    from corestore.tree.types import BlockProof

# Proofs that came before those they build on, until the peer is to blame for the next one.
MAX_BROKEN_PROMISES: Final = GREATEST_WINDOW
# When a peer has failed to bring what was asked of it so many times more often than it has brought
# a block, its stream ends: it would promise and refuse for ever. An honest one fails to bring what
# it dropped a moment ago, a window of requests at most.
MAX_REFUSALS: Final = 4096


class Answers:
    """Takes the answers to what `Downloads` has asked for, for one core."""

    def __init__(self, shared: Shared, downloads: Downloads, forks: Forks) -> None:
        self._shared = shared
        self._downloads = downloads
        self._forks = forks

    def receive(self, flight: Flight, message: Data) -> None:
        """The answer to *flight*.

        Raises:
          RemoteProtocolError, VerificationError: the peer is to blame.
        """
        proof = message.proof
        if proof.block is None and proof.upgrade is None and proof.hash is None:
            self._receive_manifest(flight, message)
            return
        try:
            self._receive_proof(flight, message)
        except (ProtocolError, VerificationError):
            self._downloads.failed(flight)
            raise

    def _receive_proof(self, flight: Flight, message: Data) -> None:
        proof, peer = message.proof, flight.peer
        check_answers(flight, proof)
        block = proof.block
        if block is not None:
            again = self._have(block.index)
            self.count(block, again=again)
            if again and proof.upgrade is None:
                return
        manifest = self._shared.manifest_for(message.manifest)
        try:
            batch = verify(
                proof,
                self._shared.head,
                nodes=self._shared.nodes,
                verifier=self._shared.verifier(manifest),
            )
        except OutdatedProof:
            self._downloads.failed(flight)
            return
        except InvalidProof:
            if flight.excused:
                self._downloads.failed(flight)
                return
            if not flight.promised or peer.broken_promises >= MAX_BROKEN_PROMISES:
                raise
            # The nodes it relies on are not here: answers came in another order than requests.
            peer.broken_promises += 1
            peer.trusted_order = False
            peer.promises.clear()
            self._downloads.failed(flight)
            return
        learned = manifest if batch.head is not None and self._shared.manifest is None else None
        self._take(flight, batch, learned)

    def _take(self, flight: Flight, batch: VerifiedBatch, manifest: Manifest | None) -> None:
        """A proof is good: have it committed, and believe it from now on."""
        if batch.reorganises:
            self._forks.begin(flight.peer, batch, manifest)
            return
        shared = self._shared
        overtook = flight.block >= 0 and not flight.bulk and flight.peer.allowance.bulk > 0
        commit = CommitBatch(batch, manifest, flight.peer.id, flight.fork, awaited=overtook)
        shared.out.append(commit)
        shared.nodes.add(batch.nodes)
        if batch.hints and flight.seek is not None:
            self._downloads.seeks.hints.add(batch.hints)
        if manifest is not None:
            shared.pending_manifest = manifest
        if batch.head is not None:
            shared.pending_head = batch.head
        if batch.block is not None:
            self._downloads.received(flight, commit, len(batch.block[1]))

    def _receive_manifest(self, flight: Flight, message: Data) -> None:
        """An answer with the manifest alone, or with nothing."""
        shared = self._shared
        if flight.manifest and message.manifest is not None and shared.manifest is None:
            shared.view.verifier(message.manifest)
            self._take(flight, VerifiedBatch(None, ()), message.manifest)
            if flight.block < 0 and flight.upgrade is None:
                return
        self.refused(flight)

    def refused(self, flight: Flight) -> None:
        """The peer cannot answer: believe it, and ask somebody else.

        Raises:
          LimitExceeded: it has announced too much that it refuses.
        """
        peer = flight.peer
        if flight.block >= 0:
            # Asked for on a fork that the peer has left, it tells nothing about what is there now.
            if flight.fork == peer.fork:
                peer.announce(flight.block, flight.block + 1, False)
        elif flight.seek is not None:
            peer.seeks = False
        elif flight.believed is peer.sync:
            peer.upgrade_refused = True
        # Otherwise the peer has changed since, say to another fork, and may be asked again.
        self._downloads.failed(flight)
        if peer.refusals > MAX_REFUSALS:
            raise LimitExceeded(f"more than {MAX_REFUSALS} refusals of what was announced")

    def count(self, block: BlockProof, *, again: bool) -> None:
        """A block was received; *again*: it is here already."""
        statistics = self._shared.statistics
        statistics.blocks_received += 1
        statistics.bytes_received += len(block.value)
        statistics.duplicate_blocks += again

    def _have(self, index: int) -> bool:
        return index in self._downloads.pending or self._shared.view.bitfield.get(index)
