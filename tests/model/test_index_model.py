"""The index against a dictionary: random commits, look-ups, listings, versions and differences."""

from __future__ import annotations

import random

import pytest

from hyperfs.index import Diff, Index, NodeCache, Overlay, find_root
from hyperfs.records import entry_key
from tests.support.blocks import Log


class Model:
    """A log, and what each of its versions should hold."""

    def __init__(self, seed) -> None:
        self.rng = random.Random(seed)
        self.log = Log()
        self.now = {}
        self.versions = []

    def key(self):
        rng = self.rng
        name = b"%d" % rng.randrange(1500)
        return entry_key(rng.randint(1, 12), name + b"n" * rng.choice([0, 0, 0, 6, 200]))

    def changes(self):
        rng = self.rng
        changes = {}
        kind = rng.random()
        if kind < 0.05 and self.now:
            low = self.key()
            span = rng.choice([10, 300, 10_000])
            changes = dict.fromkeys(sorted(key for key in self.now if key >= low)[:span])
        for _ in range(rng.choice([0, 1, 1, 1, 2, 5, 30, 400])):
            key = self.key()
            if rng.random() < 0.3:
                changes[key] = None
            else:
                changes[key] = rng.randbytes(rng.choice([10, 45, 45, 60, 250, 3000]))
        return changes

    def commit(self):
        changes = self.changes()
        index = self.log.commit(changes, time_ns=len(self.versions))
        for key, value in changes.items():
            if value is None:
                self.now.pop(key, None)
            else:
                self.now[key] = value
        self.versions.append((index.root.index, dict(self.now)))

    def view(self, root):
        """A version, looked at through the shared cache or through a tiny one."""
        return Index(root, self.log, self.rng.choice([self.log.cache, NodeCache(5000)]))

    def check_listing(self):
        rng = self.rng
        root, held = rng.choice(self.versions)
        start, end = self.key(), rng.choice([None, self.key()])
        limit = rng.choice([1, 7, 100, 10**6])
        index = self.view(root)
        expected = sorted(
            item for item in held.items() if item[0] >= start and (end is None or item[0] < end)
        )
        assert index.scan(start, end, limit) == expected[:limit]
        page, at = [], b""
        while True:
            part = index.scan(at, None, 50)
            page += part
            if len(part) < 50:
                break
            at = part[-1][0] + b"\0"
        assert page == sorted(held.items())

    def check_look_ups(self):
        root, held = self.rng.choice(self.versions)
        keys = [self.key() for _ in range(20)] + self.rng.sample(sorted(held), min(20, len(held)))
        index = self.view(root)
        assert index.get_many(keys) == {key: held[key] for key in keys if key in held}

    def check_diff(self):
        rng = self.rng
        (a, old), (b, new) = (
            rng.choice(self.versions),
            rng.choice([*self.versions, self.versions[-1]]),
        )
        cache = NodeCache(rng.choice([5000, 10**8]))
        start, end = rng.choice([(b"", None), (self.key(), None), (b"", self.key())])
        expected = [
            (key, old.get(key), new.get(key))
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and key >= start and (end is None or key < end)
        ]
        diff = Diff(Index(a, self.log, cache), Index(b, self.log, cache), start, end)
        assert list(diff) == expected

    def check_versions(self):
        version = self.rng.randint(1, len(self.log.blocks))
        found = find_root(version, self.log, self.log.cache, length=len(self.log.blocks))
        assert found == max((root for root, _ in self.versions if root < version), default=None)


@pytest.mark.parametrize("seed", range(12))
def test_the_index_holds_what_a_dictionary_holds(seed):
    model = Model(seed)
    for _ in range(60):
        model.commit()
        model.check_listing()
        model.check_look_ups()
        model.check_diff()
        model.check_versions()


def drain(log, diff):
    """All of a difference, with the blocks it misses fetched on the way."""
    found = []
    while True:
        try:
            found.append(log.fetching(lambda: next(diff)))
        except StopIteration:
            return found


def check_remote_reader(model, cache):
    log, rng = model.log, model.rng
    log.away = set(range(1, len(log.blocks)))
    (a, old), (b, new) = rng.choice(model.versions), rng.choice(model.versions)
    before = log.fetching(lambda: Index(a, log, cache))
    after = log.fetching(lambda: Index(b, log, cache))
    assert log.fetching(lambda: after.scan(b"", None, 10**6)) == sorted(new.items())
    log.away = set(range(1, len(log.blocks)))
    cache.forget_from(0)
    assert drain(log, Diff(before, after)) == [
        (key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_reader_with_nothing_local_sees_the_same(seed):
    model = Model(seed)
    for _ in range(40):
        model.commit()
    for _ in range(6):
        check_remote_reader(model, NodeCache(model.rng.choice([20_000, 10**8])))


@pytest.mark.parametrize("seed", range(6))
def test_staged_layers_over_an_index_list_like_a_dictionary(seed):
    model = Model(seed)
    for _ in range(20):
        model.commit()
    rng, held = model.rng, dict(model.now)
    in_flight: Overlay[bytes] = Overlay()
    staged: Overlay[bytes] = Overlay()
    for layer in (in_flight, staged):
        for _ in range(rng.choice([0, 5, 200])):
            key = model.key()
            if rng.random() < 0.5:
                layer.delete(key)
                held.pop(key, None)
            else:
                layer.put(key, b"staged")
                held[key] = b"staged"
    index = model.log.index

    def middle(start, end, limit):
        return in_flight.scan_over(index.scan, start, end, limit)

    for _ in range(30):
        start, end, limit = model.key(), rng.choice([None, model.key()]), rng.choice([1, 9, 10**6])
        expected = sorted(
            item for item in held.items() if item[0] >= start and (end is None or item[0] < end)
        )
        assert staged.scan_over(middle, start, end, limit) == expected[:limit]
