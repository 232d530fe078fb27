"""`Drive`: files and directories over a metadata core and a content core.

The id-level methods are what an inode layer builds on: a directory is named by its id, an entry by
(directory id, name), a file's bytes by its `OpenFile`. Methods that are not `async` never wait and
are atomic; the others wait only for blocks that are not local (and `commit`, `sync` for the disk).

Changes are *staged* in memory, seen at once by everything in this process, and committed together
as one version.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hyperfs.writer import OpenFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from corestore import DiscoveryKey, Hypercore, Key
    from hyperfs.records import Entry
    from hyperfs.writer import Location

ROOT_ID: Final = 1


@dataclass(frozen=True, slots=True)
class DriveStatistics:
    """What a drive holds and has in flight.

    `files` and `byte_length` (sum of the files' sizes) come from the root plus what is staged;
    `staged` counts changed names not yet committed, `dirty_bytes` file content not yet appended.
    """

    version: int
    files: int
    byte_length: int
    staged: int
    dirty_bytes: int
    content_byte_length: int


@dataclass(frozen=True, slots=True)
class EntryChange:
    """One changed name. `directory` and `name` are None for a file with several names, which is
    then known by `new.id` (or `old.id`)."""

    directory: int | None
    name: bytes | None
    old: Entry | None
    new: Entry | None


@dataclass(frozen=True, slots=True)
class Changed:
    """What became visible with *version*. When not `complete`, more changed than was worth
    listing (or the subscriber fell behind): treat everything as changed."""

    version: int
    changes: tuple[EntryChange, ...]
    complete: bool = True


class Drive:
    """See the module. Made by `hyperfs.open`, `Drive.checkout`; open while it exists."""

    key: Key
    metadata: Hypercore
    content: Hypercore
    writable: bool

    @property
    def discovery_key(self) -> DiscoveryKey:
        raise NotImplementedError

    @property
    def version(self) -> int:
        """The length of the metadata core that look-ups show; 0 before a first root is known."""
        raise NotImplementedError

    @property
    def generation(self) -> int:
        """The fork of the metadata core."""
        raise NotImplementedError

    def statistics(self) -> DriveStatistics:
        """A snapshot of counters; costs nothing."""
        raise NotImplementedError

    async def ready(self) -> None:
        """Return once a first root is known, waiting for a peer if there is none in the store.

        The caller sets the deadline. Raises NotADrive, UnsupportedFormat.
        """
        raise NotImplementedError

    # -- look-ups by id ----------------------------------------------------------------------

    async def lookup(self, directory: int, name: bytes) -> Entry | None:
        """The entry of a name (the shared record, for a file with several names), or None.

        Does not suspend when the index blocks are local. An open file's entry is live: size and
        times of unflushed writes are included.

        Raises DecodeError (damaged record), TooSlowError (no peer within the drive's
        `read_timeout`).
        """
        raise NotImplementedError

    async def list(
        self, directory: int, after: bytes = b"", limit: int = 256
    ) -> list[tuple[bytes, Entry]]:
        """Up to *limit* entries of a directory whose names sort after *after*, in name order.

        An empty list means the end. Entries are as in `lookup`. One listing spread over several
        calls is not one instant: each call shows the state at its time. Names that cannot be decoded are
        left out.
        """
        raise NotImplementedError

    async def shared(self, id: int) -> Entry | None:
        """The record of a file with several names."""
        raise NotImplementedError

    # -- changes by id: staged, atomic, never waiting ---------------------------------------

    def new_id(self) -> int:
        """A file id never used in this drive. Raises NotWritable."""
        raise NotImplementedError

    def put(self, directory: int, name: bytes, entry: Entry) -> None:
        """Stage a name. If the file is open its size and content stay the open file's; the
        other attributes become *entry*'s. Raises NotWritable, ValueError (name)."""
        raise NotImplementedError

    def put_link(self, directory: int, name: bytes, id: int) -> None:
        """Stage a name of a file with several names (see `put_shared`)."""
        raise NotImplementedError

    def delete(self, directory: int, name: bytes) -> None:
        """Stage the removal of a name; whoever moves a file puts its new name right after, with
        no await between, and sets the open file's `location`."""
        raise NotImplementedError

    def put_shared(self, entry: Entry) -> None:
        """Stage the record of a file with several names, under its id. As `put` if it is open."""
        raise NotImplementedError

    def delete_shared(self, id: int) -> None:
        """Stage the removal of a shared record: its last name goes, or becomes a plain `put`."""
        raise NotImplementedError

    def forget_content(self, entry: Entry) -> None:
        """Say that *entry*'s last name is gone, so that group records of its extents are removed
        too. Harmless for open files: they keep reading what they had."""
        raise NotImplementedError

    def open_file(self, entry: Entry, location: Location) -> OpenFile:
        """The open file of an entry: one object per file id while anybody holds it. Acquires it;
        the caller releases. *location* is used when it was not open yet. Reading needs no secret key."""
        raise NotImplementedError

    def opened(self, id: int) -> OpenFile | None:
        """The open file of an id if there is one (not acquired)."""
        raise NotImplementedError

    # -- committing -------------------------------------------------------------------------

    async def commit(self, *, force: bool = True) -> int:
        """Make one version of everything staged, dirty content of open files included.

        Returns the version that holds everything staged before the call (which a commit already
        in flight does not). With *force* false only what age would have committed. Raises OSError
        (ENOSPC: what was staged stays staged), StorageError. Cancelling the wait does not undo.
        """
        raise NotImplementedError

    async def sync(self) -> None:
        """Commit, and return when that is durable and published: what fsync awaits."""
        raise NotImplementedError

    def schedule_commit(self) -> None:
        """Commit soon (10 ms), in the background: what the last close of a written file calls."""
        raise NotImplementedError

    @contextmanager
    def watch_changes(self) -> Iterator[AsyncIterator[Changed]]:
        """Subscribe to remote changes of a drive opened by key, each told after look-ups show it."""
        raise NotImplementedError
