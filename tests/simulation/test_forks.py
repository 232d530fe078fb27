"""Logs that are truncated, signed twice, or signed elsewhere, on virtual time."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from corestore.conflict import ForkEvidence
from corestore.errors import ForkConflict, VerificationError
from corestore.replication.actions import Outcome
from tests.support.network import MemoryCore, Network, Site


def blocks(count, seed):
    rng = random.Random(seed)
    return [rng.randbytes(50) for _ in range(count)]


def writer(network, count, seed=0):
    site = Site(network, MemoryCore.create(0))
    if count:
        site.append(*blocks(count, seed))
    return site


def twin(network, *parts):
    """Another machine with the same key, which appended other blocks."""
    site = Site(network, MemoryCore.create(0))
    for part in parts:
        site.append(*part)
    return site


def reader(network, source, *, live=True):
    site = Site(network, MemoryCore(source.core.key))
    if live:
        site.machine.want_range(0, None)
        site.drain()
    return site


def received(site):
    return site.machine.statistics().blocks_received


# -- a log that is truncated -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "cut", "after"),
    [
        (100, 100, 0),
        (100, 60, 0),
        (100, 64, 0),
        (100, 0, 30),
        (100, 1, 99),
        (100, 40, 40),
        (100, 63, 200),
        (100, 64, 64),
        (100, 65, 3),
        (100, 99, 1),
        (1, 0, 1),
        (1000, 777, 500),
    ],
)
def test_the_blocks_before_the_cut_are_kept(before, cut, after):
    network = Network()
    source = writer(network, before)
    target = reader(network, source)
    link = network.connect(source, target)
    network.run(lambda: target.complete)
    assert received(target) == before
    network.disconnect(link)
    source.truncate(cut)
    if after:
        source.append(*blocks(after, 99))
    network.connect(source, target)
    network.run(seconds=20)
    assert target.core.head == source.core.head
    assert target.core.blocks == source.core.blocks
    assert received(target) == before + after
    target.core.check()
    assert not target.dropped
    # Whoever joins now gets all of it from the one who followed.
    late = reader(network, source)
    network.connect(target, late)
    network.run(seconds=20)
    assert late.core.blocks == source.core.blocks
    assert not late.dropped


def test_a_sparse_copy_keeps_what_it_has_before_the_cut():
    for seed in range(30):
        network = Network(seed)
        rng = network.rng
        length = rng.randint(2, 500)
        source = writer(network, length)
        target = reader(network, source, live=False)
        link = network.connect(source, target)
        network.run(seconds=1)
        target.machine.want_range(blocks=rng.sample(range(length), rng.randint(1, length)))
        target.drain()
        network.run(seconds=10)
        held = set(target.core.blocks)
        network.disconnect(link)
        cut = rng.randint(0, length)
        source.truncate(cut)
        source.append(*blocks(rng.randint(1, 100), seed))
        network.connect(source, target)
        network.run(seconds=10)
        assert target.core.head == source.core.head
        # What lies before the cut is never lost; and nothing of what was after it stays.
        assert {i for i in held if i < cut} == set(target.core.blocks)
        target.core.check()
        assert not target.dropped


def test_a_search_that_cannot_go_on_ends_with_what_is_known():
    network = Network()
    source = writer(network, 100)
    target = reader(network, source)
    link = network.connect(source, target)
    network.run(lambda: target.complete)
    network.disconnect(link)
    source.truncate(70)
    source.append(*blocks(10, 5))
    other = network.connect(source, target, latency=0.05)
    # The upgrade and the first nodes have come when the peer is lost.
    network.run(seconds=0.25)
    network.disconnect(other)
    network.run(seconds=10)
    assert target.core.head == source.core.head
    target.core.check()
    network.connect(source, target)
    network.run(seconds=10)
    assert target.core.blocks == source.core.blocks


def test_peers_are_told_what_a_truncation_took():
    network = Network()
    source = writer(network, 100)
    one, two = reader(network, source), reader(network, source)
    network.connect(source, one)
    link = network.connect(one, two)
    network.run(lambda: one.complete and two.complete)
    assert link.back is not None
    source.truncate(30)
    source.append(*blocks(50, 7))
    network.run(seconds=10)
    assert one.core.blocks == two.core.blocks == source.core.blocks
    assert two.machine.peer_has(link.target_peer, 0, 80)
    assert not one.machine.peer_has(link.source_peer, 80, 100)


# -- a log that is signed twice --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("common", "ours", "theirs"),
    [(0, 5, 5), (3, 4, 4), (10, 1, 1), (10, 20, 3), (10, 3, 20), (64, 1, 64), (100, 60, 60)],
)
def test_two_histories_stop_the_core_with_the_evidence(common, ours, theirs):
    network = Network()
    shared = blocks(common, 1)
    source = twin(network, shared, blocks(ours, 2)) if common else twin(network, blocks(ours, 2))
    other = twin(network, shared, blocks(theirs, 3)) if common else twin(network, blocks(theirs, 3))
    target = reader(network, source)
    network.connect(source, target)
    network.run(lambda: target.complete)
    # A block more and one less: something is asked of the other one.
    target.machine.cleared(0, 1)
    target.core.bitfield.set(0, 1, False)
    network.connect(other, target)
    wanted = target.machine.want_block(common)
    target.drain()
    other.append(b"more")
    source.append(*blocks(theirs + 5, 6))
    network.run(seconds=10)
    if target.conflicts:
        (conflict,) = target.conflicts
        assert isinstance(conflict.error, ForkConflict)
        manifest = target.core.manifest
        evidence = ForkEvidence(conflict.theirs.fork, manifest, conflict.ours, conflict.theirs)
        again = ForkEvidence.decode_untrusted(evidence.encode())
        assert again.theirs == conflict.theirs
        again.check(target.core.key)
        # What proves no conflict, or another core's, is no evidence.
        with pytest.raises(VerificationError):
            replace(again, theirs=again.ours).check(target.core.key)
        with pytest.raises(VerificationError):
            again.check(MemoryCore.create(5).key)
    else:
        # The reader only followed one of them so far: then the other never proved anything.
        assert target.outcome(wanted) is Outcome.DONE


def test_a_stopped_core_answers_nothing_and_fails_what_is_wanted():
    network = Network()
    source, other = writer(network, 10), twin(network, blocks(12, 8))
    target = reader(network, source)
    network.connect(source, target)
    network.run(lambda: target.complete)
    network.connect(other, target)
    waiting = target.machine.want_block(11)
    seek = target.machine.want_seek(3)
    target.drain()
    network.run(seconds=5)
    assert len(target.conflicts) == 1
    assert target.outcome(waiting) is Outcome.FAILED
    assert target.outcome(seek) in (Outcome.FAILED, Outcome.DONE)
    for late in (target.machine.want_upgrade(), target.machine.want_range(0, 5)):
        target.drain()
        assert isinstance(target.settled[late].error, ForkConflict)
    network.connect(source, target)
    sent = len(target.sent)
    network.run(seconds=5)
    assert len(target.sent) == sent


def test_a_forger_without_the_key_stops_nothing():
    network = Network()
    source = writer(network, 10)
    forged = MemoryCore.create(99)
    forged.append(*blocks(12, 8))
    forged.key = source.core.key
    forger = Site(network, forged)
    target = reader(network, source)
    network.connect(source, target)
    network.run(lambda: target.complete)
    network.connect(forger, target)
    network.run(seconds=10)
    assert not target.conflicts
    assert target.dropped_sites == [forger]
    source.append(b"goes on")
    network.run(seconds=5)
    assert target.core.blocks == source.core.blocks


# -- a log of ours that somebody else lengthened ---------------------------------------------------


def restored(network, source, length):
    """A copy of the writer as it was at *length*."""
    core = MemoryCore.create(0)
    if length:
        core.append(*[source.core.blocks[index] for index in range(length)])
    return Site(network, core)


@pytest.mark.parametrize("length", [0, 1, 10, 64, 99])
def test_an_old_copy_learns_from_a_peer_that_it_is_old(length):
    network = Network()
    source = writer(network, 100)
    keeper = reader(network, source)
    network.connect(source, keeper)
    network.run(lambda: keeper.complete)
    old = restored(network, source, length)
    old.machine.doubt(every=True)
    network.connect(keeper, old)
    asked = old.machine.want_history()
    old.drain()
    network.run(lambda: old.outcome(asked) is not None)
    assert old.machine.newer == source.core.head
    assert not old.confirmed
    # And it can go on from there.
    old.machine.set_recovering(True)
    old.machine.want_range(0, 100)
    old.drain()
    network.run(seconds=5)
    assert old.core.head == source.core.head
    assert old.core.blocks == source.core.blocks
    assert old.machine.newer is None
    old.core.published = old.core.head
    old.machine.published(old.core.published)
    old.machine.set_recovering(False)
    old.drain()
    old.append(b"goes on")
    network.run(seconds=5)
    assert keeper.core.blocks == old.core.blocks
    assert not keeper.conflicts


def test_who_did_not_answer_in_time_is_asked_again_by_who_waits_on():
    network = Network()
    source = writer(network, 100)
    old = restored(network, source, 10)
    old.machine.doubt(every=True)
    network.connect(source, old)
    for silent in (True, False):
        source.silent = silent
        asked = old.machine.want_history()
        old.drain()
        network.run(seconds=10)
        assert old.outcome(asked) is Outcome.DONE
        assert old.machine.shown is not silent
    assert old.machine.newer == source.core.head


def test_an_old_copy_learns_of_a_newer_fork():
    network = Network()
    source = writer(network, 100)
    old = restored(network, source, 100)
    source.truncate(50)
    keeper = reader(network, source)
    network.connect(source, keeper)
    network.run(lambda: keeper.complete)
    old.machine.doubt(every=True)
    network.connect(keeper, old)
    network.run(seconds=5)
    assert old.machine.newer == source.core.head
    old.machine.set_recovering(True)
    old.drain()
    network.run(seconds=5)
    assert old.core.head == source.core.head
    assert old.core.blocks == source.core.blocks


def test_a_copy_that_has_all_is_confirmed():
    network = Network()
    source = writer(network, 100)
    keeper = reader(network, source)
    network.connect(source, keeper)
    network.run(lambda: keeper.complete)
    same = restored(network, source, 100)
    same.machine.doubt(every=True)
    network.connect(keeper, same)
    network.run(seconds=5)
    assert same.confirmed == 1
    assert same.machine.newer is None


def test_who_never_had_anything_confirms_nothing():
    network = Network()
    source = writer(network, 3)
    same = restored(network, source, 3)
    same.machine.doubt(every=True)
    same.silent = True
    empty = Site(network, MemoryCore(source.core.key))
    network.connect(empty, same)
    asked = same.machine.want_history()
    same.drain()
    network.run(seconds=10)
    assert same.outcome(asked) is Outcome.DONE
    assert not same.confirmed


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize(
    ("shown", "tail", "theirs"), [(0, 3, 2), (0, 2, 3), (5, 4, 2), (5, 2, 4), (8, 8, 8)]
)
def test_a_tail_that_nobody_saw_contradicts_nobody(shown, tail, theirs, every):
    network = Network()
    ours = writer(network, shown)
    with_tail(ours, tail)
    other = writer(network, shown)
    other.append(*blocks(theirs, 3))
    ours.machine.doubt(every=every)
    network.connect(other, ours)
    network.run(seconds=10)
    assert not ours.conflicts
    assert not ours.confirmed
    assert ours.machine.newer == other.core.head
    assert other.core.head == ours.overtaken[-1].head


def test_what_was_shown_before_an_unseen_tail_still_contradicts():
    network = Network()
    ours = twin(network, blocks(5, 1), blocks(3, 2))
    with_tail(ours, 4)
    other = twin(network, blocks(5, 1), blocks(6, 4))
    ours.machine.doubt(every=True)
    network.connect(other, ours)
    network.run(seconds=10)
    (conflict,) = ours.conflicts
    ForkEvidence(0, ours.core.manifest, conflict.ours, conflict.theirs).check(ours.core.key)


def with_tail(site, count):
    """Blocks that are not signed yet."""
    site.core.append(*blocks(count, 9), publish=False)
    site.core.head = replace(site.core.head, signature=b"")


def test_a_peer_that_only_claims_more_does_not_stop_the_writer():
    network = Network()
    source = writer(network, 10)
    forged = MemoryCore.create(99)
    forged.append(*blocks(12, 8))
    forged.key = source.core.key
    forger = Site(network, forged)
    source.machine.doubt(every=False)
    network.connect(forger, source)
    asked = source.machine.want_history()
    source.drain()
    network.run(seconds=10)
    assert source.outcome(asked) is Outcome.DONE
    assert source.machine.newer is None
    assert source.dropped_sites == [forger]


def test_two_writers_of_one_key_find_out():
    network = Network()
    shared = blocks(10, 1)
    one, two = twin(network, shared, [b"one"]), twin(network, shared, [b"two", b"three"])
    for site in (one, two):
        site.machine.doubt(every=False)
    target = reader(network, one)
    network.connect(one, target)
    network.connect(two, target)
    network.run(seconds=10)
    assert target.conflicts or target.core.head in (one.core.head, two.core.head)
    network.connect(one, two)
    network.run(seconds=10)
    # The shorter one is shown the longer history, and it is not its own.
    assert len(one.conflicts) == 1
