"""Clears blocks of a core a portion at a time, so that the loop is held up for moments only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from corestore import Hypercore

# How much is cleared in one commit, at most and at first. A commit flushes the store's log, a block
# costs some 5 us, a run a hole in the file: 50 us on a quick disk, milliseconds on others.
CLEARED_BLOCKS: Final = 256
CLEARED_RUNS: Final = 128
_FIRST_BLOCKS: Final = 64
_FIRST_RUNS: Final = 16
# Fewer would cost more than they spare: the flush is the same.
_LEAST_BLOCKS: Final = 16
_LEAST_RUNS: Final = 4
# A portion holds up the loop for so long: it gets larger or smaller until it does.
CLEARING_SECONDS: Final = 0.003


class Clearing:
    """Clears blocks of one core a portion at a time, each as large as the last ones were quick."""

    def __init__(self, core: Hypercore) -> None:
        self._core = core
        self.blocks = _FIRST_BLOCKS
        self.runs = _FIRST_RUNS

    def portions(self, runs: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        """Ranges of blocks as portions that can be cleared in one go."""
        portion: list[tuple[int, int]] = []
        room = self.blocks
        for start, end in runs:
            at = start
            while at < end:
                stop = min(end, at + room)
                portion.append((at, stop))
                room -= stop - at
                at = stop
                if not room or len(portion) >= self.runs:
                    yield portion
                    portion, room = [], self.blocks
        if portion:
            yield portion

    async def clear(self, portion: Sequence[tuple[int, int]]) -> int:
        """Forget a portion; how many bytes that gives back. Raises as `Hypercore.clear`."""
        began = time.perf_counter()
        freed = await self._core.clear_runs(portion)
        self.took(time.perf_counter() - began)
        return freed

    def took(self, seconds: float) -> None:
        """A portion held up the loop for so long."""
        factor = min(2.0, max(0.25, CLEARING_SECONDS / max(seconds, 1e-6)))
        self.blocks = min(CLEARED_BLOCKS, max(_LEAST_BLOCKS, round(self.blocks * factor)))
        self.runs = min(CLEARED_RUNS, max(_LEAST_RUNS, round(self.runs * factor)))
