"""Between the cores of one store and its links: commits, drains machines, wakes who waits.

The machines decide (`corestore.replication`), storage writes, links carry bytes; this module moves
values between the three. `drain` is called after every input to a machine and carries out what the
machine answers. What peers proved is queued and written by one task (`corestore.receiving`), many
batches to a transaction, so that a transaction's fixed cost is shared; links stop reading while the
queue is full.

Nothing here may fail because of a peer: what one sends ends, at the worst, in that peer's link
being dropped.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from corestore import events
from corestore.commit import Commit
from corestore.conflict import ForkEvidence
from corestore.durability import SyncGroup, SyncPolicy
from corestore.errors import CoreNotFound, StorageError
from corestore.events import ForkDetected, PeerAdded, PeerRemoved
from corestore.holdings import Holdings
from corestore.incoming import Incoming
from corestore.lease import EVIDENCE, HOLD, Reason
from corestore.passive import PASSIVE_CORES, PassiveCores
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
from corestore.state import CoreState
from corestore.timers import Timers
from corestore.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from corestore.keys import DiscoveryKey, KeyPair
    from corestore.ports import LinkHandle, Port
    from corestore.replication.actions import PeerId, Ticket
    from corestore.replication.peer import Allowance
    from corestore.storage.base import CoreRecord, CoreStorage, Storage, SyncTicket

logger: Final = logging.getLogger("corestore")

# So many peers may leave before their blocks were looked at; those of more are not.
MAX_SUSPECTS: Final = 16


@dataclass(frozen=True, slots=True)
class _Peer:
    """A channel that is open: whose core it is, and where messages go."""

    state: CoreState
    port: Port


class Driver:
    """All cores of one open store. `corestore.background.run` must be running for it."""

    def __init__(
        self,
        storage: Storage,
        policy: SyncPolicy,
        find_key_pair: Callable[[CoreRecord], KeyPair | None],
        *,
        cache_size: int = PASSIVE_CORES,
    ) -> None:
        self.storage = storage
        self.sync_group = SyncGroup(
            storage,
            policy,
            sign=self.sign_heads,
            published=self._synced,
            stopped=self._stopped,
        )
        self.states: dict[DiscoveryKey, CoreState] = {}
        # Those of them that nobody here has open.
        self._passive = PassiveCores(cache_size)
        self.links: set[LinkHandle] = set()
        self.partial_frames = Holdings("a large frame took too long")
        # Small messages, and requests that wait to be answered.
        self.unsent = Holdings("the peer does not read what it is sent")
        # How many look for peers of any core at the moment: `update` waits for them.
        self.finding = 0
        # How many streams have not shaken hands yet.
        self.connecting = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self._find_key_pair = find_key_pair
        self._peers: dict[PeerId, _Peer] = {}
        self._peer_ids = itertools.count(1)
        self._ranks = itertools.count(1)
        self.waiting = Waiting(self.drain, self._offer, self.sync_group.check)
        self.incoming = Incoming()
        self.timers = Timers(self._tick)
        # Blocks that a peer was sent before it left, by core.
        self._suspect, self.suspects = trio.open_memory_channel[Mapping[CoreState, Sequence[int]]](
            MAX_SUSPECTS
        )
        # Set when storage says that one is due.
        self.checkpoint_wanted = trio.Event()
        self.closed = False

    # -- cores ------------------------------------------------------------------------------------

    def find(self, discovery_key: DiscoveryKey) -> CoreState | None:
        """The core if this store knows it, loaded if it was not."""
        state = self.states.get(discovery_key)
        if state is None:
            known = self.storage.open_core(discovery_key)
            if known is not None:
                return self._load(known)
        else:
            self._passive.used(state)
        return state

    def find_for_peer(self, discovery_key: DiscoveryKey) -> CoreState | None:
        """As `find`, for a peer that asks; None too if peers ask for too many at once."""
        if discovery_key not in self.states and self._passive.full:
            logger.warning("peers ask for more cores at once than the cache of cores can bear")
            return None
        return self.find(discovery_key)

    def create(self, record: CoreRecord) -> CoreState:
        """The core of *record*, made known to the store if it was not."""
        stored = self.storage.create_core(record)
        self.sync_group.committed(publish=False)
        state = self.states.get(record.key.discovery_key)
        if state is None:
            return self._load(stored)
        state.learn(stored.record, self._find_key_pair(stored.record))
        return state

    def remove(self, discovery_key: DiscoveryKey) -> None:
        """Forget a core for good.

        Raises:
          ValueError: a handle on it is open.
          CoreNotFound: it is not known.
        """
        state = self.find(discovery_key)
        if state is None:
            raise CoreNotFound(f"no core with discovery key {discovery_key} is known here")
        if state.handles:
            raise ValueError(f"core {state.key} is open")
        self.sync_group.check()
        for link in tuple(self.links):
            link.close_channel(state)
        self.incoming.forget(state)
        self.storage.remove_core(discovery_key)
        del self.states[discovery_key]
        self._passive.discard(state)
        self.sync_group.committed(publish=False)

    def _load(self, stored: CoreStorage) -> CoreState:
        state = CoreState(stored, self._find_key_pair(stored.record))
        state.replicator.set_downloading(False)
        self.states[state.discovery_key] = state
        self._passive.add(state)
        return state

    def forget_surplus(self, *, channels: bool = False) -> None:
        """Forget passive cores beyond the cache's bound; see `PassiveCores.surplus`."""
        for state in self._passive.surplus(writing=self.incoming.cores, channels=channels):
            for link in tuple(self.links):
                link.close_channel(state)
            del self.states[state.discovery_key]
            self._passive.discard(state)
            state.events.close()
            self.storage.release_core(state.storage)

    def add_handle(self, state: CoreState) -> None:
        """A handle on *state* was opened: the core is wanted, on every link."""
        state.handles += 1
        if state.handles == 1:
            self._passive.discard(state)
            state.replicator.set_downloading(True)
            self._offer(state)
            self.drain(state)

    def _offer(self, state: CoreState) -> None:
        for link in tuple(self.links):
            link.open_channel(state)

    def remove_handle(self, state: CoreState) -> None:
        """A handle was closed; after the last one the core is only served."""
        state.handles -= 1
        if state.handles == 0 and not self.closed:
            state.replicator.set_downloading(False)
            self.drain(state)
            if self.states.get(state.discovery_key) is state:
                self._passive.add(state)
            for link in tuple(self.links):
                link.close_idle(state)
            self.forget_surplus()

    # -- commits ----------------------------------------------------------------------------------

    def commit(self, commits: Sequence[tuple[CoreState, Commit]]) -> None:
        """Write commits of ours, all or none, and show them to local readers.

        Peers see them after the next sync, those of later cores first. Does not wait. Heads may be
        unsigned: many commits share a sync, and one signature.

        Raises:
          OSError: the disk is full or broken; nothing was committed.
          StorageError: the store cannot be used any more, or another process is in the way.
        """
        if self.sync_group.policy is not SyncPolicy.GROUP:
            commits = [(state, state.complete(commit)) for state, commit in commits]
        self.write(commits)
        for state, commit in reversed(commits):
            state.publish_rank = next(self._ranks)
            for run in commit.runs:
                if run.held:
                    state.replicator.stored(run.start, run.end)
                else:
                    state.replicator.cleared(run.start, run.end)
            self.drain(state)
            if commit.truncate is not None and state.publish():
                # A truncation is durable when it is committed, and what it took is gone.
                self.published(state)
        self.sync_group.committed(publish=True)
        if self.sync_group.policy is SyncPolicy.NONE:
            for state, _ in reversed(commits):
                state.publish_unsynced()
                self.published(state)

    def keep_encryption_key(self, state: CoreState) -> None:
        """Keep the encryption key with the core if that is due; see `corestore.state`.

        A disk that refuses is no reason not to read: then the next block tries again.
        """
        commit = state.encryption_commit()
        if commit is not None:
            try:
                self.commit([(state, commit)])
            except (OSError, StorageError) as error:
                logger.warning("the encryption key of core %s is not kept: %s", state.key, error)

    def cut(self, state: CoreState, length: int) -> None:
        """Drop the unpublished tail of a core of ours, and sign what is left.

        Raises as `commit`, and ValueError if part of the tail is published.
        """
        self.sync_group.check()
        state.prepare_signing()
        if length == state.head.length:
            return
        self.storage.cut(state.storage, length)
        state.cut_to_stored()
        resigned = state.sign_commit()
        if resigned is not None:
            self.commit([(state, resigned)])

    def drop_tail(self, state: CoreState) -> None:
        """Drop what a core of ours has beyond what was published, without signing anything."""
        self.sync_group.check()
        self.storage.cut(state.storage, state.published.length)
        state.cut_to_stored()

    def sign_heads(self) -> list[CoreState]:
        """Sign the heads that were committed unsigned, where nothing forbids it; those signed.

        Raises as `commit`.
        """
        found = [self.find(core.record.key.discovery_key) for core in self.storage.unsigned()]
        commits = [(state, state.sign_commit()) for state in found if state is not None]
        wanted = [(state, commit) for state, commit in commits if commit is not None]
        if wanted:
            self.write(wanted)
        return [state for state, _ in wanted]

    def write(self, commits: Sequence[tuple[CoreState, Commit]]) -> None:
        """Write *commits*, all or none, and repeat them in memory; machines are told by the caller.

        Raises as `commit`.
        """
        self.sync_group.check()
        self.storage.commit([(state.storage, commit) for state, commit in commits])
        for state, commit in commits:
            state.apply(commit)
        if self.storage.checkpoint_due():
            self.checkpoint_wanted.set()

    def lay(self, state: CoreState, part: Commit) -> None:
        """Write blocks of an append of ours that is not committed yet. Raises as `commit`."""
        self.sync_group.check()
        self.storage.commit([(state.storage, part)])
        if self.storage.checkpoint_due():
            self.checkpoint_wanted.set()

    async def after_commit(self, *, turn: bool = True) -> None:
        """Wait, after a commit, for what the policy says must follow it; if that is nothing, give
        other tasks a *turn*."""
        if self.sync_group.policy is SyncPolicy.ALWAYS:
            await self.sync_group.sync()
        elif turn:
            # Cancelled before it was committed, or not at all.
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def sync(self) -> None:
        """Wait until everything committed before is durable and published."""
        await self.sync_group.sync()

    def _synced(self, ticket: SyncTicket) -> None:
        synced = [self.states.get(core.record.key.discovery_key) for core, _ in ticket.cores]
        known = [state for state in synced if state is not None]
        for state in sorted(known, key=lambda state: state.publish_rank):
            if state.publish():
                self.published(state)
        self.forget_surplus()

    def published(self, state: CoreState) -> None:
        """Peers may see another head of *state*, or fewer of its blocks: tell its machine."""
        state.replicator.published(state.published)
        self.drain(state)

    # -- machines ---------------------------------------------------------------------------------

    def drain(self, state: CoreState) -> None:
        """Carry out what the machine of *state* decided. Call after every input to it."""
        replicator = state.replicator
        peers = self._peers
        while actions := replicator.actions(trio.current_time()):
            for action in actions:
                match action:
                    case Send(peer, message):
                        if (found := peers.get(peer)) is not None:
                            found.port.send(message)
                    case Serve(peer, request):
                        if (found := peers.get(peer)) is not None:
                            found.port.serve(request)
                    case CommitBatch():
                        self.incoming.put(state, action)
                    case Settle():
                        self.waiting.settle(action)
                    case Drop(peer, reason):
                        if (found := peers.get(peer)) is not None:
                            found.port.drop(reason)
                    case Conflict():
                        self._stop_core(state, action)
                    case Overtaken(_, head):
                        logger.warning(
                            "core %s was written elsewhere: a peer has %d blocks, here are %d",
                            state.key,
                            head.length,
                            state.head.length,
                        )
                        state.events.send(events.Overtaken(head.length, head.fork))
                        state.changed.unpark_all()
                    case Confirmed():
                        self._confirmed(state)
                    case WakeAt(time):
                        self.timers.set(state, time)

    def _stop_core(self, state: CoreState, found: Conflict) -> None:
        """Two histories are signed: keep the evidence, say it, and speak of the core no more."""
        fork = found.theirs.fork
        evidence = ForkEvidence(fork, state.manifest, found.ours, found.theirs)
        state.lease.evidence = evidence
        logger.error(
            "core %s is stopped: its key has signed two histories of fork %d (%s); a peer (%s) has"
            " the other one, and the evidence is kept in the store",
            state.key,
            fork,
            found.error,
            state.peers.get(found.peer, b"").hex()[:16],
        )
        try:
            self.write([(state, Commit(user_data={EVIDENCE: evidence.encode()}))])
            self.sync_group.committed(publish=True)
        except (OSError, StorageError) as error:
            logger.error("the evidence against core %s is not kept: %s", state.key, error)
        state.events.send(ForkDetected(evidence))
        for link in tuple(self.links):
            link.close_channel(state)
        state.changed.unpark_all()

    def start_again(self, state: CoreState) -> None:
        """Speak of a core that was stopped again."""
        state.start_again()
        self._offer(state)
        self.drain(state)

    def _confirmed(self, state: CoreState) -> None:
        """The peers have no more of a core of ours than this store."""
        held = state.lease.hold
        if held is None or held.reason is not Reason.COPIED:
            return
        logger.info("core %s is written here again: its peers have no more of it", state.key)
        try:
            self.commit([(state, Commit(user_data={HOLD: None}))])
        except (OSError, StorageError) as error:
            logger.warning("core %s stays on hold: %s", state.key, error)

    def heard(self, state: CoreState) -> None:
        """A peer said something about *state*, or was answered: carry out what follows."""
        self._passive.used(state)
        self.drain(state)

    async def wait(self, state: CoreState, *tickets: Ticket) -> list[Settle]:
        """Wait until the machine of *state* has settled all *tickets*; cancelled, so are they.

        Raises:
          OSError, CorestoreError: what was fetched could not be stored, or nothing can any more.
          trio.ClosedResourceError: it was abandoned.
        """
        return await self.waiting.wait(state, *tickets)

    def wanting(self, state: CoreState) -> AbstractContextManager[None]:
        """While held, somebody waits for news of *state*: peers are asked for it, now and again.

        A peer may have closed the channel since, or may have got the core.
        """
        return self.waiting.wanting(state)

    def abandon(self, state: CoreState, ticket: Ticket) -> None:
        """Give up *ticket* because a handle closes; whoever waits for it is told."""
        state.replicator.cancel(ticket)
        self.waiting.abandon(ticket)

    def add_peer(
        self,
        state: CoreState,
        port: Port,
        *,
        seeks: bool,
        allowance: Allowance | None = None,
    ) -> PeerId:
        """A channel is open, and the peer has proved that it knows the key; see `peer_opened`."""
        peer = next(self._peer_ids)
        self._peers[peer] = _Peer(state, port)
        state.peers[peer] = port.remote_public_key
        state.replicator.peer_opened(peer, seeks=seeks, allowance=allowance)
        state.events.send(PeerAdded(port.remote_public_key))
        self.drain(state)
        state.changed.unpark_all()
        return peer

    def remove_peer(self, peer: PeerId) -> None:
        """The channel closed."""
        found = self._peers.pop(peer, None)
        if found is None:
            return
        state = found.state
        del state.peers[peer]
        state.replicator.peer_closed(peer)
        state.events.send(PeerRemoved(found.port.remote_public_key))
        self.drain(state)
        state.changed.unpark_all()

    def left(self, served: Mapping[CoreState, Sequence[int]]) -> None:
        """A peer has left right after it was sent these blocks: they are looked at again."""
        with contextlib.suppress(trio.WouldBlock):
            self._suspect.send_nowait(served)

    def finds_peers(self, state: CoreState) -> bool:
        """Whether somebody looks for peers of *state*."""
        return bool(self.finding or state.finding)

    def expects_peers(self, state: CoreState) -> bool:
        """Whether somebody looks for them, or who is there may still turn out to be one."""
        return self.finds_peers(state) or bool(self.connecting or state.asked)

    def start_connecting(self) -> None:
        """A stream begins: its peer may have any core."""
        self.connecting += 1

    def stop_connecting(self) -> None:
        """A stream's handshake is done, or will never be."""
        self.connecting -= 1
        if not self.connecting:
            for state in self.states.values():
                state.changed.unpark_all()

    def start_finding(self) -> None:
        """Somebody looks for peers of any core: `update` waits until it stops."""
        self.finding += 1

    def stop_finding(self) -> None:
        """One who looked for peers has found them, or given up."""
        self.finding -= 1
        if not self.finding:
            for state in self.states.values():
                state.changed.unpark_all()

    # -- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """End all subscriptions and close storage, which makes everything durable."""
        if self.closed:
            return
        self.closed = True
        for link in tuple(self.links):
            link.stop(trio.ClosedResourceError("the store was closed"))
        self.waiting.abandon_all()
        for state in self.states.values():
            state.events.close()
            state.changed.unpark_all()
        try:
            self.sign_heads()
        except (OSError, StorageError) as error:
            # What is not signed now is when the store is opened again.
            logger.warning("the store was closed with heads unsigned: %s", error)
        self.storage.close()

    def _stopped(self) -> None:
        """Nothing is written any more: whoever waits for peers hears of it."""
        self.waiting.abandon_all()
        for state in self.states.values():
            state.changed.unpark_all()

    def _tick(self, state: CoreState, now: float) -> None:
        state.replicator.tick(now)
        self.drain(state)
