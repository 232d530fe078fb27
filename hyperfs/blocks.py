"""Blocks of a drive's cores: what is local at once, what is missing from peers, within patience.

Pure code that walks an index or a file's extents runs on local blocks and says what it lacks
(`BlocksMissing`); `CoreBlocks.complete` fetches that and runs it again.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from corestore import BlockNotAvailable, SnapshotNotAvailable
from hyperfs.index.node import BlocksMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from corestore import Hypercore, Position

T = TypeVar("T")

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

_A_MOMENT: Final = 0.1
# Less than this in the time a read waits is what links say when there is nothing to say.
_LEAST_BYTES: Final = 2048
# A block of 256 KiB at 2 KiB/s takes that many times the usual 10 s.
_MOST_SILENCES: Final = 12


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


class Patience:
    """How long a drive waits for a missing block, and what it has learnt about waiting.

    *seconds* None waits for ever: deadlines are the caller's. Otherwise a wait ends when for that
    many seconds nothing has come, with TooSlowError, and from then on at once, until anything
    arrives from a peer or the set of peers changes: one silent peer must not cost every reader the
    whole wait again and again.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._cores: list[Hypercore] = []
        self._silence: object = None
        # Whether somebody was silent who had offered what was missing.
        self._broken = False

    def watch(self, core: Hypercore) -> None:
        """Count what arrives for *core* as a sign of life."""
        self._cores.append(core)

    def exhausted(self, *, offered: bool) -> bool:
        """Whether nothing has changed since a wait ended in vain that tells of this one: for what
        peers have *offered*, or not."""
        if self._silence is None:
            return False
        if self._silence == self._signs():
            return self._broken or not offered
        self._silence = None
        return False

    def give_up(self, *, offered: bool) -> None:
        """A wait ended in vain."""
        signs = self._signs()
        self._broken = offered or (self._broken and self._silence == signs)
        self._silence = signs

    def _signs(self) -> object:
        return [(core.statistics().blocks_received, sorted(core.peers)) for core in self._cores]


class CoreBlocks:
    """Reads blocks of one core. The `BlockReader` of an index.

    *check*: local blocks are compared with their hashes at each read. An index wants that: what a
    disk has damaged in it would be written on in the next version.
    """

    def __init__(self, core: Hypercore, patience: Patience, *, check: bool = False) -> None:
        self.core = core
        self._patience = patience
        self._check = check
        patience.watch(core)

    def block(self, index: int) -> bytes:
        """A block that is local. Raises BlocksMissing, InvalidChecksum."""
        try:
            return self.core.get_nowait(index, check=self._check)
        except BlockNotAvailable:
            raise BlocksMissing((index,)) from None

    async def fetch(self, indices: Iterable[int]) -> None:
        """Return when all these blocks are local; they are asked for together.

        Raises:
          trio.TooSlowError: the drive's patience ended first. They stay asked for.
        """
        core = self.core
        missing = [index for index in dict.fromkeys(indices) if not core.has(index)]
        if not missing:
            await trio.lowlevel.checkpoint()
            return
        patience = self._patience
        if patience.seconds is None:
            await self._get_all(missing)
            return
        if not patience.exhausted(offered=self._offered(missing)):
            if await self._get_while_it_comes(missing, patience.seconds):
                return
            patience.give_up(offered=self._offered(missing))
        core.hint(missing)
        raise trio.TooSlowError(f"no peer sent block {missing[0]} of core {core.key}")

    async def seek(self, offset: int) -> Position:
        """Where byte *offset* of the core is. Asks peers only for what is not known here.

        Raises:
          ValueError: it is beyond the end.
          trio.TooSlowError: the drive's patience ended first.
        """
        seconds = self._patience.seconds
        # What is known here is told at once, but not within no time at all.
        with trio.move_on_after(math.inf if seconds is None else max(seconds, _A_MOMENT)):
            return await self.core.seek(offset)
        self._patience.give_up(offered=False)
        raise trio.TooSlowError(f"no peer told where byte {offset} of core {self.core.key} is")

    async def complete(self, function: Callable[[], T]) -> T:
        """What *function* returns once the blocks it reads through this object are local.

        It is called again after each BlocksMissing, so it must be repeatable. Does not suspend when
        everything is local. Raises what *function* raises, and as `fetch`.
        """
        while True:
            try:
                return function()
            except BlocksMissing as missing:
                indices, source = missing.indices, missing.source
            await (source or self).fetch(indices)

    async def clear(self, runs: Iterable[tuple[int, int]]) -> int:
        """Forget these ranges of blocks, in steps; how many bytes that gives back. Cancelled, some
        of them are forgotten. Raises as `Hypercore.clear`."""
        freed = 0
        clearing = Clearing(self.core)
        for portion in clearing.portions(runs):
            freed += await clearing.clear(portion)
            await trio.lowlevel.checkpoint()
        return freed

    def _offered(self, missing: Iterable[int]) -> bool:
        """Whether peers have all of it that is not here."""
        return all(self.core.has(index) or self.core.offered(index) for index in missing)

    async def _get_while_it_comes(self, missing: Sequence[int], seconds: float) -> bool:
        """Wait for *missing* until for *seconds* nothing has come; whether all is here.

        On a slow link one read takes longer than that, and so does one block. While bytes arrive
        and a peer offers what is missing, it is waited for; but for so many times as long at most.
        """
        failure: Exception | None = None
        waiting = trio.CancelScope()

        async def watch() -> None:
            left, silent_since = len(missing), trio.current_time()
            while True:
                before = self.core.statistics().store_bytes_received
                await trio.sleep(seconds)
                lacking = [index for index in missing if not self.core.has(index)]
                if len(lacking) < left:
                    left, silent_since = len(lacking), trio.current_time()
                    continue
                arrived = self.core.statistics().store_bytes_received - before
                if (
                    arrived < _LEAST_BYTES
                    or trio.current_time() - silent_since >= _MOST_SILENCES * seconds
                    or not any(map(self.core.offered, lacking))
                ):
                    break
            waiting.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            with waiting:
                try:
                    await self._get_all(missing)
                except Exception as error:  # told to the caller as it is, not in a group
                    failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return not waiting.cancelled_caught

    async def _get_all(self, missing: Sequence[int]) -> None:
        if len(missing) > 1:
            self.core.hint(missing)
        for index in missing:
            await self.core.get(index)


class TruncatedBlocks(CoreBlocks):
    """What is left of a core for versions that were truncated: other blocks have their places."""

    def block(self, index: int) -> bytes:
        """Raises SnapshotNotAvailable."""
        raise SnapshotNotAvailable("the log of this version was truncated")

    async def fetch(self, indices: Iterable[int]) -> None:
        """Raises SnapshotNotAvailable."""
        for index in indices:
            self.block(index)

    async def seek(self, offset: int) -> Position:
        """Raises SnapshotNotAvailable."""
        raise SnapshotNotAvailable("the log of this version was truncated")
