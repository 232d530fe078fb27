"""Appends to several cores that become visible and durable together, or not at all.

A transaction holds the commit lock of each of its cores from the beginning to the end, and stages
what is appended in memory. Nothing is signed or written before the block of code ends without an
error; then everything is one storage transaction. Of what is too much for one, that would stop the
loop, blocks are laid ahead of the log in several others, and count when the one with the heads is
written.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import trio

from corestore.errors import LocalProtocolError
from corestore.signing import ready_to_sign
from corestore.staging import Staged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from corestore.codec import Value
    from corestore.core import Hypercore
    from corestore.driver import Driver
    from corestore.handle import CoreHandle
    from corestore.state import CoreState
    from corestore.tree import Node


class Transaction:
    """Made by `Corestore.transaction`. Usable inside its `async with` only.

    What is staged is visible through `length` alone. Leaving the block normally commits; leaving
    it by an exception, cancellation included, drops everything.
    """

    def __init__(self, driver: Driver, cores: Sequence[CoreHandle], *, makes_room: bool) -> None:
        self._driver = driver
        self._makes_room = makes_room
        self._states = [core._writable_state() for core in cores]
        if len(set(self._states)) < len(self._states):
            raise ValueError("a core can take part in a transaction only once")
        self._staged: dict[CoreState, Staged] | None = None

    async def __aenter__(self) -> Transaction:
        locked: list[CoreState] = []
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            for state in self._states:
                await state.take_commit_lock()
                locked.append(state)
            for state in self._states:
                await ready_to_sign(self._driver, state)
            self._staged = {state: Staged(state) for state in self._states}
        except BaseException:
            for state in locked:
                state.commit_lock.release()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._staged is not None
        staged, self._staged = self._staged, None
        try:
            if error is None:
                for each in staged.values():
                    await each.lay(self._driver.lay)
                commits = [(state, each.commit()) for state, each in staged.items()]
                wanted = [
                    (state, replace(commit, makes_room=True) if self._makes_room else commit)
                    for state, commit in commits
                    if commit is not None
                ]
                if wanted:
                    self._driver.commit(wanted)
        finally:
            for state in self._states:
                state.commit_lock.release()
        if error is None:
            await self._driver.after_commit()

    @overload
    async def append(
        self,
        core: Hypercore[bytes],
        *blocks: bytes | memoryview,
        leaves: Sequence[Node] | None = None,
    ) -> int: ...

    @overload
    async def append(
        self, core: Hypercore[Value], *blocks: Value, leaves: Sequence[Node] | None = None
    ) -> int: ...

    async def append(
        self, core: Hypercore[Any], *blocks: Any, leaves: Sequence[Node] | None = None
    ) -> int:
        """Stage *blocks*; returns the index the first of them will have.

        The blocks' bytes must not change before the transaction ends. *leaves* are their leaf
        nodes if the caller has hashed them already; otherwise more than 256 KiB are hashed in a
        thread. Cancelled, it has staged nothing.

        Raises:
          ValueError: a block above 15 MiB, a core that does not take part, or a value the core's
            encoding cannot express (TypeError too).
        """
        encoded = [core._codec.encode(block) for block in blocks]
        return await self._of(core).append(encoded, leaves)

    def length(self, core: CoreHandle) -> int:
        """Blocks in *core*, staged ones included."""
        return self._of(core).length

    def byte_length(self, core: CoreHandle) -> int:
        """Bytes in *core*, staged ones included."""
        return self._of(core).byte_length

    def set_user_data(self, core: CoreHandle, key: str, value: bytes | None) -> None:
        """Stage a value kept with *core*; None deletes it.

        A recovery after a power cut may take the appended blocks back and leave this: what depends
        on them must be looked at together with them.
        """
        self._of(core).set_user_data(key, value)

    def _of(self, core: CoreHandle) -> Staged:
        if self._staged is None:
            raise LocalProtocolError("the transaction is not open")
        try:
            return self._staged[core._state]
        except KeyError:
            raise ValueError("this core does not take part in the transaction") from None
