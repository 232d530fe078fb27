"""Peers that shake hands and then say nothing, or nothing of use."""

from __future__ import annotations

import contextlib
import logging

import pytest
import trio

from corestore.link import SILENCE_SECONDS
from corestore.replication.messages import Range
from corestore.wire.secretstream import KEEPALIVE_SECONDS
from tests.support.builders import block, linked, two_stores
from tests.support.hostile import has, scene

# The driver looks twice a second.
SLACK = 1.0


async def hang_up_when_dropped(peer):
    """Read what comes, keep silent; when the victim let go."""
    with contextlib.suppress(trio.BrokenResourceError):
        while await peer.receive():
            peer.events.clear()
    return trio.current_time()


@pytest.mark.parametrize("says", ["nothing", "that it opens the core", "that it has everything"])
async def test_who_shakes_hands_and_falls_silent_is_let_go(says, caplog, autojump_clock):
    async with scene(caplog) as found:
        peer, ended = await found.attack()
        if says != "nothing":
            channel = await peer.open_core(found.core)
            if says == "that it has everything":
                await peer.tell(channel, has(1000), Range(0, 1000))
        began = trio.current_time()
        gone = await hang_up_when_dropped(peer)
        await ended.wait()
        assert SILENCE_SECONDS - SLACK <= gone - began <= SILENCE_SECONDS + SLACK
    assert f"nothing heard for {SILENCE_SECONDS} seconds" in caplog.text


async def test_who_sends_keep_alives_and_nothing_else_stays(caplog, autojump_clock):
    async with scene(caplog) as found:
        peer, ended = await found.attack()
        for _ in range(20):
            await trio.sleep(KEEPALIVE_SECONDS)
            peer.secure.keepalive()
            await peer.flush()
        assert not ended.is_set()


async def test_stores_with_nothing_to_say_stay_connected(autojump_clock, caplog):
    caplog.set_level(logging.INFO)
    async with two_stores(count=3) as (writing, reading, core), linked(writing, reading):
        copy = await reading.get(key=core.key)
        await copy.update()
        await trio.sleep(20 * SILENCE_SECONDS)
        assert copy.peers
        assert core.peers
        assert await copy.get(2) == block(2)
    assert "nothing heard" not in caplog.text


async def test_a_disk_that_takes_long_is_not_the_peers_silence(autojump_clock, caplog):
    caplog.set_level(logging.INFO)
    async with two_stores(count=200, size=1000) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        incoming = reading._driver.incoming
        blocked = trio.Event()

        async def wait_room():
            await blocked.wait()

        async with linked(writing, reading), trio.open_nursery() as nursery:
            await copy.update()
            incoming.wait_room = wait_room
            nursery.start_soon(copy.download)
            await trio.sleep(5 * SILENCE_SECONDS)
            assert copy.peers
            blocked.set()
        assert copy.contiguous_length == 200
    assert "nothing heard" not in caplog.text


async def test_a_time_in_which_nothing_ran_is_nobody_s_silence(autojump_clock, caplog):
    """As while the loop waits for a disk, or for another process to let go of the database."""
    caplog.set_level(logging.INFO)
    async with two_stores(count=3) as (writing, reading, core), linked(writing, reading):
        copy = await reading.get(key=core.key)
        await copy.update()
        await trio.sleep(SLACK)
        autojump_clock.jump(2 * SILENCE_SECONDS)
        await trio.sleep(SLACK)
        assert len(copy.peers) == len(core.peers) == 1
    assert "nothing heard" not in caplog.text
