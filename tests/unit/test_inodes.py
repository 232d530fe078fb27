"""The inode table against a dictionary of what must be known."""

from __future__ import annotations

import random

from hyperfs.vfs import inodes
from hyperfs.vfs.inodes import InodeTable
from hyperfs.vfs.packed import MAX_COUNT, PackedInodes
from hyperfs.writer import SHARED
from tests.support.fakedrive import file_entry


def test_known_inode_is_found_until_its_last_lookup_is_forgotten():
    table = InodeTable()
    for _ in range(3):
        table.known(7, (1, b"name")).lookups += 1
    table.forget(7, 2)
    assert table.find(7).lookups == 1
    table.forget(7, 1)
    assert table.find(7) is None
    assert 7 not in table


def test_open_inode_outlives_its_lookups():
    table = InodeTable()
    inode = table.known(7, (1, b"name"))
    inode.lookups, inode.opens = 1, 1
    table.forget(7, 1)
    assert table.find(7) is inode
    inode.opens = 0
    table.drop_unused(inode)
    assert 7 not in table


def test_forgetting_the_unknown_is_harmless():
    table = InodeTable()
    table.forget(99, 5)
    assert 99 not in table


def test_packed_inodes_come_back_as_they_were():
    table = InodeTable(hot=10)
    for ino in range(2, 1000):
        location = SHARED if ino % 7 == 0 else (ino // 10 + 1, b"name \xff %d" % ino)
        table.known(ino, location).lookups = ino
    assert len(table) == 998
    assert len(table.hot) <= 20
    for ino in range(2, 1000):
        assert ino in table
        expected = SHARED if ino % 7 == 0 else (ino // 10 + 1, b"name \xff %d" % ino)
        assert table.peek(ino) == expected
        found = table.find(ino)
        assert (found.location, found.lookups) == (expected, ino)


def test_packed_neighbours_do_not_disturb_one_another():
    rng = random.Random(3)
    packed, model = PackedInodes(), {}
    for _ in range(20_000):
        ino = rng.choice((rng.randrange(1, 200), (7 << 48) + rng.randrange(100)))
        assert (ino in packed) == (ino in model)
        assert packed.get(ino) == model.get(ino)
        if ino in model:
            assert packed.pop(ino) == model.pop(ino)
            assert packed.pop(ino) is None
        else:
            location = (
                SHARED if ino % 9 == 0 else (ino + 1, rng.randbytes(rng.choice((1, 12, 255))))
            )
            model[ino] = (rng.choice((0, 1, MAX_COUNT)), location)
            packed.put(ino, *model[ino])
        assert len(packed) == len(model)
    assert sorted(packed) == sorted(model)
    assert all(packed.pop(ino) for ino in list(packed))
    assert not packed._pages


def test_what_is_open_or_has_no_name_is_never_packed():
    table = InodeTable(hot=4)
    opened = table.known(2, (1, b"open"))
    opened.opens = opened.lookups = 1
    orphan = table.known(3, (1, b"orphan"))
    orphan.location, orphan.orphan, orphan.lookups = None, file_entry(3), 1
    for ino in range(10, 100):
        table.known(ino, (1, b"%d" % ino)).lookups = 1
    assert table.find(2) is opened
    assert table.find(3) is orphan


def test_unpackable_inodes_do_not_make_every_new_one_slow():
    table = InodeTable(hot=4)
    for ino in range(2, 2000):
        inode = table.known(ino, (1, b"%d" % ino))
        inode.opens = inode.lookups = 1
    assert table._limit >= 1998


def test_access_times_are_bounded_and_go_with_the_inode(monkeypatch):
    monkeypatch.setattr(inodes, "ACCESS_TIMES", 3)
    table = InodeTable()
    for ino in range(2, 7):
        table.known(ino, (1, b"x")).lookups = 1
        table.set_access_time(ino, ino * 100)
    assert [table.access_times.get(ino) for ino in range(2, 7)] == [None, None, 400, 500, 600]
    table.forget(6, 1)
    assert 6 not in table.access_times


def test_a_name_that_returns_ends_being_an_orphan():
    table = InodeTable()
    inode = table.known(5, (1, b"a"))
    inode.lookups = 1
    inode.location, inode.orphan = None, file_entry(5)
    again = table.known(5, (2, b"b"))
    assert again is inode
    assert (again.location, again.orphan) == ((2, b"b"), None)


def test_counts_agree_with_a_model_over_random_operations():
    rng = random.Random(5)
    table, model = InodeTable(hot=8), {}
    for _ in range(5000):
        ino = rng.randrange(2, 60)
        if rng.random() < 0.6:
            table.known(ino, (1, b"%d" % ino)).lookups += 1
            model[ino] = model.get(ino, 0) + 1
        elif ino in model:
            count = rng.randint(1, model[ino])
            table.forget(ino, count)
            model[ino] -= count
            if not model[ino]:
                del model[ino]
    assert {ino: table.find(ino).lookups for ino in table} == model


def test_an_unused_inode_that_is_tidied_away_lets_go_of_its_removed_file():
    class File:
        held = 0

        def acquire(self):
            self.held += 1
            return self

        def release(self):
            self.held -= 1

    table, file = InodeTable(hot=4), File()
    table.known(7, (1, b"name")).remove(file_entry(7), file, 1)
    assert file.held == 1
    for ino in range(8, 30):
        table.known(ino, (1, b"%d" % ino))
    assert 7 not in table
    assert file.held == 0
