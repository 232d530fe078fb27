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

from typing import TYPE_CHECKING

from corestore.replication.actions import (
    Action,
    CommitBatch,
    CoreView,
    Drop,
    Outcome,
    PeerId,
    PeerStatistics,
    ReplicationStatistics,
    Send,
    Serve,
    Settle,
    Ticket,
    WakeAt,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from corestore.errors import CorestoreError
    from corestore.keys import Key
    from corestore.replication.messages import Data, Message, NoData, RequestMessage
    from corestore.tree.types import Head

__all__ = [
    "Action",
    "CommitBatch",
    "CoreView",
    "Drop",
    "Outcome",
    "PeerId",
    "PeerStatistics",
    "ReplicationStatistics",
    "Replicator",
    "Send",
    "Serve",
    "Settle",
    "Ticket",
    "WakeAt",
]


class Replicator:
    """Replicates one core with any number of peers. See the module's docstring."""

    def __init__(self, key: Key, view: CoreView, *, rng: Random) -> None:
        """*rng* breaks ties between equal peers; seed it and runs repeat exactly."""

    # -- peers ---------------------------------------------------------------------------------

    def peer_opened(self, peer: PeerId, *, initiator: bool, seeks: bool) -> None:
        """The channel is open both ways and the peer's capability was checked.

        `seeks` is the flag of the peer's handshake. At the next drain our state is sent.
        """

    def peer_closed(self, peer: PeerId) -> None:
        """The channel or its stream has ended; what was asked of the peer is asked elsewhere.

        Unknown peers (dropped before) are ignored.
        """

    def receive(self, peer: PeerId, message: Message, now: float) -> None:
        """Take one decoded message. Never raises: a bad one becomes `Drop`. Messages of unknown
        peers are ignored."""

    def answer(
        self, peer: PeerId, request: RequestMessage, *, block: Callable[[int], bytes | None]
    ) -> Data | NoData | None:
        """The answer to a `Serve`, made now that there is room to send it.

        None: the request was cancelled or replaced or its peer has gone; send nothing. *block*
        reads a block's stored bytes. Call exactly once for every `Serve` (or close the peer).
        """

    # -- wants ---------------------------------------------------------------------------------

    def want_block(self, index: int, *, priority: int = 0) -> Ticket:
        """Fetch one block before any range; higher *priority* first. Settles DONE once the block
        is committed (at the next drain if it is held). Beyond the log's length it waits for it."""

    def want_range(
        self, start: int, end: int | None = None, *, blocks: Sequence[int] | None = None
    ) -> Ticket:
        """Fetch blocks `start..end` in order, or those listed in *blocks* (then start and end do
        not matter). Settles DONE once all are committed; with `end=None` it follows the log and
        never settles."""

    def want_upgrade(self) -> Ticket:
        """Settles DONE when the log was next lengthened, UNCHANGED when each peer of now has said
        its length and none has more (at the next drain if there is no peer)."""

    def want_seek(self, offset: int, *, padding: int = 0) -> Ticket:
        """Find the block at byte *offset*, `padding` bytes of every block not counted. Settles
        DONE with `position`, or OUT_OF_BOUNDS."""

    def cancel(self, ticket: Ticket) -> None:
        """Forget a want; it will not settle. Settled ones are ignored. What nobody else wants is
        cancelled at the peers."""

    # -- what happened to the core -------------------------------------------------------------

    def committed(self, commit: CommitBatch) -> None:
        """The commit is in the store and the view shows it. In the order they were made."""

    def refused(self, commit: CommitBatch, error: CorestoreError | OSError) -> None:
        """The commit could not be written (disk full ...). Wants of its block settle FAILED, and
        nothing is asked for a second; later commits that build on it must be refused as well."""

    def published(self, head: Head) -> None:
        """`view.published` is now *head*: tell the peers. Also after a truncation by us (then
        with a higher fork)."""

    def stored(self, start: int, end: int) -> None:
        """Blocks became held other than through `committed`: a local append, another process.
        The view shows them already. Settles who wanted them."""

    def cleared(self, start: int, end: int) -> None:
        """Blocks are no longer held (`core.clear`); peers are told."""

    def set_downloading(self, downloading: bool) -> None:
        """Whether we follow the log and say so to peers (initially True). When neither side
        downloads, Node peers close the channel."""

    # -- time and actions ----------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """The time of the last `WakeAt` has come (calling early or often is harmless)."""

    def actions(self, now: float) -> list[Action]:
        """Decide, and return what to do since the last call, in order. Costs what changed."""

    # -- facts ---------------------------------------------------------------------------------

    def statistics(self) -> ReplicationStatistics:
        """Counters, and one entry per peer."""

    @property
    def remote_length(self) -> int:
        """The greatest length any peer on our fork has told; a hint, not truth."""

    def peer_has(self, peer: PeerId, start: int, end: int) -> bool:
        """Whether the peer has announced all blocks `start..end`."""
