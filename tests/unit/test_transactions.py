"""Appends to several cores that are committed together, on a store in memory."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

import corestore
from corestore import staging
from corestore.tree.batch import hash_leaves
from tests.support.builders import FaultyStorage, linked, open_with


async def test_a_transaction_shows_all_of_itself_at_its_end():
    async with corestore.open(None) as store:
        a, b = await store.get(name="a"), await store.get(name="b")
        await b.append(b"before")
        async with store.transaction(a, b) as tx:
            assert await tx.append(b, b"1", b"22") == 1
            assert await tx.append(a, b"index of 1, 2") == 0
            assert await tx.append(b, b"333") == 3
            tx.set_user_data(a, "k", b"v")
            assert (tx.length(a), tx.length(b), tx.byte_length(b)) == (1, 4, 12)
            assert (a.length, b.length) == (0, 1)
        assert (a.length, b.length) == (1, 4)
        assert [await b.get(i) for i in range(4)] == [b"before", b"1", b"22", b"333"]
        assert a.user_data("k") == b"v"


async def test_a_transaction_that_fails_leaves_nothing():
    async with corestore.open(None) as store:
        a, b = await store.get(name="a"), await store.get(name="b")

        async def fail():
            async with store.transaction(a, b) as tx:
                await tx.append(a, b"x")
                await tx.append(b, b"y" * 300_000)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert (a.length, b.length) == (0, 0)
        assert [await a.append(b"free again"), await b.append(b"free again")] == [1, 1]


async def test_a_transaction_that_is_cancelled_leaves_nothing():
    async with corestore.open(None) as store:
        a, b = await store.get(name="a"), await store.get(name="b")
        with trio.CancelScope() as scope:
            async with store.transaction(a, b) as tx:
                await tx.append(a, b"x")
                scope.cancel()
                await tx.append(b, b"y" * 300_000)
        assert scope.cancelled_caught
        assert (a.length, b.length) == (0, 0)
        assert [await a.append(b"free again"), await b.append(b"free again")] == [1, 1]


async def test_a_transaction_keeps_others_out_until_its_end():
    async with corestore.open(None) as store, trio.open_nursery() as nursery:
        core = await store.get(name="log")
        async with store.transaction(core) as tx:
            await tx.append(core, b"first")
            nursery.start_soon(core.append, b"second")
            await trio.testing.wait_all_tasks_blocked()
            assert core.length == 0
        await core.wait_length(2)
        assert await core.get(0) == b"first"


async def test_two_tasks_can_append_in_one_transaction():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        starts = {}

        async def append(tx, letter):
            starts[letter] = await tx.append(core, letter * 300_000, letter)

        async with store.transaction(core) as tx, trio.open_nursery() as nursery:
            for letter in (b"a", b"b", b"c"):
                nursery.start_soon(append, tx, letter)
        assert sorted(starts.values()) == [0, 2, 4]
        for letter, start in starts.items():
            assert await core.get(start + 1) == letter


async def test_a_transaction_refuses_strangers_and_doubles():
    async with corestore.open(None) as store:
        a, b = await store.get(name="a"), await store.get(name="b")
        with pytest.raises(ValueError, match="only once"):
            store.transaction(a, a.session())
        async with store.transaction(a) as tx:
            with pytest.raises(ValueError, match="does not take part"):
                await tx.append(b, b"x")
        with pytest.raises(corestore.LocalProtocolError):
            await tx.append(a, b"x")


async def test_leaves_hashed_before_are_taken_over():
    async with corestore.open(None) as store:
        a, b = await store.get(name="a"), await store.get(name="b")
        blocks = [b"one", b"two"]
        async with store.transaction(a) as tx:
            await tx.append(a, *blocks, leaves=corestore.hash_leaves(0, blocks))
        await b.append(*blocks)
        assert a.tree_hash() == b.tree_hash()


async def test_a_full_disk_leaves_the_core_as_it_was_and_usable():
    storage = FaultyStorage()
    async with open_with(storage) as store:
        core = await store.get(name="log")
        await core.append(b"a")
        storage.errors["commit"] = OSError(errno.ENOSPC, "full")
        with pytest.raises(OSError, match="full"):
            await core.append(b"b")
        assert core.length == 1
        assert await core.append(b"c") == 2
        assert await core.get(1) == b"c"


class Portions:
    """Makes everything too large for one transaction of storage; sees each of these.

    *seen* is called after each, with their number so far.
    """

    def __init__(self, monkeypatch, store, seen) -> None:
        self.count = 0
        monkeypatch.setattr(staging, "HASH_IN_PLACE", 0)
        monkeypatch.setattr(staging, "PORTION_BLOCKS", 10)
        storage = store._driver.storage
        commit = storage.commit

        def count(commits):
            commit(commits)
            self.count += 1
            seen(self.count)

        monkeypatch.setattr(storage, "commit", count)


def numbered(start, end):
    return [b"block %d" % i for i in range(start, end)]


async def hash_of(store, blocks):
    """The tree hash of a log of *blocks*."""
    fresh = await store.get(name=f"fresh {len(blocks)}")
    await fresh.append(*blocks)
    return fresh.tree_hash()


@pytest.mark.parametrize("disk", [False, True])
async def test_a_large_transaction_is_stored_in_portions_and_shown_whole(
    tmp_path, monkeypatch, disk
):
    async with corestore.open(tmp_path if disk else None) as store, trio.open_nursery() as nursery:
        a, b = await store.get(name="a"), await store.get(name="b")
        await b.append(*numbered(0, 3))
        await store.sync()
        lengths = []
        portions = Portions(monkeypatch, store, lambda _: lengths.append((a.length, b.length)))
        turns = []

        async def beside():
            while b.length == 3:
                turns.append(portions.count)
                await trio.lowlevel.checkpoint()

        async def syncing():
            while b.length == 3:
                await store.sync()

        nursery.start_soon(beside)
        nursery.start_soon(syncing)
        async with store.transaction(a, b) as tx:
            await tx.append(a, b"a")
            await tx.append(b, *numbered(3, 60))
            await tx.append(b, *numbered(60, 65))
            last = numbered(65, 95)
            await tx.append(b, *last, leaves=hash_leaves(65, last))
            await tx.append(b)
        assert lengths[:7] == [(0, 3)] * 7
        assert len(set(turns)) >= 5
        assert (a.length, b.length) == (1, 95)
        assert [await b.get(i) for i in range(95)] == numbered(0, 95)
        await store.sync()
        assert (a.published_length, b.published_length) == (1, 95)
        assert b.tree_hash() == await hash_of(store, numbered(0, 95))


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize("how", ["cancelled", "full"])
async def test_a_large_transaction_that_ends_between_its_portions_leaves_nothing(
    tmp_path, monkeypatch, disk, how
):
    async with corestore.open(tmp_path if disk else None) as store:
        core = await store.get(name="core")
        await core.append(*numbered(0, 3))

        def interrupt(count):
            if count == 4 and how == "full":
                raise OSError(errno.ENOSPC, "full")
            if count == 4:
                scope.cancel()

        with monkeypatch.context() as patch, trio.CancelScope() as scope:
            portions = Portions(patch, store, interrupt)
            try:
                async with store.transaction(core) as tx:
                    await tx.append(core, *(b"other %d" % i for i in range(95)))
            except OSError:
                assert how == "full"
        assert portions.count == 4
        assert core.length == 3
        await store.sync()
        assert core.published_length == 3
        await core.append(*numbered(3, 8))
        assert core.tree_hash() == await hash_of(store, numbered(0, 8))
        await core.append(*numbered(8, 200))
        assert [await core.get(i) for i in range(200)] == numbered(0, 200)
        assert core.tree_hash() == await hash_of(store, numbered(0, 200))
        async with corestore.open(None) as reading, linked(store, reading):
            copy = await reading.get(key=core.key)
            await store.sync()
            await copy.wait_length(200)
            await copy.download(0, 200)
            assert copy.has(0, 200)
