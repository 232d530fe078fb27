"""`Hypercore`, on a store in memory and without peers."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

import corestore
from corestore import (
    Appended,
    BlockNotAvailable,
    Missed,
    NotWritable,
    Position,
    Published,
    SnapshotNotAvailable,
    Truncated,
)
from corestore.events import MAX_QUEUED_EVENTS, Broadcast
from tests.support.builders import fill
from tests.support.limits import HANG_SECONDS

KEY_OF_SOMEBODY = bytes(range(32))


# -- append and get --------------------------------------------------------------------------------


async def test_append_returns_the_new_length_and_is_read_at_once():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        assert await core.append(b"hello", b"", b"world") == 3
        assert (core.length, core.byte_length, core.contiguous_length) == (3, 10, 3)
        assert [await core.get(i) for i in range(3)] == [b"hello", b"", b"world"]
        assert core.get_nowait(2) == b"world"


async def test_append_of_nothing_changes_nothing():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        assert await core.append() == 0


async def test_append_is_published_by_itself_and_at_once_after_sync():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"a")
        assert core.published_length == 0
        await store.sync()
        assert core.published_length == 1
        await core.append(b"b")
        with core.events() as events, trio.fail_after(HANG_SECONDS):
            assert await events.receive() == Published(2)


async def test_large_appends_are_hashed_in_a_thread_and_equal_to_small_ones(monkeypatch):
    threads = []
    hash_leaves = corestore.tree.hash_leaves

    def spy(start, blocks):
        threads.append(threading.current_thread() is threading.main_thread())
        return hash_leaves(start, blocks)

    monkeypatch.setattr(corestore.tree, "hash_leaves", spy)
    blocks = [bytes([i]) * 100_000 for i in range(4)]
    async with corestore.open(None) as store:
        together = await store.get(name="log")
        await together.append(*blocks)
        one_by_one = await store.get(name="other")
        for each in blocks:
            await one_by_one.append(each)
        assert threads == [False, True, True, True, True]
        assert together.tree_hash() == one_by_one.tree_hash()


async def test_a_block_beyond_the_limit_is_refused_whole():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        with pytest.raises(ValueError, match="at most"):
            await core.append(b"small", bytes(corestore.MAX_BLOCK_BYTES + 1))
        assert core.length == 0


async def test_get_of_a_negative_index_is_refused():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        with pytest.raises(ValueError, match="no block -1"):
            await core.get(-1)


async def test_get_waits_for_the_log_to_grow():
    async with corestore.open(None) as store, trio.open_nursery() as nursery:
        core = await store.get(name="log")

        async def later():
            await trio.testing.wait_all_tasks_blocked()
            await core.append(b"a", b"b")

        nursery.start_soon(later)
        with trio.fail_after(HANG_SECONDS):
            assert await core.get(1) == b"b"


async def test_get_nowait_raises_what_is_missing():
    async with corestore.open(None) as store:
        core = await store.get(key=KEY_OF_SOMEBODY)
        with pytest.raises(BlockNotAvailable) as caught:
            core.get_nowait(7)
        assert caught.value.index == 7


async def test_appending_without_the_secret_key_is_refused():
    async with corestore.open(None) as store:
        core = await store.get(key=KEY_OF_SOMEBODY)
        assert not core.writable
        with pytest.raises(NotWritable):
            await core.append(b"x")
        with pytest.raises(NotWritable):
            store.transaction(core)


async def test_has_tells_what_is_held_and_clear_gives_it_up():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await fill(core, 10)
        assert core.has(0, 10)
        await core.clear(3, 5)
        assert [core.has(i) for i in (2, 3, 4, 5)] == [True, False, False, True]
        assert not core.has(0, 10)
        assert core.contiguous_length == 3
        with pytest.raises(BlockNotAvailable):
            core.get_nowait(3)
        await core.clear(8, 100)
        assert not core.has(9)
        assert core.length == 10


# -- turns of others -------------------------------------------------------------------------------


class Turns:
    """Another task, which counts its turns."""

    def __init__(self) -> None:
        self.taken = 0

    async def take(self):
        while True:
            self.taken += 1
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("size", [200, 100_000])
async def test_appending_gives_others_a_turn_after_four_appends_at_most(nursery, size):
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        others = Turns()
        nursery.start_soon(others.take)
        await trio.lowlevel.checkpoint()
        for _ in range(10):
            before = others.taken
            for _ in range(8):  # two turns, for who comes first in one is left to chance
                await core.append(bytes(size))
            assert others.taken > before
        with trio.CancelScope() as scope:
            scope.cancel()
            await core.append(b"never")
        assert scope.cancelled_caught
        assert core.length == 80
        nursery.cancel_scope.cancel()


async def test_reading_what_is_here_gives_others_a_turn_now_and_then(nursery):
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(*[b"small"] * 100)
        others = Turns()
        nursery.start_soon(others.take)
        await trio.lowlevel.checkpoint()
        before = others.taken
        for index in range(1000):
            await core.get(index % 100)
        assert 10 <= others.taken - before < 100
        with trio.CancelScope() as scope:
            scope.cancel()
            await core.get(0)
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()


# -- bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 3, b"abc"),
        (1, 4, b"bcde"),
        (3, 2, b"de"),
        (0, 100, b"abcdefghi"),
        (8, 100, b"i"),
        (9, 1, b""),
        (100, 1, b""),
        (4, 0, b""),
    ],
)
async def test_read_joins_blocks_and_is_short_at_the_end(offset, length, expected):
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"abc", b"", b"def", b"ghi")
        assert await core.read(offset, length) == expected


@pytest.mark.parametrize(
    ("offset", "expected"), [(0, (0, 0)), (2, (0, 2)), (3, (2, 0)), (8, (3, 2)), (9, (4, 0))]
)
async def test_seek_finds_the_block_of_a_byte(offset, expected):
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"abc", b"", b"def", b"ghi")
        assert await core.seek(offset) == Position(*expected)


@pytest.mark.parametrize("offset", [-1, 10])
async def test_seek_outside_of_the_log_is_refused(offset):
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"abcdefghi")
        with pytest.raises(ValueError, match="is not in a log"):
            await core.seek(offset)


# -- iteration -------------------------------------------------------------------------------------


async def test_blocks_ends_where_the_log_ended_when_it_began():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"a", b"b", b"c")
        seen = []
        async for block in core.blocks(1):
            seen.append(block)
            await core.append(b"more")
        assert seen == [b"b", b"c"]


async def test_live_blocks_follow_the_log():
    async with corestore.open(None) as store, trio.open_nursery() as nursery:
        core = await store.get(name="log")

        async def write():
            for number in range(5):
                await core.append(b"%d" % number)
                await trio.testing.wait_all_tasks_blocked()

        nursery.start_soon(write)
        seen = []
        async for block in core.blocks(live=True):
            seen.append(block)
            if len(seen) == 5:
                break
        assert seen == [b"0", b"1", b"2", b"3", b"4"]


async def test_wait_length_returns_when_the_log_is_long_enough():
    async with corestore.open(None) as store, trio.open_nursery() as nursery:
        core = await store.get(name="log")
        nursery.start_soon(core.append, b"a", b"b", b"c")
        with trio.fail_after(HANG_SECONDS):
            assert await core.wait_length(2) == 3


async def test_update_without_peers_answers_at_once(autojump_clock):
    async with corestore.open(None) as store:
        core = await store.get(key=KEY_OF_SOMEBODY)
        before = trio.current_time()
        assert not await core.update()
        assert trio.current_time() == before


async def test_update_waits_while_peers_are_looked_for(autojump_clock):
    async with corestore.open(None) as store, trio.open_nursery() as nursery:
        core = await store.get(key=KEY_OF_SOMEBODY)

        async def look(finding, seconds, task_status):
            with finding:
                task_status.started()
                await trio.sleep(seconds)

        await nursery.start(look, store.finding_peers(), 3)
        await nursery.start(look, core.finding_peers(), 5)
        before = trio.current_time()
        assert not await core.update()
        assert trio.current_time() - before == pytest.approx(5)


# -- handles ---------------------------------------------------------------------------------------


async def test_a_snapshot_stays_as_it_is():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"a", b"b")
        snapshot = core.snapshot()
        await core.append(b"c")
        assert (snapshot.length, snapshot.byte_length, snapshot.writable) == (2, 2, False)
        assert [block async for block in snapshot.blocks()] == [b"a", b"b"]
        with pytest.raises(ValueError, match="no block 2"):
            await snapshot.get(2)
        with pytest.raises(NotWritable):
            await snapshot.append(b"d")
        with pytest.raises(ValueError, match="does not grow"):
            await snapshot.wait_length(3)


@pytest.mark.parametrize(
    "use",
    [
        lambda core: core.clear(-1, 1),
        lambda core: core.download(-1, 1),
        lambda core: core.download(blocks=[0, -1]),
        lambda core: anext(core.blocks(-1)),
    ],
)
async def test_no_block_has_a_negative_index(use):
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"a", b"b")
        with pytest.raises(ValueError, match="no block -1"):
            await use(core)
        with pytest.raises(ValueError, match="no block -1"):
            core.hint([-1])
        assert not core.has(-1)
        assert not core.has(-1, 1)
        assert core.has(0, 2)


async def test_clear_returns_how_many_bytes_it_gives_back():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"a", b"bcd", b"ef")
        assert await core.clear(1, 9) == 5
        assert await core.clear(0, 2) == 1
        assert await core.clear(0, 3) == 0


async def test_a_snapshot_of_a_log_truncated_below_it_says_so():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"a", b"b", b"c")
        whole, part = core.snapshot(), None
        await core.truncate(2)
        part = core.snapshot()
        await core.append(b"other", b"blocks")
        assert await part.get(1) == b"b"
        with pytest.raises(SnapshotNotAvailable):
            await whole.get(0)
        with pytest.raises(SnapshotNotAvailable):
            await whole.session().get(0)
        with pytest.raises(SnapshotNotAvailable):
            await whole.seek(1)


async def test_sessions_live_apart():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        async with core.session() as session:
            await session.append(b"a")
        with pytest.raises(trio.ClosedResourceError):
            await session.get(0)
        assert await core.get(0) == b"a"


async def test_closing_a_handle_wakes_who_waits_through_it(autojump_clock):
    async with corestore.open(None) as store:
        core = await store.get(key=KEY_OF_SOMEBODY)
        other = core.session()

        async def waits(wait):
            with pytest.raises(trio.ClosedResourceError):
                await wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits, lambda: core.get(0))
            nursery.start_soon(waits, lambda: core.wait_length(1))
            nursery.start_soon(waits, lambda: core.download(live=True))
            await trio.testing.wait_all_tasks_blocked()
            await core.aclose()
            await core.aclose()
        assert not await other.update()


async def test_closing_the_store_wakes_everybody():
    async with trio.open_nursery() as nursery:

        async def waits(core):
            with pytest.raises(trio.ClosedResourceError):
                await core.get(0)

        async with corestore.open(None) as store:
            core = await store.get(key=KEY_OF_SOMEBODY)
            nursery.start_soon(waits, core)
            await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.ClosedResourceError):
        core.get_nowait(0)


# -- truncation ------------------------------------------------------------------------------------


async def test_truncate_begins_a_new_fork():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"a", b"b", b"c")
        await core.truncate(1)
        assert (core.fork, core.length, core.byte_length) == (1, 1, 1)
        await core.append(b"d")
        assert await core.get(1) == b"d"
        await core.truncate(0, fork=7)
        assert (core.fork, core.length) == (7, 0)
        with pytest.raises(ValueError, match="does not come after"):
            await core.truncate(0, fork=7)
        with pytest.raises(ValueError, match="truncate"):
            await core.truncate(3)


async def test_no_fork_is_begun_that_cannot_be_told_to_peers():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"a", b"b", b"c")
        with pytest.raises(ValueError, match="beyond 53 bits"):
            await core.truncate(2, fork=1 << 53)
        assert (core.fork, core.length) == (0, 3)
        await core.truncate(2, fork=(1 << 53) - 1)
        with pytest.raises(ValueError, match="beyond 53 bits"):
            await core.truncate(1)
        assert await core.append(b"d") == 3


async def test_only_what_nobody_saw_can_be_cut():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"a", b"b")
        await store.sync()
        await core.append(b"c", b"d")
        await core.cut_unpublished(3)
        assert (core.fork, core.length, await core.get(2)) == (0, 3, b"c")
        with pytest.raises(ValueError, match="outside"):
            await core.cut_unpublished(1)
        await core.append(b"e")
        await store.sync()
        assert core.published_length == 4


# -- events and user data --------------------------------------------------------------------------


async def test_events_tell_what_happened_in_order():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        with core.events() as events:
            await core.append(b"a", b"b")
            await store.sync()
            await core.truncate(1)
        assert [event async for event in events][:3] == [
            Appended(2),
            Published(2),
            Truncated(1, 1),
        ]


async def test_a_slow_subscriber_loses_the_oldest_and_is_told():
    source = Broadcast()
    with source.subscribe() as events:
        for number in range(MAX_QUEUED_EVENTS + 3):
            source.send(Appended(number))
        assert await events.receive() == Missed(3)
        assert await events.receive() == Appended(3)


async def test_a_subscription_ends_with_its_block():
    source = Broadcast()
    async with trio.open_nursery() as nursery:
        with source.subscribe() as events:

            async def listen():
                assert [event async for event in events] == [Appended(1)]

            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            source.send(Appended(1))
            await trio.testing.wait_all_tasks_blocked()
    assert not source
    with pytest.raises(trio.EndOfChannel):
        await events.receive()


async def test_user_data_is_kept_with_the_core():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.set_user_data("colour", b"red")
        assert (await store.get(name="log")).user_data("colour") == b"red"
        await core.set_user_data("colour", None)
        assert core.user_data("colour") is None
