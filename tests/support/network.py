"""A network of replication machines on virtual time: seeded, without trio, without sockets.

A `Site` is one copy of a core with its machine and a driver of a dozen lines; a `Network` joins
sites by links with latency and bandwidth and runs events in order of time. Messages are encoded
and decoded on the way, so that sizes are real. Faults are switches of a site or
subclasses of it.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from corestore import crypto
from corestore.bitfield import Bitfield
from corestore.keys import Key, KeyPair
from corestore.manifest import Manifest, ManifestVerifier, manifest_key, sign
from corestore.replication.actions import (
    CommitBatch,
    Confirmed,
    Conflict,
    Drop,
    Overtaken,
    Send,
    Serve,
    Settle,
    WakeAt,
)
from corestore.replication.machine import Replicator
from corestore.replication.messages import Data, Message, NoData, decode, encode
from corestore.tree import batch as tree
from corestore.tree import flat
from corestore.tree.types import EMPTY_HEAD, Head, Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from corestore.errors import CorestoreError
    from corestore.replication.actions import Outcome, PeerId, Ticket
    from corestore.tree.types import Verifier

# What a channel takes before serving waits, as a link's outgoing buffer would.
SEND_BUFFER = 256 * 1024


class MemoryCore:
    """A core in dictionaries: the `CoreView` of a machine. Writable with a key pair."""

    def __init__(self, key: Key, key_pair: KeyPair | None = None) -> None:
        self.key = key
        self.key_pair = key_pair
        self.head: Head = EMPTY_HEAD
        self.published: Head = EMPTY_HEAD
        self.manifest: Manifest | None = None
        self.bitfield = Bitfield()
        self.nodes: dict[int, Node] = {}
        self.blocks: dict[int, bytes] = {}
        if key_pair is not None:
            self.manifest = Manifest.default(key_pair.public_key)

    @classmethod
    def create(cls, seed: int = 0, *, compat: bool = False) -> MemoryCore:
        """A new writable core."""
        pair = KeyPair.from_seed(seed.to_bytes(32, "little"))
        key = Key(pair.public_key) if compat else manifest_key(Manifest.default(pair.public_key))
        return cls(key, pair)

    @property
    def writable(self) -> bool:
        return self.key_pair is not None

    def node(self, index: int) -> Node | None:
        return self.nodes.get(index)

    def block(self, index: int) -> bytes | None:
        return self.blocks.get(index)

    def verifier(self, manifest: Manifest) -> Verifier:
        return ManifestVerifier(manifest, self.key)

    def append(self, *blocks: bytes, publish: bool = True) -> None:
        """Append as the signer."""
        self._change(tree.append(self.head, blocks))
        if publish:
            self.published = self.head

    def truncate(self, length: int, fork: int) -> None:
        """Truncate as the signer."""
        self._change(tree.truncate(self.head, length, fork, nodes=self))
        self.published = self.head

    def _change(self, batch: tree.TreeBatch) -> None:
        assert self.key_pair is not None
        assert self.manifest is not None
        before = self.head
        self.head = batch.head(sign(self.manifest, self.key, self.key_pair, batch))
        if batch.length < before.length:
            self._cut(batch.length, before.length)
        self.nodes.update((node.index, node) for node in batch.nodes)
        for stored in batch.blocks:
            self.blocks[stored.index] = bytes(stored.data)
        if batch.length > before.length:
            self.bitfield.set(before.length, batch.length)

    def _cut(self, length: int, before: int) -> None:
        self.bitfield.set(length, before, False)
        self.blocks = {i: b for i, b in self.blocks.items() if i < length}
        keep = {root.index for root in self.head.roots}
        self.nodes = {
            i: n for i, n in self.nodes.items() if flat.right_span(i) < 2 * length or i in keep
        }

    def commit(self, commit: CommitBatch) -> None:
        """Write what a peer proved."""
        batch = commit.batch
        if batch.truncate is not None:
            length = self.head.length
            assert batch.head is not None
            self.head = batch.head
            self._cut(batch.truncate, max(length, batch.truncate))
        self.nodes.update((node.index, node) for node in batch.nodes)
        if batch.head is not None:
            assert batch.truncate is not None or batch.head.length > self.head.length
            self.head = batch.head
            if not self.writable:
                self.published = batch.head
        if batch.block is not None:
            index, value = batch.block
            assert index < self.head.length
            self.blocks[index] = value
            self.bitfield.set(index, index + 1)
        if commit.manifest is not None:
            self.manifest = commit.manifest

    def check(self) -> None:
        """Every block held is proven by the tree: hash all of them up to a root."""
        for index, value in self.blocks.items():
            assert self.bitfield.get(index)
            node = Node(2 * index, len(value), crypto.leaf_hash(value))
            roots = {root.index: root for root in self.head.roots}
            while node.index not in roots:
                assert self.nodes[node.index] == node
                other = self.nodes[flat.sibling(node.index)]
                left, right = sorted((node, other))
                size = node.size + other.size
                digest = crypto.parent_hash(size, left.hash, right.hash)
                node = Node(flat.parent(node.index), size, digest)
            assert roots[node.index] == node


@dataclass(eq=False)
class Link:
    """One direction of a connection between two sites."""

    source: Site
    target: Site
    latency: float
    bandwidth: float
    source_peer: PeerId
    target_peer: PeerId
    free_at: float = 0.0
    queued: int = 0
    open: bool = True
    serving: deque[Serve] = field(default_factory=deque)
    back: Link | None = None


class Site:
    """One copy of a core, its machine, and a driver. Subclasses misbehave."""

    def __init__(self, network: Network, core: MemoryCore, *, commit_delay: float = 0.0) -> None:
        self.network = network
        self.core = core
        self.machine = Replicator(core.key, core, rng=random.Random(network.rng.random()))
        self.links: dict[PeerId, Link] = {}
        self.settled: dict[Ticket, Settle] = {}
        self.dropped: list[tuple[PeerId, CorestoreError]] = []
        self.dropped_sites: list[Site] = []
        self.conflicts: list[Conflict] = []
        self.overtaken: list[Overtaken] = []
        self.confirmed = 0
        self.received: list[Message] = []
        self.sent: list[Message] = []
        self.commit_delay = commit_delay
        self.silent = False
        # Bytes per second for all links together.
        self.uplink = 1e9
        self.uplink_free_at = 0.0
        self.disk_full = False
        self._queue: list[CommitBatch] = []
        network.sites.append(self)

    def outcome(self, ticket: Ticket) -> Outcome | None:
        settled = self.settled.get(ticket)
        return None if settled is None else settled.outcome

    def append(self, *blocks: bytes) -> None:
        """Append, publish and tell the peers."""
        before = self.core.head.length
        self.core.append(*blocks)
        self.machine.stored(before, self.core.head.length)
        self.machine.published(self.core.published)
        self.drain()

    def truncate(self, length: int) -> None:
        """Truncate to a new fork, publish and tell the peers."""
        self.core.truncate(length, self.core.head.fork + 1)
        self.machine.published(self.core.published)
        self.drain()

    def drain(self) -> None:
        now = self.network.now
        while actions := self.machine.actions(now):
            for action in actions:
                match action:
                    case Send(peer, message):
                        self.send(peer, message)
                    case Serve(peer, _):
                        if peer in self.links and not self.silent:
                            self.links[peer].serving.append(action)
                            self.network.call(0.0, self._serve, self.links[peer])
                    case CommitBatch():
                        if not self._queue:
                            self.network.call(self.commit_delay, self._commit)
                        self._queue.append(action)
                    case Settle(ticket):
                        assert ticket not in self.settled
                        self.settled[ticket] = action
                    case Drop(peer, reason):
                        self.dropped.append((peer, reason))
                        if peer in self.links:
                            self.dropped_sites.append(self.links[peer].target)
                            self.network.disconnect(self.links[peer])
                    case Conflict():
                        self.conflicts.append(action)
                        for link in list(self.links.values()):
                            self.network.disconnect(link)
                    case Overtaken():
                        self.overtaken.append(action)
                    case Confirmed():
                        self.confirmed += 1
                    case WakeAt(time):
                        self.network.call(time - now, self._tick)

    def send(self, peer: PeerId, message: Message) -> None:
        if peer in self.links:
            self.sent.append(message)
            self.network.transmit(self.links[peer], message)

    def receive(self, peer: PeerId, message: Message) -> None:
        self.received.append(message)
        self.machine.receive(peer, message, self.network.now)
        self.drain()

    def answered(self, message: Message) -> Message:
        """What is sent instead of an honest answer."""
        return message

    def _serve(self, link: Link) -> None:
        while link.open and link.serving and link.queued < SEND_BUFFER:
            serve = link.serving.popleft()
            if self.silent:
                continue
            answer = self.machine.answer(serve.peer, serve.request, block=self.core.block)
            if answer is not None:
                self.send(serve.peer, self.answered(answer))
        self.drain()

    def _commit(self) -> None:
        queue, self._queue = self._queue, []
        if self.disk_full:
            for commit in queue:
                self.machine.refused(commit, OSError(28, "no space"))
        else:
            for commit in queue:
                self.core.commit(commit)
            for commit in queue:
                self.machine.committed(commit)
        self.drain()

    def _tick(self) -> None:
        self.machine.tick(self.network.now)
        self.drain()

    @property
    def complete(self) -> bool:
        length = self.core.head.length
        return self.core.bitfield.contiguous_length >= length > 0


class Liar(Site):
    """Corrupts the blocks it serves, from the *after*-th on."""

    after = 0
    _served = 0

    def answered(self, message: Message) -> Message:
        if isinstance(message, Data) and message.proof.block is not None:
            self._served += 1
            if self._served > self.after:
                message = corrupted(message)
        return message


class Shuffler(Site):
    """Answers requests in any order, which the protocol allows."""

    def _serve(self, link: Link) -> None:
        self.network.rng.shuffle(link.serving)
        super()._serve(link)


class Boaster(Site):
    """Announces all it knows of and serves nothing."""

    def answered(self, message: Message) -> Message:
        return NoData(message.id, 1) if isinstance(message, Data) else message


def corrupted(message: Data) -> Data:
    """The same answer with another block."""
    proof = message.proof
    assert proof.block is not None
    value = bytes(len(proof.block.value)) + b"!"
    return replace(message, proof=replace(proof, block=replace(proof.block, value=value)))


class Network:
    """Sites, links and virtual time."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.sites: list[Site] = []
        self.bytes = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = itertools.count()
        self._peers = itertools.count(1)

    def call(self, delay: float, function: Callable[..., None], *arguments: object) -> None:
        event = (self.now + delay, next(self._order), function, arguments)
        heapq.heappush(self._events, event)

    def connect(
        self, one: Site, two: Site, *, latency: float = 0.01, bandwidth: float = 50e6
    ) -> Link:
        """Open a channel between two sites; returns the direction from *one* to *two*."""
        first, second = next(self._peers), next(self._peers)
        there = Link(one, two, latency, bandwidth, first, second)
        back = Link(two, one, latency, bandwidth, second, first)
        there.back, back.back = back, there
        for link in (there, back):
            link.source.links[link.source_peer] = link
            link.source.machine.peer_opened(link.source_peer, seeks=True)
        one.drain()
        two.drain()
        return there

    def disconnect(self, link: Link) -> None:
        for half in (link, link.back):
            assert half is not None
            half.open = False
            half.source.links.pop(half.source_peer, None)
            half.source.machine.peer_closed(half.source_peer)
            self.call(0.0, half.source.drain)

    def transmit(self, link: Link, message: Message) -> None:
        type_, body = encode(message)
        size = len(body) + 21
        self.bytes += size
        link.queued += size
        source = link.source
        source.uplink_free_at = max(source.uplink_free_at, self.now) + size / source.uplink
        link.free_at = max(link.free_at, self.now) + size / link.bandwidth
        link.free_at = max(link.free_at, source.uplink_free_at)
        self.call(link.free_at - self.now, self._left, link, size)
        self.call(link.free_at + link.latency - self.now, self._arrive, link, type_, body)

    def _left(self, link: Link, size: int) -> None:
        link.queued -= size
        link.source._serve(link)

    def _arrive(self, link: Link, type_: int, body: bytes) -> None:
        if link.open:
            message = decode(type_, body)
            assert message is not None
            link.target.receive(link.target_peer, message)

    def run(self, until: Callable[[], bool] | None = None, *, seconds: float = 60.0) -> float:
        """Run until nothing happens, *until* is true, or so much virtual time has passed.

        Returns the virtual time it took.
        """
        start = self.now
        while self._events and self._events[0][0] <= start + seconds:
            if until is not None and until():
                break
            self.now, _, function, arguments = heapq.heappop(self._events)
            function(*arguments)
        return self.now - start
