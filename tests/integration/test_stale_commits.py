"""What a peer proved of a history that is no more must not be written into the present one."""

from __future__ import annotations

import trio
import trio.testing

import corestore
from corestore import ForkEvidence, Request, UpgradeRequest, tree
from corestore.replication.actions import CommitBatch
from corestore.tree.verify import VerifiedBatch

HEAD = Request(upgrade=UpgradeRequest(0, 2))


async def test_a_block_of_an_older_fork_is_not_written():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"one", b"two")
        await core.clear(1, 2)
        state = store._driver.find(core.discovery_key)
        old = CommitBatch(VerifiedBatch(None, (), (1, b"old")), None, 1, fork=state.head.fork)
        await core.truncate(1)
        await core.append(b"new")
        store._driver.incoming.put(state, old)
        await trio.testing.wait_all_tasks_blocked()
        assert not store._driver.incoming
        assert await core.get(1) == b"new"


async def test_what_comes_for_a_core_that_was_just_stopped_is_not_written():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"one", b"two")
        await store.sync()
        await core.clear(1, 2)
        state = store._driver.find(core.discovery_key)
        late = CommitBatch(VerifiedBatch(None, (), (1, b"two")), None, 1, fork=0)
        store._driver.incoming.put(state, late)
        state.lease.evidence = ForkEvidence(0, state.manifest, core.proof(HEAD), core.proof(HEAD))
        await trio.testing.wait_all_tasks_blocked()
        assert not store._driver.incoming
        assert not core.has(1)


async def test_a_history_that_was_not_stored_says_nothing_of_where_blocks_lie():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(bytes(10), bytes(10), bytes(10))
        state = store._driver.find(core.discovery_key)
        shorter = tree.truncate(state.head, 1, 1, nodes=state).head(b"")
        other = tree.append(shorter, [bytes(50), bytes(1)])
        block = (1, bytes(50))
        batch = VerifiedBatch(other.head(bytes(64)), other.nodes, block, truncate=1)
        state.verified_commit([CommitBatch(batch, None, 1, fork=1)])
        old = CommitBatch(VerifiedBatch(None, (), (2, bytes(10))), None, 1, fork=0)
        assert [stored.byte_offset for stored in state.verified_commit([old]).blocks] == [20]
