"""`DriveReader`: what can be asked of a drive, the live one or one of its versions.

The methods by path are for programs. In those by id a directory is named by its id, an entry by
(directory id, name), a file's bytes by its `OpenFile`. Methods that are not `async` never wait and
are atomic; the others wait only for blocks that are not local.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from hyperfs import paths, walk
from hyperfs.changes import DriveStatistics
from hyperfs.held import held_bytes
from hyperfs.index.node import BlocksMissing
from hyperfs.links import DriveLink
from hyperfs.paging import Pages
from hyperfs.versions import Diff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from corestore import DiscoveryKey, Hypercore, Key
    from hyperfs.changes import PathChange
    from hyperfs.live import LiveTree
    from hyperfs.records import Entry
    from hyperfs.view import TreeView
    from hyperfs.walk import PathEntry
    from hyperfs.writer import Location, OpenFile

_LIST_LIMIT: Final = 256


class DriveReader:
    """See the module. `Drive` is one."""

    def __init__(self, metadata: Hypercore, tree: LiveTree) -> None:
        self.metadata: Final = metadata
        self._tree: Final = tree

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

    @property
    def _view(self) -> TreeView:
        view = self._tree.view
        if view is None:
            raise ValueError("no version of this drive is known yet: wait for `ready`")
        return view

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

    # -- by path -----------------------------------------------------------------------------

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

    def diff(self, other: DriveReader, path: str | bytes = "/") -> AsyncIterator[PathChange]:
        """What changed from *other*, another version of this drive, to this one, by path.

        What is staged does not count. Raises ValueError for another drive.
        """
        if other.key != self.key:
            raise ValueError("only versions of one drive can be compared")
        tree = self._tree
        assert tree.format is not None
        diff = Diff(other._view, self._view, tree.format, tree.metadata_blocks, paths.split(path))
        # A version that is checked out is not given back while its tree is used.
        return Pages(diff.page, held=(other._tree, tree))

    # -- by id -------------------------------------------------------------------------------

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
        return await tree.metadata_blocks.complete(lambda: tree.page(directory, after, limit)[0])

    def open_file(self, entry: Entry, location: Location, *, current: bool = False) -> OpenFile:
        """The open file of an entry: one object per file id while anybody holds it. Acquires it;
        the caller releases. *location* is what `resolve` told. Reading needs no secret key.
        """
        return self._tree.open_file(entry, location, current=current)
