"""What a reader has fetched, forgotten again: by hand, and by a bound."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import pytest
import trio

import corestore
import hyperfs
from hyperfs.cache import RANGE_BLOCKS, RangeTable
from hyperfs.clearing import CLEARED_BLOCKS, CLEARED_RUNS, CLEARING_SECONDS, Clearing
from tests.support.builders import linked
from tests.support.limits import HANG_SECONDS

DATA = random.Random(12).randbytes(6_000_000)


@asynccontextmanager
async def a_reader(**files):
    """(reader, the writer's content core) of a drive with these files, linked."""
    async with (
        corestore.open(None) as near,
        corestore.open(None) as far,
        hyperfs.open(near, name="d", create=True) as writer,
    ):
        for name, data in files.items():
            await writer.write(f"/d/{name}", data)
        await writer.sync()
        async with linked(near, far), hyperfs.open(far, key=writer.key) as reader:
            with trio.fail_after(HANG_SECONDS):
                await reader.ready()
            yield reader, writer


async def test_evicted_files_are_fetched_again():
    async with a_reader(a=DATA[:1_000_000], b=DATA[1_000_000:1_500_000]) as (reader, _writer):
        assert await reader.read("/d/a") == DATA[:1_000_000]
        assert await reader.read("/d/b") == DATA[1_000_000:1_500_000]
        assert await reader.evict("/d/a") == 1_000_000
        held = reader.content.statistics().blocks_held
        assert 0 < held < reader.content.length
        reader._tree.reader._cache.clear()
        assert await reader.read("/d/a") == DATA[:1_000_000]
        assert await reader.evict("/d") == 1_500_000
        assert await reader.evict("/") == 0
        assert reader.content.statistics().blocks_held == 0
        with pytest.raises(FileNotFoundError):
            await reader.evict("/nothing")


async def test_who_has_evicted_a_block_does_not_offer_it(autojump_clock):
    async with (
        corestore.open(None) as near,
        corestore.open(None) as far,
        corestore.open(None) as third,
        hyperfs.open(near, name="d", create=True) as writer,
        hyperfs.open(far, key=writer.key) as reader,
        hyperfs.open(third, key=writer.key, read_timeout=1) as other,
    ):
        await writer.write("/a", DATA[:300_000])
        await writer.write("/b", DATA[300_000:600_000])
        await writer.sync()
        with trio.fail_after(HANG_SECONDS):
            async with linked(near, far):
                await reader.ready()
                await reader.download()
            async with linked(far, third):
                await other.ready()
                assert await other.read("/a") == DATA[:300_000]
                await reader.evict("/b")
                with pytest.raises(trio.TooSlowError):
                    await other.read("/b")
                async with linked(near, third):
                    assert await other.read("/b") == DATA[300_000:600_000]


async def test_a_drive_written_here_is_not_evicted():
    async with a_reader(a=b"x" * 5000) as (_, writer):
        with pytest.raises(ValueError, match="anybody"):
            await writer.evict("/d/a")
        with pytest.raises(ValueError, match="anybody"):
            await writer.limit_cache(1)


async def test_a_bound_is_kept_while_reading(autojump_clock):
    files = {f"f{n:03}": DATA[n * 40_000 : (n + 1) * 40_000] for n in range(150)}
    async with a_reader(**files) as (reader, _), trio.open_nursery() as nursery:
        nursery.start_soon(reader.limit_cache, 3_000_000)
        most = 0
        for _ in range(2):
            for name, data in files.items():
                assert await reader.read(f"/d/{name}") == data
                await trio.sleep(1)
                core = reader.content
                most = max(most, core.held_byte_length(0, core.length))
        assert 1_000_000 < most <= 3_000_000
        nursery.cancel_scope.cancel()


def test_what_is_cleared_in_one_go_is_bounded():
    runs = [(5, 10), (20, 5000), *((n, n + 1) for n in range(10_000, 10_300, 2))]
    portions = list(Clearing(None).portions(runs))
    assert [b for run in runs for b in range(*run)] == [
        b for portion in portions for run in portion for b in range(*run)
    ]
    assert all(len(portion) <= CLEARED_RUNS for portion in portions)
    assert all(sum(e - s for s, e in portion) <= CLEARED_BLOCKS for portion in portions)
    assert list(Clearing(None).portions([])) == []


def test_a_portion_is_as_large_as_the_last_ones_were_quick():
    clearing = Clearing(None)
    runs = [(n, n + 1) for n in range(0, 20_000, 2)]
    portions = clearing.portions(runs)
    sizes = []
    for seconds in (*[0.0] * 20, *[10 * CLEARING_SECONDS] * 20, CLEARING_SECONDS):
        sizes.append(len(next(portions)))
        clearing.took(seconds)
    assert sizes[0] < sizes[19] == CLEARED_RUNS
    assert sizes[39] == sizes[40] < sizes[0]
    assert sum(sizes) + sum(map(len, portions)) == len(runs)


def test_what_was_read_longest_ago_goes_first():
    table = RangeTable()
    for number in range(5):
        table.held(number, 10, 100)
    table.read(0)
    table.read(2 * RANGE_BLOCKS + 5)
    assert table.byte_length == 500
    assert table.surplus(500) == []
    assert table.surplus(450) == [1]
    assert table.surplus(250) == [1, 3, 4]
    assert table.surplus(0) == [1, 3, 4, 0]


def test_what_comes_counts_as_used_and_what_is_gone_is_forgotten():
    table = RangeTable()
    table.held(0, 1, 10)
    table.held(1, 1, 10)
    table.held(0, 2, 20)
    assert table.surplus(20) == [1]
    table.held(1, 0, 0)
    assert (len(table), table.byte_length, table.blocks(1)) == (1, 20, 0)
    table.read(RANGE_BLOCKS)
    assert len(table) == 1


@pytest.mark.parametrize("seed", range(10))
def test_the_table_adds_up(seed):
    rng = random.Random(seed)
    table, oracle = RangeTable(), {}
    for _ in range(300):
        number = rng.randrange(20)
        if rng.random() < 0.3:
            table.read(number * RANGE_BLOCKS)
            continue
        blocks = rng.randrange(3)
        oracle[number] = blocks * 7
        table.held(number, blocks, blocks * 7)
    assert table.byte_length == sum(oracle.values())
    assert len(table) == sum(1 for size in oracle.values() if size)
