"""`OwnerHandle`: what takes the secret key of a core, but for appending.

Two stores that sign one log make two histories of it, and readers refuse both. So most of this is
about who may sign: moving the right to another store, getting it back, and what to do when it has
happened (corestore/DESIGN.md, "One writer").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corestore.handle import CoreHandle
from corestore.lease import Hold
from corestore.signing import hold, lift, ready_to_sign, recover, settle

if TYPE_CHECKING:
    from corestore.keys import KeyPair
    from corestore.lease import Reason


class OwnerHandle(CoreHandle):
    """A handle on a core whose secret key may be here. Never made by itself."""

    @property
    def key_pair(self) -> KeyPair | None:
        """What signs this core, secret; None if it is not here."""
        return self._state.key_pair

    def lock(self) -> None:
        """Take the right to sign this core now, as the first append does; kept until the store is
        closed. What another process appended before is seen afterwards.

        Raises:
          NotWritable: the secret key is not here, or this is a snapshot.
          StorageLocked: another process writes this core.
          MustRecover, ForkConflict: as `append`.
        """
        self._writable_state().prepare_signing()

    async def recover(self, *, download: bool = True) -> int:
        """Fetch this core's own log from its peers, as far as they have it, and go on from there;
        returns its length then.

        For a copy that is behind: restored from a backup, or whose key was moved or imported.
        Waits until a peer has shown a log that is long enough; the deadline is the caller's. With
        *download* all its blocks that any peer has are fetched too, else they are when they are
        read. Blocks that this copy has beyond what any peer was ever shown are dropped if the copy
        was in doubt.
        Cancelled, what has arrived stays and signing remains forbidden.

        Raises:
          ForkConflict: a peer has another history under the same key; the core is stopped.
          NotWritable, StorageLocked, OSError, StorageError: as `append`.
        """
        await recover(self._driver, self._writable_state())
        if download:
            await self.download(obtainable=True)
            await self._driver.sync()
        return self.length

    async def hold(self, reason: Reason, *, least_length: int = 0) -> None:
        """Forbid signing here until `recover` has seen *least_length* blocks; durable on return.
        What was appended before is signed and published.
        For those who move a key to another store, or from one. Raises as `lift_hold`."""
        state = self._writable_state()
        async with state.commit_lock:
            state.lock_signing()
            await hold(self._driver, state, Hold(reason, least_length))

    async def lift_hold(self) -> None:
        """Allow signing without having asked anybody: on the word of the owner that no other copy
        of this core has more. A wrong word forks the log for ever.

        Raises:
          NotWritable, StorageLocked, OSError, StorageError: as `append`.
        """
        state = self._writable_state()
        async with state.commit_lock:
            state.lock_signing()
            await lift(self._driver, state)

    async def settle_conflict(self) -> None:
        """Go on although the key has signed two histories (`conflict`): on the word of the owner.

        Where the core is written, the history that is here is signed as a new fork, which readers
        of both histories go over to; so settle it in one place only, with the better history.
        Elsewhere the evidence is forgotten: the copy then follows what its peers show, and is
        stopped again if that is the other history and not yet the new fork. Durable when it
        returns; does nothing to a core that is not stopped.

        Raises:
          StorageLocked, OSError, StorageError: as `append`; the core stays stopped.
        """
        self._check_open()
        await settle(self._driver, self._state)

    async def truncate(self, length: int, *, fork: int | None = None) -> None:
        """Shorten the log to *length* blocks and begin fork *fork* (the next one unless given).

        Peers follow. A log that was published and then truncated shows its readers two histories
        one after the other; nothing else may be done about a mistake in a signed log.

        Raises:
          ValueError: the log is shorter, or *fork* is not above the present one, or beyond 53 bits.
          NotWritable, StorageLocked, OSError, StorageError: as `append`.
        """
        state = self._writable_state()
        async with state.commit_lock:
            await ready_to_sign(self._driver, state)
            state.prepare_signing()
            fork = state.head.fork + 1 if fork is None else fork
            if fork <= state.head.fork:
                raise ValueError(f"fork {fork} does not come after fork {state.head.fork}")
            self._driver.commit([(state, state.truncate_commit(length, fork))])
        await self._driver.after_commit()

    async def cut_unpublished(self, length: int) -> None:
        """Drop the blocks from *length* on, which nobody has been shown, without a new fork.

        For the recovery of a structure that spans several cores, of which a power cut shortened
        one.

        Raises:
          ValueError: *length* is outside `published_length..length`.
          NotWritable, StorageLocked, OSError, StorageError: as `append`.
        """
        state = self._writable_state()
        async with state.commit_lock:
            self._driver.cut(state, length)
        await self._driver.after_commit()
