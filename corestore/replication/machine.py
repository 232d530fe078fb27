"""The replication machine: one `Replicator` per core decides who is asked for what.

Theory of operation. The driver feeds inputs (a peer came or went, a message arrived, somebody wants
a block, a batch was committed) and then drains `actions`. Inputs only note what changed; whom to
ask, whom to tell and what to announce is decided once per drain. Nothing here waits, reads a clock
or touches storage: time comes in as `now` (seconds, any origin, never going back), the core through
`CoreView`.

A driver's loop, for any input:

    machine.receive(peer, message, now)
    for action in machine.actions(now): ...     # carry out, in order
    # after the transaction that wrote some CommitBatch actions:
    for batch in written: machine.committed(batch)
    for action in machine.actions(now): ...
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from corestore.encoding import MAX_SAFE_INTEGER
from corestore.errors import (
    ForkConflict,
    ProtocolError,
    RemoteProtocolError,
    StorageConflict,
    VerificationError,
)
from corestore.replication.actions import (
    Action,
    CommitBatch,
    Conflict,
    CoreView,
    Drop,
    Outcome,
    PeerId,
    ReplicationStatistics,
    Serve,
    Settle,
    Ticket,
    WakeAt,
)
from corestore.replication.answers import Answers
from corestore.replication.checks import CHECK_ID, Checks
from corestore.replication.download import Downloads
from corestore.replication.forks import Forks
from corestore.replication.messages import (
    BitfieldMessage,
    Cancel,
    Data,
    Extension,
    NoData,
    Range,
    RequestMessage,
    Sync,
    Unwant,
    Want,
)
from corestore.replication.peer import Allowance, Flight, Peer, check_answers
from corestore.replication.shared import Shared
from corestore.replication.upload import Uploads
from corestore.replication.wants import SeekWant, UpgradeWant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from corestore.errors import CorestoreError
    from corestore.keys import Key
    from corestore.replication.messages import Message
    from corestore.tree.types import Head, Proof

# While anything is owed to us, who is late is found out this often (seconds).
TICK: Final = 0.25
# After the store refused a commit nothing is asked for, so that a full disk does not download the
# same blocks over and over.
REFUSED_DELAY: Final = 1.0


class Replicator:
    """Replicates one core with any number of peers. See the module's docstring."""

    def __init__(self, key: Key, view: CoreView, *, rng: Random) -> None:
        """*rng* breaks ties between equal peers; seed it and runs repeat exactly."""
        self._shared = Shared(key, view, rng)
        self._uploads = Uploads(self._shared)
        self._downloads = Downloads(self._shared)
        self._checks = Checks(self._shared, self._downloads)
        self._stopped: ForkConflict | None = None
        # What peers were last told of our log.
        self._told = view.published
        self._forks = Forks(self._shared, self._downloads)
        self._answers = Answers(self._shared, self._downloads, self._forks)
        self._paused_until: float | None = None
        self._wake_at: float | None = None
        self._ranges_due = False

    # -- peers ---------------------------------------------------------------------------------

    def peer_opened(self, peer: PeerId, *, seeks: bool, allowance: Allowance | None = None) -> None:
        """The channel is open both ways and the peer's capability was checked.

        `seeks` is the flag of the peer's handshake, *allowance* its stream's. At the next drain our
        state is sent.
        """
        if self._stopped is not None:
            return
        opened = Peer(peer, seeks, allowance or Allowance(), doubts=self._shared.deserted)
        self._shared.peers[peer] = opened
        self._uploads.peer_changed(opened)

    def peer_closed(self, peer: PeerId) -> None:
        """The channel or its stream has ended; what was asked of the peer is asked elsewhere.

        Unknown peers (dropped before) are ignored.
        """
        closed = self._shared.peers.pop(peer, None)
        if closed is not None:
            self._uploads.forget_peer(closed)
            self._downloads.forget_peer(closed)
            self._forks.peer_closed(closed)

    def receive(self, peer: PeerId, message: Message, now: float) -> None:
        """Take one decoded message. Never raises: a bad one becomes `Drop`. Messages of unknown
        peers are ignored."""
        self._shared.now = now
        sender = self._shared.peers.get(peer)
        if sender is None:
            return
        try:
            self._receive(sender, message)
        except VerificationError as error:
            if not self._checks.suspect(sender, error):
                self._drop(sender, error)
        except ProtocolError as error:
            self._drop(sender, error)

    def _receive(self, peer: Peer, message: Message) -> None:
        match message:
            case Data():
                self._receive_data(peer, message)
            case RequestMessage():
                self._uploads.accept(peer, message)
                self._shared.out.append(Serve(peer.id, message))
                if message.id == CHECK_ID:
                    self._checks.doubted(peer)
            case Range(start, length, drop):
                if not 0 <= start <= start + length <= MAX_SAFE_INTEGER:
                    raise RemoteProtocolError("a range beyond 53 bits")
                peer.announce(start, start + length, not drop)
                if not drop:
                    self._downloads.announced(peer, start, start + length)
            case Sync():
                if message != peer.sync:
                    peer.apply(message)
                    self._uploads.peer_changed(peer)
                    self._downloads.peer_changed(peer)
                    self._checks.peer_changed(peer)
            case BitfieldMessage(start, bits):
                peer.announce_bits(start, bits)
                self._downloads.announced(peer, start, start + 8 * len(bits))
            case NoData(request_id):
                self._receive_no_data(peer, request_id)
            case Cancel(request_id):
                peer.serving.pop(request_id, None)
            case Want():
                self._uploads.want(peer, message)
            case Unwant():
                peer.asked.pop(Want(message.start, message.length, message.any), None)
            case Extension():
                pass  # none is ours; Hyperbee's look-ahead hints are safe to ignore

    def answer(
        self, peer: PeerId, request: RequestMessage, *, block: Callable[[int], bytes | None]
    ) -> Data | NoData | None:
        """The answer to a `Serve`, made now that there is room to send it.

        None: the request was cancelled or replaced or its peer has gone; send nothing. *block*
        reads a block's stored bytes. Call exactly once for every `Serve` (or close the peer).
        """
        asker = self._shared.peers.get(peer)
        if asker is None:
            return None
        try:
            return self._uploads.answer(asker, request, block)
        except RemoteProtocolError as error:
            self._drop(asker, error)
            return None

    def _drop(self, peer: Peer, reason: CorestoreError) -> None:
        self._shared.statistics.peers_dropped += 1
        self.peer_closed(peer.id)
        self._shared.out.append(Drop(peer.id, reason))

    # -- wants ---------------------------------------------------------------------------------

    def want_block(self, index: int, *, priority: int = 0) -> Ticket:
        """Fetch one block before any range; higher *priority* first. Settles DONE once the block
        is committed (at the next drain if it is held), OUT_OF_BOUNDS when the log is cut below it.
        Beyond the log's length it waits for it."""
        shared = self._shared
        if (stopped := self._stopped_ticket()) is not None:
            return stopped
        ticket = shared.wants.add_block(
            index, priority, shared.head.length, claimed=self._downloads.claimed(index)
        )
        if shared.view.bitfield.get(index):
            shared.wants.held(index)
            return ticket
        self._downloads.block_wanted(index)
        self._wanting()
        return ticket

    def want_range(
        self, start: int = 0, end: int | None = None, *, blocks: Sequence[int] | None = None
    ) -> Ticket:
        """Fetch blocks `start..end` in order, or those listed in *blocks* (then start and end do
        not matter). Settles DONE once all are committed; with `end=None` it follows the log and
        never settles."""
        if (stopped := self._stopped_ticket()) is not None:
            return stopped
        wants, held = self._shared.wants, self._shared.view.bitfield
        if blocks is None:
            ticket = wants.add_range(start, end, held)
        else:
            ticket = wants.add_list(blocks, held)
            start, end = min(blocks, default=0), max(blocks, default=-1) + 1
        if not ticket.settled:
            self._downloads.range_wanted(start, end)
            self._wanting()
        return ticket

    def want_upgrade(self) -> Ticket:
        """Settles DONE when the log was next lengthened, UNCHANGED when each peer of now has said
        its length and none has more (at the next drain if there is no peer)."""
        if (stopped := self._stopped_ticket()) is not None:
            return stopped
        want = UpgradeWant(Ticket())
        self._shared.wants.upgrades.append(want)
        self._downloads.upgrade_wanted()
        return want.ticket

    def want_seek(self, offset: int, *, padding: int = 0) -> Ticket:
        """Find the block at byte *offset*, `padding` bytes of every block not counted. Settles
        DONE with `position`, which is proven (the block has been fetched for that, unless nodes
        sufficed), or OUT_OF_BOUNDS."""
        if (stopped := self._stopped_ticket()) is not None:
            return stopped
        want = SeekWant(Ticket(), offset, padding)
        self._shared.wants.seeks.append(want)
        self._downloads.seek_wanted()
        self._wanting()
        return want.ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a want; it will not settle. Settled ones are ignored. What nobody else wants is
        cancelled at the peers."""
        if not ticket.settled and self._shared.wants.cancel(ticket):
            self._downloads.unwanted(ticket.block)

    def _wanting(self) -> None:
        if not self._shared.downloading:
            # A want alone is a reason to download.
            self._uploads.head_changed()

    # -- what peers send -----------------------------------------------------------------------

    def _receive_data(self, peer: Peer, message: Data) -> None:
        flight = peer.flight(message.id)
        if flight is None:
            # Cancelled meanwhile, or a push that we never allowed.
            if message.proof.block is not None:
                self._answers.count(message.proof.block, again=True)
            return
        self._downloads.answered(flight)
        if flight is peer.check:
            self._receive_history(flight, message)
        elif self._forks.asked(flight):
            self._forks.answered(flight, message)
        else:
            self._answers.receive(flight, message)

    def _receive_no_data(self, peer: Peer, request_id: int) -> None:
        flight = peer.flight(request_id)
        if flight is None:
            return
        self._downloads.answered(flight)
        if flight is peer.check:
            self._checks.refused(flight)
        elif self._forks.asked(flight):
            self._forks.give_up()
        else:
            self._answers.refused(flight)

    # -- other histories -----------------------------------------------------------------------

    def _receive_history(self, flight: Flight, message: Data) -> None:
        """The answer to a check."""
        peer = flight.peer
        if message.proof.upgrade is None:
            self._checks.refused(flight)
            return
        try:
            check_answers(flight, message.proof)
            verifier = self._shared.verifier(message.manifest)
            self._checks.answered(flight, message.proof, verifier)
        except ForkConflict as error:
            self._conflict(peer, message.proof, error)
        else:
            self._checks.peer_changed(peer)

    def _conflict(self, peer: Peer, theirs: Proof, error: ForkConflict) -> None:
        """Two histories are signed: nobody can say which one counts, so nothing goes on."""
        assert theirs.upgrade is not None
        ours = self._uploads.own_history(theirs.upgrade)
        self._shared.out.append(Conflict(peer.id, ours, theirs, error))
        self.stop(error)

    def stop(self, error: ForkConflict) -> None:
        """Ask for nothing, serve nothing and tell nothing from now on. All wants end FAILED, those
        to come as well. Channels are the driver's to close."""
        shared = self._shared
        self._stopped = error
        self._forks.forget()
        shared.wants.fail_all(error)
        for ticket in self._checks.clear():
            ticket.settled = True
            shared.out.append(Settle(ticket, Outcome.FAILED, error=error))
        for peer in list(shared.peers):
            self.peer_closed(peer)

    def doubt(self, *, every: bool) -> None:
        """We sign this core, here: from now on peers that claim to have more of it must prove it
        (`Overtaken`). With *every* all peers must show what they have, until that is `Confirmed`:
        this copy may be an old one."""
        if self._stopped is None:
            self._checks.doubt(every=every)

    def want_history(self) -> Ticket:
        """Settles DONE when each peer of now has shown its history, where `doubt` has it shown; at
        the next drain if there is none, after some seconds at the latest."""
        return self._stopped_ticket() or self._checks.want()

    @property
    def newer(self) -> Head | None:
        """A head of this core of ours that a peer has proved and that is newer than ours."""
        return self._checks.newer

    @property
    def shown(self) -> bool:
        """Whether a peer has shown its history of this core of ours since `doubt`."""
        return self._checks.shown

    @property
    def nobody_has_any(self) -> bool:
        """Whether there are peers, and all of them say that they have nothing of this core."""
        peers = self._shared.peers.values()
        return bool(peers) and all(peer.synced and not peer.length for peer in peers)

    def set_recovering(self, recovering: bool) -> None:
        """Whether peers may lengthen a core that we sign."""
        self._shared.recovering = recovering
        self._downloads.upgrade_wanted()

    def _stopped_ticket(self) -> Ticket | None:
        """A ticket that has failed, if the machine was stopped."""
        if self._stopped is None:
            return None
        ticket = Ticket(settled=True)
        self._shared.out.append(Settle(ticket, Outcome.FAILED, error=self._stopped))
        return ticket

    # -- what happened to the core -------------------------------------------------------------

    def committed(self, commit: CommitBatch) -> None:
        """The commit is in the store and the view shows it. In the order they were made."""
        shared = self._shared
        batch = commit.batch
        shared.nodes.committed()
        if commit.manifest is not None:
            shared.pending_manifest = None
            self._uploads.head_changed()
        if batch.head is not None:
            self._head_committed(commit)
        if batch.block is not None:
            index, value = batch.block
            self._downloads.committed(index, len(value))
            shared.wants.held(index)
            self._uploads.blocks_added(index, index + 1)
            self._ranges_due = True
        if shared.wants.seeks:
            self._downloads.seek_wanted()

    def _head_committed(self, commit: CommitBatch) -> None:
        shared = self._shared
        batch = commit.batch
        if shared.pending_head is batch.head:
            shared.pending_head = None
        if self._forks.committed(commit):
            self._downloads.paused = self._busy
            shared.nodes.clear()
            shared.wants.rewind(batch.truncate or 0, shared.head.length)
            self._uploads.rewind(batch.truncate or 0, self._told.length)
        self._told = shared.view.published
        shared.wants.reach(shared.head.length)
        shared.wants.upgraded()
        self._uploads.head_changed()
        self._downloads.log_changed()

    def refused(self, commit: CommitBatch, error: CorestoreError | OSError) -> None:
        """The commit could not be written (disk full ...). Wants of its block and of a longer log
        settle FAILED, and nothing is asked for a second; later commits that build on it must be
        refused as well.

        After a `StorageConflict` (the core has another history meanwhile) wants stay, and what they
        still lack is asked for again.
        """
        shared = self._shared
        shared.nodes.clear()
        shared.pending_head = shared.pending_manifest = None
        self._forks.forget()
        self._paused_until = shared.now + REFUSED_DELAY
        self._downloads.paused = True
        self._downloads.excuse_all()
        self._downloads.log_changed()
        if commit.batch.head is not None and not isinstance(error, StorageConflict):
            shared.wants.fail_upgrades(error)
        block = commit.batch.block
        if block is not None:
            self._downloads.committed(block[0], len(block[1]))
            if not isinstance(error, StorageConflict):
                shared.wants.fail(block[0], error)
            shared.wants.release((block[0],), shared.head.length)

    def published(self, head: Head) -> None:
        """`view.published` is now *head*, or another process changed the core: tell the peers.
        Also after a truncation by us (then with a higher fork)."""
        shared = self._shared
        before = self._told
        self._told = head
        if head.fork != before.fork or head.length < before.length:
            shared.nodes.clear()
            self._forks.forget()
            self._downloads.paused = self._busy
            self._downloads.abandon_all()
            shared.wants.rewind(head.length, shared.head.length)
            self._uploads.rewind(head.length, before.length)
            shared.wants.upgraded()
        elif head.length > before.length:
            if shared.view.writable:
                for start, end in shared.view.bitfield.runs(before.length, head.length):
                    self._uploads.blocks_added(start, end)
            shared.wants.upgraded()
        self._uploads.blocks_added(0, self._uploads.contiguous_length)
        shared.wants.reach(shared.head.length)
        shared.wants.check_all(shared.view.bitfield)
        self._uploads.head_changed()
        self._downloads.log_changed()

    def stored(self, start: int, end: int) -> None:
        """Blocks became held other than through `committed`: a local append, another process.
        The view shows them already. Settles who wanted them."""
        shared = self._shared
        self._uploads.blocks_added(start, end)
        shared.wants.check_all(shared.view.bitfield)

    def forget_nodes(self) -> None:
        """Nodes that were read may have changed: a tail of our own log was cut without a fork, as
        only one that was never published may be."""
        self._shared.nodes.clear()

    def cleared(self, start: int, end: int) -> None:
        """Blocks are no longer held (`core.clear`); peers are told."""
        self._uploads.blocks_removed(start, end)

    def set_downloading(self, downloading: bool) -> None:
        """Whether we follow the log and say so to peers (initially True). When neither side
        downloads, Node peers close the channel."""
        if downloading != self._shared.downloading:
            self._shared.downloading = downloading
            self._uploads.head_changed()
            self._downloads.upgrade_wanted()

    # -- time and actions ----------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """The time of the last `WakeAt` has come (calling early or often is harmless)."""
        shared = self._shared
        shared.now = now
        if self._wake_at is not None and now >= self._wake_at:
            self._wake_at = None
        if self._paused_until is not None and now >= self._paused_until:
            self._paused_until = None
            self._downloads.paused = self._busy
        self._uploads.tick()
        self._downloads.tick(now)
        self._forks.tick(now)
        for peer, error in self._checks.overdue(now):
            self._drop(peer, error)

    def actions(self, now: float) -> list[Action]:
        """Decide, and return what to do since the last call, in order. Costs what changed."""
        shared = self._shared
        shared.now = now
        if self._ranges_due:
            self._ranges_due = False
            shared.wants.check_ranges(shared.view.bitfield)
        self._uploads.flush()
        self._downloads.schedule()
        if shared.wants.upgrades:
            self._downloads.updates.settle()
        self._checks.settle()
        if self._wake_at is None and self._needs_time():
            self._wake_at = now + TICK
            shared.out.append(WakeAt(self._wake_at))
        return shared.take_actions()

    @property
    def _busy(self) -> bool:
        """Whether nothing may be asked for."""
        return self._paused_until is not None or self._forks.busy

    def _needs_time(self) -> bool:
        if self._paused_until is not None or self._shared.wants.upgrades:
            return True
        if self._forks.searching or self._checks.waiting:
            return True
        return bool(self._shared.peers) and (self._uploads.waiting or self._downloads.waiting)

    # -- facts ---------------------------------------------------------------------------------

    def statistics(self) -> ReplicationStatistics:
        """Counters, and one entry per peer."""
        peers = [peer.statistics() for peer in self._shared.peers.values()]
        return replace(self._shared.statistics, peers=peers)

    @property
    def remote_length(self) -> int:
        """The greatest length any peer on our fork has told; a hint, not truth."""
        fork = self._shared.head.fork
        peers = self._shared.peers.values()
        return max((peer.length for peer in peers if peer.fork == fork), default=0)

    def obtainable(self, blocks: Sequence[int]) -> bool:
        """Whether any of *blocks* that is missing is under way, or some peer has it."""
        if isinstance(blocks, range):
            return self._downloads.obtainable(blocks.start, blocks.stop)
        return any(self._downloads.obtainable(index, index + 1) for index in blocks)

    def peer_has(self, peer: PeerId, start: int, end: int) -> bool:
        """Whether the peer has announced all blocks `start..end`."""
        known = self._shared.peers.get(peer)
        return known is not None and known.blocks.has_all(start, end)
