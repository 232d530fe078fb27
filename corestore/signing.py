"""Before a core of ours is signed: the peers are asked, and an old copy is brought up to date.

What forbids signing is known in `corestore.lease`; here is what waits for peers.

- Before the first signature since a core was loaded, the peers that are connected are asked whether
  they have more of it than we. Nobody being there is no obstacle: what this copy has shown was
  durable before, also after a crash, so only a copy that was restored can be behind.
- A copy that is on hold because the store lies elsewhere than before is not signed until a peer has
  answered: nobody being there is an obstacle then.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from corestore.commit import Commit
from corestore.errors import StorageLocked
from corestore.lease import EVIDENCE, HOLD, Hold
from corestore.replication.actions import Outcome
from corestore.storage.base import sync
from corestore.storage.rules import is_unsigned

if TYPE_CHECKING:
    from corestore.driver import Driver
    from corestore.state import CoreState

logger: Final = logging.getLogger("corestore")

# How long the first append of a core waits for the peers that are connected.
QUESTION_SECONDS: Final = 2.0
# Between two attempts to get what a peer has shown and does not send.
RETRY_SECONDS: Final = 0.25


async def ready_to_sign(driver: Driver, state: CoreState) -> None:
    """Ask the peers if that was not done yet. The caller holds the commit lock, and finds out by
    `prepare_signing` what came of it.

    Raises:
      NotWritable, StorageLocked: as `CoreState.prepare_signing`.
    """
    lease = state.lease
    if lease.evidence is not None or (lease.asked and lease.hold is None):
        return
    state.lock_signing()
    driver.drain(state)
    with trio.move_on_after(QUESTION_SECONDS):
        while True:
            expected = lease.hold is not None and driver.expects_peers(state)
            if state.peers:
                await driver.wait(state, state.replicator.want_history())
                break
            if not expected:
                break
            await state.changed.park()
    lease.asked = True


def sign_recovered(driver: Driver) -> None:
    """Sign and publish what a process that died had committed and not signed yet.

    For the moment when a store is opened, before anything else uses it: the signing locks are given
    back at once, for the next writer may be another process.

    Raises:
      OSError, StorageError: as an append.
    """
    storage = driver.storage
    taken = []
    for core, _ in storage.recovered():
        if is_unsigned(core.head):
            # Another process may have been quicker to lock it: then it is for that one to sign.
            with contextlib.suppress(StorageLocked):
                core.lock_signing()
                taken.append(core)
    if not taken:
        return
    signed = driver.sign_heads()
    sync(storage)
    for state in signed:
        state.publish()
    for core in taken:
        core.unlock_signing()


async def recover(driver: Driver, state: CoreState) -> None:
    """Fetch our own log as far as any peer has it, and may sign it again.

    Waits until a peer has shown a log, and it is as long as it is known to be at least. Cancelled,
    what has arrived stays, and so does the hold.

    Raises:
      ForkConflict: a peer has another history under our key; the core is stopped.
      NotWritable, StorageLocked, OSError, StorageError: as an append.
    """
    async with state.commit_lock:
        state.lock_signing()
        if state.may_sign:
            await driver.sync()
        elif state.head.length > state.published.length:
            # Nobody has seen it, and it would make a second history of what others have seen.
            lost = state.head.length - state.published.length
            logger.warning("core %s loses %d blocks nobody has seen", state.key, lost)
            driver.drop_tail(state)
        machine = state.replicator
        machine.doubt(every=True)
        machine.set_recovering(True)
        try:
            with driver.wanting(state):
                await _follow(driver, state)
            # Not signed again before what peers have seen is durable here, and published.
            await driver.sync()
            await lift(driver, state)
        finally:
            state.follow_if_moved()
            machine.doubt(every=state.lease.hold is not None)
            if not driver.closed:
                driver.drain(state)
        state.lease.asked = True
    logger.info("core %s goes on from length %d", state.key, state.head.length)


async def _follow(driver: Driver, state: CoreState) -> None:
    machine = state.replicator
    least = 0 if state.lease.hold is None else state.lease.hold.least_length
    while True:
        while True:
            (settled,) = await driver.wait(state, machine.want_upgrade())
            if settled.outcome is not Outcome.DONE:
                break
        await driver.wait(state, machine.want_history())
        begun = machine.shown or (not state.head.length and machine.nobody_has_any)
        if begun and machine.newer is None and state.head.length >= least:
            return
        with trio.move_on_after(RETRY_SECONDS):
            await state.changed.park()


async def hold(driver: Driver, state: CoreState, reason: Hold) -> None:
    """Forbid signing until it was recovered; durable when this returns, after all there was before
    has been signed and published. The caller holds the commit lock."""
    await driver.sync()
    driver.commit([(state, Commit(user_data={HOLD: reason.encode()}))])
    await driver.sync()


async def lift(driver: Driver, state: CoreState) -> None:
    """Allow signing again; durable when this returns."""
    if state.lease.hold is not None:
        driver.commit([(state, Commit(user_data={HOLD: None}))])
    await driver.sync()


async def settle(driver: Driver, state: CoreState) -> None:
    """Let a core go on that two signed histories have stopped; durable when this returns.

    Signed here, the history that is here becomes a new fork, which all readers go over to. Else
    the evidence is forgotten, and what peers show next counts.

    Raises:
      StorageLocked, OSError, StorageError: as an append; the core stays stopped.
    """
    evidence = state.lease.evidence
    if evidence is None:
        return
    async with state.commit_lock:
        signs = state.writable and state.head.length > 0
        if signs:
            # First, because what is kept is read again under the lock: the evidence too.
            state.lock_signing()
        commit = Commit(user_data={EVIDENCE: None})
        state.lease.evidence = None
        try:
            if signs:
                fork = max(evidence.fork, state.head.fork) + 1
                truncation = state.truncate_commit(state.head.length, fork)
                commit = replace(truncation, user_data=commit.user_data)
            driver.commit([(state, commit)])
        except BaseException:
            state.lease.evidence = evidence
            raise
        driver.start_again(state)
    await driver.sync()
    logger.warning("core %s goes on with fork %d", state.key, state.head.fork)
