"""Cores of real stores: truncated ones, copied ones, and keys that are used twice."""

from __future__ import annotations

import logging
import shutil
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

import corestore
from corestore import (
    ForkConflict,
    ForkDetected,
    KeyPair,
    MustRecover,
    Overtaken,
    Reason,
    SnapshotNotAvailable,
    durability,
)
from tests.support.builders import linked
from tests.support.limits import HANG_SECONDS

PAIR = KeyPair.from_seed(bytes(range(32)))
PAIR_KEY = corestore.manifest_key(corestore.Manifest.default(PAIR.public_key))


def block(number, mark=b""):
    return b"%s block %d" % (mark, number) + bytes(100)


async def append(core, count, mark=b""):
    for _ in range(count):
        await core.append(block(core.length, mark))


def copy_store(source, target):
    shutil.copytree(source, target)


async def soon(condition):
    """Wait for what no event tells of."""
    with trio.fail_after(HANG_SECONDS):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.002)


def held_back(core):
    """Whether appending is refused now."""
    try:
        core.lock()
    except MustRecover:
        return True
    return False


# -- truncation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [False, True])
async def test_a_reader_follows_a_truncation_and_keeps_what_came_before(on_disk, tmp_path):
    folder = tmp_path / "reader" if on_disk else None
    async with corestore.open(None) as writing, corestore.open(folder) as reading:
        core = await writing.get(name="log")
        await append(core, 200)
        await writing.sync()
        async with await reading.get(key=core.key) as copy, linked(writing, reading):
            await copy.update()
            await copy.download()
            received = copy.statistics().blocks_received
            await core.truncate(150)
            await append(core, 20, b"new")
            await writing.sync()
            await soon(lambda: (copy.fork, copy.length) == (1, 170))
            await copy.download()
            assert copy.statistics().blocks_received == received + 20
            assert copy.tree_hash() == core.tree_hash()
            assert [b async for b in copy.blocks()] == [b async for b in core.blocks()]
    if on_disk:
        async with corestore.open(folder) as reading:
            copy = await reading.get(key=core.key)
            assert (copy.fork, copy.contiguous_length) == (1, 170)
            assert copy.get_nowait(149) == block(149)
            assert copy.get_nowait(150) == block(150, b"new")


async def test_blocks_that_are_cut_off_while_they_are_waited_for():
    """A snapshot never gets them; who reads the log gets what takes their place."""
    async with corestore.open(None) as writing, corestore.open(None) as reading:
        core = await writing.get(name="log")
        await append(core, 20)
        await core.clear(10, 20)
        await writing.sync()
        async with await reading.get(key=core.key) as copy, linked(writing, reading):
            await copy.update()
            snapshot = copy.snapshot()
            told = []

            async def refused(read, *arguments):
                with pytest.raises(SnapshotNotAvailable):
                    await read(*arguments)
                told.append(read)

            async def replaced():
                told.append(await copy.get(15))

            with trio.fail_after(HANG_SECONDS):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(replaced)
                    async with trio.open_nursery() as cut:
                        cut.start_soon(refused, snapshot.get, 15)
                        cut.start_soon(refused, snapshot.fetch, [3, 12, 15])
                        await trio.testing.wait_all_tasks_blocked()
                        await core.truncate(10)
                        await writing.sync()
                    assert len(told) == 2
                    await append(core, 10, b"new")
                    await writing.sync()
            assert told[2] == block(15, b"new")


# -- a copy that may be old ------------------------------------------------------------------------


async def test_a_copied_store_signs_nothing_before_a_peer_has_answered(tmp_path, caplog):
    async with corestore.open(tmp_path / "first") as store:
        core = await store.get(name="log")
        await append(core, 10)
    copy_store(tmp_path / "first", tmp_path / "second")
    async with corestore.open(tmp_path / "second") as store:
        core = await store.get(name="log")
        assert core.held_for is Reason.COPIED
        assert core.statistics().held_for is Reason.COPIED
        with pytest.raises(MustRecover, match="copy") as caught:
            await core.append(b"second history")
        assert caught.value.reason == "copied"
        with pytest.raises(MustRecover):
            await core.truncate(3)
        with pytest.raises(MustRecover):
            core.lock()
        assert [b async for b in core.blocks()] == [block(i) for i in range(10)]
        # What is made here can only be here.
        other = await store.get()
        await other.append(b"fine")
    # It is remembered.
    async with corestore.open(tmp_path / "second") as store:
        core = await store.get(name="log")
        with pytest.raises(MustRecover):
            await core.append(b"second history")
        await core.lift_hold()
        await core.append(b"on the owner's word")
    # The original is where it was.
    async with corestore.open(tmp_path / "first") as store:
        assert (await store.get(name="log")).held_for is None


async def test_a_copied_store_goes_on_when_a_peer_has_no_more(tmp_path):
    async with corestore.open(tmp_path / "first") as store, corestore.open(None) as peer:
        core = await store.get(name="log")
        await append(core, 10)
        await store.sync()
        keeper = await peer.get(key=core.key)
        async with linked(store, peer):
            await keeper.update()
            await keeper.download()
        store_ended = tmp_path / "second"
        await core.aclose()
        await store.sync()
        copy_store(tmp_path / "first", store_ended)
        async with corestore.open(store_ended) as second:
            core = await second.get(name="log")
            async with linked(second, peer):
                await soon(lambda: core.held_for is None)
                await core.append(b"goes on")
                await second.sync()
                with trio.fail_after(HANG_SECONDS):
                    assert await keeper.get(10) == b"goes on"


async def test_an_old_copy_is_told_so_and_recovers(tmp_path, caplog):
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(corestore.open(None))
        async with corestore.open(tmp_path / "first") as store:
            core = await store.get(name="log")
            await append(core, 10)
        copy_store(tmp_path / "first", tmp_path / "backup")
        async with corestore.open(tmp_path / "first") as store:
            core = await store.get(name="log")
            await append(core, 15)
            await store.sync()
            keeper = await peer.get(key=core.key)
            async with linked(store, peer):
                await keeper.update()
                await keeper.download()
        # Not removed: what comes in its place must not get its inodes.
        (tmp_path / "first").rename(tmp_path / "lost")
        copy_store(tmp_path / "backup", tmp_path / "first")
        store = await stack.enter_async_context(corestore.open(tmp_path / "first"))
        core = await store.get(name="log")
        assert core.length == 10
        events = stack.enter_context(core.events())
        async with linked(store, peer):
            with pytest.raises(MustRecover) as caught:
                await core.append(b"second history")
            assert caught.value.reason == "behind"
            assert "25 blocks" in caplog.text
            with trio.fail_after(HANG_SECONDS):
                while not isinstance(event := await events.receive(), Overtaken):
                    pass
                assert event == Overtaken(25, 0)
                assert await core.recover() == 25
            assert [b async for b in core.blocks()] == [block(i) for i in range(25)]
            assert core.held_for is None
            assert core.published_length == 25
            await core.append(b"goes on")
            await store.sync()
            with trio.fail_after(HANG_SECONDS):
                assert await keeper.get(25) == b"goes on"
    async with corestore.open(tmp_path / "first") as store:
        core = await store.get(name="log")
        assert core.contiguous_length == 26
        await core.append(b"and on")


@pytest.mark.parametrize(
    ("shown", "tail", "theirs"), [(0, 3, 2), (0, 2, 3), (5, 4, 2), (5, 2, 4), (5, 3, 3)]
)
async def test_a_restored_tail_that_nobody_saw_gives_way(
    shown, tail, theirs, tmp_path, monkeypatch
):
    """The backup was made while the store was in use, and what was signed then was lost."""
    monkeypatch.setattr(durability, "SYNC_INTERVAL", 3600)
    async with corestore.open(tmp_path / "store") as store:
        core = await store.get(key_pair=PAIR)
        await append(core, shown)
    copy_store(tmp_path / "store", tmp_path / "again")
    async with corestore.open(tmp_path / "store") as store:
        await (await store.get()).append(b"the first one is synced at once")
        await store.sync()
        core = await store.get(key_pair=PAIR)
        await append(core, tail, b"lost")
        copy_store(tmp_path / "store", tmp_path / "backup")
        assert core.published_length == shown
    async with (
        corestore.open(tmp_path / "again") as again,
        corestore.open(tmp_path / "backup") as store,
    ):
        there, core = await again.get(key_pair=PAIR), await store.get(key_pair=PAIR)
        await there.lift_hold()
        await append(there, theirs, b"kept")
        await again.sync()
        assert (core.length, core.held_for) == (shown + tail, Reason.COPIED)
        with core.events() as events, trio.fail_after(HANG_SECONDS):
            async with linked(again, store):
                while not isinstance(event := await events.receive(), Overtaken):
                    pass
                assert event == Overtaken(shown + theirs, 0)
                with pytest.raises(MustRecover, match="some are not here"):
                    await core.append(b"another history")
                assert await core.recover() == there.length
                assert [b async for b in core.blocks()] == [b async for b in there.blocks()]
                await core.append(b"goes on")
                await store.sync()
                await soon(lambda: held_back(there))
                assert (core.conflict, there.conflict) == (None, None)


async def test_two_machines_with_one_key_do_not_fork_while_they_see_each_other(autojump_clock):
    """No store was copied here: the key pair itself is in two places."""
    async with corestore.open(None) as one, corestore.open(None) as two:
        first, second = await one.get(key_pair=PAIR), await two.get(key_pair=PAIR)
        await append(first, 5)
        await one.sync()
        async with linked(one, two):
            with trio.fail_after(HANG_SECONDS):
                await second.wait_peers()
                with pytest.raises(MustRecover):
                    await second.append(b"another first block")
                assert await second.recover() == 5
                await second.append(b"sixth")
                await two.sync()
                await soon(lambda: held_back(first))
                await first.recover()
            assert first.length == 6


async def test_a_core_that_left_the_cache_is_still_compared_with_what_peers_have(
    tmp_path, autojump_clock
):
    async with corestore.open(tmp_path, cache_size=0) as one, corestore.open(None) as two:
        first, second = await one.get(key_pair=PAIR), await two.get(key_pair=PAIR)
        await append(first, 3)
        await one.sync()
        await first.aclose()
        await append(second, 5)
        await two.sync()
        again = await one.get(key_pair=PAIR)
        assert again._state is not first._state
        async with linked(one, two):
            await again.wait_peers()
            with pytest.raises(MustRecover):
                await again.append(b"another fourth block")


async def test_recovering_can_be_cancelled_and_changes_nothing():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await append(core, 3)
        with trio.move_on_after(0.01):
            await core.recover()
        await core.append(b"still ours")
        assert core.length == 4
        await core.hold(Reason.IMPORTED, least_length=9)
        with trio.move_on_after(0.01):
            await core.recover()
        with pytest.raises(MustRecover):
            await core.append(b"not yet")


async def test_a_log_that_is_known_to_be_longer_is_waited_for():
    async with corestore.open(None) as one, corestore.open(None) as two:
        first, second = await one.get(key_pair=PAIR), await two.get(key_pair=PAIR)
        await append(first, 3)
        await one.sync()
        await second.hold(Reason.IMPORTED, least_length=5)
        async with linked(one, two), trio.open_nursery() as nursery:
            nursery.start_soon(second.recover)
            await soon(lambda: second.length == 3)
            assert second.held_for is Reason.IMPORTED
            await append(first, 2)
            await one.sync()
            await soon(lambda: second.held_for is None)
        assert second.contiguous_length == 5


# -- a key that has signed two histories -----------------------------------------------------------


async def two_histories(one, two, mark=b"b", shared=0):
    """The core of `PAIR` in two stores, published in both, with histories of 5 and of 7 blocks that
    are not the same, after *shared* ones that are."""
    first, second = await one.get(key_pair=PAIR), await two.get(key_pair=PAIR)
    for core in (first, second):
        await append(core, shared)
    await append(first, 5, b"a")
    await append(second, 7, mark)
    await one.sync()
    await two.sync()
    return first, second


async def forked_reader(stack, folder, mark=b"b"):
    """(a reader's store and core that has seen one history, the store with the other one)."""
    one = await stack.enter_async_context(corestore.open(None))
    two = await stack.enter_async_context(corestore.open(None))
    reading = await stack.enter_async_context(corestore.open(folder))
    first, _ = await two_histories(one, two, mark)
    copy = await reading.get(key=first.key)
    async with linked(one, reading):
        await copy.update()
        await copy.download()
    return reading, copy, two


async def test_two_histories_stop_the_core_and_are_kept_as_evidence(tmp_path, caplog):
    async with AsyncExitStack() as stack:
        reading, copy, other = await forked_reader(stack, tmp_path / "reader")
        events = stack.enter_context(copy.events())
        async with linked(other, reading):
            with trio.fail_after(HANG_SECONDS):
                with pytest.raises(ForkConflict):
                    await copy.get(6)
                while not isinstance(event := await events.receive(), ForkDetected):
                    pass
            event.evidence.check(copy.key)
            assert copy.conflict == event.evidence
            assert copy.statistics().stopped
            assert copy.peers == []
            assert [r.levelno for r in caplog.records if "two histories" in r.message] == [
                logging.ERROR
            ]
            # What is there can be read; nothing comes any more, and that is said.
            assert copy.get_nowait(3) == block(3, b"a")
            for waits in (copy.get(5), copy.update(), copy.wait_length(6), copy.download(0, 9)):
                with pytest.raises(ForkConflict):
                    await waits
        await reading.sync()
        key = copy.key
    async with corestore.open(tmp_path / "reader") as reading, corestore.open(None) as fresh:
        copy = await reading.get(key=key)
        assert copy.conflict is not None
        copy.conflict.check(key)
        with pytest.raises(ForkConflict):
            await copy.get(5)
        # And it is not served.
        unaware = await fresh.get(key=key)
        async with linked(fresh, reading):
            await unaware.update()
            assert (unaware.length, unaware.peers) == (0, [])


async def test_a_writer_with_a_second_history_appends_no_more():
    async with corestore.open(None) as one, corestore.open(None) as two:
        first, _ = await two_histories(one, two)
        async with linked(one, two):
            await soon(lambda: first.conflict is not None)
            with pytest.raises(ForkConflict):
                await first.append(b"more")
            with pytest.raises(ForkConflict):
                await first.recover()


# -- settling two histories ------------------------------------------------------------------------


async def test_a_settled_conflict_makes_a_fork_that_readers_of_both_histories_follow(tmp_path):
    async with (
        corestore.open(tmp_path / "one") as one,
        corestore.open(None) as two,
        corestore.open(None) as reading,
    ):
        first, second = await two_histories(one, two, shared=3)
        # 1. A reader has the other history; the two writers meet, and stop.
        copy = await reading.get(key=PAIR_KEY)
        async with linked(two, reading):
            await copy.wait_length(10)
            await copy.download()
        async with linked(one, two):
            await soon(lambda: first.conflict is not None)
        # 2. That one is settled, and goes on.
        await first.settle_conflict()
        assert (first.conflict, first.fork, first.length) == (None, 1, 8)
        await append(first, 1, b"c")
        await one.sync()
        # 3. The reader goes over; the other writer writes no more.
        async with linked(one, reading), linked(one, two):
            await soon(lambda: (copy.fork, copy.length) == (1, 9))
            await copy.download()
            blocks = [block async for block in first.blocks()]
            assert [block async for block in copy.blocks()] == blocks
            await soon(lambda: held_back(second))
    async with corestore.open(tmp_path / "one") as one:
        first = await one.get(key_pair=PAIR)
        assert (first.conflict, first.fork) == (None, 1)
        await append(first, 1)


async def test_a_core_that_was_settled_in_two_places_is_stopped_again():
    async with corestore.open(None) as one, corestore.open(None) as two:
        cores = await two_histories(one, two)
        async with linked(one, two):
            await soon(lambda: any(core.conflict for core in cores))
        for core, store in zip(cores, (one, two), strict=True):
            if core.conflict is None:
                await core.truncate(core.length)
            await core.settle_conflict()
            await store.sync()
            assert (core.conflict, core.fork) == (None, 1)
        async with linked(one, two):
            await soon(lambda: any(core.conflict for core in cores))


async def test_a_reader_that_was_stopped_follows_again_once_it_is_told_to():
    async with (
        corestore.open(None) as one,
        corestore.open(None) as two,
        corestore.open(None) as reading,
    ):
        _, second = await two_histories(one, two)
        copy = await reading.get(key=PAIR_KEY)
        async with linked(one, reading):
            await copy.wait_length(5)
            await copy.download()
        async with linked(two, reading):
            await soon(lambda: copy.conflict is not None)
        await second.truncate(7)
        await two.sync()
        async with linked(two, reading):
            # Its evidence is of fork 0; it hears of nothing else while it is stopped.
            assert copy.fork == 0
            await copy.settle_conflict()
            await soon(lambda: (copy.fork, copy.length) == (1, 7))
            assert await copy.get(6) == await second.get(6)
            assert copy.conflict is None
            await append(second, 1)
            await copy.wait_length(8)


async def test_a_conflict_is_settled_after_the_store_was_opened_again(tmp_path):
    async with corestore.open(tmp_path) as one, corestore.open(None) as two:
        first, _ = await two_histories(one, two)
        async with linked(one, two):
            await soon(lambda: first.conflict is not None)
    async with corestore.open(tmp_path) as one:
        first = await one.get(key_pair=PAIR)
        assert first.conflict is not None
        await first.settle_conflict()
        assert (first.conflict, first.fork, first.length) == (None, 1, 5)
        await append(first, 1)


async def test_settling_where_there_is_no_conflict_changes_nothing():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await append(core, 2)
        await core.settle_conflict()
        assert (core.fork, core.length) == (0, 2)
