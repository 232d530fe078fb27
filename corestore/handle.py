"""`CoreHandle`: what a handle on a core is whatever its blocks mean and whoever signs it.

A handle is open from the moment it exists until `aclose`, or until its store closes. Handles on the
same core share everything but their lifetime; a snapshot also keeps its length. What takes the
secret key is `OwnerHandle`'s, reading and appending `Hypercore`'s, which is what one gets.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import trio

from corestore import tree
from corestore.channels import ANSWER_SECONDS
from corestore.checking import check
from corestore.commit import Commit, Run
from corestore.encoding import MAX_SAFE_INTEGER
from corestore.errors import NotWritable
from corestore.keys import KeyPair
from corestore.link import HANDSHAKE_SECONDS, replicate
from corestore.manifest import signed_bytes
from corestore.obtaining import while_obtainable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from corestore.checking import Findings
    from corestore.conflict import ForkEvidence
    from corestore.driver import Driver
    from corestore.events import CoreEvent, Subscription
    from corestore.keys import DiscoveryKey, Key
    from corestore.lease import Reason
    from corestore.manifest import Manifest
    from corestore.replication.actions import Settle, Ticket
    from corestore.state import CoreState
    from corestore.tree import Head, Proof, Request, TreeBatch


# How long `update` waits for who has just connected: for the handshake, and for the answer whether
# the core is known there.
CONNECTING_SECONDS: Final = HANDSHAKE_SECONDS + ANSWER_SECONDS


@dataclass(frozen=True, slots=True)
class CoreStatistics:
    """Numbers about one core, at one moment.

    `blocks_received` and `blocks_sent` count since the core was opened; `store_bytes_received` is
    what has come over all links of its store, for whatever core. `stopped`: its key has
    signed two histories (`Hypercore.conflict`). `held_for`: why nothing is signed here, if so.
    """

    length: int
    byte_length: int
    fork: int
    contiguous_length: int
    published_length: int
    blocks_held: int
    blocks_received: int
    blocks_sent: int
    peers: int
    stopped: bool = False
    held_for: Reason | None = None
    store_bytes_received: int = 0


class CoreHandle:
    """A handle on a core of an open store, but for what its blocks mean. Never made by itself."""

    def __init__(self, driver: Driver, state: CoreState, *, snapshot: Head | None = None) -> None:
        self._driver = driver
        self._state = state
        self._snapshot = snapshot
        self._cuts_before = len(state.cuts)
        self._hints: deque[Ticket] = deque()
        # What tasks wait for through this handle.
        self._waits: set[Ticket] = set()
        self._closed = False
        driver.add_handle(state)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Hypercore {self.key} fork={self.fork} length={self.length}>"

    async def aclose(self) -> None:
        """Close this handle; others on the same core stay open. Idempotent, does not sync."""
        if not self._closed:
            self._closed = True
            for ticket in (*self._hints, *self._waits):
                self._driver.abandon(self._state, ticket)
            self._driver.remove_handle(self._state)
            self._state.changed.unpark_all()
        await trio.lowlevel.checkpoint()

    # -- what it is --------------------------------------------------------------------------------

    @property
    def key(self) -> Key:
        """Names the core, lets one read it, verifies everything in it."""
        return self._state.key

    @property
    def discovery_key(self) -> DiscoveryKey:
        """Names the core to strangers: the topic to join."""
        return self._state.discovery_key

    @property
    def manifest(self) -> Manifest | None:
        """Who may sign; None until a peer has told."""
        return self._state.manifest

    @property
    def writable(self) -> bool:
        """Whether the secret key is here (and this is no snapshot)."""
        return self._state.writable and self._snapshot is None

    @property
    def length(self) -> int:
        """Blocks in the log: committed ones, whether held or not."""
        return self._head.length

    @property
    def byte_length(self) -> int:
        """Bytes in the log, as its readers count them: before encryption, if the key is here."""
        head = self._head
        return head.byte_length - self._state.padding * head.length

    @property
    def encryption_key(self) -> bytes | None:
        """What the blocks are encrypted with, as far as known here: a secret of the readers.

        Of an encrypted core without it, blocks are read as they are stored.
        """
        return self._state.encryption_key

    @property
    def fork(self) -> int:
        """How often the log was truncated."""
        return self._head.fork

    @property
    def contiguous_length(self) -> int:
        """Blocks held from the first on, without a gap."""
        return min(self._state.contiguous_length, self._head.length)

    @property
    def cuts(self) -> int:
        """How often the log was cut, by truncations and otherwise, while it was open here."""
        return len(self._state.cuts)

    def uncut_length(self, since: int) -> int:
        """Blocks below it are those they were when `cuts` was *since*, or were not there."""
        return min(self._state.cuts[since:], default=MAX_SAFE_INTEGER)

    @property
    def published_length(self) -> int:
        """Blocks that are durable and may be shown to peers."""
        return self._state.published.length

    @property
    def peers(self) -> list[bytes]:
        """The public keys of the peers that have this core's channel open."""
        return list(self._state.peers.values())

    @property
    def _head(self) -> Head:
        return self._state.head if self._snapshot is None else self._snapshot

    def tree_hash(self, length: int | None = None) -> bytes:
        """The hash that stands for the first *length* blocks (all of them unless given).

        Two copies of a core with the same key and fork agree on it.

        Raises:
          ValueError: the log is shorter.
          LookupError: a sparse copy may not know the shorter log's roots.
        """
        return self._at(length).tree_hash()

    def signable(self, length: int | None = None) -> bytes:
        """What was, or would be, signed of the first *length* blocks (all of them unless given).

        In a core with a manifest of version 0 each signer signs something else: this is the first
        one's.

        Raises:
          ValueError: the log is shorter.
          LookupError: as `tree_hash`.
        """
        manifest = self._state.signing_manifest
        return signed_bytes(manifest, self.key, manifest.signers[0], self._at(length))

    def proof(self, request: Request) -> Proof:
        """What convinces somebody who has only the key of what *request* asks for.

        Made of what is published, so it may be given away; blocks in it are as they are stored.

        Raises:
          InvalidRequest: a ValueError: it asks for what is not in the log, or for another fork.
          BlockNotAvailable: a block or a tree node it takes is not held here.
        """
        state = self._state
        head = state.published
        if request.fork != head.fork or head.length == 0:
            raise tree.InvalidRequest(f"{head.length} blocks are published, on fork {head.fork}")
        prologue = None if state.manifest is None else state.manifest.prologue
        length = 0 if prologue is None else prologue.length
        return tree.build(request, head, nodes=state, block=state.block, prologue_length=length)

    def _at(self, length: int | None) -> TreeBatch:
        head = self._head
        length = head.length if length is None else length
        return tree.truncate(head, length, head.fork, nodes=self._state)

    # -- what is here, and what comes --------------------------------------------------------------

    def has(self, start: int, end: int | None = None) -> bool:
        """Whether block *start*, or every block of `start..end`, is held here."""
        end = start + 1 if end is None else end
        return start >= 0 and self._state.bitfield.has_all(start, end)

    def offered(self, index: int) -> bool:
        """Whether a peer whose channel is open has told that it has block *index*; a hint, not
        truth."""
        replicator = self._state.replicator
        return any(replicator.peer_has(peer, index, index + 1) for peer in self._state.peers)

    def held(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges of blocks of `start..end` that are held here, half open, in order. The core
        must not change while the iterator is in use."""
        self._check_open()
        return self._state.bitfield.runs(start, min(end, self._head.length))

    def held_byte_length(self, start: int, end: int) -> int:
        """How many bytes the blocks of `start..end` that are held here take."""
        state, total = self._state, 0
        for low, high in self.held(start, end):
            for index in range(low, high):
                leaf = state.node(2 * index)
                total += 0 if leaf is None else leaf.size
        return total

    async def update(self) -> bool:
        """Ask the peers whether the log grew; whether it did.

        Waits until each peer connected now has answered. While somebody looks for peers
        (`finding_peers`), it goes on waiting: so a fresh reader hears of the writer's length. For
        those who connect meanwhile, or do not say whether they have the core, it waits for 15 s.

        Raises:
          OSError, StorageError: it has grown, and that cannot be stored.
        """
        state = self._state
        before = (state.head.fork, state.head.length)
        end = trio.current_time() + CONNECTING_SECONDS
        with self._driver.wanting(state):
            while True:
                self._check_open()
                # Before asking: who is found while we wait to be woken was not asked.
                looking = self._looks_for_peers(end)
                await self._wait(state.replicator.want_upgrade())
                if (state.head.fork, state.head.length) != before:
                    return True
                if not looking:
                    return False
                if self._looks_for_peers(end):
                    timed = not self._driver.finds_peers(state)
                    with trio.CancelScope(deadline=end if timed else math.inf):
                        await state.changed.park()

    def _looks_for_peers(self, end: float) -> bool:
        """Whether there may be peers soon who are worth waiting for. Strangers can connect, and say
        nothing, again and again: for them until *end*."""
        if trio.current_time() < end:
            return self._driver.expects_peers(self._state)
        return self._driver.finds_peers(self._state)

    async def wait_length(self, length: int) -> int:
        """Wait until the log has at least *length* blocks; returns how many it has.

        Raises:
          ValueError: this is a snapshot, and shorter.
          ForkConflict, StorageError: as `wait_until`.
        """
        if self._snapshot is not None and self._snapshot.length < length:
            raise ValueError(f"a snapshot of {self._snapshot.length} blocks does not grow")
        await trio.lowlevel.checkpoint()
        with self._driver.wanting(self._state):
            while self._head.length < length:
                self._check_open()
                self._check_goes_on()
                await self._state.changed.park()
        return self._head.length

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds. It is asked again whenever the core has changed: its log,
        its manifest, which blocks are held, who its peers are.

        Raises:
          ForkConflict: the core is stopped.
          StorageError: nothing can be stored any more.
        """
        await trio.lowlevel.checkpoint()
        with self._driver.wanting(self._state):
            while not condition():
                self._check_open()
                self._check_goes_on()
                await self._state.changed.park()

    async def wait_peers(self, count: int = 1) -> None:
        """Wait until at least *count* peers have this core's channel open."""
        await trio.lowlevel.checkpoint()
        with self._driver.wanting(self._state):
            while len(self._state.peers) < count:
                self._check_open()
                await self._state.changed.park()

    async def download(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        blocks: Iterable[int] | None = None,
        live: bool = False,
        obtainable: bool = False,
    ) -> None:
        """Fetch blocks `start..end`, or *blocks*, and return when all are held.

        *end* None is the length now; *live*: whatever comes as well, for ever. *obtainable*: what
        no peer has is not waited for, but a peer is. Cancelling stops the fetching; what arrived
        stays.

        Raises:
          ValueError: a negative index, or *live* and *obtainable* together.
          OSError, StorageError: what comes cannot be stored.
        """
        self._check_open()
        if live and obtainable:
            raise ValueError("what will come can be had from nobody yet")
        if end is None and not live:
            end = self.length
        wanted = None if blocks is None else sorted(set(blocks))
        check_index(start if wanted is None else min(wanted, default=0))
        ticket = self._state.replicator.want_range(start, end, blocks=wanted)
        if obtainable:
            sought = range(start, end or start) if wanted is None else wanted
            async with while_obtainable(self._state, sought):
                await self._wait(ticket)
        else:
            await self._wait(ticket)

    async def _wait(self, *tickets: Ticket) -> list[Settle]:
        self._waits.update(tickets)
        try:
            return await self._driver.wait(self._state, *tickets)
        finally:
            self._waits.difference_update(tickets)

    # -- whether it goes on ------------------------------------------------------------------------

    @property
    def held_for(self) -> Reason | None:
        """Why nothing is signed here before `recover`, if so."""
        hold = self._state.lease.hold
        return None if hold is None else hold.reason

    @property
    def conflict(self) -> ForkEvidence | None:
        """The evidence that the key has signed two histories; the core is stopped then."""
        return self._state.lease.evidence

    # -- changing it -------------------------------------------------------------------------------

    async def clear(self, start: int, end: int) -> int:
        """Forget the bytes of blocks `start..end` here; they can be fetched again from peers.
        Returns how many bytes that gives back.

        Raises:
          ValueError: a negative index.
          StorageLocked: another process writes this core.
        """
        return await self.clear_runs(((start, end),))

    async def clear_runs(self, runs: Iterable[tuple[int, int]]) -> int:
        """Forget several ranges of blocks in one commit, which costs one flush; returns how many
        bytes that gives back. Raises as `clear`."""
        self._check_open()
        state = self._state
        runs = list(runs)
        check_index(min((start for start, _ in runs), default=0))
        async with state.commit_lock:
            cleared = tuple(
                Run(*held, False)
                for start, end in runs
                for held in state.bitfield.runs(start, min(end, state.head.length))
            )
            if not cleared:
                return 0
            size = sum(self.held_byte_length(run.start, run.end) for run in cleared)
            self._driver.commit([(state, Commit(runs=cleared))])
            return size

    async def check(self, start: int = 0, end: int | None = None) -> Findings:
        """Compare the stored blocks `start..end` with their hashes: those the disk has damaged.

        They are forgotten, as by `clear`; so are those it fails to read, but of a core that is
        written here. Raises StorageLocked as that, OSError.
        """
        self._check_open()
        return await check(self._driver, self._state, start, self.length if end is None else end)

    def user_data(self, key: str) -> bytes | None:
        """A value kept with this core in the local store, or None. Never shown to peers."""
        self._check_open()
        return self._state.storage.user_data(key)

    async def set_user_data(self, key: str, value: bytes | None) -> None:
        """Set or delete (None) such a value, in a commit of its own."""
        self._check_open()
        async with self._state.commit_lock:
            self._driver.commit([(self._state, Commit(user_data={key: value}))])

    # -- what happens to it, and peers -------------------------------------------------------------

    def events(self) -> Subscription[CoreEvent]:
        """Subscribe to what happens to this core from now on: use it in `with`."""
        self._check_open()
        return self._state.events.subscribe()

    async def replicate(
        self,
        stream: trio.abc.Stream,
        *,
        initiator: bool,
        key_pair: KeyPair | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """As `Corestore.replicate`, for this core alone. Raises as that."""
        self._check_open()
        await replicate(
            self._driver,
            stream,
            initiator=initiator,
            key_pair=key_pair or KeyPair.generate(),
            only=self._state,
            task_status=task_status,
        )

    @contextmanager
    def finding_peers(self) -> Iterator[None]:
        """While held, peers of this core are being looked for, and `update` waits for them."""
        state = self._state
        state.finding += 1
        try:
            yield
        finally:
            state.finding -= 1
            state.changed.unpark_all()

    def statistics(self) -> CoreStatistics:
        """Numbers about this core."""
        state = self._state
        replication = state.replicator.statistics()
        return CoreStatistics(
            length=self.length,
            byte_length=self.byte_length,
            fork=self.fork,
            contiguous_length=self.contiguous_length,
            published_length=state.published.length,
            blocks_held=state.bitfield.count(0, state.head.length),
            blocks_received=replication.blocks_received,
            blocks_sent=replication.blocks_served,
            peers=len(state.peers),
            stopped=state.lease.evidence is not None,
            held_for=self.held_for,
            store_bytes_received=self._driver.bytes_received,
        )

    def _check_goes_on(self) -> None:
        """Raises ForkConflict or StorageError if nothing will ever come any more."""
        conflict = self._state.lease.conflict(self.key)
        if conflict is not None:
            raise conflict
        self._driver.sync_group.check()

    def _check_open(self) -> None:
        if self._closed or self._driver.closed:
            raise trio.ClosedResourceError("this core is closed")

    def _writable_state(self) -> CoreState:
        self._check_open()
        if self._snapshot is not None:
            raise NotWritable("a snapshot cannot be written")
        if not self._state.writable:
            raise NotWritable(f"the secret key of core {self.key} is not here")
        return self._state


def check_index(index: int) -> None:
    """Raises ValueError for a negative index, which is no block's."""
    if index < 0:
        raise ValueError(f"there is no block {index}")
