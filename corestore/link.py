"""Drives the machines of a store over one encrypted stream: a reader, a writer, and the bounds.

The reader takes what arrives to the machines, the writer sends what they say. Blocks to upload are
read only when there is room to send them: a queue of requests costs a few bytes each, a queue of
blocks does not exist. Both give other tasks a turn after about a millisecond of work.

Two peers that wait for each other to read would wait for ever. So the reader never waits for the
writer: what it cannot answer yet it queues, and a peer that makes the queues grow beyond their
bounds is dropped. It does wait for the disk, which is how a fast peer is slowed down.

Format: hypercore 11 and corestore 7, how many cores share one stream; corestore/PROTOCOL.md.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import trio

from corestore.errors import (
    CorestoreError,
    LimitExceeded,
    RemoteProtocolError,
    StorageCorrupt,
)
from corestore.inlet import receive_into
from corestore.keys import DiscoveryKey
from corestore.replication import messages
from corestore.served import Served
from corestore.wire.mux import ChannelClosed, ChannelMessage, ChannelOpened, Mux, RemoteOpen
from corestore.wire.secretstream import (
    KEEPALIVE_SECONDS,
    HandshakeDone,
    MessageReceived,
    SecureStream,
)

if TYPE_CHECKING:
    from corestore.driver import Driver
    from corestore.keys import KeyPair
    from corestore.replication.machine import PeerId
    from corestore.replication.messages import Message, RequestMessage
    from corestore.state import CoreState
    from corestore.wire.mux import Channel, MuxEvent

logger: Final = logging.getLogger("corestore")

HANDSHAKE_SECONDS: Final = 10
# Who lives sends an empty message every 5 seconds at least. Six of them in a row do not get lost.
SILENCE_SECONDS: Final = 6 * KEEPALIVE_SECONDS
# What is gathered before it is written at once.
CHUNK_BYTES: Final = 256 << 10
# After this much work other tasks get a turn.
SLICE_SECONDS: Final = 0.001
# Requests of a peer that wait to be answered, over all its cores. Node has at most 512 in flight
# for a core.
MAX_QUEUED_REQUESTS: Final = 1 << 16
# Small messages for a peer that does not read: state, announcements, bitfields.
MAX_UNSENT_BYTES: Final = 16 << 20
# How long a core is not offered again to a peer that said it does not have it.
OFFER_AGAIN_SECONDS: Final = 5.0
# How long `update` waits for a peer to say whether it has a core.
ANSWER_SECONDS: Final = 5.0


class _Channel:
    """One core's channel on a link: the `Port` of its machine."""

    __slots__ = ("channel", "link", "peer", "refused_at", "remote_downloading", "state")

    def __init__(self, link: Link, state: CoreState) -> None:
        self.link = link
        self.state = state
        self.channel: Channel | None = None
        # Set while the channel is open both ways.
        self.peer: PeerId | None = None
        # When the peer said that it does not have the core.
        self.refused_at = -math.inf
        # Whether the peer wants anything, as far as it has told.
        self.remote_downloading = True

    @property
    def remote_public_key(self) -> bytes:
        return self.link.remote_public_key

    def send(self, message: Message) -> None:
        self.link._send(self, message)

    def serve(self, request: RequestMessage) -> None:
        self.link._serve(self, request)

    def drop(self, reason: CorestoreError) -> None:
        self.link.stop(reason)


@dataclass(slots=True)
class _Turn:
    """A piece of work during which no other task runs: when it began on trio's clock, when it is to
    end on the processor's, whom it touched."""

    now: float
    ends: float
    touched: set[CoreState] = field(default_factory=set)


class Link:
    """One stream to one peer. `run` does everything.

    *only* restricts it to one core; otherwise every open core is offered, and every core the peer
    asks for is looked up in the store. `attach` adds to that later.
    """

    def __init__(
        self,
        driver: Driver,
        stream: trio.abc.Stream,
        *,
        initiator: bool,
        key_pair: KeyPair,
        only: CoreState | None = None,
    ) -> None:
        self.remote_public_key = b""
        self.bytes_received = 0
        self.bytes_sent = 0
        # Why we dropped the peer, if we did.
        self.failure: Exception | None = None
        self.initiator = initiator
        # Whether the handshake is done.
        self.established = False
        self._driver = driver
        self._stream = stream
        # None for all cores of the store.
        self._only = None if only is None else {only}
        self._secure = SecureStream(initiator, key_pair)
        self._mux = Mux()
        self._handshake_hash = b""
        # Since when the reader has waited for the peer; infinite while it does not.
        self._waiting_since = math.inf
        # When `tick` was called last.
        self._ticked = -math.inf
        self._by_core: dict[DiscoveryKey, _Channel] = {}
        self._by_channel: dict[Channel, _Channel] = {}
        self._served = Served()
        self._requests: deque[tuple[_Channel, RequestMessage]] = deque()
        # Channels we opened and the peer has not answered, with the time until which `update` waits
        # for that; in order of time.
        self._awaited: dict[_Channel, float] = {}
        self._unsent = 0
        # Whether the log has it that a block could not be read; once is enough.
        self._damage_told = False
        self._wake = trio.Event()
        self._scope = trio.CancelScope()
        # The handshake is done, or the link has ended.
        self._settled = trio.Event()
        self._ended = trio.Event()

    @property
    def cores(self) -> list[DiscoveryKey]:
        """The cores whose channels are open."""
        return [core for core, channel in self._by_core.items() if channel.peer is not None]

    async def run(self) -> None:
        """Replicate until the stream ends, the peer is dropped, or this is cancelled.

        The stream is closed then. A peer that breaks the rules is a line in the log and
        `failure`, not an exception.
        """
        self._driver.links.add(self)
        self._driver.start_finding()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            self._driver.links.discard(self)
            self._settle()
            self._ended.set()
            if not isinstance(self.failure, CorestoreError):
                self._driver.left(self._served.recent(trio.current_time()))
            for channel in list(self._by_core.values()):
                self._closed(channel)
            # Forcefully: what could be said at the end of the stream, nobody waits for.
            await trio.aclose_forcefully(self._stream)

    def carries(self, stream: trio.abc.Stream) -> bool:
        """Whether this link is the one of *stream*."""
        return self._stream is stream

    def attach(self, only: CoreState | None) -> None:
        """Carry *only* too, or every core of the store (None); nothing if that is so already."""
        if only is None:
            self._only = None
        elif self._only is not None:
            self._only.add(only)
        if self.established:
            self._offer_all()
            self._wake.set()

    async def wait_ended(self) -> None:
        """Wait for the end of the stream."""
        await self._ended.wait()

    async def wait_established(self) -> bool:
        """Wait for the handshake; False if the link ended without one."""
        await self._settled.wait()
        return self.established

    def _settle(self) -> None:
        if not self._settled.is_set():
            self._settled.set()
            self._driver.stop_finding()

    def stop(self, reason: Exception) -> None:
        """End the link because of *reason*, which the log tells. Does not wait."""
        if self._scope.cancel_called:
            return
        self.failure = reason
        peer = self.remote_public_key.hex()[:16] or "before its handshake"
        if isinstance(reason, CorestoreError):
            logger.warning("dropped a peer (%s): %s", peer, reason)
        else:
            logger.info("lost a peer (%s): %s", peer, reason or type(reason).__name__)
        self._scope.cancel()

    # -- channels ---------------------------------------------------------------------------------

    def open_channel(self, state: CoreState) -> None:
        """Offer the peer to talk about this core; nothing if that was done a moment ago."""
        if not self.established or not self._carried(state):
            return
        if state.lease.evidence is not None:
            return  # stopped: nobody is spoken to about it
        channel = self._by_core.get(state.discovery_key)
        if channel is not None:
            if channel.channel is not None:
                return
            if trio.current_time() < channel.refused_at + OFFER_AGAIN_SECONDS:
                return
        self._open(state)
        self._wake.set()

    def _carried(self, state: CoreState) -> bool:
        return self._only is None or state in self._only

    def close_channel(self, state: CoreState) -> None:
        """End the conversation about this core, if there is one."""
        entry = self._by_core.pop(state.discovery_key, None)
        if entry is not None and entry.channel is not None:
            entry.channel.close()
            self._closed(entry)
            self._wake.set()

    def close_idle(self, state: CoreState) -> None:
        """End the conversation about this core if neither side wants anything of it.

        Whoever wants something later opens the channel again.
        """
        entry = self._by_core.get(state.discovery_key)
        if entry is None or entry.peer is None or state.handles or entry.remote_downloading:
            return
        self.close_channel(state)

    def _open(self, state: CoreState) -> None:
        proof = messages.capability(state.key, self._handshake_hash, initiator=self.initiator)
        entry = self._by_core[state.discovery_key] = _Channel(self, state)
        entry.channel = self._mux.open(
            messages.PROTOCOL,
            state.discovery_key,
            messages.encode_handshake(messages.OpenHandshake(proof)),
            messages.ALIASES,
        )
        self._by_channel[entry.channel] = entry
        # Until the peer answers, `update` waits for it.
        state.finding += 1
        self._awaited[entry] = trio.current_time() + ANSWER_SECONDS
        # It may have answered, and said more, before we asked. Who asked is not to blame for it.
        turn = _Turn(trio.current_time(), 0)
        try:
            for event in self._mux.events():
                self._handle(event, turn)
        except CorestoreError as error:
            self.stop(error)
        if turn.touched:
            self._driver.drain(state)

    def _offer_all(self) -> None:
        self._mux.cork()
        for state in list(self._driver.states.values()):
            if state.handles:
                self.open_channel(state)
        self._mux.uncork()

    def _asked(self, event: RemoteOpen) -> None:
        """The peer opened a channel that we have not."""
        state = None
        known = event.protocol == messages.PROTOCOL or event.protocol in messages.ALIASES
        if known and event.id is not None and len(event.id) == 32:
            state = self._driver.find_for_peer(DiscoveryKey(event.id))
        if state is not None and state.lease.evidence is not None:
            state = None
        if state is None or not self._carried(state):
            self._mux.reject(event)
            return
        entry = self._by_core.get(state.discovery_key)
        if entry is not None and entry.channel is not None:
            # A second channel for one core would only say everything twice.
            self._mux.reject(event)
            return
        # Before we show our own proof: a stranger learns nothing.
        self._check(state, event.handshake)
        self._open(state)

    def _check(self, state: CoreState, handshake: bytes) -> messages.OpenHandshake:
        shown = messages.decode_handshake(handshake)
        messages.check_capability(
            shown, state.key, self._handshake_hash, initiator=not self.initiator
        )
        return shown

    def _opened(self, entry: _Channel, handshake: bytes) -> None:
        state = entry.state
        shown = self._check(state, handshake)
        self._found(entry)
        entry.peer = self._driver.add_peer(
            state, entry, initiator=self.initiator, seeks=shown.seeks
        )

    def _closed(self, entry: _Channel) -> None:
        """The channel is closed, by whomever; there may come another one for its core."""
        if entry.channel is None:
            return
        del self._by_channel[entry.channel]
        entry.channel = None
        if entry.peer is None:
            entry.refused_at = trio.current_time()
            self._found(entry)
        else:
            self._driver.remove_peer(entry.peer)
            entry.peer = None

    def _found(self, entry: _Channel) -> None:
        """The peer has answered whether it has this core, or nobody waits for that any more."""
        if self._awaited.pop(entry, None) is not None:
            entry.state.finding -= 1
            entry.state.changed.unpark_all()

    def tick(self, now: float) -> None:
        """Some time has passed: a peer that does not answer is not waited for, one that has not
        given a sign of life for long is let go."""
        # After a time in which nothing ran, the reader has its turn first: what came may lie there.
        ran = now - self._ticked < SILENCE_SECONDS / 2
        self._ticked = now
        if self.established and ran and now - self._waiting_since >= SILENCE_SECONDS:
            self.stop(trio.BrokenResourceError(f"nothing heard for {SILENCE_SECONDS} seconds"))
        while self._awaited:
            entry, end = next(iter(self._awaited.items()))
            if now < end:
                break
            self._found(entry)

    # -- reading ----------------------------------------------------------------------------------

    async def _read(self) -> None:
        stream = self._stream
        try:
            with trio.move_on_after(HANDSHAKE_SECONDS) as waiting:
                while not self._secure.complete:
                    if not await self._receive(stream):
                        return
            if waiting.cancelled_caught:
                raise RemoteProtocolError(f"no handshake within {HANDSHAKE_SECONDS} seconds")
            while await self._receive(stream):
                await self._driver.incoming.wait_room()
        except (CorestoreError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.stop(error)
        # A bug of ours that a peer's bytes found must not take the other links with it.
        except Exception as error:
            logger.exception("a peer's message was not handled")
            self.stop(error)

    async def _receive(self, stream: trio.abc.ReceiveStream) -> bool:
        """Read once and handle what arrived; False at the end of the stream."""
        # The time is not the peer's while we are busy, or wait for the disk.
        self._waiting_since = trio.current_time()
        count = await receive_into(stream, self._secure.receive_buffer())
        self._waiting_since = math.inf
        if not count:
            return False
        self.bytes_received += count
        self._driver.bytes_received += count
        turn = self._begin_turn()
        for event in self._secure.received(count):
            match event:
                case MessageReceived(plain):
                    for received in self._mux.receive(plain):
                        self._handle(received, turn)
                        if perf_counter() > turn.ends:
                            self._end_turn(turn)
                            self._check_unsent()
                            await trio.lowlevel.checkpoint()
                            turn = self._begin_turn()
                case HandshakeDone(handshake_hash, remote_public_key):
                    self._handshake_hash = handshake_hash
                    self.remote_public_key = remote_public_key
                    self.established = True
                    self._offer_all()
                    self._settle()
        self._end_turn(turn)
        self._check_unsent()
        return True

    def _begin_turn(self) -> _Turn:
        self._mux.cork()
        return _Turn(trio.current_time(), perf_counter() + SLICE_SECONDS)

    def _end_turn(self, turn: _Turn) -> None:
        for state in turn.touched:
            self._driver.heard(state)
            self.close_idle(state)
        self._mux.uncork()
        self._wake.set()

    def _check_unsent(self) -> None:
        """Answers to what the peer sends, rejected channels above all, wait until it reads.

        Raises:
          LimitExceeded: it does not.
        """
        if self._mux.outgoing_bytes > MAX_UNSENT_BYTES:
            raise LimitExceeded("the peer does not read what it is sent")

    def _handle(self, event: MuxEvent, turn: _Turn) -> None:
        """Take what the mux reports to its machine, whose state *turn* has touched then."""
        match event:
            case ChannelMessage(channel, kind, body):
                entry = self._by_channel.get(channel)
                if entry is None or entry.peer is None:
                    return
                message = messages.decode(kind, body)
                if message is not None:
                    state = entry.state
                    if isinstance(message, messages.Sync):
                        entry.remote_downloading = message.downloading
                    state.replicator.receive(entry.peer, message, turn.now)
                    turn.touched.add(state)
            case RemoteOpen():
                self._asked(event)
            case ChannelOpened(channel, handshake):
                if (entry := self._by_channel.get(channel)) is not None:
                    self._opened(entry, handshake)
            case ChannelClosed(channel):
                if (entry := self._by_channel.get(channel)) is not None:
                    self._closed(entry)

    # -- writing ----------------------------------------------------------------------------------

    def _send(self, entry: _Channel, message: Message) -> None:
        if entry.channel is None:
            return
        kind, body = messages.encode(message)
        entry.channel.send(kind, body)
        self._unsent += len(body)
        if self._unsent > MAX_UNSENT_BYTES:
            self.stop(LimitExceeded("the peer does not read what it is sent"))
        self._wake.set()

    def _serve(self, entry: _Channel, request: RequestMessage) -> None:
        self._requests.append((entry, request))
        if len(self._requests) > MAX_QUEUED_REQUESTS:
            self.stop(LimitExceeded(f"more than {MAX_QUEUED_REQUESTS} requests at once"))
        self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                self._wake = trio.Event()
                outgoing = await self._gather()
                if outgoing:
                    await self._stream.send_all(outgoing)
                    self.bytes_sent += len(outgoing)
                    self._driver.bytes_sent += len(outgoing)
                    continue
                with trio.move_on_after(KEEPALIVE_SECONDS) as waiting:
                    await self._wake.wait()
                if waiting.cancelled_caught:
                    self._secure.keepalive()
        except (CorestoreError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.stop(error)
        # As in `_read`: it is a peer's request that is being answered.
        except Exception as error:
            logger.exception("a peer's request was not answered")
            self.stop(error)

    async def _gather(self) -> bytes:
        """The next bytes to send: what machines said, then answers, up to `CHUNK_BYTES`."""
        parts: list[bytes | bytearray] = []
        size = 0
        while True:
            if self._requests:
                self._answer_some(CHUNK_BYTES - size)
            self._unsent = 0
            for frame in self._mux.data_to_send():
                self._secure.send(frame)
            for part in self._secure.data_to_send():
                parts.append(part)
                size += len(part)
            if size >= CHUNK_BYTES or not self._requests:
                return b"".join(parts)
            await trio.lowlevel.checkpoint()

    def _answer_some(self, room: int) -> None:
        """Answer requests until there are no more, *room* bytes are used, or the turn is over."""
        turn = self._begin_turn()
        requests = self._requests
        while requests and room > 0 and perf_counter() < turn.ends:
            entry, request = requests.popleft()
            if entry.peer is None or entry.channel is None:
                continue
            state = entry.state
            block = partial(self._stored, state)
            answer = state.replicator.answer(entry.peer, request, block=block)
            turn.touched.add(state)
            if answer is not None:
                kind, body = messages.encode(answer)
                entry.channel.send(kind, body)
                room -= len(body)
                block_sent = request.request.block
                if block_sent is not None:
                    self._served.add(state, block_sent.index, len(body), turn.now)
        self._end_turn(turn)

    def _stored(self, state: CoreState, index: int) -> bytes | None:
        """A block for the peer. One that the disk does not give is not here; others may be."""
        try:
            return state.block(index)
        except (OSError, StorageCorrupt) as error:
            if not self._damage_told:
                self._damage_told = True
                logger.error("block %d of core %s cannot be served: %s", index, state.key, error)
            return None


async def replicate(
    driver: Driver,
    stream: trio.abc.Stream,
    *,
    initiator: bool,
    key_pair: KeyPair,
    only: CoreState | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a link over *stream* to its end; join the one that is there if there is one.

    Raises:
      ValueError: the stream is in use in the other role.
    """
    link = next((each for each in driver.links if each.carries(stream)), None)
    if link is not None:
        if link.initiator != initiator:
            raise ValueError("this stream is in use, with the roles the other way round")
        link.attach(only)
        await link.wait_established()
        task_status.started()
        await link.wait_ended()
        return
    link = Link(driver, stream, initiator=initiator, key_pair=key_pair, only=only)
    # Now, so that who attaches the stream again before `run` begins finds it.
    driver.links.add(link)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await link.wait_established()
        task_status.started()
