"""Stores and links for tests: open, connected, and with disks that can fail."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager

import trio
import trio.testing

import corestore
from corestore.replication import messages
from corestore.storage.memory import MemoryStorage
from corestore.wire.mux import Mux
from corestore.wire.secretstream import HandshakeDone, SecureStream
from tests.support.limits import HANG_SECONDS


async def fill(core, count, *, size=100, start=0):
    """Append *count* blocks that differ, of *size* bytes."""
    await core.append(*[block(index, size) for index in range(start, start + count)])


def block(index, size=100):
    """The bytes of block *index*, as `fill` makes them."""
    text = b"block %d " % index
    return (text * math.ceil(size / len(text)))[:size]


async def eventually(condition):
    """Give other tasks their turns until *condition* holds (they must not need to sleep)."""
    with trio.fail_after(HANG_SECONDS):
        while not condition():
            await trio.testing.wait_all_tasks_blocked()
            if not condition():
                await trio.sleep(0.001)


@asynccontextmanager
async def linked(left, right, *, streams=None):
    """Replicate two stores over a stream in memory while the block runs.

    *streams* is a pair to use instead. The block begins when both have shaken hands.
    """
    near, far = streams or trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def run(store, stream, initiator, task_status):
            await store.replicate(stream, initiator=initiator, task_status=task_status)

        async with trio.open_nursery() as starting:
            starting.start_soon(nursery.start, run, left, near, True)
            starting.start_soon(nursery.start, run, right, far, False)
        yield near, far
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def two_stores(*, count=0, size=100):
    """(writer's store, reader's store, writer's core of *count* published blocks)."""
    async with corestore.open(None) as writing, corestore.open(None) as reading:
        core = await writing.get(name="log")
        await fill(core, count, size=size)
        await writing.sync()
        yield writing, reading, core


class FaultyStorage(MemoryStorage):
    """A store in memory whose steps can be made to fail or to take (virtual) time.

    `errors` maps the name of a method to the exception it raises, once; `log` are the names of the
    steps of syncs in the order they were made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.errors = {}
        self.log = []
        # Waited for, in the thread, by `flush`: hold a sync here.
        self.hold = None
        # Set when the first sync begins.
        self.syncing = trio.Event()

    def _step(self, name):
        self.log.append(name)
        error = self.errors.pop(name, None)
        if error is not None:
            raise error

    def commit(self, commits):
        self._step("commit")
        super().commit(commits)

    def begin_sync(self):
        self._step("begin_sync")
        self.syncing.set()
        return super().begin_sync()

    def flush(self, ticket):
        if self.hold is not None:
            self.hold.wait()
        self._step("flush")

    def mark_synced(self, ticket):
        self._step("mark_synced")

    def flush_log(self, ticket):
        self._step("flush_log")

    def finish_sync(self, ticket):
        self._step("finish_sync")
        super().finish_sync(ticket)


@asynccontextmanager
async def open_with(storage, *, sync="group"):
    """A store over *storage*, as `corestore.open` makes one."""
    async with corestore.store.running(
        corestore.store.Corestore(storage, corestore.SyncPolicy(sync), None)
    ) as store:
        yield store


class RawPeer:
    """A peer without a machine: what it says is up to the test. Initiator of the handshake."""

    def __init__(self, stream) -> None:
        self.stream = stream
        self.secure = SecureStream(True, corestore.KeyPair.generate())
        self.mux = Mux()
        self.handshake_hash = None
        self.events = []

    async def flush(self):
        for frame in self.mux.data_to_send():
            self.secure.send(frame)
        await self.stream.send_all(b"".join(self.secure.data_to_send()))

    async def receive(self):
        """Read once; False at the end of the stream."""
        data = await self.stream.receive_some()
        for event in self.secure.receive_data(data):
            if isinstance(event, HandshakeDone):
                self.handshake_hash = event.handshake_hash
            else:
                self.events += self.mux.receive(event.plain)
        return bool(data)

    async def shake_hands(self):
        await self.flush()
        while self.handshake_hash is None:
            assert await self.receive(), "the stream ended in the handshake"
        await self.flush()

    async def wait_for(self, kind):
        """The next event of this kind; what comes before it is dropped. None at the end."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if isinstance(event, kind):
                    return event
            if not await self.receive():
                return None

    def open(self, core, *, key=None):
        """Open the channel of a core, proving knowledge of *key* (the right one by default)."""
        proof = messages.capability(key or core.key, self.handshake_hash, initiator=True)
        handshake = messages.encode_handshake(messages.OpenHandshake(proof))
        return self.mux.open(messages.PROTOCOL, core.discovery_key, handshake, messages.ALIASES)

    def send(self, channel, message):
        channel.send(*messages.encode(message))
