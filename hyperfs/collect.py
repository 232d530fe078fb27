"""Gives back what no kept version needs: content blocks, and blocks of the index.

Kept are the newest versions, as many or as far back as is asked, everything made since, versions
that are checked out in this process, and what open files show. What they need is counted
(`hyperfs.reach`) while the drive is used; then blocks are cleared a few runs at a time. Before each
step commits are held up for a moment, and what was committed meanwhile is counted too: it may have
found an old chunk useful again.

The newest version is durable before anything is cleared, and the oldest kept one is noted in the
store, so neither a crash nor a later opening shows a version that is not whole. In the end a
version that changes nothing tells readers the same, so that those who hold the drive for others
know what need not be held. Such a version does not count as one of those that are to be kept.
"""

from __future__ import annotations

import logging
import time
from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from corestore import BlockNotAvailable, CorestoreError, DecodeError
from hyperfs.clearing import Clearing
from hyperfs.committer import FULL
from hyperfs.index.node import BlocksMissing
from hyperfs.index.root import decode_root
from hyperfs.pace import Pace
from hyperfs.reach import Reach
from hyperfs.records import Entry
from hyperfs.view import View

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from corestore import Hypercore
    from hyperfs.blockset import BlockSet
    from hyperfs.committer import Committer
    from hyperfs.index.root import RootInfo
    from hyperfs.live import LiveTree
    from hyperfs.view import TreeView

logger: Final = logging.getLogger("hyperfs")

# User data of the metadata core: the oldest version that is whole, in decimal digits.
_OLDEST: Final = "drive/oldest"
# A collection in the background rests this long after every millisecond of work.
_REST_SECONDS: Final = 0.004
# And the next one begins this much later, or after this many times what the last one took.
_INTERVAL_SECONDS: Final = 30.0
_INTERVAL_FACTOR: Final = 20.0
# What shows past versions has so long to end those that nobody uses.
_ENDING_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did: `version` is the oldest kept one, `byte_length` what was given back
    of both cores together, `blocks` how many blocks that was."""

    version: int
    blocks: int
    byte_length: int


def oldest_version(metadata: Hypercore, newest: TreeView | None = None) -> int:
    """The oldest version of a drive that was not given back; 0 if all are there. It is noted here
    of a drive that is written here, and of any other its *newest* version tells."""
    kept = metadata.user_data(_OLDEST)
    noted = int(kept) if kept is not None and kept.isdigit() else 0
    return max(noted, newest.index.root.oldest) if isinstance(newest, View) else noted


class Collector:
    """Collects one drive that is written here. One `run` at a time."""

    def __init__(self, metadata: Hypercore, tree: LiveTree, committer: Committer) -> None:
        self._metadata = metadata
        self._tree = tree
        self._committer = committer
        self._running = trio.Lock()

    async def run(
        self, keep_last: int | None, keep_within: float | None, *, gentle: bool = False
    ) -> Collected:
        """See `Drive.collect`. *gentle*: rest most of the time."""
        self.check(keep_last, keep_within)
        self._tree.check_writable()
        async with self._running:
            try:
                return await self._run(keep_last, keep_within, _Rest() if gentle else Pace())
            except BlocksMissing as missing:
                # Lost on the disk: what it names cannot be known.
                raise BlockNotAvailable(missing.indices[0]) from missing

    async def _run(self, keep_last: int | None, keep_within: float | None, pace: Pace) -> Collected:
        def collection() -> _Collection:
            return _Collection(self._metadata, self._tree, self._committer, pace)

        blocks = size = 0
        try:
            await self._committer.sync()
        except OSError as error:
            if error.errno not in FULL:
                raise
            # What is staged has no room. What neither it nor the newest version needs may be that.
            before = await collection().run(keep_last, keep_within)
            blocks, size = before.blocks, before.byte_length
            await self._sync_again()
        found = await collection().run(keep_last, keep_within)
        return replace(found, blocks=found.blocks + blocks, byte_length=found.byte_length + size)

    async def _sync_again(self) -> None:
        try:
            await self._committer.sync()
        except OSError as error:
            size = self._tree.dirty_bytes
            if error.errno not in FULL or not size:
                raise
            what = f"{error.strerror} for {size / 1e6:.1f} MB written last, which can be removed"
            raise OSError(error.errno, what) from error

    @staticmethod
    def check(keep_last: int | None, keep_within: float | None) -> None:
        """Raises ValueError unless these say which versions to keep."""
        if keep_last is None and keep_within is None:
            raise ValueError("say which versions to keep")
        if (keep_last is not None and keep_last < 1) or (keep_within or 0) < 0:
            raise ValueError("the newest version is always kept")

    async def keep(self, keep_last: int | None, keep_within: float | None) -> None:
        """Collect in the background again and again, until cancelled."""
        done = 0
        while True:
            began = trio.current_time()
            try:
                version = self._last_change()
                if version != done or self._committer.full:
                    found = await self.run(keep_last, keep_within, gentle=True)
                    logger.info("%d bytes given back", found.byte_length)
                    done = version
            except (OSError, CorestoreError) as error:
                logger.warning("space is not given back: %s", error)
            took = trio.current_time() - began
            await trio.sleep(max(_INTERVAL_SECONDS, _INTERVAL_FACTOR * took))

    def _last_change(self) -> int:
        """The newest version that changes anything."""
        view = self._tree.view
        if not isinstance(view, View):
            return 0
        info = view.index.root
        if info.previous is None:
            return info.version
        before = _root(self._tree, info.previous)
        return before.version if _only_tells_oldest(info, before) else info.version


class _Rest(Pace):
    """Sleeps rather than only let others run."""

    __slots__ = ()

    async def keep(self) -> None:
        if self.due:
            await trio.sleep(_REST_SECONDS)
            self.begin()


def _only_tells_oldest(info: RootInfo, before: RootInfo) -> bool:
    """Whether a version was made by `Committer.tell_oldest`, and nothing has changed with it.

    If only times have, that version is kept for nothing, which does no harm.
    """
    return (
        info.oldest > before.oldest
        and replace(
            info,
            index=before.index,
            time_ns=before.time_ns,
            first_block=before.first_block,
            number=before.number,
            next_id=before.next_id,
            skips=before.skips,
            oldest=before.oldest,
        )
        == before
        and info.first_block == info.index
    )


def _root(tree: LiveTree, index: int) -> RootInfo:
    root = decode_root(tree.metadata_blocks.block(index), index)
    if root is None:
        raise DecodeError("root block")
    return root.info


class _Collection:
    """One collection."""

    def __init__(
        self, metadata: Hypercore, tree: LiveTree, committer: Committer, pace: Pace
    ) -> None:
        content = tree.content_blocks
        assert content is not None
        self._metadata = metadata
        self._content = content.core
        self._tree = tree
        self._committer = committer
        self._pace = pace
        self._reach = Reach(tree.metadata_blocks)
        # The newest version that is counted.
        self._counted = 0
        self._blocks = self._bytes = 0

    async def run(self, keep_last: int | None, keep_within: float | None) -> Collected:
        newest = self._view()
        # Were the newest version lost in a power cut, one would be shown that was given back.
        await self._committer.sync_committed()
        cutoff = None if keep_within is None else time.time_ns() - round(keep_within * 1e9)
        info = newest.index.root
        floor = oldest_version(self._metadata, newest)
        roots = array("q", [info.index])
        kept = 1
        while info.previous is not None and info.previous >= floor - 1:
            before = _root(self._tree, info.previous)
            tells = _only_tells_oldest(info, before)
            # A version was the newest one until the next was made.
            if not (
                tells
                or (keep_last is not None and kept < keep_last)
                or (cutoff is not None and info.time_ns > cutoff)
            ):
                break
            info = before
            roots.append(info.index)
            kept += not tells
            await self._pace.keep()
        oldest = info.version
        if oldest > floor:
            # From here on older ones are not checked out any more; those that are, are kept.
            await self._metadata.set_user_data(_OLDEST, b"%d" % oldest)
        for view in await self._checkouts(oldest):
            await self._steps(self._reach.add_version(view.index.root.index))
        for root in reversed(roots):
            await self._steps(self._reach.add_version(root))
        self._counted = newest.version
        await self._clear(self._content, self._reach.content, 0)
        await self._clear(self._metadata, self._reach.metadata, 1)
        if info.previous is not None:
            await self._committer.tell_oldest(oldest)
        return Collected(oldest, self._blocks, self._bytes)

    async def _checkouts(self, oldest: int) -> list[View]:
        """The versions before *oldest* that are in use."""
        tree = self._tree

        def found() -> list[View]:
            views = [past.view for past in tree.checkouts]
            return [view for view in views if isinstance(view, View) and view.version < oldest]

        if tree.before_collection is not None and found():
            tree.before_collection(oldest)
            with trio.move_on_after(_ENDING_SECONDS):
                # A checkout goes when nobody refers to it: there is no event.
                while found():  # noqa: ASYNC110
                    await trio.sleep(_LOOK_SECONDS)
        return found()

    async def _clear(self, core: Hypercore, needed: BlockSet, start: int) -> None:
        """Clear what of *core* from *start* on is not needed."""
        # Much may have been committed while the kept versions were counted.
        await self._catch_up()
        clearing = Clearing(core)
        while True:
            async with self._committer.quiet():
                # Somebody may be waiting for a commit: no rest.
                resting, self._pace = self._pace, Pace()
                try:
                    await self._catch_up()
                    await self._steps(self._count_unrecorded())
                finally:
                    self._pace = resting
                end = core.length if core is self._content else self._counted
                gaps = (gap for held in core.held(start, end) for gap in needed.gaps(*held))
                runs = next(clearing.portions(gaps), None)
                if runs is None:
                    return
                self._bytes += await clearing.clear(runs)
                self._blocks += sum(end - start for start, end in runs)
            start = runs[-1][1]
            await trio.lowlevel.checkpoint()
            await self._pace.keep()

    async def _catch_up(self) -> None:
        """Count the versions made since the last one that was counted."""
        roots = array("q")
        newest = self._view()
        info = newest.index.root
        while info.version > self._counted:
            roots.append(info.index)
            if info.previous is None:
                break
            info = _root(self._tree, info.previous)
            await self._pace.keep()
        for root in reversed(roots):
            await self._steps(self._reach.add_version(root))
        self._counted = newest.version

    def _count_unrecorded(self) -> Iterator[None]:
        """Count what no version may have: content of open files, and of staged records.

        Nothing is being committed.
        """
        tree, view, reach = self._tree, self._view(), self._reach
        # Those of batches, which are not made yet, are layers too.
        for layer in [tree.staging.staged, *tree.layers]:
            for record in layer.records.changes().values():
                if isinstance(record, Entry):
                    reach.add_extents(record.extents)
        for file in list(tree.files.values()):
            content = file.content
            reach.add_extents(content.extents)
            for extents in content.windows.values():
                reach.add_extents(extents)
            known = content.view
            if not isinstance(known, View) or known.version >= view.version:
                continue
            if file.location is None or file.dirty or content.windows or content.stale:
                yield from reach.add_version(known.index.root.index)
            else:
                # Its records are those of the newest version: nobody else changes them.
                file.content = content._replace(view=view)

    def _view(self) -> View:
        view = self._tree.view
        assert isinstance(view, View)
        return view

    async def _steps(self, work: Iterator[None] | Generator[None, None, None]) -> None:
        for _ in work:
            await self._pace.keep()
