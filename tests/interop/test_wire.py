"""Our stream and multiplexer against the reference's, message by message."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from corestore.encoding import Writer
from corestore.keys import KeyPair
from corestore.wire.mux import ChannelClosed, ChannelMessage, ChannelOpened, Mux, RemoteOpen
from corestore.wire.secretstream import (
    MAX_MESSAGE_BYTES,
    HandshakeDone,
    MessageReceived,
    SecureStream,
)
from tests.support.node import node_peer

pytestmark = pytest.mark.interop


class Wire:
    """A `SecureStream` on a socket, in the smallest way that works."""

    def __init__(self, socket, initiator) -> None:
        self.socket = socket
        self.stream = SecureStream(initiator, KeyPair.generate())
        self.events = []

    async def flush(self):
        for data in self.stream.data_to_send():
            await self.socket.send_all(data)

    async def send(self, plain):
        self.stream.send(plain)
        await self.flush()

    async def next(self):
        await self.flush()
        while not self.events:
            data = await self.socket.receive_some(65536)
            if not data:
                raise trio.EndOfChannel
            self.events += self.stream.receive_data(data)
            await self.flush()
        return self.events.pop(0)


@asynccontextmanager
async def connected(*, initiator, dial, mode):
    """A wire to a Node peer, of which either side may have dialled and either be initiator."""
    async with node_peer() as node:
        if dial:
            port = await node("listen", initiator=not initiator, mode=mode)
            socket = await trio.open_tcp_stream("127.0.0.1", port)
        else:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            async with trio.open_nursery() as nursery, listener:
                nursery.start_soon(
                    lambda: node("dial", port=port, initiator=not initiator, mode=mode)
                )
                socket = await listener.accept()
                async with socket:
                    yield Wire(socket, initiator)
                nursery.cancel_scope.cancel()
            return
        async with socket:
            yield Wire(socket, initiator)


SIDES = pytest.mark.parametrize("initiator", [True, False], ids=["initiator", "responder"])
DIALS = pytest.mark.parametrize("dial", [True, False], ids=["dialling", "listening"])


@SIDES
@DIALS
async def test_messages_of_all_sizes_come_back_from_node(initiator, dial):
    async with connected(initiator=initiator, dial=dial, mode="echo") as wire:
        assert isinstance(await wire.next(), HandshakeDone)
        for message in (b"hello", bytes(range(256)) * 1000, b"x"):
            wire.stream.keepalive()
            await wire.send(message)
            assert await wire.next() == MessageReceived(message)


async def test_the_longest_message_fits_both_ways():
    async with connected(initiator=True, dial=True, mode="echo") as wire:
        assert isinstance(await wire.next(), HandshakeDone)
        message = bytes([9]) * MAX_MESSAGE_BYTES
        await wire.send(message)
        assert await wire.next() == MessageReceived(message)


async def test_node_hangs_up_on_a_damaged_message():
    async with connected(initiator=True, dial=True, mode="echo") as wire:
        assert isinstance(await wire.next(), HandshakeDone)
        wire.stream.send(b"hello")
        data = bytearray(b"".join(wire.stream.data_to_send()))
        data[-1] ^= 1
        await wire.socket.send_all(data)
        with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
            await wire.next()


@SIDES
async def test_channels_open_talk_and_close_with_node(initiator):
    async with connected(initiator=initiator, dial=True, mode="mux") as wire:
        assert isinstance(await wire.next(), HandshakeDone)
        mux = Mux()
        events = []

        async def next_event():
            for frame in mux.data_to_send():
                await wire.send(frame)
            while not events:
                message = await wire.next()
                assert isinstance(message, MessageReceived)
                events.extend(mux.receive(message.plain))
            return events.pop(0)

        hello = Writer().string("hello").finish()
        channel = mux.open("test/echo", b"k" * 32, hello)
        channel.send(0, b"before the answer")
        opened = await next_event()
        assert opened == ChannelOpened(channel, Writer().string("echo").finish())
        assert await next_event() == ChannelMessage(channel, 0, b"before the answer")

        refused = mux.open("test/unknown", None)
        assert await next_event() == ChannelClosed(refused, rejected=True)

        mux.cork()
        bodies = [bytes([n]) * n * 50 for n in range(100)]
        for body in bodies:
            channel.send(0, body)
        mux.uncork()
        for body in bodies:
            assert await next_event() == ChannelMessage(channel, 0, body)

        channel.send(1, b"please close")
        assert await next_event() == ChannelClosed(channel)

        again = mux.open("test/echo", b"k" * 32, hello)
        assert again.local_id == channel.local_id
        assert isinstance(await next_event(), ChannelOpened)

        # Closed before Node has answered: the number comes back all the same.
        hasty = mux.open("test/echo", b"h" * 32, hello)
        hasty.close()
        again.send(0, b"still there")
        assert await next_event() == ChannelMessage(again, 0, b"still there")
        assert mux.open("test/echo", b"n" * 32, hello).local_id == hasty.local_id
        assert isinstance(await next_event(), ChannelOpened)
        assert not [e for e in events if isinstance(e, RemoteOpen)]
