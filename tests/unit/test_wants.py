"""What is wanted: queues of single blocks, ranges handed out piece by piece, lists."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from corestore.bitfield import Bitfield
from corestore.replication.actions import Outcome
from corestore.replication.peer import Peer
from corestore.replication.sharing import take_rare
from corestore.replication.wants import SeekWant, Ticket, UpgradeWant, Wants

NOTHING = (frozenset(), frozenset())


def bits(*indices):
    held = Bitfield()
    for index in indices:
        held.set(index, index + 1)
    return held


def peer_with(*ranges, number=1):
    peer = Peer(number, seeks=True)
    for start, end in ranges:
        peer.announce(start, end, True)
    return peer


def wants():
    settled = []
    return Wants(settled.append), settled


def urgent(made, claimed=()):
    return [want.index for want in made.urgent(lambda index: index in claimed)]


# -- single blocks ---------------------------------------------------------------------------------


def test_urgent_blocks_come_by_priority_and_then_in_order_of_asking():
    made, _ = wants()
    for index, priority in ((5, 0), (3, 0), (9, 2), (1, 1), (4, 2)):
        made.add_block(index, priority, 10, claimed=False)
    assert urgent(made) == [9, 4, 1, 5, 3]
    assert urgent(made) == []


def test_a_block_wanted_again_more_urgently_moves_up():
    made, settled = wants()
    made.add_block(1, 0, 10, claimed=False)
    made.add_block(2, 0, 10, claimed=False)
    made.add_block(2, 1, 10, claimed=False)
    taken = []
    for want in made.urgent(lambda index: index in taken):
        taken.append(want.index)
    assert taken == [2, 1]
    made.held(2)
    assert [s.outcome for s in settled] == [Outcome.DONE, Outcome.DONE]


def test_a_block_beyond_the_log_waits_for_it():
    made, _ = wants()
    made.add_block(12, 0, 10, claimed=False)
    made.add_block(11, 0, 10, claimed=False)
    assert urgent(made) == []
    assert made.first_beyond() == 11
    made.reach(12)
    assert urgent(made) == [11]
    assert made.first_beyond() == 12


def test_a_parked_block_comes_back_when_it_is_announced():
    made, _ = wants()
    made.add_block(3, 0, 10, claimed=False)
    made.add_block(7, 0, 10, claimed=False)
    for want in made.urgent(lambda _: False):
        made.park(want)
    made.unpark(4, 10, 10)
    assert urgent(made) == [7]
    made.unpark(0, 2**50, 10)
    assert urgent(made) == [3]


def test_a_released_block_is_asked_for_again():
    made, _ = wants()
    made.add_block(3, 0, 10, claimed=False)
    assert urgent(made) == [3]
    made.release([3, 4], 10)
    assert urgent(made) == [3]


def test_a_cancelled_block_is_forgotten_when_nobody_else_wants_it():
    made, settled = wants()
    one = made.add_block(3, 0, 10, claimed=False)
    two = made.add_block(3, 0, 10, claimed=False)
    assert not made.cancel(one)
    assert made.unwanted([3]) == []
    assert made.cancel(two)
    assert made.unwanted([3]) == [3]
    assert not made.cancel(two)
    assert urgent(made) == []
    made.held(3)
    assert settled == []


# -- ranges ----------------------------------------------------------------------------------------


def test_a_range_is_handed_out_in_order_and_once():
    made, _ = wants()
    made.add_range(2, 9, bits(4))
    (want,) = made.ranges
    peer = peer_with((0, 100))
    asked = set()
    got = []
    while more := want.take(peer, 2, 100, bits(4), (asked, set())):
        asked.update(more)
        got += more
    assert got == [2, 3, 5, 6, 7, 8]
    assert want.low == 9


def test_a_range_is_not_handed_out_beyond_the_log_until_it_grows():
    made, _ = wants()
    made.add_range(0, None, bits())
    (want,) = made.ranges
    peer = peer_with((0, 100))
    assert want.take(peer, 10, 3, bits(), NOTHING) == [0, 1, 2]
    assert want.take(peer, 10, 3, bits(), NOTHING) == []
    assert want.take(peer, 10, 5, bits(), NOTHING) == [3, 4]


def test_what_one_peer_lacks_another_is_asked_for():
    made, _ = wants()
    made.add_range(0, 8, bits())
    (want,) = made.ranges
    odd = peer_with((1, 2), (3, 4), (5, 6), number=1)
    full = peer_with((0, 8), number=2)
    asked = set(want.take(odd, 10, 8, bits(), NOTHING))
    assert asked == {1, 3, 5}
    assert want.low == 0
    assert want.take(odd, 10, 8, bits(), (asked, set())) == []
    assert want.take(full, 10, 8, bits(), (asked, set())) == [0, 2, 4, 6, 7]
    assert want.low == 8


def test_a_new_announcement_is_looked_at_again():
    made, _ = wants()
    made.add_range(0, 8, bits())
    (want,) = made.ranges
    peer = peer_with((5, 6))
    assert want.take(peer, 10, 8, bits(), NOTHING) == [5]
    peer.announce(2, 3, True)
    assert want.take(peer, 10, 8, bits(), ({5}, set())) == []
    made.announced(1, 2, 3, 8)
    assert want.take(peer, 10, 8, bits(), ({5}, set())) == [2]


def test_a_failed_block_of_a_range_is_handed_out_again():
    made, _ = wants()
    made.add_range(0, 8, bits())
    (want,) = made.ranges
    peer = peer_with((0, 8))
    asked = set(want.take(peer, 8, 8, bits(), NOTHING))
    asked.discard(3)
    made.release([3], 8)
    assert want.take(peer, 8, 8, bits(), (asked, set())) == [3]


def test_a_range_settles_when_its_last_block_is_held():
    made, settled = wants()
    held = bits()
    ticket = made.add_range(2, 5, held)
    for index in (4, 2, 3):
        assert settled == []
        held.set(index, index + 1)
        made.held(index)
        made.check_ranges(held)
    assert [(s.ticket, s.outcome) for s in settled] == [(ticket, Outcome.DONE)]
    assert made.ranges == []


def test_a_list_is_handed_out_and_settles_like_a_range():
    made, settled = wants()
    held = bits(4)
    ticket = made.add_list([9, 1, 4, 6, 1], held)
    (want,) = made.ranges
    peer = peer_with((0, 100))
    assert want.take(peer, 2, 100, held, NOTHING) == [1, 6]
    assert want.take(peer, 2, 100, held, NOTHING) == [9]
    for index in (9, 1):
        made.held(index)
    assert settled == []
    made.held(6)
    assert [s.ticket for s in settled] == [ticket]


def test_a_cancelled_list_leaves_nothing_behind():
    made, settled = wants()
    one = made.add_list([1, 2], bits())
    two = made.add_list([2, 3], bits())
    assert made.cancel(one)
    assert made.unwanted([1]) == [1]
    assert made.unwanted([2]) == []
    made.held(2)
    made.held(3)
    assert [s.ticket for s in settled] == [two]
    assert not made


def test_a_refused_block_fails_everything_that_needs_it_and_ends():
    made, settled = wants()
    made.add_block(3, 0, 10, claimed=True)
    made.add_range(0, 10, bits())
    made.add_range(0, None, bits())
    made.add_list([3, 4], bits())
    made.add_list([4, 5], bits())
    made.fail(3, OSError(28, "full"))
    assert [s.outcome for s in settled] == [Outcome.FAILED] * 3
    assert len(made.ranges) == 2


def test_whatever_is_held_settles_in_one_check():
    made, settled = wants()
    made.add_block(1, 0, 10, claimed=False)
    made.add_list([1, 2], bits())
    made.add_range(0, 3, bits())
    made.check_all(bits(0, 1, 2))
    assert len(settled) == 3
    assert not made


def test_a_cut_log_is_looked_at_again_from_there():
    made, _ = wants()
    made.add_range(0, None, bits())
    made.add_block(9, 0, 20, claimed=False)
    (want,) = made.ranges
    peer = peer_with((0, 20))
    assert len(want.take(peer, 20, 20, bits(), NOTHING)) == 20
    assert urgent(made) == [9]
    made.rewind(7, 15)
    assert want.take(peer, 20, 15, bits(*range(7)), NOTHING) == list(range(7, 15))
    assert urgent(made) == [9]


def test_other_wants_are_cancelled_too():
    made, settled = wants()
    seek, upgrade = Ticket(), Ticket()
    made.seeks.append(SeekWant(seek, 5, 0))
    made.upgrades.append(UpgradeWant(upgrade))
    made.cancel(seek)
    made.cancel(upgrade)
    made.upgraded()
    assert not made.seeks
    assert settled == []


ranges = st.tuples(st.integers(0, 60), st.integers(1, 30)).map(lambda r: (r[0], r[0] + r[1]))


@settings(deadline=None)
@given(
    start=st.integers(0, 20),
    end=st.one_of(st.none(), st.integers(21, 80)),
    listed=st.one_of(st.none(), st.sets(st.integers(0, 70), min_size=1)),
    length=st.integers(0, 70),
    peers=st.lists(st.lists(ranges, max_size=4), min_size=1, max_size=4),
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 9), ranges), max_size=60
    ),
)
def test_ranges_hand_out_what_a_peer_has_and_lose_nothing(start, end, listed, length, peers, steps):
    """Against sets: no block twice, none that is held or that the peer lacks; at the end nothing
    is left that any peer has."""
    made, _ = wants()
    held = Bitfield()
    if listed is None:
        made.add_range(start, end, held)
        wanted = {i for i in range(200) if i >= start and (end is None or i < end)}
    else:
        made.add_list(sorted(listed), held)
        wanted = set(listed)
    (want,) = made.ranges
    theirs = [peer_with(*announced, number=at) for at, announced in enumerate(peers)]
    asked, pending = set(), set()

    def take(peer, count):
        got = want.take(peer, count, length, held, (asked, pending))
        assert got == sorted(set(got))
        assert len(got) <= count
        for index in got:
            assert index in wanted
            assert index < length
            assert peer.blocks.get(index)
            assert not held.get(index)
            assert index not in asked
        asked.update(got)
        return got

    for kind, who, count, (low, high) in steps:
        peer = theirs[who % len(theirs)]
        if kind == 0:
            take(peer, count)
        elif kind == 1 and asked:
            index = sorted(asked)[count % len(asked)]
            asked.discard(index)
            made.release([index], length)
        elif kind == 2 and asked:
            index = sorted(asked)[count % len(asked)]
            asked.discard(index)
            held.set(index, index + 1)
        elif kind == 3:
            peer.announce(low, high, True)
            made.announced(peer.id, low, high, length)
    for peer in theirs:
        while take(peer, 7):
            pass
    for index in wanted:
        if index < length and any(peer.blocks.get(index) for peer in theirs):
            assert index in asked or held.get(index)


class CountedBitfield(Bitfield):
    """Counts how often it is looked at."""

    looks = 0

    def get(self, index):
        self.looks += 1
        return super().get(index)


def test_looking_for_a_block_is_by_pages_however_blocks_lie_between_each_other():
    made, _ = wants()
    held = bits(*range(0, 100_000, 2))
    made.add_range(0, 100_000, held)
    peer = peer_with()
    peer.blocks = CountedBitfield()
    for index in range(0, 100_000, 2):
        peer.announce(index, index + 1, True)
    assert made.ranges[0].take(peer, 16, 100_000, held, NOTHING) == []
    assert peer.blocks.looks < 10


def test_looking_for_what_is_rare_is_by_pages_however_others_blocks_lie():
    fields = [CountedBitfield(), CountedBitfield()]
    for index in range(99_999):
        fields[index & 1].set(index, index + 1)
    taken = [(None, 16), (7, 16)]
    for place, count in taken:
        span = 0, 100_000
        rare, _ = take_rare(place, count, span, fields, NOTHING, random.Random(1))
        assert rare == [99_999]
    assert sum(field.looks for field in fields) < 10
