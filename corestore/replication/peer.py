"""What one peer has, wants and owes us, and how fast it is.

A `Peer` only keeps books. It is told what was asked and answered, and says how many more requests
it may have (`room`), how long a further one would take (`estimate`) and which are late (`overdue`).

The window of requests grows by one with every answer while it is used up and answers come quickly,
hence doubles every round trip, and shrinks while answers take longer than `SLOW_LATENCY`: more in
flight would then only wait in somebody's queue, and be missing elsewhere. Its least and greatest
size, and the bytes that may be under way, are the constants below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from corestore.bitfield import MAX_REMOTE_PAGES, Bitfield
from corestore.errors import LimitExceeded, RemoteProtocolError
from corestore.replication.actions import PeerStatistics

if TYPE_CHECKING:
    from corestore.errors import VerificationError
    from corestore.replication.actions import PeerId
    from corestore.replication.messages import RequestMessage, Sync, Want
    from corestore.replication.wants import SeekWant
    from corestore.tree.types import Proof

FIRST_WINDOW: Final = 16
LEAST_WINDOW: Final = 4
GREATEST_WINDOW: Final = 512
# Wanted blocks do not wait for room in the window, up to this many requests in all.
URGENT_WINDOW: Final = 1024
# Bytes asked for and not yet received, as estimated from the blocks so far: 80 MB/s over 100 ms.
WINDOW_BYTES: Final = 8 << 20
# So much while they come faster than they are handled, at least; and how much less and more it
# becomes with each read of the stream.
LEAST_WINDOW_BYTES: Final = 2 << 20
# Only of peers that answer so quickly: what comes from afar comes in bursts, and needs them.
NEAR_LATENCY: Final = 0.03
_NARROW_BYTES: Final = 64 << 10
_WIDEN_BYTES: Final = 64 << 10
# Answers quicker than this (above the quickest) let the window grow, slower than that shrink it.
QUICK_LATENCY: Final = 0.4
SLOW_LATENCY: Final = 1.0
# A peer that owes answers and says nothing for so long has stalled: others are asked instead. Three
# usual answers long, within these bounds; before the first answer, as long as a far peer takes.
LEAST_PATIENCE: Final = 0.3
FIRST_PATIENCE: Final = 0.6
GREATEST_PATIENCE: Final = 0.75
# A single answer is late after four usual ones, and given up after so long; then the block may be
# asked of the same peer again.
LEAST_LATE: Final = 1.0
GIVE_UP: Final = 30.0
# A peer that announces what it then refuses answers quickly, and would be asked first for ever:
# each refusal, and each doubt, counts as if its answers took so much longer.
REFUSAL_SECONDS: Final = 0.05
_SMOOTHING: Final = 0.125
_UNKNOWN_LATENCY: Final = 0.05


class Allowance:
    """How many bytes may be under way on one stream: what its channels' peers look at, each for
    itself, and what the stream's reader sets. And what is: it is all in one queue.

    While the reader keeps up, that is `WINDOW_BYTES`. What it does not keep up with lies in the
    system's buffers, in front of all that is asked for later; so then less is asked for, until a
    read finds little more than it can take.

    Attributes:
      bytes: from `LEAST_WINDOW_BYTES` to `WINDOW_BYTES`.
      bulk: requests under way for ranges, of all channels.
    """

    __slots__ = ("bulk", "bytes")

    def __init__(self) -> None:
        self.bytes = WINDOW_BYTES
        self.bulk = 0

    def read(self, *, full: bool) -> None:
        """The stream was read; *full*: as much as is taken at once was there, or more."""
        if full:
            self.bytes = max(self.bytes - _NARROW_BYTES, LEAST_WINDOW_BYTES)
        else:
            self.bytes = min(self.bytes + _WIDEN_BYTES, WINDOW_BYTES)


@dataclass(eq=False, slots=True)
class Flight:
    """One request of ours that a peer has not answered.

    Attributes:
      block: the block asked for, or -1.
      upgrade: the (start, length) asked for.
      levels: how many levels of the tree were asked for above the block.
      promised: whether the proof relies on nodes that an earlier answer of the peer must bring.
      excused: whether it relies on nodes that could not be stored after it was asked for.
      late: whether it is overdue, so that others may be asked.
      believed: what the peer had said of itself when an upgrade or the manifest was asked for.
      bulk: whether it is for a range, so that nobody waits for this block in particular.
    """

    id: int
    peer: Peer
    sent_at: float
    fork: int
    block: int = -1
    levels: int = 0
    promised: bool = False
    excused: bool = False
    upgrade: tuple[int, int] | None = None
    manifest: bool = False
    seek: SeekWant | None = None
    hash: int = -1
    late: bool = False
    believed: Sync | None = None
    bulk: bool = False


@dataclass(eq=False, slots=True)
class Peer:
    """The books of one channel.

    Attributes:
      fork, length, acknowledged, can_upgrade, ...: of the peer's last `Sync`; `acknowledged` is
        our own length as the peer last heard it.
      blocks: what it announced. Bounded: what does not fit is not believed to be there.
      flights, late: requests in order of sending; overdue ones are moved to `late`.
      promises: nodes that answers under way will bring, with the flight that brings them.
      serving: requests of the peer that wait for our answer, by id.
      asked: wants of the peer that were not answered yet.
      pages: pages of 2**21 blocks about which we asked the peer.
      refusals: how often it did not bring what it had promised; blocks that came pay for it.
      doubts: how often others had left without answering when it came: it may be one of them
        again, so it is asked after those who were here. Blocks that came pay for it.
      upgrade_refused: it did not answer what its last `Sync` promised.
      suspected: why it is being checked, if it sent what does not fit; nothing is asked of it then.
      check: the request under way that compares histories.
      checked: the (fork, length) of which the histories were compared.
      check_late: it did not answer that in time; who asks for histories anew asks it again.
    """

    id: PeerId
    seeks: bool
    allowance: Allowance = field(default_factory=Allowance)
    sync: Sync | None = None
    synced: bool = False
    fork: int = 0
    length: int = 0
    acknowledged: int = 0
    can_upgrade: bool = False
    uploading: bool = False
    downloading: bool = False
    has_manifest: bool = False
    blocks: Bitfield = field(default_factory=lambda: Bitfield(max_pages=MAX_REMOTE_PAGES))
    # -- ours to the peer
    sent: Sync | None = None
    told_contiguous: int = 0
    pages: set[int] = field(default_factory=set)
    flights: dict[int, Flight] = field(default_factory=dict)
    late: dict[int, Flight] = field(default_factory=dict)
    promises: dict[int, Flight] = field(default_factory=dict)
    trusted_order: bool = True
    next_id: int = 1
    # -- the peer's to us
    serving: dict[int, RequestMessage] = field(default_factory=dict)
    asked: dict[Want, None] = field(default_factory=dict)
    invalid_requests: int = 0
    refusals: int = 0
    doubts: int = 0
    broken_promises: int = 0
    upgrade_refused: bool = False
    suspected: VerificationError | None = None
    check: Flight | None = None
    checked: tuple[int, int] | None = None
    check_late: bool = False
    # -- speed
    window: float = FIRST_WINDOW
    latency: float | None = None
    least_latency: float = 0.0
    interval: float = 0.01
    last_answer: float = 0.0
    stalled: bool = False

    def apply(self, sync: Sync) -> None:
        """Take over what the peer says of itself."""
        if sync.fork != self.fork:
            # It truncated: what it had beyond may be there again only with other content. And it
            # may not tell what it believes that we have, as we said of the history before.
            self.announce(sync.length, max(self.blocks.end, sync.length), False)
            self.pages.clear()
        self.sync = sync
        self.synced = True
        self.upgrade_refused = False
        self.fork = sync.fork
        self.length = sync.length
        self.acknowledged = sync.remote_length
        self.can_upgrade = sync.can_upgrade
        self.uploading = sync.uploading
        self.downloading = sync.downloading
        self.has_manifest = sync.has_manifest

    def announce(self, start: int, end: int, held: bool) -> None:
        """The peer has, or has no longer, the blocks `start..end`."""
        try:
            self.blocks.set(start, end, held)
        except LimitExceeded:
            # Not a crime, only more than we care to remember: it counts as not announced.
            return

    def announce_bits(self, start: int, bits: bytes) -> None:
        """The peer's blocks from *start* on are exactly these. Raises DecodeError."""
        try:
            self.blocks.write_wire(start, bits)
        except LimitExceeded:
            return

    def serves(self, fork: int) -> bool:
        """Whether blocks of *fork* can be asked of it at all."""
        return self.synced and self.uploading and self.fork == fork and self.suspected is None

    @property
    def trust(self) -> int:
        """0, or less the more there is against asking it."""
        return -self.refusals - self.doubts

    # -- requests --------------------------------------------------------------------------------

    def flight(self, request_id: int) -> Flight | None:
        """The request of ours that an answer belongs to."""
        return self.flights.get(request_id) or self.late.get(request_id)

    def take_id(self) -> int:
        """A new request id. Ids count up and are never used twice, so that an answer to something
        cancelled long ago cannot be taken for another's."""
        request_id = self.next_id
        self.next_id += 1
        return request_id

    @property
    def in_flight(self) -> int:
        """Requests it owes an answer to."""
        return len(self.flights) + len(self.late)

    def room(self, block_bytes: float) -> int:
        """How many more blocks may be asked of it now, if a block has so many bytes."""
        if self.stalled:
            return 0
        return self.capacity(block_bytes) - self.in_flight

    def capacity(self, block_bytes: float) -> int:
        """How many blocks of so many bytes may be under way."""
        near = self.least_latency < NEAR_LATENCY
        window_bytes = self.allowance.bytes if near else WINDOW_BYTES
        at_most = max(LEAST_WINDOW, window_bytes / max(block_bytes, 1.0))
        return int(min(self.window, at_most))

    def estimate(self) -> float:
        """In how many seconds a request made now would be answered, with data that is."""
        latency = _UNKNOWN_LATENCY if self.latency is None else self.least_latency
        latency += (self.in_flight + 1) * self.interval
        return latency - self.trust * REFUSAL_SECONDS

    def answered(self, flight: Flight, now: float) -> None:
        """The answer to *flight* came: measure it and set the window."""
        latency = now - flight.sent_at
        if self.latency is None:
            self.latency = self.least_latency = latency
        else:
            self.latency += (latency - self.latency) * _SMOOTHING
            # Drifts upwards slowly, for when the path changes.
            self.least_latency = min(latency, self.least_latency * 1.001)
        since = now - max(self.last_answer, flight.sent_at)
        self.interval += (since - self.interval) * _SMOOTHING
        self.last_answer = now
        self.stalled = False
        if latency < QUICK_LATENCY + 2 * self.least_latency:
            # At least three quarters of it were in use.
            if self.window < GREATEST_WINDOW and 4 * (self.in_flight + 1) >= 3 * int(self.window):
                self.window += 1
        elif latency > SLOW_LATENCY + 2 * self.least_latency:
            self.window = max(LEAST_WINDOW, self.window - 0.5)

    def forget(self, flight: Flight) -> None:
        """Take a flight off the books, and what it promised."""
        if flight.id in self.flights or flight.id in self.late:
            self.allowance.bulk -= flight.bulk
        if self.flights.pop(flight.id, None) is None:
            self.late.pop(flight.id, None)
        if flight.levels and self.promises:
            promises = self.promises
            index, bit = 2 * flight.block, 2
            for _ in range(flight.levels):
                if promises.get(index ^ bit) is flight:
                    del promises[index ^ bit]
                index = (index | (bit >> 1)) & ~bit
                bit <<= 1

    def overdue(self, now: float) -> list[Flight]:
        """Flights that became late by *now*; they are moved aside, and the peer may be stalled."""
        if not self.flights:
            return []
        latency = self.latency
        patience = FIRST_PATIENCE
        if latency is not None:
            patience = min(max(3 * latency, LEAST_PATIENCE), GREATEST_PATIENCE)
        oldest = next(iter(self.flights.values())).sent_at
        if now - max(self.last_answer, oldest) >= patience:
            self.stalled = True
            limit = now - patience
        else:
            limit = now - max(LEAST_LATE, 4 * (latency or 0.0))
        late = []
        for flight in self.flights.values():
            if flight.sent_at > limit:
                break
            flight.late = True
            late.append(flight)
        for flight in late:
            del self.flights[flight.id]
            self.late[flight.id] = flight
        return late

    def hopeless(self, now: float) -> list[Flight]:
        """Late flights that are given up for lost, although the peer answers other requests."""
        return [
            flight
            for flight in self.late.values()
            if now - flight.sent_at > GIVE_UP and self.last_answer > flight.sent_at
        ]

    def statistics(self) -> PeerStatistics:
        """What there is to tell of it."""
        return PeerStatistics(
            peer=self.id,
            fork=self.fork,
            length=self.length,
            contiguous_length=self.blocks.contiguous_length,
            downloading=self.downloading,
            uploading=self.uploading,
            in_flight=self.in_flight,
            window=int(self.window),
            serving=len(self.serving),
            latency=self.latency,
        )


def check_answers(flight: Flight, proof: Proof) -> None:
    """Whether a proof holds what was asked for. Raises RemoteProtocolError."""
    if proof.fork != flight.fork:
        raise RemoteProtocolError(f"an answer of fork {proof.fork}, asked was {flight.fork}")
    if (proof.block.index if proof.block is not None else -1) != flight.block:
        raise RemoteProtocolError("an answer with another block than asked for")
    if (proof.hash.index if proof.hash is not None else -1) != flight.hash:
        raise RemoteProtocolError("an answer with another node than asked for")
    if (proof.upgrade is not None) != (flight.upgrade is not None):
        raise RemoteProtocolError("an answer with an upgrade that was not asked for, or without")
    if proof.seek is not None and (flight.seek is None or proof.seek.offset != flight.seek.offset):
        raise RemoteProtocolError("an answer with another position than asked for")
