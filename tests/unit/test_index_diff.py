"""Diff: what changed between versions, at what cost, and going on after missing blocks."""

from __future__ import annotations

import pytest

from corestore import DecodeError
from hyperfs.index import BlocksMissing, Diff, NodeCache
from hyperfs.index.node import encode_inner, encode_leaf
from hyperfs.records import entry_key, pack
from tests.support.blocks import Log


def numbered(count, *, directory=1, value=40):
    return {
        entry_key(directory, b"name-%06d" % i): b"%06d" % i + bytes(value) for i in range(count)
    }


def large():
    log = Log()
    log.commit(numbered(30_000))
    return log


def test_the_same_version_differs_in_nothing():
    log = large()
    assert list(Diff(log.index, log.index)) == []


def test_changes_carry_old_and_new_in_key_order():
    log = large()
    before = log.index
    old = entry_key(1, b"name-000005")
    changed = {
        entry_key(1, b"a"): b"new",
        old: b"changed",
        entry_key(1, b"name-000007"): None,
        entry_key(1, b"name-000009"): before.get(entry_key(1, b"name-000009")),
        entry_key(1, b"nothing"): None,
    }
    log.commit(changed)
    expected = [
        (entry_key(1, b"a"), None, b"new"),
        (old, before.get(old), b"changed"),
        (entry_key(1, b"name-000007"), before.get(entry_key(1, b"name-000007")), None),
    ]
    assert list(Diff(before, log.index)) == expected
    assert list(Diff(log.index, before)) == [(key, new, old) for key, old, new in expected]


def test_versions_that_share_their_tree_do_not_compare_it():
    log = large()
    before = log.index
    for step in range(3):
        log.commit({entry_key(9, b"new"): b"%d" % step})
    cache = NodeCache()
    old, new = log.view(before.root.index + 1, cache=cache), log.view(cache=cache)
    assert old.root.tree == new.root.tree
    log.reads = 0
    # The key is in both overlays, so nothing has to be looked up either.
    assert list(Diff(old, new)) == [(entry_key(9, b"new"), b"0", b"2")]
    assert log.reads == 0


def test_the_cost_follows_the_change():
    log = large()
    first = log.index
    log.commit({entry_key(1, b"name-%06d" % i): bytes(50) for i in range(10_000, 10_400)})
    cache = NodeCache()
    log.reads = 0
    changes = list(Diff(log.view(first.root.index, cache=cache), log.view(cache=cache)))
    assert len(changes) == 400
    assert log.reads < 50


def test_a_range_leaves_the_rest_unread():
    log = large()
    first = log.index
    log.commit(numbered(30_000, value=41))
    cache = NodeCache()
    old, new = log.view(first.root.index, cache=cache), log.view(cache=cache)
    start, end = entry_key(1, b"name-010000"), entry_key(1, b"name-010100")
    log.reads = 0
    changes = list(Diff(old, new, start, end))
    assert [key for key, _, _ in changes] == [
        entry_key(1, b"name-%06d" % i) for i in range(10_000, 10_100)
    ]
    assert log.reads < 20


def test_trees_of_different_heights_are_compared():
    log = Log()
    log.commit(numbered(300))
    small = log.index
    log.commit(numbered(30_000, directory=2))
    tall = log.index
    assert len(list(Diff(small, tall))) == 30_000
    log.commit(dict.fromkeys(numbered(30_000, directory=2)))
    assert list(Diff(small, log.index)) == []
    assert len(list(Diff(tall, log.index))) == 30_000


def test_an_empty_drive_is_compared():
    log = Log()
    log.commit({})
    empty = log.index
    log.commit(numbered(2000))
    assert len(list(Diff(empty, log.index))) == 2000
    assert len(list(Diff(log.index, empty))) == 2000


def test_changes_in_overlays_over_changed_trees():
    log = large()
    log.commit({entry_key(1, b"name-000001"): b"one"})
    before = log.index
    log.commit({entry_key(1, b"name-000001"): before.get(entry_key(1, b"name-000001"))})
    log.commit(numbered(500, directory=3))
    log.commit({entry_key(3, b"name-000002"): None})
    keys = [key for key, _, _ in Diff(before, log.index)]
    assert keys == [key for key in numbered(500, directory=3) if not key.endswith(b"000002")]


def test_it_goes_on_where_a_block_was_missing():
    log = large()
    first = log.index.root.index
    for step in range(60):
        log.commit(
            {entry_key(1, b"name-%06d" % (step * 400 + i)): bytes(20) for i in range(0, 9, 3)}
        )
    log.commit(numbered(400, directory=4))
    expected = list(Diff(log.view(first), log.view()))
    log.away = set(range(1, len(log.blocks)))
    cache = NodeCache()
    old = log.fetching(lambda: log.view(first, cache=cache))
    new = log.fetching(lambda: log.view(cache=cache))
    log.rounds = []
    diff = iter(Diff(old, new))
    found = []
    while True:
        try:
            found.append(log.fetching(lambda: next(diff)))
        except StopIteration:
            break
    assert found == expected
    assert len(log.rounds) < 20


def test_both_overlays_are_asked_for_together():
    log = large()
    for step in range(100):
        log.commit({entry_key(5, b"%d" % step): bytes(60)})
    first = log.index.root
    for step in range(30):
        log.commit({entry_key(6, b"%d" % step): bytes(60)})
    last = log.index.root
    assert first.overlay != last.overlay
    assert first.overlay is not None
    log.away = {first.overlay, last.overlay}
    cache = NodeCache()
    with pytest.raises(BlocksMissing) as caught:
        next(Diff(log.view(first.index, cache=cache), log.view(cache=cache)))
    assert log.away <= set(caught.value.indices)


def test_leaves_outside_their_separators_are_refused():
    log = Log()
    log.commit({})
    empty = log.index
    log.blocks += [
        encode_leaf([b"0000001"], [b"v"]),
        encode_inner(1, [b"0000002"], [2, 2], index=3),
        pack([65, [1, 0, 2, 0, 2, 0, 0, 2, 3, None, []], []]),
    ]
    with pytest.raises(DecodeError):
        list(Diff(empty, log.view()))


def test_a_tree_that_names_one_node_many_times_is_refused_before_it_is_expanded():
    log = Log()
    log.commit({})
    empty = log.index
    log.blocks.append(encode_leaf([b"0000001"], [b"v"]))
    separators = [b"1%06d" % i for i in range(200)]
    for level in range(1, 9):
        index = len(log.blocks)
        log.blocks.append(encode_inner(level, separators, [index - 1] * 201, index=index))
    top = len(log.blocks) - 1
    log.blocks.append(pack([65, [1, 0, 2, 0, 2, 0, 0, 2, top, None, []], []]))
    with pytest.raises(DecodeError):
        list(Diff(empty, log.view()))
