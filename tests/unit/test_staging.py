"""Layers of staged changes."""

from __future__ import annotations

import random

import pytest

from hyperfs.records import Link
from hyperfs.staging import Layer, Staging


def make() -> Staging:
    return Staging(lambda: None)


def scan_of(base: dict[bytes, Link]):
    """The `below` of a scan over *base*."""

    def below(start, end, limit):
        keys = sorted(k for k in base if k >= start and (end is None or k < end))
        return [(key, base[key]) for key in keys[:limit]]

    return below


def test_newest_layer_answers_first():
    staging = make()
    staging.put(b"a", Link(1))
    staging.put(b"b", Link(1))
    staging.freeze()
    staging.put(b"b", Link(2))
    staging.delete(b"c")
    assert staging[b"a"] == Link(1)
    assert staging[b"b"] == Link(2)
    assert b"c" in staging
    assert staging[b"c"] is None
    assert b"d" not in staging
    with pytest.raises(KeyError):
        staging[b"d"]


def test_committed_layer_is_dropped_and_later_changes_stay():
    staging = make()
    staging.put(b"a", Link(1))
    number = staging.freeze().number
    staging.put(b"b", Link(2))
    staging.committed()
    assert b"a" not in staging
    assert staging[b"b"] == Link(2)
    assert staging.staged.number == number + 1


def test_failed_layer_lies_under_what_came_meanwhile():
    staging = make()
    staging.put(b"a", Link(1))
    staging.put(b"b", Link(1))
    staging.forget_groups(7)
    staging.freeze()
    staging.delete(b"a")
    staging.forget_groups(8)
    staging.failed()
    assert staging.committing is None
    assert staging[b"a"] is None
    assert staging[b"b"] == Link(1)
    assert staging.staged.forgotten == {7, 8}
    assert staging.staged


def test_empty_layer_asks_for_no_commit():
    staging = make()
    assert not staging.staged
    staging.touch()
    assert staging.staged


def test_batch_is_absorbed_over_what_is_staged():
    staging = make()
    staging.put(b"a", Link(1))
    layer = Layer(0)
    layer.records.put(b"a", Link(2))
    layer.records.delete(b"b")
    layer.forgotten.add(3)
    staging.absorb(layer)
    assert staging[b"a"] == Link(2)
    assert staging[b"b"] is None
    assert staging.staged.forgotten == {3}


def test_the_first_change_of_a_layer_is_reported():
    calls = []
    staging = Staging(lambda: calls.append(staging.staged.number))
    staging.put(b"a", Link(1))
    staging.delete(b"b")
    staging.touch()
    assert calls == [1]
    staging.freeze()
    staging.touch()
    staging.touch()
    assert calls == [1, 2]
    staging.failed()
    staging.put(b"a", Link(2))
    assert calls == [1, 2]


@pytest.mark.parametrize("seed", range(20))
def test_scans_merge_all_layers(seed):
    source = random.Random(seed)
    keys = [bytes([65 + n]) * source.randint(1, 2) for n in range(20)]
    base = {key: Link(1) for key in keys if source.random() < 0.6}
    expected = dict(base)
    staging = make()
    for layer in (2, 3):
        for key in keys:
            choice = source.random()
            if choice < 0.2:
                staging.put(key, Link(layer))
                expected[key] = Link(layer)
            elif choice < 0.4:
                staging.delete(key)
                expected.pop(key, None)
        if layer == 2:
            staging.freeze()
    limit = source.randint(1, 7)
    found, start = [], b""
    while page := staging.scan_over(scan_of(base), start, None, limit):
        found += page
        start = page[-1][0] + b"\0"
    assert found == sorted(expected.items())
