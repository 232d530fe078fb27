"""What is asked of the machine: single blocks, ranges, byte positions and upgrades.

Single blocks form a queue by priority. A block that no peer has is *parked* until some peer
announces it, one beyond the log waits for the log; so the queue holds only what can be asked for.

A range hands out its blocks in order, from a place `low` below which everything is held, asked for
or being written; each peer that lacks blocks at that place has a place of its own further on.
Places only move forward, unless a request fails, so handing out a range costs its length and not
more.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from corestore.bitfield import first_gap
from corestore.replication.actions import Outcome, Settle, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from corestore.bitfield import Bitfield
    from corestore.errors import CorestoreError
    from corestore.replication.actions import PeerId


class Copy(Protocol):
    """A peer, as far as a range looks at it."""

    @property
    def id(self) -> PeerId:
        """Names it."""
        ...

    @property
    def blocks(self) -> Bitfield:
        """What it has told that it has."""
        ...


@dataclass(eq=False, slots=True)
class BlockWant:
    """One block, wanted by every ticket in `tickets` (at least one)."""

    index: int
    priority: int
    tickets: list[Ticket]


@dataclass(eq=False, slots=True)
class RangeWant:
    """Blocks `start..end`, to the end of the log and on for `end=None`, or those of a sorted list.

    Attributes:
      low: everything wanted below it is held, asked for or pending.
      done: everything wanted below it is held (contiguous ranges).
      missing: how many of a list are not held yet.
      places: per peer, where to go on looking for blocks that the peer has.
      quiet: per full copy, where to go on asking for blocks that nobody else has.
    """

    ticket: Ticket
    start: int
    end: int | None
    blocks: list[int] | None = None
    low: int = 0
    done: int = 0
    missing: int = 0
    places: dict[PeerId, int] = field(default_factory=dict)
    quiet: dict[PeerId, int | None] = field(default_factory=dict)

    def limit(self, length: int) -> int:
        """Where the range ends in a log of so many blocks."""
        return length if self.end is None else min(self.end, length)

    def contains(self, index: int) -> bool:
        """Whether the block is one of the wanted ones."""
        if self.blocks is not None:
            at = bisect_left(self.blocks, index)
            return at < len(self.blocks) and self.blocks[at] == index
        return self.start <= index and (self.end is None or index < self.end)

    def lower(self, index: int) -> None:
        """A wanted block became free again: look there once more."""
        if index < self.low:
            self.low = index
        for peer, place in self.places.items():
            if place > index:
                self.places[peer] = index

    def lower_for(self, peer: PeerId, index: int) -> None:
        """A peer announced blocks from *index* on."""
        if self.places.get(peer, 0) > index:
            self.places[peer] = index

    def take(
        self,
        peer: Copy,
        count: int,
        length: int,
        held: Bitfield,
        claimed: tuple[Container[int], Container[int]],
    ) -> list[int]:
        """Up to *count* blocks below *length*, in order, to ask *peer* for.

        The caller must claim all of them (put them into one of *claimed*) or `lower` the range.
        """
        end = self.limit(length)
        at = max(self.low, self.places.get(peer.id, 0), self.start)
        # Nothing was passed over that another peer may have: `low` moves along.
        solid = at <= max(self.low, self.start)
        found: list[int] = []
        theirs = peer.blocks
        asked, pending = claimed
        while at < end and len(found) < count:
            stretch = self._stretch(at, end, held)
            if stretch is None:
                at = end
                break
            at, stop = stretch
            if not theirs.get(at):
                if solid:
                    self.low = at
                    solid = False
                without = () if self.blocks is not None else (held,)
                following = first_gap(without, at, end, within=theirs)
                at = end if following is None else following
                continue
            stop = theirs.first(False, at, stop) or stop
            for index in range(at, stop):
                at = index + 1
                if index not in asked and index not in pending:
                    found.append(index)
                    if len(found) == count:
                        break
        self.places[peer.id] = at
        if solid:
            self.low = at
        return found

    def _stretch(self, at: int, end: int, held: Bitfield) -> tuple[int, int] | None:
        """The next run of wanted blocks in `at..end` that are not held."""
        if self.blocks is None:
            first = held.first(False, at, end)
            if first is None:
                return None
            return first, held.first(True, first, end) or end
        for place in range(bisect_left(self.blocks, at), len(self.blocks)):
            index = self.blocks[place]
            if index >= end:
                return None
            if not held.get(index):
                return index, index + 1
        return None


@dataclass(eq=False, slots=True)
class SeekWant:
    """The block at a byte offset. `waiting`: a request that brings nodes for it is in flight."""

    ticket: Ticket
    offset: int
    padding: int
    waiting: bool = False


@dataclass(eq=False, slots=True)
class UpgradeWant:
    """Settles with the next upgrade, or once no peer can be expected to have one."""

    ticket: Ticket
    since: float | None = None


class Wants:
    """All that is wanted of one core. `settle` is called for every want that ends."""

    def __init__(self, settle: Callable[[Settle], None]) -> None:
        self._settle = settle
        self.blocks: dict[int, BlockWant] = {}
        self.ranges: list[RangeWant] = []
        self.seeks: list[SeekWant] = []
        self.upgrades: list[UpgradeWant] = []
        self.parked: set[int] = set()
        # Heaps: (-priority, order, index), and indices beyond the log.
        self._queue: list[tuple[int, int, int]] = []
        self._beyond: list[int] = []
        self._order = 0
        # Which lists a block is in, while it is not held.
        self._listed: dict[int, list[RangeWant]] = {}

    def __bool__(self) -> bool:
        """Whether any block or position is wanted."""
        return bool(self.blocks or self.ranges or self.seeks)

    # -- single blocks ---------------------------------------------------------------------------

    def add_block(self, index: int, priority: int, length: int, *, claimed: bool) -> Ticket:
        """Want a block that is not held. *claimed*: it is under way already."""
        ticket = Ticket(block=index)
        want = self.blocks.get(index)
        if want is not None:
            want.tickets.append(ticket)
            if priority <= want.priority:
                return ticket
            want.priority = priority
        else:
            self.blocks[index] = want = BlockWant(index, priority, [ticket])
        if not claimed:
            self.parked.discard(index)
            self._enqueue(want, length)
        return ticket

    def _enqueue(self, want: BlockWant, length: int) -> None:
        if want.index >= length:
            heapq.heappush(self._beyond, want.index)
            return
        self._order += 1
        heapq.heappush(self._queue, (-want.priority, self._order, want.index))

    def urgent(self, claimed: Callable[[int], bool]) -> Iterator[BlockWant]:
        """Take single blocks that are not under way from the queue, the most urgent first.

        What cannot be asked for now must be given back with `park` or `defer`.
        """
        while self._queue:
            _, _, index = heapq.heappop(self._queue)
            want = self.blocks.get(index)
            if want is not None and not claimed(index):
                yield want

    @property
    def urgent_waiting(self) -> bool:
        """Whether `urgent` may have any."""
        return bool(self._queue)

    def defer(self, wants: Iterable[BlockWant], length: int) -> None:
        """Put blocks back into the queue."""
        for want in wants:
            self._enqueue(want, length)

    def park(self, want: BlockWant) -> None:
        """No peer has the block: set it aside until one announces it."""
        self.parked.add(want.index)

    def unpark(self, start: int, end: int, length: int) -> None:
        """Blocks `start..end` may have become available."""
        if not self.parked:
            return
        if end - start < len(self.parked):
            found = [index for index in range(start, end) if index in self.parked]
        else:
            found = sorted(index for index in self.parked if start <= index < end)
        self.parked.difference_update(found)
        self.defer((self.blocks[index] for index in found if index in self.blocks), length)

    def reach(self, length: int) -> None:
        """The log has so many blocks now."""
        while self._beyond and self._beyond[0] < length:
            want = self.blocks.get(heapq.heappop(self._beyond))
            if want is not None:
                self._enqueue(want, length)

    def first_beyond(self) -> int | None:
        """The first single block that is wanted beyond the log, if any."""
        while self._beyond:
            if self._beyond[0] in self.blocks:
                return self._beyond[0]
            heapq.heappop(self._beyond)
        return None

    # -- ranges ----------------------------------------------------------------------------------

    def add_range(self, start: int, end: int | None, held: Bitfield) -> Ticket:
        """Want the blocks of a range."""
        want = RangeWant(Ticket(), start, end, low=start, done=start)
        self.ranges.append(want)
        self._check_done(want, held)
        return want.ticket

    def add_list(self, blocks: Sequence[int], held: Bitfield) -> Ticket:
        """Want the blocks of a list."""
        missing = sorted({index for index in blocks if not held.get(index)})
        want = RangeWant(Ticket(), 0, None, blocks=missing, missing=len(missing))
        if not missing:
            self._end(want.ticket, Outcome.DONE)
            return want.ticket
        want.low, want.end = missing[0], missing[-1] + 1
        for index in missing:
            self._listed.setdefault(index, []).append(want)
        self.ranges.append(want)
        return want.ticket

    def release(self, indices: Iterable[int], length: int) -> None:
        """Blocks that were asked for must be asked for again."""
        spans = [want for want in self.ranges if want.blocks is None]
        for index in indices:
            want = self.blocks.get(index)
            if want is not None:
                self._enqueue(want, length)
            for range_want in spans:
                if range_want.contains(index):
                    range_want.lower(index)
            for listed in self._listed.get(index, ()):
                listed.lower(index)

    def announced(self, peer: PeerId, start: int, end: int, length: int) -> None:
        """A peer has the blocks `start..end` now."""
        self.unpark(start, end, length)
        for want in self.ranges:
            if want.end is None or start < want.end:
                want.lower_for(peer, start)

    def forget_peer(self, peer: PeerId) -> None:
        """A peer has gone."""
        for want in self.ranges:
            want.places.pop(peer, None)
            want.quiet.pop(peer, None)

    def rewind(self, start: int, length: int) -> None:
        """Nothing is under way any more, and the log was cut at *start*: look at all again. Single
        blocks that it had, and has no more, are OUT_OF_BOUNDS."""
        beyond = set(self._beyond)
        for index in [index for index in self.blocks if index >= length and index not in beyond]:
            for ticket in self.blocks.pop(index).tickets:
                self._end(ticket, Outcome.OUT_OF_BOUNDS)
        for want in self.ranges:
            want.places.clear()
            want.low = want.done = max(min(want.done, start), want.start)
        self._queue.clear()
        self._beyond.clear()
        self.parked.clear()
        self.defer(self.blocks.values(), length)

    # -- ends ------------------------------------------------------------------------------------

    def held(self, index: int) -> None:
        """A block is held now: settle who wanted it. `check_ranges` follows, once for many."""
        want = self.blocks.pop(index, None)
        if want is not None:
            self.parked.discard(index)
            for ticket in want.tickets:
                self._end(ticket, Outcome.DONE)
        if self._listed:
            for listed in self._listed.pop(index, ()):
                listed.missing -= 1
                if not listed.missing:
                    self.ranges.remove(listed)
                    self._end(listed.ticket, Outcome.DONE)

    def check_ranges(self, held: Bitfield) -> None:
        """Settle the ranges that are complete."""
        for want in self.ranges.copy():
            if want.blocks is None and want.end is not None:
                self._check_done(want, held)

    def check_all(self, held: Bitfield) -> None:
        """Settle whatever *held* satisfies, however it came to be held."""
        if not (self.blocks or self._listed or self.ranges):
            return
        for index in [index for index in (*self.blocks, *self._listed) if held.get(index)]:
            self.held(index)
        self.check_ranges(held)

    def _check_done(self, want: RangeWant, held: Bitfield) -> None:
        if want.end is None:
            return
        missing = held.first(False, want.done, want.end)
        if missing is None:
            self.ranges.remove(want)
            self._end(want.ticket, Outcome.DONE)
        else:
            want.done = missing

    def upgraded(self) -> None:
        """The log was lengthened."""
        for want in self.upgrades:
            self._end(want.ticket, Outcome.DONE)
        self.upgrades.clear()

    def fail(self, index: int, error: CorestoreError | OSError) -> None:
        """A block cannot be written: settle who wants it, in whatever form."""
        want = self.blocks.pop(index, None)
        tickets = [] if want is None else want.tickets
        for range_want in [w for w in self.ranges if w.contains(index) and w.end is not None]:
            self._remove_range(range_want)
            tickets.append(range_want.ticket)
        for ticket in tickets:
            ticket.settled = True
            self._settle(Settle(ticket, Outcome.FAILED, error=error))

    def fail_upgrades(self, error: CorestoreError | OSError) -> None:
        """A longer log cannot be written: settle who waits for it."""
        upgrades, self.upgrades = self.upgrades, []
        for want in upgrades:
            want.ticket.settled = True
            self._settle(Settle(want.ticket, Outcome.FAILED, error=error))

    def fail_all(self, error: CorestoreError) -> None:
        """Nothing will be fetched any more: settle all there is."""
        tickets = [ticket for want in self.blocks.values() for ticket in want.tickets]
        tickets += [want.ticket for want in self.ranges]
        tickets += [want.ticket for want in self.seeks]
        tickets += [want.ticket for want in self.upgrades]
        for table in (self.blocks, self._listed):
            table.clear()
        for wants in (self.ranges, self.seeks, self.upgrades):
            wants.clear()
        for ticket in tickets:
            ticket.settled = True
            self._settle(Settle(ticket, Outcome.FAILED, error=error))

    def cancel(self, ticket: Ticket) -> bool:
        """Forget a want; whether blocks may no longer be wanted because of that."""
        ticket.settled = True
        if ticket.block >= 0:
            want = self.blocks.get(ticket.block)
            if want is None or ticket not in want.tickets:
                return False
            want.tickets.remove(ticket)
            if want.tickets:
                return False
            del self.blocks[ticket.block]
            self.parked.discard(ticket.block)
            return True
        for range_want in self.ranges:
            if range_want.ticket is ticket:
                self._remove_range(range_want)
                return True
        self.seeks = [seek for seek in self.seeks if seek.ticket is not ticket]
        self.upgrades = [upgrade for upgrade in self.upgrades if upgrade.ticket is not ticket]
        return False

    def unwanted(self, indices: Iterable[int]) -> list[int]:
        """Those of the blocks, none of them held, that nobody wants any more."""
        spans = [want for want in self.ranges if want.blocks is None]
        return [
            index
            for index in indices
            if index not in self.blocks
            and index not in self._listed
            and not any(want.contains(index) for want in spans)
        ]

    def _remove_range(self, want: RangeWant) -> None:
        self.ranges.remove(want)
        for index in want.blocks or ():
            listed = self._listed.get(index)
            if listed is not None and want in listed:
                listed.remove(want)
                if not listed:
                    del self._listed[index]

    def _end(self, ticket: Ticket, outcome: Outcome) -> None:
        ticket.settled = True
        self._settle(Settle(ticket, outcome))
