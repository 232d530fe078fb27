"""Blocks of a drive's cores: what is local at once, what is missing from peers, within patience.

Pure code that walks an index or a file's extents runs on local blocks and says what it lacks
(`BlocksMissing`); `CoreBlocks.complete` fetches that and runs it again.
"""

from __future__ import annotations

import errno
import logging
import math
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from corestore import (
    BlockNotAvailable,
    ForkConflict,
    InvalidChecksum,
    SnapshotNotAvailable,
    StorageCorrupt,
    StorageError,
)
from hyperfs.clearing import Clearing
from hyperfs.index.node import BlocksMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from corestore import Hypercore, Position

T = TypeVar("T")

logger: Final = logging.getLogger("hyperfs")

_A_MOMENT: Final = 0.1
# Less than this in the time a read waits is what links say when there is nothing to say.
_LEAST_BYTES: Final = 2048
# A block of 256 KiB at 2 KiB/s takes that many times the usual 10 s.
_MOST_SILENCES: Final = 12
# Blocks of one read that are asked for before all others: 2 MiB on average. What is beyond is on
# its way meanwhile, and has its turn.
_MOST_WANTED: Final = 32


class Patience:
    """How long a drive waits for a missing block, and what it has learnt about waiting.

    *seconds* None waits for ever: deadlines are the caller's. Otherwise a wait ends when for that
    many seconds nothing has come, with TooSlowError, and from then on at once, until anything
    arrives from a peer or the set of peers changes: one silent peer must not cost every reader the
    whole wait again and again. It ends at once, too, when no peer has been there for that long.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._cores: list[Hypercore] = []
        self._silence: object = None
        # Whether somebody was silent who had offered what was missing.
        self._broken = False
        # Since when nobody has been there, as far as `notice_absence` knows.
        self._alone_since = math.inf

    def watch(self, core: Hypercore) -> None:
        """Count what arrives for *core* as a sign of life."""
        if core not in self._cores:
            self._cores.append(core)

    def exhausted(self, *, offered: bool) -> bool:
        """Whether nothing has changed since a wait ended in vain that tells of this one: for what
        peers have *offered*, or not. Or nobody has been there for as long as one waits."""
        if (
            self.seconds is not None
            and trio.current_time() >= self._alone_since + self.seconds
            # Somebody may have come this moment.
            and not any(core.peers for core in self._cores)
        ):
            return True
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

    async def notice_absence(self, core: Hypercore) -> None:
        """Notice since when *core* has no peer, until cancelled or nothing more can come."""
        try:
            while True:
                await core.wait_until(lambda: not core.peers)
                self._alone_since = trio.current_time()
                await core.wait_until(lambda: bool(core.peers))
                self._alone_since = math.inf
        except (ForkConflict, StorageError):
            # Peers of a core that is stopped come and go unnoticed.
            self._alone_since = math.inf

    def _signs(self) -> object:
        return [(core.statistics().blocks_received, sorted(core.peers)) for core in self._cores]


class CoreBlocks:
    """Reads blocks of one core. The `BlockReader` of an index.

    Blocks were proven when they came. With *check* they are compared with their hashes at each read
    too, and what the disk has damaged since is not read. An index wants that: a damaged node would
    be written on in the next version. Of somebody else's core a damaged block is forgotten, and
    fetched anew.

    It reads one history of somebody else's core: blocks that were cut off since, others having
    taken their places, raise SnapshotNotAvailable. `renewed` reads what there is now. (Of a core of
    *ours* only what nobody has seen is ever cut off, and all know.)
    """

    def __init__(
        self,
        core: Hypercore,
        patience: Patience,
        *,
        check: bool,
        ours: bool = False,
    ) -> None:
        self.core = core
        self._patience = patience
        self._ours = ours
        self._check = check
        self._damaged: set[int] = set()
        self._cuts = core.cuts
        patience.watch(core)

    def renewed(self) -> CoreBlocks:
        """The same for what the core is now."""
        return self._another(self._patience)

    def patient(self) -> CoreBlocks:
        """The same as `renewed`, but waiting for missing blocks as long as it takes."""
        return self._another(Patience(None))

    def _another(self, patience: Patience) -> CoreBlocks:
        other = CoreBlocks(self.core, patience, check=self._check, ours=self._ours)
        # Whichever of the two meets a damaged block, the other may be who fetches it.
        other._damaged = self._damaged
        return other

    @property
    def cut(self) -> bool:
        """Whether anything was cut off since."""
        return not self._ours and self.core.cuts != self._cuts

    def block(self, index: int) -> bytes:
        """A block that is local. Raises BlocksMissing, InvalidChecksum, SnapshotNotAvailable."""
        core = self.core
        if self.cut:
            self._check_uncut(index)
        try:
            return core.get_nowait(index, check=self._check)
        except BlockNotAvailable:
            raise BlocksMissing((index,)) from None
        except (InvalidChecksum, StorageCorrupt, OSError) as error:
            if not self._mends(error):
                raise
            logger.error("block %d of core %s is fetched again: %s", index, core.key, error)
            self._damaged.add(index)
            raise BlocksMissing((index,)) from None

    async def fetch(self, indices: Iterable[int]) -> None:
        """Return when all these blocks are local; they are asked for together.

        Raises:
          trio.TooSlowError: the drive's patience ended first. They stay asked for.
          SnapshotNotAvailable: see the class.
        """
        core = self.core
        wanted = dict.fromkeys(indices)
        if self.cut:
            for index in wanted:
                self._check_uncut(index)
        if self._damaged:
            await self._forget_damaged(wanted)
        missing = [index for index in wanted if not core.has(index)]
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

    def _mends(self, error: Exception) -> bool:
        """Whether the block that *error* is about is forgotten. Of a core that is written here that
        is for its owner to say, and other errors than that of a failing disk are not the block's.
        """
        if isinstance(error, OSError):
            return error.errno == errno.EIO and not self.core.writable
        return not self._ours

    async def _forget_damaged(self, wanted: Iterable[int]) -> None:
        for index in wanted:
            if index in self._damaged:
                await self.core.check(index, index + 1)
                self._damaged.discard(index)

    def _check_uncut(self, index: int) -> None:
        if index >= self.core.uncut_length(self._cuts):
            raise SnapshotNotAvailable("the log of this version was truncated")

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
        if len(missing) > _MOST_WANTED:
            self.core.hint(missing[_MOST_WANTED:])
        for start in range(0, len(missing), _MOST_WANTED):
            await self.core.fetch(missing[start : start + _MOST_WANTED])
