"""Appends to several cores that are committed together, on a store in memory."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

import corestore
from tests.support.builders import FaultyStorage, open_with


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
