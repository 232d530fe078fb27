"""A reader whose only peer holds a part of the drive."""

from __future__ import annotations

import random

import pytest
import trio

import corestore
import hyperfs
from tests.support.builders import linked

CONTENT = random.Random(3).randbytes(200_000)


async def test_what_a_peer_offers_is_read_after_waiting_for_what_it_lacks(autojump_clock):
    async with corestore.open(None) as near, corestore.open(None) as far:
        key = await hyperfs.create(near, "d")
        async with (
            hyperfs.open(near, name="d") as writer,
            hyperfs.open(far, key=key, read_timeout=3) as reader,
        ):
            await writer.write("/lost", CONTENT[:100_000])
            end = writer.content.length
            await writer.write("/held", CONTENT[100_000:])
            await writer.sync()
            await writer.content.clear(0, end)
            async with linked(near, far):
                await reader.ready()
                await _gives_up(reader, 3)
                # Nobody offers it, and nothing has come since: not waited for again.
                await _gives_up(reader, 0)
                assert await reader.read("/held") == CONTENT[100_000:]


async def _gives_up(reader, seconds):
    started = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await reader.read("/lost")
    assert trio.current_time() - started == pytest.approx(seconds, abs=0.5)
