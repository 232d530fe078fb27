"""Bounds how much of somebody else's content stays here: what was read longest ago goes first.

Blocks are counted and forgotten by ranges of `RANGE_BLOCKS`, some 4 MiB, so that what is remembered
of them is small: 200 bytes a range that holds anything. What is forgotten comes back from peers
when it is read again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from corestore import CorestoreError
from hyperfs.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corestore import Hypercore
    from hyperfs.live import LiveTree

logger: Final = logging.getLogger("hyperfs")

RANGE_BLOCKS: Final = 64
# How often it is looked at what came: so much more may be here for as long.
_INTERVAL_SECONDS: Final = 0.5
# When there is too much, a tenth of the bound is given back at once.
_LEAVE: Final = 0.9
_SCAN_BLOCKS: Final = 1 << 16


@dataclass(slots=True)
class _Range:
    """How many blocks of a range are here, their bytes, and when one was last read or came."""

    blocks: int
    byte_length: int
    used: int


class RangeTable:
    """What is here of a core, by ranges, and in which order they were used. Pure."""

    def __init__(self) -> None:
        self._ranges: dict[int, _Range] = {}
        self._clock = 0
        self.byte_length = 0

    def __len__(self) -> int:
        return len(self._ranges)

    def read(self, block: int) -> None:
        """*block* was read."""
        self._clock += 1
        found = self._ranges.get(block // RANGE_BLOCKS)
        if found is not None:
            found.used = self._clock

    def blocks(self, number: int) -> int:
        """How many blocks of a range were here when it was last told."""
        found = self._ranges.get(number)
        return 0 if found is None else found.blocks

    def held(self, number: int, blocks: int, byte_length: int) -> None:
        """So much of a range is here now. If it is more than before, that counts as a use."""
        found = self._ranges.get(number)
        if found is not None:
            self.byte_length -= found.byte_length
        if not blocks:
            self._ranges.pop(number, None)
            return
        self.byte_length += byte_length
        self._clock += 1
        if found is None:
            self._ranges[number] = _Range(blocks, byte_length, self._clock)
            return
        if blocks > found.blocks:
            found.used = self._clock
        found.blocks, found.byte_length = blocks, byte_length

    def surplus(self, bound: int, *, newest: bool = False) -> list[int]:
        """The ranges to forget, longest unused first, for *bound* bytes to be left at most. The
        one that was used last stays whatever its size. *newest*: in the order of the core, so that
        what was stored last stays."""
        if self.byte_length <= bound:
            return []
        order = sorted(
            self._ranges, key=None if newest else lambda number: self._ranges[number].used
        )
        out: list[int] = []
        left = self.byte_length
        for number in order[:-1]:
            if left <= bound:
                break
            out.append(number)
            left -= self._ranges[number].byte_length
        return out


class CacheLimit:
    """Keeps the content of *tree* that is here below *max_bytes*, about, while `run` runs, or
    whenever `check` is called: what was read last or, with *newest*, what was stored last.

    `floor`: with *newest*, from this block on nothing was forgotten.
    """

    def __init__(self, tree: LiveTree, max_bytes: int, *, newest: bool = False) -> None:
        self._tree = tree
        self._max = max_bytes
        self._newest = newest
        self.floor = 0
        self._table = RangeTable()
        self._seen: tuple[int, int] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._tree.content_blocks is not None:
                self._tree.reader.on_read = self._table.read
                try:
                    await self.check()
                except (OSError, CorestoreError) as error:
                    logger.warning("what was read long ago is not given back: %s", error)
            await trio.sleep(_INTERVAL_SECONDS)

    async def make_room(self, block: int) -> bool:
        """Whether there is room for *block* and its neighbours: with *newest*, blocks before it are
        forgotten for it. Raises as `CoreBlocks.clear`."""
        await self.check()
        if self._table.byte_length <= self._max * _LEAVE:
            return True
        surplus = self._table.surplus(int(self._max * _LEAVE), newest=self._newest)
        before = [number for number in surplus if (number + 1) * RANGE_BLOCKS <= block]
        await self._forget(before)
        return bool(before)

    async def check(self) -> None:
        """Forget what is too much. Raises as `CoreBlocks.clear`."""
        blocks = self._tree.content_blocks
        assert blocks is not None
        core = blocks.core
        numbers = core.statistics()
        seen = (numbers.blocks_received, numbers.blocks_held)
        if seen == self._seen:
            return
        self._seen = seen
        await self._count(core)
        if self._table.byte_length <= self._max:
            return
        await self._forget(self._table.surplus(int(self._max * _LEAVE), newest=self._newest))

    async def _forget(self, numbers: Sequence[int]) -> None:
        blocks = self._tree.content_blocks
        assert blocks is not None
        if numbers:
            self.floor = max(self.floor, (max(numbers) + 1) * RANGE_BLOCKS)
        await blocks.clear(_runs(numbers))
        for number in numbers:
            self._table.held(number, 0, 0)

    async def _count(self, core: Hypercore) -> None:
        """Tell the table what came and went."""
        pace = Pace()
        table = self._table
        for start in range(0, core.length, _SCAN_BLOCKS):
            counts: dict[int, int] = {}
            for low, high in list(core.held(start, start + _SCAN_BLOCKS)):
                at = low
                while at < high:
                    end = min(high, (at // RANGE_BLOCKS + 1) * RANGE_BLOCKS)
                    number = at // RANGE_BLOCKS
                    counts[number] = counts.get(number, 0) + end - at
                    at = end
            first = start // RANGE_BLOCKS
            for number in range(first, first + _SCAN_BLOCKS // RANGE_BLOCKS):
                count = counts.get(number, 0)
                if count != table.blocks(number):
                    low = number * RANGE_BLOCKS
                    table.held(number, count, core.held_byte_length(low, low + RANGE_BLOCKS))
                    await pace.keep()
            await pace.keep()


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The blocks of ranges, neighbours joined."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        start, end = number * RANGE_BLOCKS, (number + 1) * RANGE_BLOCKS
        if runs and runs[-1][1] == start:
            runs[-1] = runs[-1][0], end
        else:
            runs.append((start, end))
    return runs
