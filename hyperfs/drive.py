"""`Drive`: files and directories over a metadata core and a content core, as they are now.

What can be asked of it is in `hyperfs.drivereader`; here are its versions, changes by path, commits
and space. Changes by id, which an inode layer makes, are those of its `tree`.

Changes are *staged* in memory, seen at once by everything in this process, and committed together
as one version. Only one process writes a drive: the first change takes the right to, and keeps it
until the store is closed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio

from hyperfs import compact, paths, walk
from hyperfs.batch import Batch
from hyperfs.cache import CacheLimit
from hyperfs.changes import Changed, DriveStatistics, EntryChange, PathChange
from hyperfs.collect import Collector, oldest_version
from hyperfs.drivereader import DriveReader
from hyperfs.errors import DriveEncrypted, VersionCleared
from hyperfs.live import LiveTree
from hyperfs.records import ROOT_ID
from hyperfs.subscription import Changes, subscribed
from hyperfs.walk import PathEntry
from hyperfs.watch import Watch
from hyperfs.whole import Holder
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator
    from pathlib import Path

    from corestore import Hypercore
    from hyperfs.collect import Collected
    from hyperfs.committer import Committer
    from hyperfs.follow import Follower
    from hyperfs.view import TreeView
    from hyperfs.whole import Wholeness

__all__ = [
    "ROOT_ID",
    "SHARED",
    "Changed",
    "Changes",
    "Drive",
    "DriveStatistics",
    "EntryChange",
    "PathChange",
    "PathEntry",
]


class Drive(DriveReader):
    """See the module. Made by `hyperfs.open` and `Drive.checkout`; open while its store is.

    `name` is its local name, if it has one, `store_path` the folder of its store, None for one in
    memory. `content` is None until a version is known.
    """

    def __init__(
        self,
        metadata: Hypercore,
        tree: LiveTree,
        *,
        name: str | None = None,
        store_path: Path | None = None,
        committer: Committer | None = None,
        follower: Follower | None = None,
    ) -> None:
        super().__init__(metadata, tree)
        self.name: Final = name
        self.store_path: Final = store_path
        self._committer = committer
        self._follower = follower
        self._collector: Collector | None = None
        self._holder: Holder | None = None

    def __repr__(self) -> str:
        return f"<Drive {self.key} version={self.version}>"

    @property
    def writable(self) -> bool:
        """Whether it can be changed here. Another process may be doing so: see `claim`."""
        return self._tree.writable

    @property
    def readable(self) -> bool:
        """False of an encrypted drive whose encryption key is not known here, once that is found
        out: such a drive can be held, and served."""
        return self._follower is None or not self._follower.encrypted

    # -- versions ----------------------------------------------------------------------------

    async def ready(self) -> None:
        """Return once a version is known, waiting for a peer if there is none in the store.

        Deadlines are the caller's. Raises NotADrive, UnsupportedFormat, DriveEncrypted.
        """
        if self._follower is not None:
            await self._follower.wait_ready()

    async def update(self) -> bool:
        """Ask the peers for a newer version; whether there is one, which is shown by then.

        Waits for peers as `Hypercore.update` does.
        """
        before = self.version
        if self._follower is not None and not self.metadata.writable:
            await self.metadata.update()
            await self._follower.wait_caught_up()
        return self.version != before

    async def checkout(self, version: int | None = None) -> Drive:
        """The drive as it was at *version* (or the last one before), read-only; without one as it
        is now, for which what is staged is committed.

        What is written here `collect` keeps while such a drive is in use. Of somebody else's
        reads fail with TooSlowError if the writer has given the version back (see `oldest`).

        Raises:
          ValueError: there is no such version.
          VersionCleared: it was given back to the disk.
          trio.TooSlowError, DecodeError: it cannot be read.
          OSError, StorageError: as `commit`.
        """
        await self.ready()
        if version is None:
            await self.commit()
            return self._at(self._view)
        tree, newest = self._tree, self._view.version
        if not 0 < version <= newest:
            raise ValueError(f"there is no version {version}; the newest is {newest}")
        oldest = self.oldest
        if version < oldest:
            raise VersionCleared(version, oldest)
        blocks, form = tree.metadata_blocks, tree.format
        assert form is not None
        view = await blocks.complete(lambda: form.checkout(version, newest))
        if view is None:
            raise ValueError(f"version {version} is before the first")
        return self._at(view)

    def _at(self, view: TreeView) -> Drive:
        """The drive as of one version, which is kept for as long as that is used."""
        tree = self._tree
        past = LiveTree(tree.metadata_blocks, writable=False)
        past.view, past.format = view, tree.format
        past.checkout_of = newest = tree.checkout_of or tree
        if tree.content_blocks is not None:
            past.set_content(tree.reader.blocks)
            past.reader.on_read = tree.reader.on_read
        newest.checkouts.add(past)
        return Drive(self.metadata, past, name=self.name, store_path=self.store_path)

    @property
    def oldest(self) -> int:
        """The oldest version that was not given back to the disk, as far as is known here; 0 if all
        are there. Of a version that is checked out: that of its drive."""
        return oldest_version(self.metadata, (self._tree.checkout_of or self._tree).view)

    async def version_at(self, time_ns: int) -> int:
        """The newest version that was committed at *time_ns* or before, by the writer's clock; 0 if
        that is before the first one that was kept, and for drives whose format does not tell.

        Raises TooSlowError, DecodeError: it cannot be told.
        """
        await self.ready()
        tree, newest = self._tree, self._view.version
        form, blocks = tree.format, tree.metadata_blocks
        assert form is not None
        oldest = self.oldest
        if oldest:
            first = await blocks.complete(lambda: form.checkout(oldest, newest))
            if first is None or first.time_ns > time_ns:
                return 0
        return await blocks.complete(lambda: form.version_at(time_ns, newest))

    def watch(self, path: str | bytes = "/") -> Watch[Drive]:
        """What changes at or below *path*, here or elsewhere, from now on, with the versions before
        and after: `with drive.watch("/a") as watch: async for change in watch`."""
        return Watch(self._tree, paths.split(path), self._at)

    def watch_changes(self) -> AbstractContextManager[Changes]:
        """Subscribe to what others change, each told by ids after look-ups show it; of a version,
        nothing."""
        return subscribed(set() if self._follower is None else self._follower.subscribers)

    # -- what is here ------------------------------------------------------------------------

    async def evict(self, path: str | bytes = "/") -> int:
        """Forget the content below a path that is here, and return how many bytes that was; it is
        fetched again when it is read. What other files share with it goes too.

        Raises:
          ValueError: the drive is written here, so nobody else need have its content.
          FileNotFoundError, NotADirectoryError, OSError, StorageError.
        """
        self._check_foreign()
        await self.ready()
        assert self._tree.content_blocks is not None
        return await walk.evict(self._tree, paths.split(path), self._tree.content_blocks)

    async def limit_cache(self, max_bytes: int) -> None:
        """Keep what is here of the content below *max_bytes*, about, until cancelled: what was read
        longest ago is forgotten, as by `evict`. Raises ValueError as that does."""
        self._check_foreign()
        await CacheLimit(self._tree, max_bytes).run()

    async def hold(self, max_bytes: int | None = None) -> None:
        """Fetch all that the versions kept by the writer need, keep up with it, and give back what
        none needs any more, until cancelled. `wholeness` tells how far that is.

        *max_bytes*: about so much content at most, of the newest version, what was stored last
        first. An encrypted drive of which the key is not known is held as it is stored.

        Raises NotADrive, UnsupportedFormat.
        """
        with suppress(DriveEncrypted):
            await self.ready()
        follower = self._follower
        assert follower is not None
        self._holder = Holder(self._tree, follower.wait_caught_up, max_bytes)
        await self._holder.run()

    def wholeness(self) -> Wholeness | None:
        """How much is here of what kept versions need; None unless `hold` is running."""
        return None if self._holder is None else self._holder.wholeness()

    def _check_foreign(self) -> None:
        if self.metadata.writable:
            raise ValueError("what this store has written is not fetched again from anybody")

    # -- changing by path --------------------------------------------------------------------

    @asynccontextmanager
    async def batch(self, *, commit: bool = True) -> AsyncIterator[Batch]:
        """Changes that become one version together, or none if the block raises.

        Without *commit* they are staged when the block ends, and are part of the next version, with
        what else is staged till then; `sync` waits for it.
        """
        batch = Batch(self._tree)
        try:
            yield batch
        except BaseException:
            batch.discard()
            raise
        batch.apply()
        if commit:
            await self.commit()
        else:
            self.schedule_commit()

    async def write(
        self,
        path: str | bytes,
        data: bytes | bytearray | memoryview | AsyncIterable[bytes],
        *,
        mode: int | None = None,
        mtime_ns: int | None = None,
    ) -> None:
        """Make *data* the whole content of a file, as one version. See `Batch.write`."""
        async with self.batch() as batch:
            await batch.write(path, data, mode=mode, mtime_ns=mtime_ns)

    async def mkdir(
        self,
        path: str | bytes,
        *,
        mode: int = 0o755,
        mtime_ns: int | None = None,
        exist_ok: bool = False,
        parents: bool = False,
    ) -> None:
        """Make a directory. See `Batch.mkdir`."""
        async with self.batch() as batch:
            await batch.mkdir(
                path, mode=mode, mtime_ns=mtime_ns, exist_ok=exist_ok, parents=parents
            )

    async def symlink(
        self,
        path: str | bytes,
        target: str | bytes,
        *,
        mtime_ns: int | None = None,
        replace: bool = False,
    ) -> None:
        """Make a symbolic link. See `Batch.symlink`."""
        async with self.batch() as batch:
            await batch.symlink(path, target, mtime_ns=mtime_ns, replace=replace)

    async def remove(self, path: str | bytes, *, recursive: bool = False) -> None:
        """Remove a file, a link or a directory. See `Batch.remove`."""
        async with self.batch() as batch:
            await batch.remove(path, recursive=recursive)

    async def rename(self, old: str | bytes, new: str | bytes) -> None:
        """As rename(2). See `Batch.rename`."""
        async with self.batch() as batch:
            await batch.rename(old, new)

    # -- committing --------------------------------------------------------------------------

    async def claim(self) -> None:
        """Take the right to write now, rather than with the first change.

        If the drive has begun a new history (`settle_drive`), there is a version of that then.

        Raises NotWritable, StorageLocked (another process has it; with its pid when known), as
        `commit`.
        """
        await trio.lowlevel.checkpoint()
        self._tree.check_writable()
        if self._committer is not None:
            await self._committer.tell_content_fork()

    async def commit(self) -> int:
        """Make one version of everything staged, dirty content of open files included.

        Returns the version shown then, which holds everything staged before the call. Cancelling
        the wait does not undo.

        Raises:
          OSError: ENOSPC, EIO; what was staged stays staged, and is tried again later.
          StorageError: the store has to be opened again.
        """
        if self._committer is not None:
            await self._committer.commit()
        return self.version

    async def sync(self) -> None:
        """Commit, and return when that is durable and published: what fsync awaits.

        Raises as `commit`.
        """
        if self._committer is not None:
            await self._committer.sync()

    def schedule_commit(self) -> None:
        """Commit soon (10 ms), in the background: what the last close of a written file calls."""
        self._tree.schedule_commit()

    async def collect(
        self, *, keep_last: int | None = None, keep_within: float | None = None
    ) -> Collected:
        """Give the disk back what no kept version needs, of content and of the index.

        Kept are the newest *keep_last* versions, and those that were the newest one at some time
        in the last *keep_within* seconds; what is staged is committed first. Versions open in this
        process are kept too. Other versions cannot be checked out any more. The drive can be used
        meanwhile; cancelled, some of it is given back.

        Raises:
          NotWritable, StorageLocked: only the writer says what is kept.
          ValueError: neither is given, or the newest version would not be kept.
          DecodeError, BlockNotAvailable, OSError, StorageError: what is there cannot be read, or
            not be cleared.
        """
        return await self._collecting().run(keep_last, keep_within)

    async def keep(self, *, keep_last: int | None = None, keep_within: float | None = None) -> None:
        """`collect` in the background again and again, gently, until cancelled."""
        await self._collecting().keep(keep_last, keep_within)

    async def compact(
        self, *, keep_last: int | None = None, keep_within: float | None = None
    ) -> Collected:
        """Write the tree, and stretches of files that many small changes have scattered, anew in
        one piece, then `collect`. Nothing is truncated, and no file's times change.

        Takes room for what is written anew before what it replaces is given back. Raises as
        `collect`.
        """
        collector = self._collecting()
        assert self._committer is not None
        collector.check(keep_last, keep_within)
        await self.commit()
        await compact.rewrite_scattered(self._tree)
        await self.commit()
        await self._committer.write_densely()
        return await collector.run(keep_last, keep_within)

    def _collecting(self) -> Collector:
        if self._collector is None:
            self._tree.check_writable()
            assert self._committer is not None
            self._collector = Collector(self.metadata, self._tree, self._committer)
        return self._collector

    def check_flushed(self) -> None:
        """Raise what kept the last commit or flush from being stored, if it failed (ENOSPC)."""
        if self._committer is not None:
            self._committer.check()
