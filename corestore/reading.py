"""Going through a log: iterators over its blocks and its bytes.

They hold no task and no subscription, so leaving the loop is all it takes to end one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol

from corestore.codec import Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from corestore.codec import Codec

    Fetch = Callable[[int], Awaitable[bytes]]

# How many blocks an iteration asks for before it needs them.
READ_AHEAD: Final = 16


@dataclass(frozen=True, slots=True)
class Position:
    """A byte of the log: the block it is in, and its offset in that block."""

    index: int
    offset: int


class Log(Protocol):
    """What an iteration needs of a core."""

    @property
    def length(self) -> int:
        """Blocks in it."""
        ...

    def hint(self, blocks: Iterable[int]) -> None:
        """Fetch *blocks* in the background."""
        ...

    async def seek(self, offset: int) -> Position:
        """Where byte *offset* is."""
        ...


class _Ahead:
    """A place in a log that moves on block by block, with the next few asked for."""

    def __init__(self, log: Log, fetch: Fetch, start: int, end: int | None) -> None:
        self._log = log
        self._fetch = fetch
        self._next = start
        self._end = end
        self._hinted = start

    @property
    def ended(self) -> bool:
        return self._end is not None and self._next >= self._end

    async def advance(self) -> bytes:
        """The bytes of the next block."""
        index = self._next
        self._read_ahead(index)
        block = await self._fetch(index)
        self._next = index + 1
        return block

    def _read_ahead(self, index: int) -> None:
        log = self._log
        end = log.length if self._end is None else min(self._end, log.length)
        if self._hinted - index >= READ_AHEAD // 2 or self._hinted >= end:
            return
        start = max(self._hinted, index + 1)
        self._hinted = min(end, index + 1 + READ_AHEAD)
        if start < self._hinted:
            log.hint(range(start, self._hinted))


class Blocks(Generic[Value]):
    """Iterates over the blocks of a core, asking for a few ahead. Made by `Hypercore.blocks`."""

    def __init__(
        self, log: Log, fetch: Fetch, codec: Codec[Value], start: int, end: int | None
    ) -> None:
        self._ahead = _Ahead(log, fetch, start, end)
        self._codec = codec

    def __aiter__(self) -> Blocks[Value]:
        return self

    async def __anext__(self) -> Value:
        if self._ahead.ended:
            raise StopAsyncIteration
        return self._codec.decode(await self._ahead.advance())


class Chunks:
    """Iterates over the bytes of a core, as they lie in its blocks, asking for a few blocks ahead.
    Made by `Hypercore.chunks`."""

    def __init__(self, log: Log, fetch: Fetch, offset: int, end: int | None) -> None:
        self._log = log
        self._fetch = fetch
        self._offset = offset
        self._end = end
        # Once it is known which block the first byte is in.
        self._ahead: _Ahead | None = None
        self._skip = 0

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        while self._end is None or self._offset < self._end:
            if self._ahead is None:
                position = await self._log.seek(self._offset)
                self._ahead = _Ahead(self._log, self._fetch, position.index, None)
                self._skip = position.offset
            block = await self._ahead.advance()
            limit = len(block) if self._end is None else self._skip + self._end - self._offset
            part = block[self._skip : limit]
            self._skip = 0
            self._offset += len(part)
            if part:
                return part
        raise StopAsyncIteration
