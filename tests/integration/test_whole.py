"""Holding a drive whole: what is fetched, what is not, what goes when its writer gives it back."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import pytest
import trio

import corestore
import hyperfs
from hyperfs import opening
from hyperfs.blocks import CoreBlocks
from hyperfs.blockset import BlockSet
from hyperfs.cache import RANGE_BLOCKS
from hyperfs.whole import Wholeness
from tests.support.builders import eventually, linked
from tests.support.drives import snapshot

DATA = random.Random(13).randbytes(8_000_000)


@asynccontextmanager
async def held(writer, near, *, max_bytes=None, store=None):
    """A drive that is held whole in a store of its own, linked to the writer's."""
    async with (
        corestore.open(store) as far,
        hyperfs.open(far, key=writer.key) as drive,
        linked(near, far),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(drive.hold, max_bytes)
        yield drive
        nursery.cancel_scope.cancel()


def complete(drive, version):
    """Whether all that *version* and others need is here."""
    whole = drive.wholeness()
    return whole is not None and whole.complete and drive.version == version


async def test_a_drive_that_gave_nothing_back_is_held_from_end_to_end():
    async with corestore.open(None) as near, hyperfs.open(near, name="d", create=True) as writer:
        for n in range(10):
            await writer.write("/f", DATA[n * 100_000 : (n + 1) * 100_000])
        await writer.sync()
        async with held(writer, near) as seed:
            await eventually(lambda: complete(seed, writer.version))
            assert seed.content.has(0, writer.content.length)
            assert seed.metadata.has(0, writer.metadata.length)
            await writer.write("/g", b"more" * 1000)
            await writer.sync()
            await eventually(lambda: complete(seed, writer.version))


async def test_what_the_writer_gave_back_is_not_needed():
    async with corestore.open(None) as near, hyperfs.open(near, name="d", create=True) as writer:
        for n in range(40):
            await writer.write(f"/{n % 7}", DATA[n * 100_000 : (n + 1) * 100_000])
        await writer.collect(keep_last=3)
        await writer.write("/8", DATA[-5000:])
        await writer.sync()
        async with held(writer, near) as seed:
            await eventually(lambda: complete(seed, writer.version))
            content = seed.content
            assert seed.wholeness().needed == seed.wholeness().held < content.length
            assert content.statistics().blocks_held == seed.wholeness().held
            assert [*content.held(0, content.length)] == [
                *writer.content.held(0, writer.content.length)
            ]
            expected = await snapshot(writer)
            past = await writer.checkout(writer._tree.view.index.root.oldest)
            older = await snapshot(past)
            assert await snapshot(seed) == expected
            assert await snapshot(await seed.checkout(past.version)) == older


async def test_what_the_writer_gives_back_is_given_back_here():
    async with corestore.open(None) as near, hyperfs.open(near, name="d", create=True) as writer:
        for n in range(40):
            await writer.write(f"/{n % 7}", DATA[n * 100_000 : (n + 1) * 100_000])
        await writer.sync()
        async with held(writer, near) as seed:
            await eventually(lambda: complete(seed, writer.version))
            before = seed.content.statistics().blocks_held
            for keep in (5, 1):
                await writer.collect(keep_last=keep)
                await writer.sync()
                await eventually(lambda: complete(seed, writer.version))
                for ours, theirs in (
                    (seed.content, writer.content),
                    (seed.metadata, writer.metadata),
                ):
                    assert [*ours.held(0, theirs.length)] == [*theirs.held(0, theirs.length)]
                # And it goes on.
                await writer.write("/again", DATA[:300_000])
                await writer.remove("/again")
                await writer.sync()
                await eventually(lambda: complete(seed, writer.version))
            assert seed.content.statistics().blocks_held < before / 3
            assert await snapshot(seed) == await snapshot(writer)


async def test_a_chunk_that_is_used_again_is_fetched_again():
    async with corestore.open(None) as near, hyperfs.open(near, name="d", create=True) as writer:
        await writer.write("/old", DATA[:1_000_000])
        await writer.write("/other", DATA[1_000_000:1_200_000])
        await writer.sync()
        async with held(writer, near) as seed:
            for round_ in range(6):
                await writer.remove("/old")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lambda: writer.collect(keep_last=1))
                    await writer.write("/old", DATA[round_ * 50_000 : 1_000_000])
                await writer.sync()
            await eventually(lambda: complete(seed, writer.version))
            assert await snapshot(seed) == await snapshot(writer)


async def test_with_a_bound_what_was_stored_last_is_held(autojump_clock):
    bound = 12_000_000
    data = random.Random(14).randbytes(36_000_000)
    async with corestore.open(None) as near, hyperfs.open(near, name="d", create=True) as writer:
        for n in range(30):
            await writer.write(f"/{n:03}", data[n * 1_000_000 : (n + 1) * 1_000_000])
        await writer.sync()
        async with held(writer, near, max_bytes=bound) as seed:
            await trio.sleep(20)
            content = seed.content
            whole = seed.wholeness()
            assert not whole.complete
            assert 0 < whole.held < whole.needed
            assert bound / 3 < content.held_byte_length(0, content.length) <= bound
            assert content.has(content.length - 1)
            assert not content.has(0)
            for n in range(30, 36):
                await writer.write(f"/{n:03}", data[n * 1_000_000 : (n + 1) * 1_000_000])
                await writer.sync()
                await trio.sleep(5)
                assert content.has(content.length - 1)
                assert content.held_byte_length(0, content.length) <= bound + RANGE_BLOCKS * 65_536
            assert seed.version == writer.version


async def test_with_a_bound_that_suffices_all_of_the_newest_version_is_held(autojump_clock):
    async with corestore.open(None) as near, hyperfs.open(near, name="d", create=True) as writer:
        for n in range(10):
            await writer.write("/f", DATA[n * 200_000 : (n + 1) * 200_000])
        await writer.sync()
        async with held(writer, near, max_bytes=1_000_000) as seed:
            await trio.sleep(20)
            assert seed.wholeness().complete
            assert seed.content.held_byte_length(0, seed.content.length) == 200_000


@pytest.mark.parametrize("max_bytes", [None, 40_000_000])
async def test_a_log_that_was_truncated_is_held_as_it_goes_on(max_bytes):
    async with corestore.open(None) as near:
        async with hyperfs.open(near, name="d", create=True) as writer:
            for n in range(10):
                await writer.write(f"/{n}", DATA[n * 100_000 : (n + 1) * 100_000])
            await writer.collect(keep_last=3)
            version, content = writer.version, writer.content.length
            for n in range(8):
                await writer.write("/more", DATA[n * 200_000 : (n + 1) * 200_000])
            await writer.sync()
            longer = writer.version
        async with held(writer, near, max_bytes=max_bytes) as seed:
            await eventually(lambda: complete(seed, longer))
            async with await near.get(key=writer.key) as metadata:
                async with await opening.open_content(near, metadata, None) as core:
                    await core.truncate(content)
                await metadata.truncate(version)
            async with hyperfs.open(near, name="d") as writer:
                await writer.write("/other", DATA[3_000_000:3_200_000])
                await writer.sync()
                assert writer.version < longer
                await eventually(lambda: complete(seed, writer.version))
                # 1. Without a peer.
                held_blocks = seed.content.statistics().blocks_held
                assert await snapshot(seed) == await snapshot(writer)
                assert seed.content.statistics().blocks_held == held_blocks
                # 2. And it goes on.
                await writer.write("/again", DATA[3_300_000:3_400_000])
                await writer.sync()
                await eventually(lambda: complete(seed, writer.version))


async def test_an_index_that_cannot_be_read_does_not_end_holding(autojump_clock, caplog):
    async with corestore.open(None) as near, hyperfs.open(near, name="d", create=True) as writer:
        for n in range(10):
            await writer.write(f"/{n}", DATA[n * 100_000 : (n + 1) * 100_000])
        await writer.collect(keep_last=3)
        await writer.sync()
        read = CoreBlocks.block
        wrong = writer._tree.view.index.root.oldest - 1

        def block(self, index):
            return b"no root" if broken and index == wrong else read(self, index)

        broken = True
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CoreBlocks, "block", block)
            async with held(writer, near) as seed:
                await trio.sleep(12)
                assert seed.wholeness() == Wholeness(False, None, None)
                broken = False
                await trio.sleep(12)
                assert complete(seed, writer.version)
        assert "is not held whole" in caplog.text


async def test_one_s_own_drive_is_whole():
    async with corestore.open(None) as near, hyperfs.open(near, name="d", create=True) as writer:
        assert writer.wholeness() is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.hold)
            await eventually(lambda: writer.wholeness() is not None)
            assert writer.wholeness().complete
            nursery.cancel_scope.cancel()


def test_a_block_that_is_named_far_off_costs_a_page():
    found = BlockSet()
    for index in (0, 5, 2**40, 2**53 - 1):
        found.add(index)
    assert [index in found for index in (0, 1, 5, 2**40, 2**53 - 1)] == [True, False, *[True] * 3]
    assert list(found.gaps(0, 2**20)) == [(1, 5), (6, 2**20)]
    assert list(found.gaps(2**40 - 3, 2**40 + 3)) == [(2**40 - 3, 2**40), (2**40 + 1, 2**40 + 3)]
