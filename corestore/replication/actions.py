"""What the replication machine tells its driver to do, and what it reads of the core.

The driver drains actions with `Replicator.actions` after every input and carries them out in
order. Actions are values; holding on to one is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from corestore.bitfield import Bitfield
    from corestore.errors import CorestoreError, ForkConflict
    from corestore.manifest import Manifest
    from corestore.replication.messages import Message, RequestMessage
    from corestore.tree.types import Head, Node, Proof, Verifier
    from corestore.tree.verify import VerifiedBatch

PeerId: TypeAlias = int
"""One channel of one link, numbered by the driver; never used again after `peer_closed`."""


class CoreView(Protocol):
    """What the machine may read of its core. Everything shows what is committed, at once."""

    @property
    def head(self) -> Head:
        """What new proofs are verified against."""
        ...

    @property
    def published(self) -> Head:
        """What is announced and served. Equal to `head` for a core that others sign."""
        ...

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, once known."""
        ...

    @property
    def bitfield(self) -> Bitfield:
        """The blocks held. May reach beyond `published`: the machine cuts it there."""
        ...

    @property
    def writable(self) -> bool:
        """Whether we sign this core. The machine then asks nobody to lengthen it."""
        ...

    def node(self, index: int) -> Node | None:
        """The stored tree node at a flat index, or None."""
        ...

    def verifier(self, manifest: Manifest) -> Verifier:
        """The verifier of heads under *manifest*.

        Raises:
          VerificationError: *manifest* is not the manifest of this core's key.
        """
        ...


class Outcome(Enum):
    """How a want ended."""

    DONE = auto()
    """The blocks are held, the log was lengthened, or the position is known."""
    UNCHANGED = auto()
    """`want_upgrade`: every peer there was has answered, and none has more."""
    OUT_OF_BOUNDS = auto()
    """`want_seek`: the offset lies beyond the log. `want_block`: the block was cut off."""
    FAILED = auto()
    """The store refused to commit; `Settle.error` says why."""


@dataclass(eq=False, slots=True)
class Ticket:
    """Stands for one want, by identity. `settled` once its `Settle` was made or it was cancelled.

    `block`: the block of a `want_block`, else -1.
    """

    settled: bool = False
    block: int = -1


@dataclass(frozen=True, slots=True)
class Send:
    """Send *message* on *peer*'s channel. Order per peer is kept."""

    peer: PeerId
    message: Message


@dataclass(frozen=True, slots=True)
class Serve:
    """Queue *request*; when the channel has room call `Replicator.answer` and send the result."""

    peer: PeerId
    request: RequestMessage


@dataclass(frozen=True, slots=True, eq=False)
class CommitBatch:
    """Write a verified batch, then call `committed` (or `refused`) with this very object.

    Several may be written in one transaction, in order. With `batch.reorganises` the log is of a
    higher fork now, and of what was held only the first `batch.truncate` blocks stay.

    Attributes:
      batch: what was proven: nodes, at most one block, at most one new head.
      manifest: the manifest to store with it, if it was not known before.
      peer: who sent it.
      fork: of the log it belongs to. If the core is at another one by now (we truncated it, or
        another process did), unless the batch itself leads there, it must be refused.
      awaited: whether somebody waits for its block, while others come that nobody waits for.
    """

    batch: VerifiedBatch
    manifest: Manifest | None
    peer: PeerId
    fork: int
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class Settle:
    """Wake whoever holds *ticket*.

    `position` is (block, offset within it) for a seek; `error` belongs to Outcome.FAILED.
    """

    ticket: Ticket
    outcome: Outcome
    position: tuple[int, int] | None = None
    error: CorestoreError | OSError | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """End the peer's whole stream. The machine has forgotten the peer already."""

    peer: PeerId
    reason: CorestoreError


@dataclass(frozen=True, slots=True, eq=False)
class Conflict:
    """Two histories of this core's log are signed. The machine has stopped: its wants were settled
    FAILED with *error*, and it knows no peers any more.

    Attributes:
      peer: who showed the other history; its channel, like all others of the core, is to be closed.
      ours, theirs: the proofs, from length 0. Ours is None if a sparse copy lacks nodes for it.
      error: what to tell whoever uses the core.
    """

    peer: PeerId
    ours: Proof | None
    theirs: Proof
    error: ForkConflict


@dataclass(frozen=True, slots=True, eq=False)
class Overtaken:
    """A peer has proved that somebody else lengthened this core of ours: *head* is signed, and is
    longer than what we have, or of a higher fork."""

    peer: PeerId
    head: Head


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Every peer there is has shown its signed head of this core of ours, at least one of them not
    an empty one, and none has more than we."""


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call `tick` at this time (the driver's clock). Replaces an earlier one."""

    time: float


Action: TypeAlias = (
    Send | Serve | CommitBatch | Settle | Drop | Conflict | Overtaken | Confirmed | WakeAt
)


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """What is known of one peer, as it said itself: hints, not truth.

    Attributes:
      length, contiguous_length: of the peer's copy.
      in_flight: requests it has not answered.
      window: how many may be in flight now.
      serving: requests of the peer that wait for `answer`.
      latency: seconds from request to answer, smoothed; None before the first.
    """

    peer: PeerId
    fork: int
    length: int
    contiguous_length: int
    downloading: bool
    uploading: bool
    in_flight: int
    window: int
    serving: int
    latency: float | None


@dataclass(slots=True)
class ReplicationStatistics:
    """Counters of one machine since it was made.

    `duplicate_blocks` were received, and were held already or asked of somebody else meanwhile.
    """

    blocks_received: int = 0
    bytes_received: int = 0
    duplicate_blocks: int = 0
    blocks_served: int = 0
    bytes_served: int = 0
    requests_late: int = 0
    peers_dropped: int = 0
    peers: list[PeerStatistics] = field(default_factory=list)
