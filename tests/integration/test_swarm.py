"""Swarms over real sockets on the loopback interface."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

import corestore
from corestore.swarm import tcp
from tests.support.builders import block, two_stores
from tests.support.limits import HANG_SECONDS


async def test_a_reader_that_dials_gets_what_the_writer_has():
    async with (
        two_stores(count=100, size=10_000) as (writing, reading, core),
        corestore.open_swarm(writing) as near,
        corestore.open_swarm(reading) as far,
    ):
        await near.join(core.discovery_key)
        host, port = await near.listen()
        assert (host, port > 0) == ("127.0.0.1", True)
        copy = await reading.get(key=core.key)
        await far.join(copy.discovery_key)
        far.connect(host, port)
        with trio.fail_after(HANG_SECONDS):
            assert await copy.update()
            await copy.download()
        assert copy.tree_hash() == core.tree_hash()
        assert far.topics == {core.discovery_key}


async def test_a_writer_that_dials_serves_as_well():
    async with (
        two_stores(count=3) as (writing, reading, core),
        corestore.open_swarm(writing) as near,
        corestore.open_swarm(reading) as far,
    ):
        near.connect(*await far.listen())
        copy = await reading.get(key=core.key)
        with trio.fail_after(HANG_SECONDS):
            assert await copy.get(2) == block(2)


async def test_peers_tell_who_is_connected_and_what_went_over():
    async with (
        two_stores(count=10, size=1000) as (writing, reading, core),
        corestore.open_swarm(writing) as near,
        corestore.open_swarm(reading) as far,
    ):
        copy = await reading.get(key=core.key)
        host, port = await near.listen()
        far.connect(host, port)
        with trio.fail_after(HANG_SECONDS):
            await copy.update()
            await copy.download()
        (there,), (here,) = far.peers, near.peers
        assert there.address == f"{host}:{port}"
        assert (there.initiator, here.initiator) == (True, False)
        assert there.cores == here.cores == (core.discovery_key,)
        assert there.remote_public_key != here.remote_public_key
        assert 10_000 < there.bytes_received <= here.bytes_sent < 20_000
        assert reading.statistics().bytes_received == there.bytes_received
        assert writing.statistics().links == 1


async def test_a_busy_port_is_an_error():
    async with corestore.open(None) as store, corestore.open_swarm(store) as swarm:
        host, port = await swarm.listen()
        with pytest.raises(OSError, match="in use") as caught:
            await swarm.listen(host, port)
        assert caught.value.errno == errno.EADDRINUSE


async def test_flush_returns_when_everybody_was_tried():
    async with corestore.open(None) as store, corestore.open_swarm(store) as swarm:
        with trio.fail_after(HANG_SECONDS):
            await swarm.flush()
            free = await tcp.open_listener("127.0.0.1", 0)
            host, port = tcp.listening_address(free)
            await free.aclose()
            swarm.connect(host, port)
            await swarm.flush()
        (dial,) = swarm.dials
        assert dial.address == f"{host}:{port}"
        assert not dial.connected
        assert dial.attempts >= 1
        assert dial.last_error


async def test_update_waits_for_a_peer_that_is_being_dialled():
    async with (
        two_stores(count=1) as (writing, reading, core),
        corestore.open_swarm(writing) as near,
        corestore.open_swarm(reading) as far,
    ):
        address = await near.listen()
        copy = await reading.get(key=core.key)
        far.connect(*address)
        with trio.fail_after(HANG_SECONDS):
            assert await copy.update()


async def test_a_peer_that_comes_later_is_reached():
    free = await tcp.open_listener("127.0.0.1", 0)
    host, port = tcp.listening_address(free)
    await free.aclose()
    async with (
        two_stores(count=1) as (writing, reading, core),
        corestore.open_swarm(writing) as near,
        corestore.open_swarm(reading) as far,
    ):
        copy = await reading.get(key=core.key)
        far.connect(host, port)
        await far.flush()
        await near.listen(host, port)
        with trio.fail_after(HANG_SECONDS):
            assert await copy.get(0) == block(0)
        assert far.dials[0].attempts > 1


async def test_a_connection_that_was_lost_is_made_again():
    async with two_stores(count=2) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with corestore.open_swarm(reading) as far:
            async with corestore.open_swarm(writing) as near:
                host, port = await near.listen()
                far.connect(host, port)
                with trio.fail_after(HANG_SECONDS):
                    assert await copy.get(0) == block(0)
            async with corestore.open_swarm(writing) as near:
                await near.listen(host, port)
                with trio.fail_after(HANG_SECONDS):
                    assert await copy.get(1) == block(1)


async def test_disconnecting_ends_the_connection_and_the_dialling():
    async with (
        two_stores(count=1) as (writing, reading, core),
        corestore.open_swarm(writing) as near,
        corestore.open_swarm(reading) as far,
    ):
        host, port = await near.listen()
        copy = await reading.get(key=core.key)
        far.connect(host, port)
        far.connect(host, port)
        with trio.fail_after(HANG_SECONDS):
            await copy.update()
            with core.events() as events:
                far.disconnect(host, port)
                assert isinstance(await events.receive(), corestore.PeerRemoved)
        assert far.dials == []


async def test_leaving_the_swarm_closes_everything():
    async with two_stores(count=1) as (writing, reading, core):
        async with corestore.open_swarm(writing) as near, corestore.open_swarm(reading) as far:
            host, port = await near.listen()
            far.connect(host, port)
            copy = await reading.get(key=core.key)
            with trio.fail_after(HANG_SECONDS):
                await copy.update()
        assert copy.peers == core.peers == []
        with pytest.raises(trio.ClosedResourceError):
            far.connect(host, port)
        with pytest.raises(OSError, match=r"."):
            await tcp.dial(host, port)


async def test_who_is_no_peer_does_not_disturb_the_listener(caplog):
    async with (
        two_stores(count=1) as (writing, reading, core),
        corestore.open_swarm(writing) as near,
        corestore.open_swarm(reading) as far,
    ):
        host, port = await near.listen()
        stranger = await trio.open_tcp_stream(host, port)
        await stranger.send_all(b"GET / HTTP/1.1\r\n\r\n")
        with trio.fail_after(HANG_SECONDS):
            assert await stranger.receive_some() == b""
            far.connect(host, port)
            copy = await reading.get(key=core.key)
            assert await copy.get(0) == block(0)
        await stranger.aclose()
