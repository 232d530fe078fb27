"""Going through a log: iterators over its blocks and its bytes.

They hold no task and no subscription, so leaving the loop is all it takes to end one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from corestore.codec import Value

if TYPE_CHECKING:
    from corestore.core import Hypercore

# How many blocks an iteration asks for before it needs them.
READ_AHEAD: Final = 16


class _Ahead(Generic[Value]):
    """A place in a log that moves on block by block, with the next few asked for."""

    def __init__(self, core: Hypercore[Value], start: int, end: int | None) -> None:
        self._core = core
        self._next = start
        self._end = end
        self._hinted = start

    @property
    def _ended(self) -> bool:
        return self._end is not None and self._next >= self._end

    async def _advance(self) -> bytes:
        """The bytes of the next block."""
        index = self._next
        self._read_ahead(index)
        block = await self._core._get_bytes(index)
        self._next = index + 1
        return block

    def _read_ahead(self, index: int) -> None:
        core = self._core
        end = core.length if self._end is None else min(self._end, core.length)
        if self._hinted - index >= READ_AHEAD // 2 or self._hinted >= end:
            return
        start = max(self._hinted, index + 1)
        self._hinted = min(end, index + 1 + READ_AHEAD)
        if start < self._hinted:
            core.hint(range(start, self._hinted))


class Blocks(_Ahead[Value]):
    """Iterates over the blocks of a core, as values. Made by `Hypercore.blocks`."""

    def __aiter__(self) -> Blocks[Value]:
        return self

    async def __anext__(self) -> Value:
        if self._ended:
            raise StopAsyncIteration
        return self._core._codec.decode(await self._advance())


class Chunks(Generic[Value]):
    """Iterates over the bytes of a core, as they lie in its blocks, asking for a few blocks ahead.
    Made by `Hypercore.chunks`."""

    def __init__(self, core: Hypercore[Value], offset: int, end: int | None) -> None:
        self._core = core
        self._offset = offset
        self._end = end
        self._blocks: _Ahead[Value] | None = None
        self._skip = 0

    def __aiter__(self) -> Chunks[Value]:
        return self

    async def __anext__(self) -> bytes:
        while self._end is None or self._offset < self._end:
            if self._blocks is None:
                position = await self._core.seek(self._offset)
                self._blocks = _Ahead(self._core, position.index, None)
                self._skip = position.offset
            block = await self._blocks._advance()
            limit = len(block) if self._end is None else self._skip + self._end - self._offset
            part = block[self._skip : limit]
            self._skip = 0
            self._offset += len(part)
            if part:
                return part
        raise StopAsyncIteration
