"""`Hypercore`: one signed append-only log, as its users see it.

What is local is read without waiting for anything; what is missing is asked of the peers, however
long that takes: deadlines are the caller's (`trio.fail_after`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, overload

import trio

from corestore import tree
from corestore.checking import is_stored_block
from corestore.codec import Value
from corestore.cosigning import Proposal, propose, propose_truncation, read_proposal
from corestore.errors import BlockNotAvailable, InvalidChecksum, SnapshotNotAvailable
from corestore.handle import check_index
from corestore.owner import OwnerHandle
from corestore.reading import Blocks, Chunks, Position
from corestore.replication.actions import Outcome
from corestore.signing import ready_to_sign
from corestore.staging import HASH_IN_PLACE, Staged, append_commit
from corestore.tree.seek import seek

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from corestore.codec import Codec
    from corestore.driver import Driver
    from corestore.state import CoreState
    from corestore.tree import Head

# Wants nobody waits for that one handle keeps alive; older ones are given up first.
MAX_HINTS: Final = 64
# Blocks that are here are read on, without a turn for other tasks (2 us, as much as the read of a
# small block), up to so many bytes; each read counts as some more. So it is with appends: one takes
# 40 us, and the turn after it 4.
IN_A_ROW_BYTES: Final = 256 << 10
READ_COST: Final = 4 << 10
APPEND_COST: Final = 64 << 10


class Hypercore(OwnerHandle, Generic[Value]):
    """A handle on a core of an open store. Made by `Corestore.get`.

    Its blocks are bytes unless it was opened with an encoding (`corestore.codec`); what counts
    bytes, counts those of the blocks.
    """

    def __init__(
        self,
        driver: Driver,
        state: CoreState,
        codec: Codec[Value],
        *,
        snapshot: Head | None = None,
    ) -> None:
        super().__init__(driver, state, snapshot=snapshot)
        self._codec = codec
        self._in_a_row = 0

    # -- reading -----------------------------------------------------------------------------------

    def get_nowait(self, index: int, *, check: bool = False) -> Value:
        """Block *index*, from local storage. *check* compares it with its hash once more.

        Raises:
          BlockNotAvailable: it is not held here.
          InvalidChecksum: the disk has damaged it.
          DecodeError: it does not have this handle's encoding.
          WrongEncryptionKey: it is not encrypted with the encryption key given.
        """
        self._check_open()
        block = self._local(index, check=check)
        if block is None:
            raise BlockNotAvailable(index)
        return self._codec.decode(block)

    async def get(self, index: int, *, priority: int = 0) -> Value:
        """Block *index*; waits for a peer that has it, and for the log to grow that far.

        Blocks that are here are read without a turn for other tasks in between, for some hundred
        microseconds in a row.
        Cancelled, the block is no longer asked for (unless somebody else waits for it).

        Raises:
          ValueError: a negative index, or one beyond the length of a snapshot.
          WrongEncryptionKey: it is not encrypted with the encryption key given.
          DecodeError: it does not have this handle's encoding.
          SnapshotNotAvailable: the core was truncated below this snapshot.
          OSError, StorageError: it cannot be read, or what comes cannot be stored.
        """
        return self._codec.decode(await self._get_bytes(index, priority))

    async def _get_bytes(self, index: int, priority: int = 0) -> bytes:
        self._check_index(index)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        block = self._local(index)
        if block is None:
            with self._driver.wanting(self._state):
                while block is None:
                    await self._await((index,), priority)
                    self._check_open()
                    block = self._local(index)
        self._in_a_row += len(block) + READ_COST
        if self._in_a_row > IN_A_ROW_BYTES:
            self._in_a_row = 0
            await trio.lowlevel.cancel_shielded_checkpoint()
        return block

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes `offset..offset + length` of the log; fewer at its end."""
        if offset < 0 or length < 0:
            raise ValueError("offset and length are not negative")
        length = min(length, self.byte_length - offset)
        if length <= 0:
            await trio.lowlevel.checkpoint()
            return b""
        position = await self.seek(offset)
        parts: list[bytes] = []
        index, skip = position.index, position.offset
        while length > 0:
            part = (await self._get_bytes(index))[skip : skip + length]
            parts.append(part)
            length -= len(part)
            index, skip = index + 1, 0
        return b"".join(parts)

    async def seek(self, offset: int) -> Position:
        """Where byte *offset* of the log is.

        Asks peers for tree nodes that are missing here.

        Raises:
          ValueError: *offset* is negative or beyond `byte_length`.
          SnapshotNotAvailable: the core was truncated below this snapshot.
        """
        if not 0 <= offset <= self.byte_length:
            raise ValueError(f"byte {offset} is not in a log of {self.byte_length} bytes")
        await trio.lowlevel.checkpoint()
        while True:
            self._check_open()
            self._check_snapshot()
            state = self._state
            padding = state.padding
            found = seek(offset, self._head, nodes=state, padding=padding)
            if isinstance(found, tree.Position):
                return Position(found.index, found.offset)
            ticket = state.replicator.want_seek(offset, padding=padding)
            (settled,) = await self._wait(ticket)
            if settled.position is not None:
                return Position(*settled.position)
            if settled.outcome is Outcome.OUT_OF_BOUNDS:
                raise ValueError(f"byte {offset} is not in the log")

    def blocks(
        self, start: int = 0, end: int | None = None, *, live: bool = False
    ) -> Blocks[Value]:
        """Iterate over the blocks `start..end`, fetching what is missing.

        *end* None is the length now or, if *live*, never: then the iteration waits for blocks to
        come. It holds no resource: leaving the loop is enough.
        """
        if end is None and not live:
            end = self.length
        return Blocks(self, self._get_bytes, self._codec, start, end)

    def chunks(self, offset: int = 0, length: int | None = None, *, live: bool = False) -> Chunks:
        """Iterate over the bytes `offset..offset + length` as they lie in the blocks, fetching
        what is missing.

        *length* None is up to the end as it is now or, if *live*, for ever. Like `blocks` it holds
        no resource.

        Raises:
          ValueError: *offset* or *length* is negative; when iterating, *offset* is beyond
            `byte_length`.
        """
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("offset and length are not negative")
        if length is not None:
            end: int | None = offset + length if live else min(offset + length, self.byte_length)
        else:
            end = None if live else self.byte_length
        return Chunks(self, self._get_bytes, offset, end)

    def hint(self, blocks: Iterable[int]) -> None:
        """Say that *blocks* will be needed soon: they are fetched in the background.

        Does not wait, promises nothing, ends with this handle. Raises ValueError for a negative
        index.
        """
        self._check_open()
        held = self._state.bitfield.get
        missing = sorted({index for index in blocks if not held(index)})
        if not missing:
            return
        check_index(missing[0])
        replicator = self._state.replicator
        self._hints.append(replicator.want_range(0, None, blocks=missing))
        if len(self._hints) > MAX_HINTS:
            replicator.cancel(self._hints.popleft())
        self._driver.drain(self._state)

    def _local(self, index: int, *, check: bool = False) -> bytes | None:
        state = self._state
        if self._snapshot is not None:
            self._check_snapshot()
        block = state.block(index)
        if block is not None:
            if check and not is_stored_block(state, index, block):
                raise InvalidChecksum(f"the disk has damaged block {index} of core {self.key}")
            if state.encryption_key is not None:
                block = state.decrypt(index, block)
                self._driver.keep_encryption_key(state)
        return block

    def _check_snapshot(self) -> None:
        if self._snapshot is not None and self.uncut_length(self._cuts_before) < self.length:
            raise SnapshotNotAvailable("the core was truncated below this snapshot")

    async def fetch(self, blocks: Iterable[int]) -> None:
        """Return when all of *blocks* are held: as `get`, for several at once.

        They go before what is downloaded or hinted at. Cancelled, what nobody else wants is not
        asked for any more; what arrived stays. Raises as `get`.
        """
        wanted = list(blocks)
        for index in wanted:
            self._check_index(index)
        await trio.lowlevel.checkpoint()
        state = self._state
        with self._driver.wanting(state):
            while True:
                self._check_open()
                self._check_snapshot()
                wanted = [index for index in wanted if not state.bitfield.get(index)]
                if not wanted:
                    return
                await self._await(wanted)

    def _check_index(self, index: int) -> None:
        if index < 0 or (self._snapshot is not None and index >= self._snapshot.length):
            raise ValueError(f"there is no block {index}")

    async def _await(self, indices: Iterable[int], priority: int = 0) -> None:
        """Wait until it is worth looking for blocks *indices* again."""
        state = self._state
        known = [index for index in indices if index < state.head.length]
        if not known:
            self._check_goes_on()
            await state.changed.park()
            return
        want = state.replicator.want_block
        await self._wait(*[want(index, priority=priority) for index in known])

    # -- appending ---------------------------------------------------------------------------------

    @overload
    async def append(self: Hypercore[bytes], *blocks: bytes | memoryview) -> int: ...

    @overload
    async def append(self, *blocks: Value) -> int: ...

    async def append(self, *blocks: Any) -> int:
        """Append *blocks* in one commit; returns the new length.

        Local readers see them at once, peers after the next sync, which follows by itself. Either
        all blocks are appended or, when this raises or is cancelled, none. More than 256 KiB are
        hashed in a thread; the blocks' bytes must not change meanwhile. Other tasks get a turn at
        least after every fourth append. With `SyncPolicy.ALWAYS` it then waits for the disk: if
        that fails or is cancelled, the blocks are in the log, and a later sync makes them durable.

        Raises:
          NotWritable: the secret key is not here, or this is a snapshot.
          ValueError: a block above 15 MiB, or a value its encoding cannot express (TypeError too).
          StorageLocked: another process writes this core.
          MustRecover: another copy of it has more, or may have: see `recover`.
          ForkConflict: its key has signed two histories.
          OSError: the disk is full; nothing was appended.
          StorageError: the store failed and must be opened again.
        """
        state = self._writable_state()
        encode = self._codec.encode
        encoded = [encode(block) for block in blocks]
        size = sum(map(len, encoded))
        await trio.lowlevel.checkpoint_if_cancelled()
        if size <= HASH_IN_PLACE and state.free_to_append:
            # Nothing waits on this way, so nothing has to be locked.
            self._driver.commit([(state, append_commit(state, encoded))])
        else:
            await self._append_in_turn(state, encoded)
        length = state.head.length
        self._in_a_row += size + APPEND_COST
        turn = self._in_a_row > IN_A_ROW_BYTES
        if turn:
            self._in_a_row = 0
        await self._driver.after_commit(turn=turn)
        return length

    async def _append_in_turn(self, state: CoreState, blocks: Sequence[bytes | memoryview]) -> None:
        await state.take_commit_lock()
        try:
            await ready_to_sign(self._driver, state)
            staged = Staged(state)
            await staged.append(blocks)
            await staged.lay(self._driver.lay)
            commit = staged.commit()
            if commit is not None:
                self._driver.commit([(state, commit)])
        finally:
            state.commit_lock.release()

    async def propose(self, *blocks: Value) -> Proposal:
        """What this core would be with *blocks* appended, for its signers to sign and anybody to
        commit: how a core with several signers grows. Changes nothing.

        Raises:
          ValueError: as `append`, and without blocks.
          trio.ClosedResourceError: this handle is closed.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        state = self._state
        encoded: Sequence[bytes | memoryview] = [self._codec.encode(block) for block in blocks]
        if state.cipher is not None:
            cipher, head = state.cipher, state.head
            encoded = [
                cipher.encrypt(head.length + i, head.fork, bytes(block))
                for i, block in enumerate(encoded)
            ]
        return await propose(self._driver, state, encoded)

    async def propose_truncation(self, length: int, *, fork: int | None = None) -> Proposal:
        """As `propose`, for the log cut to its first *length* blocks, on a new fork.

        Raises:
          ValueError: as `truncate`; and to nothing, since nobody can sign that.
          LookupError: a sparse copy may not know the shorter log's roots.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        fork = self._state.head.fork + 1 if fork is None else fork
        return propose_truncation(self._driver, self._state, length, fork)

    async def read_proposal(self, data: bytes | memoryview) -> Proposal:
        """What another signer has proposed and sent (`Proposal.encode`). Look at what it changes
        (`Proposal.blocks`, `length`, `fork`) before you sign it.

        Raises:
          DecodeError: the bytes are no proposal.
          ValueError: it is for another core, or nothing a log can become.
          LookupError: as `propose_truncation`.
          StorageConflict: the log here is not the one it was proposed for: follow, and read again.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        return await read_proposal(self._driver, self._state, data)

    # -- more handles ------------------------------------------------------------------------------

    def session(self) -> Hypercore[Value]:
        """Another handle on the same core, with its own lifetime."""
        self._check_open()
        session = Hypercore(self._driver, self._state, self._codec, snapshot=self._snapshot)
        if self._snapshot is not None:
            session._cuts_before = self._cuts_before
        return session

    def snapshot(self) -> Hypercore[Value]:
        """A read-only handle whose length stays what it is now."""
        self._check_open()
        return Hypercore(self._driver, self._state, self._codec, snapshot=self._head)
