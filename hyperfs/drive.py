"""`Drive`: files and directories over a metadata core and a content core.

The methods by path are for programs; the id-level ones are what an inode layer builds on: there a
directory is named by its id, an entry by (directory id, name), a file's bytes by its `OpenFile`.
Methods that are not `async` never wait and are atomic; the others wait only for blocks that are not
local (`commit` and `sync`: for the disk).

Changes are *staged* in memory, seen at once by everything in this process, and committed together
as one version. Only one process writes a drive: the first change takes the right to, and keeps it
until the store is closed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from hyperfs import compact, paths, walk
from hyperfs.batch import Batch
from hyperfs.cache import CacheLimit
from hyperfs.changes import Changed, DriveStatistics, EntryChange, PathChange
from hyperfs.collect import Collector, oldest_version
from hyperfs.errors import DriveEncrypted, VersionCleared
from hyperfs.follow import Changes, subscribed
from hyperfs.held import held_bytes
from hyperfs.index.node import BlocksMissing
from hyperfs.links import DriveLink
from hyperfs.live import LiveTree
from hyperfs.paging import Pages
from hyperfs.records import ROOT_ID, check_name
from hyperfs.versions import Diff
from hyperfs.walk import PathEntry
from hyperfs.watch import Watch
from hyperfs.whole import Holder
from hyperfs.writer import SHARED, OpenFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator
    from pathlib import Path

    from corestore import DiscoveryKey, Hypercore, Key
    from hyperfs.collect import Collected
    from hyperfs.committer import Committer
    from hyperfs.follow import Follower
    from hyperfs.records import Entry
    from hyperfs.view import TreeView
    from hyperfs.whole import Wholeness
    from hyperfs.writer import Location, Shared

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

_LIST_LIMIT: Final = 256


class Drive:
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
        self.name: Final = name
        self.store_path: Final = store_path
        self.metadata: Final = metadata
        self._tree: Final = tree
        self._committer = committer
        self._follower = follower
        self._collector: Collector | None = None
        self._holder: Holder | None = None

    def __repr__(self) -> str:
        return f"<Drive {self.key} version={self.version}>"

    # -- what it is --------------------------------------------------------------------------

    @property
    def tree(self) -> LiveTree:
        """The same in terms of ids, for an inode layer: there nothing waits, and what is not local
        raises BlocksMissing. `schedule_commit` has to be called after changes."""
        return self._tree

    @property
    def key(self) -> Key:
        """Names the drive, lets one read it, verifies everything in it."""
        return self.metadata.key

    @property
    def link(self) -> DriveLink:
        """What a reader has to be told: the key and, if the drive is encrypted and this store knows
        it, the encryption key."""
        return DriveLink(self.key, self.metadata.encryption_key)

    @property
    def discovery_key(self) -> DiscoveryKey:
        """Names the drive to strangers: the topic to join. Both cores travel over one stream."""
        return self.metadata.discovery_key

    @property
    def content(self) -> Hypercore | None:
        """The core with the files' bytes; None before the first version is known."""
        blocks = self._tree.content_blocks
        return None if blocks is None else blocks.core

    @property
    def writable(self) -> bool:
        """Whether it can be changed here. Another process may be doing so: see `claim`."""
        return self._tree.writable

    @property
    def version(self) -> int:
        """The length of the metadata core that look-ups show; 0 before a first version is known."""
        view = self._tree.view
        return 0 if view is None else view.version

    @property
    def generation(self) -> int:
        """The fork of the metadata core that look-ups show."""
        return self._tree.fork

    def previous(self) -> int:
        """The version before this one; 0 if this is the first."""
        return self._view.previous

    @property
    def time_ns(self) -> int:
        """When this version was committed, by the writer's clock."""
        return self._view.time_ns

    def statistics(self) -> DriveStatistics:
        """Counters of this moment; costs nothing."""
        view, tree = self._tree.view, self._tree
        content = self.content
        return DriveStatistics(
            version=self.version,
            files=0 if view is None else view.files,
            byte_length=0 if view is None else view.byte_length,
            staged=len(tree.staging),
            dirty_bytes=tree.dirty_bytes,
            content_byte_length=0 if content is None else content.byte_length,
        )

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

    async def checkout(self, version: int) -> Drive:
        """The drive as it was at *version* (or the last one before), read-only.

        Raises:
          ValueError: there is no such version.
          VersionCleared: it was given back to the disk.
          trio.TooSlowError, DecodeError: it cannot be read.
        """
        await self.ready()
        tree, newest = self._tree, self._view.version
        if not 0 < version <= newest:
            raise ValueError(f"there is no version {version}; the newest is {newest}")
        oldest = oldest_version(self.metadata)
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
        if tree.content_blocks is not None:
            past.set_content(tree.reader.blocks)
            past.reader.on_read = tree.reader.on_read
        tree.checkouts.add(past)
        return Drive(self.metadata, past, name=self.name, store_path=self.store_path)

    async def version_at(self, time_ns: int) -> int:
        """The newest version that was committed at *time_ns* or before, by the writer's clock; 0 if
        that is before the first one that was kept, and for drives whose format does not tell.

        Raises TooSlowError, DecodeError: it cannot be told.
        """
        await self.ready()
        tree, newest = self._tree, self._view.version
        form, blocks = tree.format, tree.metadata_blocks
        assert form is not None
        oldest = oldest_version(self.metadata)
        if oldest:
            first = await blocks.complete(lambda: form.checkout(oldest, newest))
            if first is None or first.time_ns > time_ns:
                return 0
        return await blocks.complete(lambda: form.version_at(time_ns, newest))

    def diff(self, other: Drive, path: str | bytes = "/") -> AsyncIterator[PathChange]:
        """What changed from *other*, another version of this drive, to this one, by path.

        What is staged does not count. Raises ValueError for another drive.
        """
        if other.key != self.key:
            raise ValueError("only versions of one drive can be compared")
        tree = self._tree
        assert tree.format is not None
        pair = other._view, self._view
        names = paths.split(path)
        return Pages(Diff(*pair, tree.format, tree.metadata_blocks, names).page)

    def watch(self, path: str | bytes = "/") -> Watch[Drive]:
        """What changes at or below *path*, here or elsewhere, from now on, with the versions before
        and after: `with drive.watch("/a") as watch: async for change in watch`."""
        return Watch(self._tree, paths.split(path), self._at)

    def watch_changes(self) -> AbstractContextManager[Changes]:
        """Subscribe to what others change, each told by ids after look-ups show it."""
        return subscribed(self._follower)

    # -- reading by path ---------------------------------------------------------------------

    async def entry(self, path: str | bytes) -> Entry:
        """What a path names; symbolic links are not followed.

        Raises FileNotFoundError, NotADirectoryError; TooSlowError and DecodeError as all reads do.
        """
        entry, _ = await walk.resolve(self._tree, paths.split(path))
        return entry

    async def read(self, path: str | bytes, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of a file, all or a range; fewer than *length* only at its end.

        Raises FileNotFoundError, NotADirectoryError, IsADirectoryError, OSError (EINVAL: neither
        file nor directory).
        """
        return await walk.read(self._tree, paths.split(path), offset, length)

    def scandir(self, path: str | bytes = "/") -> AsyncIterator[PathEntry]:
        """The entries of a directory, in name order, each with its path.

        Not one instant: what changes meanwhile may be shown or not.
        """
        return Pages(walk.Scan(self._tree, paths.split(path)).page)

    def walk(self, path: str | bytes = "/") -> AsyncIterator[PathEntry]:
        """Everything below a directory, each directory before what is in it."""
        return Pages(walk.Walk(self._tree, paths.split(path)).page)

    async def download(self, path: str | bytes = "/") -> None:
        """Fetch everything below a path, and return when it is here. Cancel to stop; what came
        stays."""
        assert self._tree.content_blocks is not None
        await walk.download(self._tree, paths.split(path), self._tree.content_blocks)

    async def held_bytes(self, entry: Entry) -> int:
        """How many bytes of the file of *entry* can be read without a peer. Fetches no content;
        waits for the records of large files. Raises TooSlowError, DecodeError."""
        return await held_bytes(self._tree, entry)

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
    async def batch(self) -> AsyncIterator[Batch]:
        """Changes that become one version together, or none if the block raises."""
        batch = Batch(self._tree)
        try:
            yield batch
        except BaseException:
            batch.discard()
            raise
        batch.apply()
        await self.commit()

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

    # -- look-ups by id ----------------------------------------------------------------------

    async def lookup(self, directory: int, name: bytes) -> Entry | None:
        """The entry of a name (the shared record, for a file with several names), or None.

        Does not suspend when the index blocks are local. An open file's entry is live: size and
        times of unflushed writes are included.

        Raises DecodeError (damaged record), TooSlowError (no peer within the drive's patience).
        """
        found = await self.resolve(directory, name)
        return None if found is None else found[0]

    async def resolve(self, directory: int, name: bytes) -> tuple[Entry, Location] | None:
        """The same, and where the record lies: for `open_file`."""
        tree = self._tree
        try:
            return tree.resolve(directory, name)
        except BlocksMissing:
            look = partial(tree.resolve, directory, name)
        view = tree.view
        found = await tree.metadata_blocks.complete(look)
        if view is not tree.view:
            # A version that came while blocks were fetched may say otherwise. Should one more come,
            # subscribers are told of the change after this has returned.
            found = await tree.metadata_blocks.complete(look)
        return found

    async def list(
        self, directory: int, after: bytes = b"", limit: int = _LIST_LIMIT
    ) -> list[tuple[bytes, Entry]]:
        """Up to *limit* entries of a directory whose names sort after *after*, in name order.

        Fewer than *limit* mean the end. Entries are as in `lookup`. One listing spread over several
        calls is not one instant: each call shows the state at its time. Names and records that
        cannot be decoded are left out.
        """
        tree = self._tree
        return await tree.metadata_blocks.complete(lambda: tree.page(directory, after, limit))

    async def shared(self, id: int) -> Entry | None:
        """The record of a file with several names, or of the root directory (`ROOT_ID`)."""
        tree = self._tree
        return await tree.metadata_blocks.complete(lambda: tree.shared(id))

    # -- changes by id: staged, atomic, never waiting ----------------------------------------

    def new_id(self) -> int:
        """A file id never used in this drive. Raises NotWritable, StorageLocked."""
        return self._tree.new_id()

    def put(self, directory: int, name: bytes, entry: Entry) -> None:
        """Stage a name. If the file is open its size and content stay the open file's; the
        other attributes become *entry*'s, and its `location` this name.

        Raises NotWritable, StorageLocked, ValueError (a name or an entry no reader would take).
        """
        self._tree.put(directory, name, entry)

    def put_times(self, location: tuple[int, bytes] | Shared, entry: Entry) -> None:
        """Stage *entry*, the record lying at *location*, with other times: quicker than `put`. Not
        for what may be open. Raises NotWritable, StorageLocked."""
        self._tree.put_times(location, entry)

    def waits(self, id: int, location: Location) -> bool:
        """Whether the record of *id*, lying at *location*, is staged for a version of which nothing
        is written yet."""
        return self._tree.waits(id, location)

    def put_link(self, directory: int, name: bytes, id: int) -> None:
        """Stage a name of a file with several names (see `put_shared`)."""
        self._tree.put_link(directory, name, id)

    def delete(self, directory: int, name: bytes) -> None:
        """Stage the removal of a name. An open file whose record lay there has `location` None
        until a `put` gives it another name, which a rename does with no await between."""
        check_name(name)
        self._tree.delete(directory, name)

    def put_shared(self, entry: Entry) -> None:
        """Stage the record of a file with several names (or of the root directory), under its id.
        As `put` if it is open."""
        self._tree.put_shared(entry)

    def delete_shared(self, id: int) -> None:
        """Stage the removal of a shared record: its last name goes, or becomes a plain `put`."""
        self._tree.delete_shared(id)

    def forget_content(self, entry: Entry) -> None:
        """Say that *entry*'s last name is gone, so that group records of its extents are removed
        too. Harmless for open files: they keep reading what they had."""
        self._tree.forget_content(entry)

    def open_file(self, entry: Entry, location: Location, *, current: bool = False) -> OpenFile:
        """The open file of an entry: one object per file id while anybody holds it. Acquires it;
        the caller releases. *location* (from `resolve`) is used when it was not open yet: then the
        record lying there now is taken, should *entry* be older; *current* says that it is not.
        Reading needs no secret key.
        """
        return self._tree.open_file(entry, location, current=current)

    def opened(self, id: int) -> OpenFile | None:
        """The open file of an id if there is one (not acquired)."""
        return self._tree.files.get(id)

    # -- committing --------------------------------------------------------------------------

    async def claim(self) -> None:
        """Take the right to write now, rather than with the first change.

        Raises NotWritable, StorageLocked (another process has it; with its pid when known).
        """
        await trio.lowlevel.checkpoint()
        self._tree.check_writable()

    async def commit(self, *, force: bool = True) -> int:
        """Make one version of everything staged, dirty content of open files included.

        Returns the version shown then, which holds everything staged before the call. With *force*
        false only what age would have committed. Cancelling the wait does not undo.

        Raises:
          OSError: ENOSPC, EIO; what was staged stays staged, and is tried again later.
          StorageError: the store has to be opened again.
        """
        if self._committer is not None:
            await self._committer.commit(force=force)
        return self.version

    async def sync(self) -> None:
        """Commit, and return when that is durable and published: what fsync awaits.

        Raises as `commit`.
        """
        if self._committer is not None:
            await self._committer.sync()

    def schedule_commit(self) -> None:
        """Commit soon (10 ms), in the background: what the last close of a written file calls."""
        if self._committer is not None:
            self._committer.schedule()

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

    @property
    def _view(self) -> TreeView:
        view = self._tree.view
        if view is None:
            raise ValueError("no version of this drive is known yet: wait for `ready`")
        return view
