"""Holds the whole of somebody else's drive for others: what the versions that are kept need.

Which versions are kept, the newest root tells (`RootInfo.oldest`). While nothing was ever given
back, that is both logs from end to end. Later it is what comes from the oldest kept version on, and
of what is older the blocks that a kept version names (`hyperfs.reach`); the rest is given back here
too. Of a drive that cannot be read here, encrypted or of another format, both logs are held.

With a bound, only the newest version is held, and of its content what was stored last.
"""

from __future__ import annotations

import logging
from array import array
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import trio

from corestore import CorestoreError, DecodeError
from hyperfs.blockset import BlockSet
from hyperfs.cache import CacheLimit
from hyperfs.clearing import Clearing
from hyperfs.index.node import BlocksMissing
from hyperfs.index.root import decode_root
from hyperfs.pace import Pace
from hyperfs.reach import Reach
from hyperfs.view import View

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from corestore import Hypercore
    from hyperfs.index.node import BlockReader
    from hyperfs.index.root import RootInfo
    from hyperfs.live import LiveTree

T = TypeVar("T")

logger: Final = logging.getLogger("hyperfs")

# How many blocks are asked for at a time: 16 MiB on average. With a bound, 4 MiB.
_PORTION_BLOCKS: Final = 256
_BOUNDED_BLOCKS: Final = 64
_PORTIONS: Final = 4
# What nobody sends for so long has its turn again later.
_PORTION_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Wholeness:
    """How much is here of what kept versions need. `complete`: all of it, of the index too.

    `needed` and `held` count blocks of content. They are None while it is not known yet.
    """

    complete: bool
    needed: int | None
    held: int | None


class Seen(NamedTuple):
    """How a log was when it was looked at."""

    fork: int
    length: int


class _Noted(BlockSet):
    """A set that remembers what was put in since `take`."""

    __slots__ = ("_fresh", "count")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._fresh = array("q")

    def add(self, index: int) -> None:
        """Put *index* in."""
        if index not in self:
            super().add(index)
            self.count += 1
            self._fresh.append(index)

    def take(self) -> array[int]:
        """What was put in since."""
        fresh, self._fresh = self._fresh, array("q")
        return fresh


class Holder:
    """Holds one drive, while `run` runs. *caught_up* returns when the newest version known is
    shown."""

    def __init__(
        self,
        tree: LiveTree,
        caught_up: Callable[[], Awaitable[None]],
        max_bytes: int | None,
    ) -> None:
        assert tree.content_blocks is not None
        self._tree = tree
        self._metadata = tree.metadata_blocks.core
        self._content = tree.content_blocks.core
        self._caught_up = caught_up
        self._max = max_bytes
        # What is fetched here is waited for as long as it takes.
        self._blocks = tree.metadata_blocks.patient()
        self._needed: _Noted | None = None
        self._reach: Reach | None = None
        self._missing = array("q")
        # The newest version that is counted.
        self._counted = 0
        self._limit = None if max_bytes is None else CacheLimit(tree, max_bytes, newest=True)

    def wholeness(self) -> Wholeness:
        """See `Wholeness`. Costs as what is missing."""
        metadata, content = self._metadata, self._content
        view = self._tree.view
        if metadata.writable:
            return Wholeness(True, content.length, content.length)
        if not self._counts(view):
            held = content.statistics().blocks_held
            whole = metadata.length > 0 and metadata.has(0, metadata.length)
            return Wholeness(whole and held == content.length, content.length, held)
        needed = self._needed
        if needed is None or view is None or self._counted < view.version:
            return Wholeness(False, None, None)
        missing = sum(not content.has(index) for index in self._missing)
        return Wholeness(not missing, needed.count, needed.count - missing)

    async def run(self) -> None:
        """Fetch, follow and give back, until cancelled. Raises groups of ForkConflict (its key has
        signed two histories), StorageError."""
        if self._metadata.writable:
            await trio.sleep_forever()
        while True:
            basis = self._basis()
            async with trio.open_nursery() as nursery:
                view = self._tree.view
                if isinstance(view, View) and self._counts(view):
                    nursery.start_soon(self._hold_kept, view)
                else:
                    nursery.start_soon(self._hold_logs)
                seen: Seen | None = None
                while self._basis() == basis:
                    seen = await self._next(seen)
                nursery.cancel_scope.cancel()

    def _counts(self, view: object) -> bool:
        """Whether it is counted what is needed."""
        return isinstance(view, View) and (self._max is not None or view.index.root.oldest > 0)

    def _basis(self) -> tuple[BlockReader, int] | None:
        """What counting rests on: one history of the log, and the oldest version that is kept; None
        while nothing is counted."""
        view = self._tree.view
        if not isinstance(view, View) or not self._counts(view):
            return None
        return view.index.reader, 0 if self._max is not None else view.index.root.oldest

    async def _next(self, seen: Seen | None) -> Seen:
        """Return when another log than *seen* was looked at; which."""
        seen = await _changed(self._metadata, seen)
        await self._caught_up()
        return seen

    async def _surely(self, job: Callable[[], Awaitable[T]]) -> T:
        """What *job* returns, once it does not fail."""
        while True:
            try:
                return await job()
            except* (OSError, CorestoreError) as errors:
                # Those of tasks come together. What cannot be read names nothing that could be
                # fetched; a later version may.
                error = errors.exceptions[0]
                logger.warning("drive %s is not held whole: %s", self._metadata.key, error)
            await trio.sleep(_RETRY_SECONDS)

    # -- without counting ----------------------------------------------------------------------

    async def _hold_logs(self) -> None:
        """Both logs from end to end; with a bound, the end of the content log."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(self._metadata.download, live=True))
            if self._limit is None:
                nursery.start_soon(partial(self._content.download, live=True))
                return
            seen: Seen | None = None
            while True:
                seen = await _changed(self._content, seen)
                self._missing = array("q", range(seen.length))
                await self._fetch_bounded(self._limit)

    # -- counting ------------------------------------------------------------------------------

    async def _hold_kept(self, view: View) -> None:
        """What kept versions need, from the one *view* says is the oldest on."""
        newest = view.index.root
        self._blocks = self._tree.metadata_blocks.patient()
        self._counted = 0
        if self._max is not None:
            oldest = newest
        else:
            oldest = await self._surely(partial(self._root, newest.oldest - 1))
        self._needed = _Noted()
        self._reach = Reach(self._blocks, ahead=self._metadata.hint, content=self._needed)
        self._missing = array("q")
        self._counted = oldest.version - 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(self._metadata.download, start=oldest.index, live=True))
            if self._max is None:
                nursery.start_soon(
                    partial(self._content.download, start=oldest.content_length, live=True)
                )
            seen: Seen | None = None
            given_back = self._max is not None
            while True:
                await self._surely(self._count)
                if not given_back:
                    given_back = await self._surely(partial(self._give_back, oldest))
                    continue
                seen = await self._fetch_until_longer(seen)

    async def _count(self) -> None:
        """Count the versions made since the last one that was counted."""
        view = self._tree.view
        assert isinstance(view, View)
        assert self._reach is not None
        assert self._needed is not None
        roots = array("q")
        info = view.index.root
        while info.version > self._counted:
            roots.append(info.index)
            if info.previous is None or info.previous < self._counted:
                break
            info = await self._root(info.previous)
        pace = Pace()
        for root in reversed(roots):
            while True:
                try:
                    for _ in self._reach.add_version(root):
                        await pace.keep()
                    break
                except BlocksMissing as missing:
                    await self._blocks.fetch(missing.indices)
            self._counted = root + 1
        self._missing.extend(self._needed.take())
        await self._forget_held()

    async def _forget_held(self) -> None:
        """What has come is not missing."""
        pace = Pace()
        left = array("q")
        for index in self._missing:
            if not self._content.has(index):
                left.append(index)
            await pace.keep()
        self._missing = left

    async def _give_back(self, oldest: RootInfo) -> bool:
        """Clear what is older than the oldest kept version and not needed; False when a version
        has come meanwhile, which has to be counted first."""
        assert self._reach is not None
        assert self._needed is not None
        for core, needed, start, end in (
            (self._content, self._needed, 0, oldest.content_length),
            (self._metadata, self._reach.metadata, 1, oldest.index),
        ):
            held = list(core.held(start, end))
            gaps = [gap for run in held for gap in needed.gaps(*run)]
            clearing = Clearing(core)
            for runs in clearing.portions(gaps):
                view = self._tree.view
                if view is None or view.version > self._counted:
                    return False
                await clearing.clear(runs)
                await trio.lowlevel.checkpoint()
        return True

    async def _root(self, index: int) -> RootInfo:
        def read() -> RootInfo:
            root = decode_root(self._blocks.block(index), index)
            if root is None:
                raise DecodeError("root block")
            return root.info

        return await self._blocks.complete(read)

    # -- fetching ------------------------------------------------------------------------------

    async def _fetch_until_longer(self, seen: Seen | None) -> Seen:
        """Fetch what is missing until another log than *seen* was looked at; which."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._surely, self._fetch)
            seen = await self._next(seen)
            nursery.cancel_scope.cancel()
        return seen

    async def _fetch(self) -> None:
        assert self._reach is not None
        metadata = self._metadata
        # The roots that skips name are not read when versions are counted.
        end = self._counted
        held = [*metadata.held(0, end), (end, end)]
        ends = [0, *(stop for _, stop in held)]
        lacking: list[int] = []
        pace = Pace()
        for start, (stop, _) in zip(ends, held, strict=False):
            for index in range(start, stop):
                if index in self._reach.metadata:
                    lacking.append(index)
                await pace.keep()
        metadata.hint(lacking)
        if self._limit is not None:
            await self._fetch_bounded(self._limit)
            return
        while self._missing:
            queue = iter(range(0, len(self._missing), _PORTION_BLOCKS))
            async with trio.open_nursery() as nursery:
                for _ in range(_PORTIONS):
                    nursery.start_soon(self._fetch_portions, self._missing, queue)
            await self._forget_held()

    async def _fetch_portions(self, missing: Sequence[int], queue: Iterator[int]) -> None:
        for start in queue:
            with trio.move_on_after(_PORTION_SECONDS):
                await self._content.download(blocks=missing[start : start + _PORTION_BLOCKS])

    async def _fetch_bounded(self, limit: CacheLimit) -> None:
        """Fetch what was stored last until the bound is reached."""
        wanted = sorted(self._missing)
        while wanted and wanted[-1] >= limit.floor and await limit.make_room(wanted[-1]):
            portion, wanted = wanted[-_BOUNDED_BLOCKS:], wanted[:-_BOUNDED_BLOCKS]
            with trio.move_on_after(_PORTION_SECONDS):
                await self._content.download(blocks=portion)
        await limit.check()


async def _changed(core: Hypercore, seen: Seen | None) -> Seen:
    """Return when a log is another one than *seen*, and not empty; what it is."""

    def now() -> Seen:
        return Seen(core.fork, core.length)

    await core.wait_until(lambda: core.length > 0 and now() != seen)
    return now()
