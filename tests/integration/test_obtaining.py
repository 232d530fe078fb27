"""Fetching all there is to be had, where some of it is nowhere."""

from __future__ import annotations

from functools import partial

import pytest
import trio

import corestore
from tests.support.builders import linked, two_stores


async def test_what_nobody_has_is_not_waited_for(autojump_clock):
    async with two_stores(count=100) as (writing, reading, core):
        await core.clear(10, 40)
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            await copy.update()
            await copy.download(obtainable=True)
        assert list(copy.held(0, 100)) == [(0, 10), (40, 100)]


async def test_what_is_listed_and_nobody_has_is_not_waited_for(autojump_clock):
    async with two_stores(count=100) as (writing, reading, core):
        await core.clear(10, 40)
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            await copy.update()
            await copy.download(blocks=(5, 15, 50), obtainable=True)
            assert list(copy.held(0, 100)) == [(5, 6), (50, 51)]
            with pytest.raises(ValueError, match="nobody yet"):
                await copy.download(live=True, obtainable=True)


async def test_without_peers_it_waits_for_one(autojump_clock):
    async with two_stores(count=100) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            await copy.update()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(copy.download, obtainable=True))
            await trio.sleep(100)
            assert not copy.has(0)
            async with linked(writing, reading):
                await copy.download()


async def test_a_cleared_core_can_be_recovered_with_its_blocks(autojump_clock):
    async with two_stores(count=0) as (_, holding, _core):
        pair = corestore.KeyPair.generate()
        async with corestore.open(None) as first, linked(first, holding):
            log = await first.get(key_pair=pair)
            await log.append(*[b"block %d" % i for i in range(50)])
            await first.sync()
            copy = await holding.get(key=log.key)
            await copy.update()
            await copy.download()
            await copy.clear(5, 20)
        async with corestore.open(None) as second, linked(second, holding):
            again = await second.get(key_pair=pair)
            with trio.fail_after(1000):
                assert await again.recover() == 50
            assert list(again.held(0, 50)) == [(0, 5), (20, 50)]
            assert await again.append(b"more") == 51
