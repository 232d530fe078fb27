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

from corestore.channels import Channels
from corestore.errors import CorestoreError, LimitExceeded, RemoteProtocolError, StorageCorrupt
from corestore.holdings import LARGE_BYTES
from corestore.inlet import receive_into
from corestore.replication import messages
from corestore.replication.peer import Allowance
from corestore.served import Served
from corestore.wire.mux import Mux
from corestore.wire.secretstream import (
    GREATEST_READ_BYTES,
    KEEPALIVE_SECONDS,
    HandshakeDone,
    MessageReceived,
    SecureStream,
)

if TYPE_CHECKING:
    from corestore.channels import CoreChannel
    from corestore.driver import Driver
    from corestore.keys import DiscoveryKey, KeyPair
    from corestore.replication.messages import Message, RequestMessage
    from corestore.state import CoreState

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
# A request that waits takes about so much.
REQUEST_BYTES: Final = 512
# Small messages for a peer that does not read: state, announcements, bitfields.
MAX_UNSENT_BYTES: Final = 16 << 20


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
        # What may be under way to us.
        self.allowance = Allowance()
        # Whether the handshake is done.
        self.established = False
        self._driver = driver
        self._stream = stream
        self._secure = SecureStream(initiator, key_pair)
        self._mux = Mux()
        self._channels = Channels(driver, self._mux, self, initiator=initiator, only=only)
        # Since when the reader has waited for the peer; infinite while it does not.
        self._waiting_since = math.inf
        # When `tick` was called last.
        self._ticked = -math.inf
        self._served = Served()
        self._requests: deque[tuple[CoreChannel, RequestMessage]] = deque()
        # Those with a priority: they are answered first.
        self._urgent: deque[tuple[CoreChannel, RequestMessage]] = deque()
        self._unsent = 0
        # What of it, and of the multiplexer's own messages, is being written.
        self._sending = 0
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
        return self._channels.cores

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Replicate until the stream ends, the peer is dropped, or this is cancelled.

        The stream is closed then. A peer that breaks the rules is a line in the log and
        `failure`, not an exception.
        """
        self._driver.links.add(self)
        self._driver.start_connecting()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            self._driver.links.discard(self)
            self._driver.partial_frames.note(self, 0)
            self._driver.unsent.note(self, 0)
            # Now, and not when somebody collects garbage.
            self._secure.close()
            self._settle()
            self._ended.set()
            if not isinstance(self.failure, CorestoreError):
                self._driver.left(self._served.recent(trio.current_time()))
            self._channels.end()
            # Forcefully: what could be said at the end of the stream, nobody waits for.
            await trio.aclose_forcefully(self._stream)

    def carries(self, stream: trio.abc.Stream) -> bool:
        """Whether this link is the one of *stream*."""
        return self._stream is stream

    @property
    def ending(self) -> bool:
        """Whether it has ended, or was told to."""
        return self._scope.cancel_called or self._ended.is_set()

    def attach(self, only: CoreState | None) -> None:
        """Carry *only* too, or every core of the store (None); nothing if that is so already."""
        self._channels.attach(only)

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
            self._driver.stop_connecting()

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

    def open_channel(self, state: CoreState) -> None:
        """Offer the peer to talk about this core; nothing if that was done a moment ago."""
        self._channels.open(state)

    def close_channel(self, state: CoreState) -> None:
        """End the conversation about this core, if there is one."""
        self._channels.close(state)

    def close_idle(self, state: CoreState) -> None:
        """End the conversation about this core if neither side wants anything of it."""
        self._channels.close_idle(state)

    def tick(self, now: float) -> None:
        """Some time has passed: a peer that does not answer is not waited for, one that has not
        given a sign of life for long is let go."""
        # After a time in which nothing ran, the reader has its turn first: what came may lie there.
        ran = now - self._ticked < SILENCE_SECONDS / 2
        self._ticked = now
        if self.established and ran and now - self._waiting_since >= SILENCE_SECONDS:
            self.stop(trio.BrokenResourceError(f"nothing heard for {SILENCE_SECONDS} seconds"))
        self._channels.tick(now)

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
        buffer = self._secure.receive_buffer()
        count = await receive_into(stream, buffer)
        self._waiting_since = math.inf
        if not count:
            return False
        self.allowance.read(full=count == len(buffer) >= GREATEST_READ_BYTES)
        self.bytes_received += count
        self._driver.bytes_received += count
        turn = self._begin_turn()
        for event in self._secure.received(count):
            match event:
                case MessageReceived(plain):
                    for received in self._mux.receive(plain):
                        state = self._channels.handle(received, turn.now)
                        if state is not None:
                            turn.touched.add(state)
                        if perf_counter() > turn.ends:
                            self._end_turn(turn)
                            self._check_unsent()
                            await trio.lowlevel.checkpoint()
                            turn = self._begin_turn()
                case HandshakeDone(handshake_hash, remote_public_key):
                    self.remote_public_key = remote_public_key
                    self.established = True
                    self._channels.begin(handshake_hash)
                    self._settle()
        self._end_turn(turn)
        self._check_unsent()
        self._driver.partial_frames.note(self, self._secure.incoming_bytes)
        return True

    def _begin_turn(self) -> _Turn:
        self._mux.cork()
        return _Turn(trio.current_time(), perf_counter() + SLICE_SECONDS)

    def _end_turn(self, turn: _Turn) -> None:
        for state in turn.touched:
            self._driver.heard(state)
            self._channels.close_idle(state)
        self._mux.uncork()
        self._wake.set()

    def _check_unsent(self) -> None:
        """Answers to what the peer sends, rejected channels above all, wait until it reads.

        Raises:
          LimitExceeded: it does not.
        """
        unsent = self._mux.outgoing_bytes
        if unsent > MAX_UNSENT_BYTES:
            raise LimitExceeded("the peer does not read what it is sent")
        self._hold(unsent)

    def _hold(self, unsent: int) -> None:
        """So many bytes of small messages wait, with those being written, and requests."""
        waiting = len(self._requests) + len(self._urgent)
        self._driver.unsent.note(self, unsent + self._sending + REQUEST_BYTES * waiting)

    # -- writing ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """See `Carrier`."""
        self._wake.set()

    def send(self, channel: CoreChannel, message: Message) -> None:
        """See `Carrier`."""
        if channel.channel is None:
            return
        kind, body = messages.encode(message)
        channel.channel.send(kind, body)
        self._unsent += len(body)
        if self._unsent > MAX_UNSENT_BYTES:
            self.stop(LimitExceeded("the peer does not read what it is sent"))
        elif self._unsent >= LARGE_BYTES:
            self._hold(self._unsent)
        self._wake.set()

    def serve(self, channel: CoreChannel, request: RequestMessage) -> None:
        """See `Carrier`."""
        (self._urgent if request.priority else self._requests).append((channel, request))
        if len(self._requests) + len(self._urgent) > MAX_QUEUED_REQUESTS:
            self.stop(LimitExceeded(f"more than {MAX_QUEUED_REQUESTS} requests at once"))
        self._wake.set()

    @trio.lowlevel.enable_ki_protection
    async def _write(self) -> None:
        try:
            while True:
                self._wake = trio.Event()
                outgoing = await self._gather()
                self._hold(self._unsent)
                if outgoing:
                    await self._stream.send_all(outgoing)
                    self.bytes_sent += len(outgoing)
                    self._driver.bytes_sent += len(outgoing)
                    # It reads: with what else waits for it, it is behind all that do not.
                    self._sending = 0
                    self._driver.unsent.note(self, 0)
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
            # Without blocks: answers are made below and taken at once.
            self._sending += self._mux.outgoing_bytes
            if self._requests or self._urgent:
                self._answer_some(CHUNK_BYTES - size)
            self._unsent = 0
            for frame in self._mux.data_to_send():
                self._secure.send(frame)
            for part in self._secure.data_to_send():
                parts.append(part)
                size += len(part)
            if size >= CHUNK_BYTES or not (self._requests or self._urgent):
                return b"".join(parts)
            await trio.lowlevel.checkpoint()

    def _answer_some(self, room: int) -> None:
        """Answer requests until there are no more, *room* bytes are used, or the turn is over."""
        turn = self._begin_turn()
        requests, urgent = self._requests, self._urgent
        while (requests or urgent) and room > 0 and perf_counter() < turn.ends:
            entry, request = (urgent or requests).popleft()
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
