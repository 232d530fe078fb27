"""A peer that breaks rules, and what its victim must show afterwards."""

from __future__ import annotations

import contextlib
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

import corestore
from corestore.encoding import Writer, encode_uint
from corestore.replication import messages
from corestore.wire.mux import ChannelMessage, ChannelOpened
from tests.support.builders import RawPeer, block, linked, two_stores
from tests.support.limits import HANG_SECONDS

BATCH, OPEN, REJECT, CLOSE = range(4)
GREATEST = (1 << 53) - 1


class HostilePeer(RawPeer):
    """Says what it likes: whole multiplexer frames, or bytes."""

    async def say(self, *frames):
        """Send frames of the multiplexer, each encrypted by itself."""
        for frame in frames:
            self.secure.send(frame)
        await self.flush()

    async def open_core(self, core):
        """Open the channel of a core and wait until the victim has opened it too."""
        channel = self.open(core)
        await self.flush()
        assert await self.wait_for(ChannelOpened)
        return channel

    async def tell(self, channel, *told):
        """Send messages of a core's channel."""
        for message in told:
            self.send(channel, message)
        await self.flush()

    async def request(self):
        """The next request of the victim, or None at the end of the stream."""
        while (event := await self.wait_for(ChannelMessage)) is not None:
            message = messages.decode(event.type, event.body)
            if isinstance(message, messages.RequestMessage):
                return message
        return None

    async def hang_up(self):
        await trio.aclose_forcefully(self.stream)


def has(length, *, fork=0, **changes):
    """A `Sync` of a peer that has, and gives, so many blocks."""
    values = {"can_upgrade": True, "uploading": True, "downloading": True, "has_manifest": True}
    return messages.Sync(fork, length, 0, **(values | changes))


def batch(items):
    """A frame of control messages: (type, body) each."""
    parts = [b"\x00\x00\x00"]
    for kind, body in items:
        parts.append(encode_uint(1 + len(body)) + encode_uint(kind) + body)
    return b"".join(parts)


def opening(number, *, protocol=messages.PROTOCOL, id=bytes(32), handshake=b""):
    """The body of the control message that opens a channel."""
    return Writer().uint(number).string(protocol).buffer(id).fixed(handshake).finish()


@dataclass(eq=False)
class Scene:
    """A reader that an honest writer serves, and the reader's and the writer's cores."""

    writing: corestore.Corestore
    reading: corestore.Corestore
    core: corestore.Hypercore
    copy: corestore.Hypercore
    nursery: trio.Nursery
    streams: object = None
    peers: list = field(default_factory=list)

    async def attack(self, *, victim=None, shaken=True, streams=None):
        """A hostile peer connected to a store (the reader's), and when that store let go of it."""
        store = victim or self.reading
        if streams is None:
            streams = await self.streams(self.nursery) if self.streams else None
        near, far = streams or trio.testing.memory_stream_pair()
        ended = trio.Event()

        async def run():
            await store.replicate(near, initiator=False)
            ended.set()

        self.nursery.start_soon(run)
        peer = HostilePeer(far)
        self.peers.append(peer)
        if shaken:
            await peer.shake_hands()
        return peer, ended

    async def check(self):
        """The reader gets everything from the honest peer, and both stores still work."""
        # A virtual clock runs on while a thread syncs.
        with trio.fail_after(100_000):
            await self.copy.update()
            await self.copy.download(0, self.core.length)
            assert self.copy.tree_hash() == self.core.tree_hash()
            assert await self.copy.get(0) == block(0)
            length = await self.core.append(b"still here")
            await self.writing.sync()
            await self.copy.wait_length(length)
            assert await self.copy.get(length - 1) == b"still here"
            own = await self.reading.get(name="own")
            assert await own.append(b"own") == own.length
            await self.reading.sync()


async def tcp_streams(nursery):
    """Both ends of a connection over the loopback interface."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    accepted, taken = trio.open_memory_channel(1)
    serving = trio.CancelScope()

    async def serve(listener):
        with serving:
            async with listener:
                await accepted.send(await listener.accept())

    nursery.start_soon(serve, listeners[0])
    far = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
    return await taken.receive(), far


@asynccontextmanager
async def scene(caplog, *, count=200, streams=None):
    """A `Scene`, at whose end everything must still work, and nothing have been a surprise."""
    caplog.set_level(logging.INFO)
    async with two_stores(count=count) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with linked(writing, reading), trio.open_nursery() as nursery:
            found = Scene(writing, reading, core, copy, nursery, streams)
            yield found
            await found.check()
            for peer in found.peers:
                await peer.hang_up()
            nursery.cancel_scope.cancel()
    assert "was not handled" not in caplog.text
    assert "was not answered" not in caplog.text
    assert "Traceback" not in caplog.text


async def let_go(peer, ended):
    """Read on until the victim has dropped the peer."""
    with trio.fail_after(HANG_SECONDS):
        with contextlib.suppress(corestore.CorestoreError, trio.BrokenResourceError):
            while await peer.receive():
                peer.events.clear()
        await ended.wait()


async def discard(peer):
    """Read what comes and forget it."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await peer.stream.receive_some():
            pass
