"""The fetching half of a machine: which peer is asked for what, and what was asked of whom.

Whom to ask is decided in `schedule`, once per drain, in this order: which blocks peers have, an
upgrade, byte positions, blocks that are late elsewhere, single blocks, ranges. Each step looks only
at what an input has marked: peers with room are *hungry*, and stop being so when they are full or
have nothing that is wanted.

A proof is asked for as many levels of the tree as lead to a node we know. Blocks of a range are
handed out in runs to one peer, and the proof of a block under way counts as known for the next
request to the same peer: answers come in the order of requests, as a rule. Without this every block
of a window carries the path to the top again, ten and more hashes instead of one or two. If a peer
answers in another order after all, the proof that cannot be joined yet is asked for again in full,
and the peer is not trusted with order any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore.replication.messages import Cancel, RequestMessage
from corestore.replication.pages import Pages
from corestore.replication.peer import GREATEST_WINDOW, URGENT_WINDOW, Flight
from corestore.replication.seeking import Seeks
from corestore.replication.sharing import Crowd, take_rare
from corestore.replication.updates import Updates
from corestore.tree.types import BlockRequest, HashRequest, Request, SeekRequest, UpgradeRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from corestore.replication.actions import CommitBatch
    from corestore.replication.peer import Peer
    from corestore.replication.shared import Shared
    from corestore.replication.wants import BlockWant, RangeWant

# Blocks that are verified and not yet committed; the driver is behind then.
MAX_PENDING_BLOCKS: Final = 8192
MAX_PENDING_BYTES: Final = 8 << 20
# How many blocks in a row go to one peer before the next one gets some.
RUN_BLOCKS: Final = 16
# A window is filled up again when so many of its places are free, at the latest.
REFILL_BLOCKS: Final = 32
# Single blocks that no peer has room for, looked at per drain.
MAX_DEFERRED: Final = 256
# Sizes of blocks are learned; until then they are taken for large ones.
FIRST_BLOCK_BYTES: Final = 65536.0
_SMOOTHING: Final = 0.05


class Downloads:
    """Asks for what is wanted, for one core.

    Attributes:
      in_flight: requests under way for each block; more than one if the first is late.
      pending: blocks that are verified and not yet committed.
      paused: nothing is asked for while it is set.
      seeks: the byte positions that are wanted.
      updates: what lengthens the log.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.in_flight: dict[int, list[Flight]] = {}
        self.pending: dict[int, CommitBatch] = {}
        self.paused = False
        self._pending_bytes = 0
        self._block_bytes = FIRST_BLOCK_BYTES
        self._hungry: dict[Peer, None] = {}
        self._late: dict[int, None] = {}
        self._pages = Pages(shared)
        self.seeks = Seeks(shared, self)
        self.updates = Updates(shared, self)
        self._urgent_due = False

    # -- what changed ----------------------------------------------------------------------------

    def block_wanted(self, index: int) -> None:
        """A single block is wanted."""
        self._urgent_due = True
        self._pages.block_wanted(index)

    def range_wanted(self, start: int, end: int | None) -> None:
        """Blocks of a range are wanted."""
        self.all_hungry()
        if end is not None:
            self._pages.range_wanted(start, end)
        else:
            self._pages.due = True

    def seek_wanted(self) -> None:
        """A byte position is wanted."""
        self.seeks.due = self._pages.due = True

    def upgrade_wanted(self) -> None:
        """Somebody waits for the log to grow."""
        self.updates.due = True

    def log_changed(self) -> None:
        """Our head is another one."""
        self.updates.due = self.seeks.due = self._pages.due = self._urgent_due = True
        self.all_hungry()

    def peer_changed(self, peer: Peer) -> None:
        """A peer is new, or told its state."""
        self.updates.due = self._pages.due = self.seeks.due = True
        self._hungry[peer] = None

    def announced(self, peer: Peer, start: int, end: int) -> None:
        """A peer has more blocks."""
        wants = self._shared.wants
        if wants:
            wants.announced(peer.id, start, end, self._shared.head.length)
            self._hungry[peer] = None
            self.seeks.due = True

    def all_hungry(self) -> None:
        """Every peer may have something to do."""
        self._hungry.update(dict.fromkeys(self._shared.peers.values()))

    def claimed(self, index: int) -> bool:
        """Whether a block is under way or being written."""
        return index in self.in_flight or index in self.pending

    @property
    def waiting(self) -> bool:
        """Whether any peer owes us an answer."""
        return any(peer.flights or peer.late for peer in self._shared.peers.values())

    def obtainable(self, start: int, end: int) -> bool:
        """Whether a missing block of a range is under way, or some peer has it."""
        if end - start == 1:
            if self.claimed(start):
                return True
        elif any(start <= i < end for table in (self.in_flight, self.pending) for i in table):
            return True
        held, fork = self._shared.view.bitfield, self._shared.head.fork
        peers = [peer for peer in self._shared.peers.values() if peer.serves(fork)]
        low = held.first(False, start, end)
        while low is not None:
            high = held.first(True, low, end) or end
            if any(peer.blocks.first(True, low, high) is not None for peer in peers):
                return True
            low = held.first(False, high, end)
        return False

    # -- flights that end ------------------------------------------------------------------------

    def answered(self, flight: Flight) -> None:
        """The answer has come; whatever it says, the request is over."""
        peer = flight.peer
        peer.answered(flight, self._shared.now)
        peer.forget(flight)
        self._end(flight)
        room = peer.room(self._block_bytes)
        if room >= REFILL_BLOCKS or 4 * room >= peer.capacity(self._block_bytes):
            self._hungry[peer] = None

    def received(self, flight: Flight, commit: CommitBatch, size: int) -> None:
        """A block was verified: it is pending until it is committed, and nobody else is asked."""
        self._block_bytes += (size - self._block_bytes) * _SMOOTHING
        self._pending_bytes += size
        peer = flight.peer
        peer.refusals = max(0, peer.refusals - 1)
        peer.doubts = max(0, peer.doubts - 1)
        self._shared.deserted = max(0, self._shared.deserted - 1)
        self.pending[flight.block] = commit
        for other in self.in_flight.pop(flight.block, ()):
            self.abandon(other)
        self._late.pop(flight.block, None)

    def committed(self, index: int, size: int) -> None:
        """A pending block is in the store, or was refused by it."""
        self.pending.pop(index, None)
        self._pending_bytes -= size

    def failed(self, flight: Flight) -> None:
        """The answer did not bring what was asked for: ask again."""
        flight.peer.refusals += 1
        if flight.block >= 0 and flight.block not in self.in_flight:
            self._release([flight.block])

    def abandon(self, flight: Flight) -> None:
        """Nobody wants the answer any more."""
        flight.peer.forget(flight)
        self._shared.send(flight.peer, Cancel(flight.id))
        self._end(flight)

    def excuse_all(self) -> None:
        """What was proven could not be stored: answers under way may rely on it, and it is no fault
        of the peer's if they do not fit now."""
        for peer in self._shared.peers.values():
            for flight in (*peer.flights.values(), *peer.late.values()):
                flight.excused = True
            peer.promises.clear()

    def abandon_all(self) -> None:
        """Nothing that is under way is of use: the log has another history now."""
        for peer in self._shared.peers.values():
            for flight in (*peer.flights.values(), *peer.late.values()):
                self.abandon(flight)
            peer.promises.clear()
        self.in_flight.clear()
        self._late.clear()
        self.seeks.hints.clear()

    def forget_peer(self, peer: Peer) -> None:
        """A peer has gone, with what it owes."""
        self._shared.deserted += bool(peer.in_flight)
        blocks = []
        for flight in (*peer.flights.values(), *peer.late.values()):
            peer.forget(flight)
            self._end(flight)
            if flight.block >= 0 and flight.block not in self.in_flight:
                blocks.append(flight.block)
        self._hungry.pop(peer, None)
        self.updates.due = True
        self._shared.wants.forget_peer(peer.id)
        self._release(blocks)
        # What was left to the one who has gone must come from others.
        self.all_hungry()

    def leave(self, peer: Peer) -> None:
        """Nothing more is expected of a peer that stays: what it owes is asked elsewhere."""
        flights = [*peer.flights.values(), *peer.late.values()]
        for flight in flights:
            self.abandon(flight)
        for flight in flights:
            self.failed(flight)
        peer.promises.clear()

    def ask(
        self,
        peer: Peer,
        fork: int,
        *,
        request_id: int | None = None,
        upgrade: tuple[int, int] | None = None,
        node: HashRequest | None = None,
    ) -> Flight:
        """Ask for something the schedule knows nothing of."""
        if request_id is None:
            request_id = peer.take_id()
        flight = Flight(
            request_id, peer, self._shared.now, fork, upgrade=upgrade, believed=peer.sync
        )
        if node is not None:
            flight.hash = node.index
        self.launch(flight, node)
        return flight

    def unwanted(self, block: int) -> None:
        """The want of a block, or of a range (-1), was cancelled: cancel what served no other."""
        blocks = list(self.in_flight) if block < 0 else [block]
        for index in self._shared.wants.unwanted(blocks):
            for flight in list(self.in_flight.get(index, ())):
                if flight.upgrade is None:
                    self.abandon(flight)

    def _end(self, flight: Flight) -> None:
        """Take a flight out of the tables here."""
        self.updates.over(flight)
        if flight.seek is not None:
            flight.seek.waiting = False
            self.seeks.due = True
        flights = self.in_flight.get(flight.block)
        if flights is not None and flight in flights:
            flights.remove(flight)
            if not flights:
                del self.in_flight[flight.block]
                self._late.pop(flight.block, None)
            elif all(other.late for other in flights):
                self._late[flight.block] = None
                self.all_hungry()

    def _release(self, blocks: Iterable[int]) -> None:
        free = sorted(index for index in blocks if not self.claimed(index))
        if free:
            self._shared.wants.release(free, self._shared.head.length)
            self.all_hungry()

    def tick(self, now: float) -> None:
        """Find out who is late, and let others be asked."""
        for peer in self._shared.peers.values():
            for flight in peer.overdue(now):
                self._shared.statistics.requests_late += 1
                if flight.block >= 0:
                    self._late[flight.block] = None
                # It may still come; until then somebody else is asked.
                self.updates.over(flight)
            for flight in peer.hopeless(now):
                self.abandon(flight)
                self.failed(flight)
        # Also because what is rare may be so only for a time.
        if self._late or self._shared.wants.ranges:
            self.all_hungry()

    # -- the schedule ----------------------------------------------------------------------------

    def schedule(self) -> None:
        """Ask for what can be asked for now."""
        if self.paused or not self._shared.peers:
            return
        if self.updates.due:
            self.updates.ask()
        wants = self._shared.wants
        if self._pages.due and wants:
            self._pages.ask()
        if self.seeks.due:
            self.seeks.go_on()
        if len(self.pending) >= MAX_PENDING_BLOCKS or self._pending_bytes >= MAX_PENDING_BYTES:
            return
        if self._late and self._hungry:
            self._ask_late()
        if wants.urgent_waiting and (self._urgent_due or self._hungry):
            self._urgent_due = False
            self._ask_urgent()
        if self._hungry:
            if wants.ranges:
                self._ask_ranges()
            self._hungry.clear()

    # -- blocks ----------------------------------------------------------------------------------

    def better(self, peer: Peer, other: Peer) -> bool:
        """Whether *peer* would answer sooner than *other*; the seed decides between equals."""
        if peer.stalled != other.stalled:
            return other.stalled
        one, two = peer.estimate(), other.estimate()
        if one == two:
            return self._shared.rng.random() < 0.5
        return one < two

    def _choose(self, index: int, limit: int) -> tuple[Peer | None, bool]:
        """The best peer to ask for a block, and whether any has it at all."""
        fork = self._shared.head.fork
        best: Peer | None = None
        known = False
        for peer in self._shared.peers.values():
            if peer.blocks.get(index) and peer.serves(fork):
                known = True
                if peer.in_flight < limit and (best is None or self.better(peer, best)):
                    best = peer
        return best, known

    def _ask_late(self) -> None:
        fork, length = self._shared.head.fork, self._shared.head.length
        for index in list(self._late):
            if index >= length:
                continue  # was asked together with an upgrade, which has to come first
            flights = self.in_flight[index]
            asked = [flight.peer for flight in flights]
            best: Peer | None = None
            for peer in self._shared.peers.values():
                if (
                    peer not in asked
                    and peer.blocks.get(index)
                    and peer.serves(fork)
                    and peer.room(self._block_bytes) > 0
                    and (best is None or self._surer(peer, best))
                ):
                    best = peer
            if best is not None:
                del self._late[index]
                self._ask_block(best, index)

    def _surer(self, peer: Peer, other: Peer) -> bool:
        """Whether *peer* rather than *other* answers at all, or sooner."""
        if (peer.latency is None) != (other.latency is None):
            return other.latency is None
        return self.better(peer, other)

    def _ask_urgent(self) -> None:
        wants = self._shared.wants
        deferred: list[BlockWant] = []
        for want in wants.urgent(self.claimed):
            peer, known = self._choose(want.index, URGENT_WINDOW)
            if peer is not None:
                self._ask_wanted(peer, want.index, want.priority)
            elif known:
                deferred.append(want)
                if len(deferred) >= MAX_DEFERRED:
                    break
            else:
                wants.park(want)
        wants.defer(deferred, self._shared.head.length)

    def _ask_ranges(self) -> None:
        fork, length = self._shared.head.fork, self._shared.head.length
        peers = [peer for peer in self._hungry if peer.serves(fork)]
        if len(peers) > 1:
            peers.sort(key=lambda peer: peer.estimate())
        crowd = None
        if len(self._shared.peers) > 1:
            crowd = Crowd([p for p in self._shared.peers.values() if p.serves(fork)], length)
            if not crowd.others:
                crowd = None
        self._fill_all(peers, crowd)
        if crowd is not None and not self.in_flight and not self.pending:
            # Nobody sends what was left to the others.
            self._fill_all(peers, None)

    def _fill_all(self, peers: list[Peer], crowd: Crowd | None) -> None:
        while peers:
            again = []
            for peer in peers:
                room = peer.room(self._block_bytes)
                count = min(room, RUN_BLOCKS)
                if room > 0 and self._fill(peer, count, crowd) and room > RUN_BLOCKS:
                    again.append(peer)
            peers = again

    def _fill(self, peer: Peer, count: int, crowd: Crowd | None) -> bool:
        """Ask a peer for the next blocks of the ranges; whether there were as many as that."""
        shared = self._shared
        length = shared.head.length
        held = shared.view.bitfield
        claimed = self.in_flight, self.pending
        spared = crowd is not None and crowd.is_full(peer)
        for want in shared.wants.ranges:
            if want.low < want.limit(length):
                if spared and want.blocks is None:
                    assert crowd is not None
                    count -= self._fill_rare(peer, want, count, crowd)
                    if not count:
                        return True
                    continue
                for index in want.take(peer, count, length, held, claimed):
                    self._ask_block(peer, index, bulk=True)
                    count -= 1
                if not count:
                    return True
        return False

    def _fill_rare(self, peer: Peer, want: RangeWant, count: int, crowd: Crowd) -> int:
        """Ask a full copy for blocks of a range that only it can send soon; how many."""
        shared = self._shared
        held = shared.view.bitfield
        span = want.low, want.limit(shared.head.length)
        count = min(count, crowd.at_once(*span, held) - peer.in_flight)
        if count <= 0:
            return 0
        elsewhere = [held, *crowd.rare(peer)]
        claimed = self.in_flight, self.pending
        place = want.quiet.get(peer.id)
        found, place = take_rare(place, count, span, elsewhere, claimed, shared.rng)
        want.quiet[peer.id] = place
        for index in found:
            self._ask_block(peer, index, bulk=True)
        return len(found)

    def _ask_wanted(self, peer: Peer, index: int, priority: int) -> None:
        """Ask for a block that somebody waits for: it overtakes those of ranges."""
        self._ask_block(peer, index, priority or int(peer.allowance.bulk > 0))

    def _ask_block(self, peer: Peer, index: int, priority: int = 0, *, bulk: bool = False) -> None:
        shared = self._shared
        flight = Flight(peer.take_id(), peer, shared.now, shared.head.fork, block=index, bulk=bulk)
        # What overtakes others cannot rely on what they bring.
        self._set_levels(flight, relies=not priority)
        self.launch(flight, priority=priority)

    def _set_levels(self, flight: Flight, *, relies: bool) -> None:
        """How far up the proof must reach, and what it promises to later ones."""
        shared = self._shared
        end = 2 * shared.head.length
        index, bit = 2 * flight.block, 2
        promises = flight.peer.promises
        node = shared.nodes.node
        levels = 0
        # `index + bit > end` iff the node's span contains `end`, or it is beyond.
        while index + (bit >> 1) <= end:
            if relies and index in promises:
                flight.promised = True
                break
            if node(index) is not None:
                break
            levels += 1
            index = (index | (bit >> 1)) & ~bit
            bit <<= 1
        flight.levels = levels
        if flight.peer.trusted_order:
            index, bit = 2 * flight.block, 2
            for _ in range(levels):
                promises[index ^ bit] = flight
                index = (index | (bit >> 1)) & ~bit
                bit <<= 1

    def launch(
        self,
        flight: Flight,
        hash_request: HashRequest | None = None,
        seek_request: SeekRequest | None = None,
        priority: int = 0,
    ) -> None:
        """Send the request of *flight*, and remember it."""
        peer = flight.peer
        peer.flights[flight.id] = flight
        peer.allowance.bulk += flight.bulk
        block = None
        if flight.block >= 0:
            block = BlockRequest(flight.block, flight.levels)
            self.in_flight.setdefault(flight.block, []).append(flight)
        upgrade = None if flight.upgrade is None else UpgradeRequest(*flight.upgrade)
        request = Request(flight.fork, block, hash_request, seek_request, upgrade)
        self._shared.send(peer, RequestMessage(flight.id, request, flight.manifest, priority))


assert REFILL_BLOCKS < GREATEST_WINDOW
