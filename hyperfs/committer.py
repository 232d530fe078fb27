"""When staged changes become a version, and how: one commit at a time, all or nothing.

A commit is one instant of the tree. It *freezes* what is staged (the layer, and the delta of every
open file that has a name) in one step without an await; appends the content; then writes the
records and the index nodes in one transaction with what is left of the content. Changes made
meanwhile go to the next layer and the next delta. A record is written where the file was at the
instant of freezing, so renames and removals during the commit end right: the next commit has them.

Content over a bound is appended before the records, by a *flush*: only the records wait then.
"""

from __future__ import annotations

import errno
import logging
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from corestore import BlockNotAvailable, CorestoreError, StorageError, StorageLocked
from hyperfs.appender import Appender
from hyperfs.index.build import CommitFacts, commit_steps, dense_steps
from hyperfs.index.node import BlocksMissing
from hyperfs.index.tree import Index
from hyperfs.pace import run_paced
from hyperfs.recording import FrozenFile, index_changes
from hyperfs.view import View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from corestore import Corestore, Hypercore, Transaction
    from hyperfs.chunks import ChunkTable
    from hyperfs.content import ContentMap
    from hyperfs.index.node import NodeCache
    from hyperfs.live import LiveTree
    from hyperfs.staging import Layer
    from hyperfs.writer import OpenFile

logger: Final = logging.getLogger("hyperfs")

# A program that closes a file mostly does something more: what follows within this time joins, and
# what follows that, up to the bounds of age and amount.
SOON_SECONDS: Final = 0.01
# Who writes many files waits for each commit, so between those that nobody waits for it gets some
# times as long as the last one took, up to a bound in seconds.
REST_FACTOR: Final = 4
MOST_REST_SECONDS: Final = 0.1
# What nobody syncs is lost by a crash up to this age.
AGE_SECONDS: Final = 1.0
# After a failure (a full disk) the next attempt waits, unless somebody asks for it.
RETRY_SECONDS: Final = 1.0
# Unflushed content of all open files together; a writer that goes beyond waits.
MAX_DIRTY_BYTES: Final = 64 * 1024 * 1024
# A commit begins and ends in one step each, which grows by some 5 us with each record and file.
MOST_CHANGES: Final = 4096
# From here on content is appended without waiting for a commit, so that writers need not wait.
FLUSH_DIRTY_BYTES: Final = 16 * 1024 * 1024
# What a full disk, or quota, says.
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# What a file counts for beside its size when it is asked whether a commit adds or removes.
_FILE_BYTES: Final = 4096
# Files with less unflushed content wait for the commit, which packs them together.
_FLUSH_FILE_BYTES: Final = 1024 * 1024


def _ended() -> StorageError:
    return StorageError("what stores a drive's changes has failed, and has ended")


@dataclass(slots=True)
class _Waiter:
    """Somebody waits until the layer of this number is committed."""

    number: int
    error: BaseException | None = None
    done: bool = False


class Committer:
    """Commits one drive's tree. `run` must be running for anything to be committed."""

    def __init__(
        self,
        store: Corestore,
        metadata: Hypercore,
        content: Hypercore,
        tree: LiveTree,
        cache: NodeCache,
        table: ChunkTable,
        *,
        oldest: int = 0,
    ) -> None:
        self._store = store
        self._metadata = metadata
        self._content = content
        self._tree = tree
        self._cache = cache
        self._table = table
        self._first_change = math.inf
        # When what is staged is to be committed, if nothing else is changed before.
        self._quiet_at = math.inf
        self._urgent = False
        self._not_before = -math.inf
        self._rests_until = -math.inf
        self._waiters: list[_Waiter] = []
        self._room_error: BaseException | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._done = trio.lowlevel.ParkingLot()
        self._wake = trio.Event()
        self._storing = trio.Lock()
        # The oldest version that is kept, which every root tells.
        self._oldest = oldest
        tree.staging.on_change = self._changed
        tree.room = self.wait_for_room

    # -- asking ------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Return when everything staged before the call is in a version; see `Drive.commit`."""
        await trio.lowlevel.checkpoint()
        staging = self._tree.staging
        if staging.staged:
            waiter = _Waiter(staging.staged.number)
        elif staging.committing is not None:
            waiter = _Waiter(staging.committing.number)
        else:
            return
        if self._ended:
            raise _ended()
        self._waiters.append(waiter)
        self._urgent = True
        self._wake.set()
        try:
            while not waiter.done:
                await self._done.park()
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        if waiter.error is not None:
            raise waiter.error

    async def sync(self) -> None:
        """Commit, and return when that is durable and published."""
        await self.commit()
        await self._store.sync()

    async def sync_committed(self) -> None:
        """Return when the versions there are, of what is staged nothing, are durable."""
        await self._store.sync()

    def check(self) -> None:
        """Raise what the last attempt to store something raised, unless a later one succeeded."""
        if self._error is not None:
            raise self._error

    @property
    def full(self) -> bool:
        """Whether the last attempt to store something found no room."""
        error = self._error
        return isinstance(error, OSError) and error.errno in FULL

    async def wait_for_room(self, background: bool = False) -> None:
        """Return when there is less unflushed content than `MAX_DIRTY_BYTES`; *background*: half of
        that, so that it makes no program wait that writes beside it.

        Raises what the last flush raised, if it failed.
        """
        if self._enough:
            self._wake.set()
        bound = MAX_DIRTY_BYTES // 2 if background else MAX_DIRTY_BYTES
        while self._tree.dirty_bytes > bound:
            error, self._room_error = self._room_error, None
            if error is not None:
                raise error
            if self._ended:
                raise _ended()
            await self._done.park()

    def _changed(self) -> None:
        if self._first_change == math.inf:
            self._first_change = trio.current_time()
        self._wake.set()

    @property
    def _enough(self) -> bool:
        """Whether so much waits that it should not become more."""
        tree = self._tree
        staged = tree.staging.staged.records
        return tree.dirty_bytes >= FLUSH_DIRTY_BYTES or len(staged) >= MOST_CHANGES

    # -- when --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Commit and flush whenever it is due, until cancelled. One under way is finished.

        Should it end otherwise, by a bug, who waits for it is told and waits no more.
        """
        try:
            while True:
                await self._wait_due()
                with trio.CancelScope(shield=True):
                    async with self._storing:
                        await self._step()
        finally:
            self._ended = True
            for waiter in self._waiters:
                waiter.done = True
                waiter.error = _ended()
            self._done.unpark_all()

    async def write_densely(self) -> None:
        """Write the tree anew as a version of its own, its nodes full and in order. What is staged
        stays so. Commits wait meanwhile: a second for a million names.

        Raises OSError, StorageError, DecodeError, BlockNotAvailable (of a damaged store); then
        nothing has changed.
        """
        # Cancelled between the commit and what follows, the drive would show the version before.
        with trio.CancelScope(shield=True):
            async with self.quiet():
                await self._write_without_changes(dense=True)

    async def tell_oldest(self, version: int) -> None:
        """Older versions than *version* are given back: have that said by a version of its own,
        which changes nothing, and by all that follow. Does nothing if the newest one says so.

        Raises as `write_densely`.
        """
        with trio.CancelScope(shield=True):
            async with self.quiet():
                self._oldest = version
                view = self._tree.view
                assert isinstance(view, View)
                if view.index.root.oldest < version:
                    await self._write_without_changes(dense=False)

    async def tell_content_fork(self) -> None:
        """Have a version of its own, which changes nothing, say on which history of the content it
        relies. Does nothing if the newest one says so. Raises as `write_densely`."""
        with trio.CancelScope(shield=True):
            async with self.quiet():
                view = self._tree.view
                if isinstance(view, View) and view.index.root.content_fork < self._content.fork:
                    await self._write_without_changes(dense=False)

    async def _write_without_changes(self, *, dense: bool) -> None:
        tree = self._tree
        view = tree.view
        assert isinstance(view, View)
        await self._cut_rest(view)
        cores = self._metadata, self._content
        async with self._store.transaction(*cores, makes_room=not dense) as transaction:
            facts = self._facts(transaction, view, tree.next_id)
            index = view.index
            steps = dense_steps(index, **facts) if dense else commit_steps(index, {}, **facts)
            try:
                nodes = await run_paced(steps)
            except BlocksMissing as missing:
                raise BlockNotAvailable(missing.indices[0]) from missing
            await transaction.append(self._metadata, *nodes)
            version = transaction.length(self._metadata)
        tree.show(View(Index(version - 1, tree.metadata_blocks, self._cache)).follow(view, {}))

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Nothing is appended to either core during the block, which should be short."""
        async with self._storing:
            yield

    def _due(self) -> float:
        if self._urgent and self._waiters:
            return -math.inf
        if self._enough:
            return self._not_before
        if not self._tree.staging.staged:
            return math.inf
        aged = self._first_change + AGE_SECONDS
        return max(min(aged, max(self._quiet_at, self._rests_until)), self._not_before)

    async def _wait_due(self) -> None:
        """Return when a commit or a flush is due.

        While anything is staged that is looked at every `SOON_SECONDS`: to be told of each change
        would take a microsecond of it.
        """
        staging = self._tree.staging
        while True:
            now = trio.current_time()
            if staging.soon:
                staging.soon = False
                self._quiet_at = now + SOON_SECONDS
            due = self._due()
            if due <= now:
                await trio.lowlevel.checkpoint()
                return
            self._wake = trio.Event()
            look_at = max(now + SOON_SECONDS, self._not_before) if staging.staged else math.inf
            with trio.move_on_at(min(due, look_at)):
                await self._wake.wait()

    async def _step(self) -> None:
        tree = self._tree
        tree.drop_removed()
        waiting = self._urgent and self._waiters
        aged = trio.current_time() >= self._first_change + AGE_SECONDS
        if not waiting and not aged and tree.dirty_bytes >= FLUSH_DIRTY_BYTES:
            # A commit does not take files without a name.
            large = [
                file
                for file in tree.dirty_files.values()
                if file.delta is not None
                and (file.location is None or file.dirty_bytes >= _FLUSH_FILE_BYTES)
            ]
            if sum(file.dirty_bytes for file in large) >= FLUSH_DIRTY_BYTES // 2:
                await self._flush(large)
                return
        await self._commit()

    # -- how ---------------------------------------------------------------------------------

    async def _flush(self, files: list[OpenFile]) -> None:
        """Append the content of *files*; their records wait for a commit."""
        frozen = [FrozenFile.of(file) for file in files]
        try:
            appender = self._appender()
            for each in frozen:
                assert each.delta is not None
                each.result = await appender.append(each.base, each.delta)
            await appender.flush()
        except (OSError, CorestoreError, trio.TooSlowError, BlocksMissing) as error:
            self._thaw(frozen)
            self._failed(error, 0)
            return
        for each in frozen:
            each.file.record_dirty = True
            self._install(each, each.result)
        self._succeeded()
        self._done.unpark_all()

    async def _commit(self) -> None:
        began = trio.current_time()
        try:
            await self._commit_now()
        finally:
            ended = trio.current_time()
            self._rests_until = ended + min(REST_FACTOR * (ended - began), MOST_REST_SECONDS)

    async def _commit_now(self) -> None:
        tree = self._tree
        layer = tree.staging.freeze()
        self._first_change = math.inf
        self._quiet_at = math.inf
        self._urgent = False
        frozen: dict[int, FrozenFile] = {}
        for file in list(tree.dirty_files.values()):
            if file.location is not None:
                frozen[file.id] = FrozenFile.of(file)
                file.record_dirty = False
        try:
            view, nodes = await self._write(layer, frozen)
        except (OSError, CorestoreError, trio.TooSlowError, BlocksMissing) as error:
            number = layer.number
            tree.staging.failed()
            for each in frozen.values():
                each.file.record_dirty = True
            self._thaw(frozen.values())
            self._failed(error, number)
            return
        # No await from here on: the version, the layers and the files change together.
        tree.staging.committed()
        if view is not None:
            tree.show(view)
        for each in frozen.values():
            self._install(each, each.result if view is None else each.result.recorded(view))
        for waiter in self._waiters:
            if waiter.number <= layer.number:
                waiter.done = True
        self._waiters = [waiter for waiter in self._waiters if not waiter.done]
        self._urgent = bool(self._waiters)
        self._succeeded()
        self._not_before = -math.inf
        self._done.unpark_all()
        if view is not None:
            await run_paced(self._cache.warm(view.index.root.first_block, nodes))

    async def _write(
        self, layer: Layer, frozen: dict[int, FrozenFile]
    ) -> tuple[View | None, list[bytes]]:
        """Append content and records; returns the new version, None if nothing had changed, and the
        nodes of the tree that are new in it."""
        appender = self._appender()
        before = self._content.length
        for each in frozen.values():
            if each.delta is not None:
                each.result = await appender.append(each.base, each.delta)
        records = layer.records.changes()
        previous = self._tree.view
        assert previous is None or isinstance(previous, View)
        changes, files, size = await index_changes(previous, layer, frozen, records)
        if not changes:
            await appender.flush()
            return None, []
        tree = self._tree
        next_id = tree.next_id
        if previous is not None:
            await self._cut_rest(previous)
        blocks = appender.take()
        # What is removed can only be given back once a version says so. With what is changed beside
        # it, less than is flushed, that may take the last room of a full disk.
        added = size + sum(map(len, blocks)) + files * _FILE_BYTES
        removes = added <= 0 and self._content.length == before
        cores = self._metadata, self._content
        async with self._store.transaction(*cores, makes_room=removes) as transaction:
            if blocks:
                appender.check_start(await transaction.append(self._content, *blocks))
            facts = self._facts(transaction, previous, next_id, files, size)
            index = None if previous is None else previous.index
            nodes = await run_paced(commit_steps(index, changes, **facts))
            await transaction.append(self._metadata, *nodes)
            version = transaction.length(self._metadata)
        appender.appended()
        view = View(Index(version - 1, tree.metadata_blocks, self._cache))
        if previous is not None:
            view.follow(previous, records)
        # In front of the root lie the nodes of a tree that was changed, or an overlay.
        return view, [] if view.index.root.overlay is not None else nodes[:-1]

    async def _cut_rest(self, newest: View) -> None:
        """Drop what another process left that was stopped in the middle of a commit."""
        if self._metadata.length > newest.version:
            await self._metadata.cut_unpublished(newest.version)
            self._cache.forget_from(newest.version)

    def _facts(
        self,
        transaction: Transaction,
        previous: View | None,
        next_id: int,
        files: int = 0,
        size: int = 0,
    ) -> CommitFacts:
        """What the next version says of itself: by so many more *files* and bytes (*size*)."""
        root = None if previous is None else previous.index.root
        return CommitFacts(
            first_block=transaction.length(self._metadata),
            time_ns=self._tree.now_ns(),
            content_length=transaction.length(self._content),
            next_id=next_id,
            files=max(0, files + (0 if root is None else root.files)),
            bytes=max(0, size + (0 if root is None else root.bytes)),
            # Another store may have written the drive before, and said so.
            oldest=max(self._oldest, 0 if root is None else root.oldest),
            content_fork=self._content.fork,
        )

    def _appender(self) -> Appender:
        return Appender(self._store, self._content, self._tree.reader, self._table)

    def _install(self, each: FrozenFile, content: ContentMap) -> None:
        """The frozen state of a file is appended: its content is *content* now."""
        file, tree = each.file, self._tree
        if each.delta is not None:
            tree.dirty_bytes -= each.delta.ranges.size_bytes
        tree.dirty_bytes += file.install(each.base, each.delta, content)
        if not file.dirty:
            tree.dirty_files.pop(file.id, None)
        tree.drop_if_idle(file)

    def _thaw(self, frozen: Iterable[FrozenFile]) -> None:
        """Nothing was appended: the frozen deltas lie under what was written since."""
        tree = self._tree
        for each in frozen:
            tree.dirty_bytes += each.file.thaw(each.delta)
            tree.dirty_files[each.file.id] = each.file
            tree.drop_if_idle(each.file)

    def _succeeded(self) -> None:
        if self._error is not None:
            logger.info("what is written is stored again")
        self._room_error = self._error = None

    def _failed(self, error: Exception, number: int) -> None:
        if isinstance(error, BlocksMissing):
            # The disk had damaged them, and they were forgotten. They come back when they are read.
            error = BlockNotAvailable(error.indices[0])
        if self._error is None:
            logger.warning("what is written cannot be stored: %s", error)
        self._first_change = min(self._first_change, trio.current_time())
        # A store that has failed has to be opened again; a full disk may have room later.
        final = isinstance(error, StorageError) and not isinstance(error, StorageLocked)
        self._not_before = math.inf if final else trio.current_time() + RETRY_SECONDS
        self._room_error = self._error = error
        for waiter in self._waiters:
            if waiter.number <= number:
                waiter.error, waiter.done = error, True
        self._waiters = [waiter for waiter in self._waiters if not waiter.done]
        self._urgent = bool(self._waiters)
        self._done.unpark_all()
