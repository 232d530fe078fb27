"""The live tree of a drive: open files over staged changes over a version of the index.

Nothing here waits. What is not local raises `BlocksMissing`; everything that changes something is
atomic, so an inode layer needs no locks as long as it awaits nothing between two calls.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from weakref import WeakSet

import trio

from corestore import DecodeError, NotWritable
from hyperfs.content import ContentMap
from hyperfs.index.node import BlocksMissing
from hyperfs.reader import ContentReader
from hyperfs.records import (
    ID_BYTES,
    MAX_ID,
    ROOT_ID,
    Entry,
    Link,
    check_attributes,
    check_name,
    directory_range,
    entry_key,
    key_id,
    shared_key,
)
from hyperfs.staging import UNSAID, Staging
from hyperfs.writer import SHARED, OpenFile, Shared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from hyperfs.blocks import CoreBlocks
    from hyperfs.staging import Layer, StagedRecord
    from hyperfs.view import Format, TreeView
    from hyperfs.writer import Location


class LiveTree:
    """See the module. Also what open files know of their drive (`writer.FileOwner`).

    *writable* says whether changes may be staged. `staging.on_change` and `room`, which writers
    that have added content call, are the committer's.
    """

    def __init__(self, metadata_blocks: CoreBlocks, *, writable: bool) -> None:
        self.metadata_blocks = metadata_blocks
        self.view: TreeView | None = None
        # The fork of the log that the view is of.
        self.fork = metadata_blocks.core.fork
        # Woken when `show` has changed the view.
        self.shown = trio.lowlevel.ParkingLot()
        # How the log is read; known before the first view.
        self.format: Format | None = None
        self.writable = writable
        self.staging = Staging()
        self.files: dict[int, OpenFile] = {}
        # Open files that a commit has to look at.
        self.dirty_files: dict[int, OpenFile] = {}
        self.dirty_bytes = 0
        self.room: Callable[[bool], Awaitable[None]] = _no_bound
        # Takes the right to write and moves the view to the newest version, or raises.
        self.before_first_change: Callable[[], None] | None = None
        self.content_blocks: CoreBlocks | None = None
        self._reader: ContentReader | None = None
        # What a collection must not take from under them.
        self.checkouts: WeakSet[LiveTree] = WeakSet()
        # Of a checkout: the tree whose version it is.
        self.checkout_of: LiveTree | None = None
        # Asks who shows checkouts to others to end those of older versions that nobody uses.
        self.before_collection: Callable[[int], None] | None = None
        self.layers: WeakSet[Layer] = WeakSet()
        self._at: dict[tuple[int, bytes], OpenFile] = {}
        # How often a file that was not open was opened.
        self.opened = 0
        # The first id that was not handed out.
        self.next_id = ROOT_ID + 1

    def show(self, view: TreeView) -> None:
        """Look-ups show this version from now on, and reads its content."""
        reader, blocks = self._reader, self.content_blocks
        if reader is not None and blocks is not None and reader.blocks is not blocks:
            self.set_content(blocks)
            self.reader.on_read = reader.on_read
        self.view = view
        self.staging.stamp += 1
        self.fork = self.metadata_blocks.core.fork
        self.next_id = max(self.next_id, view.next_id)
        self.shown.unpark_all()

    # -- what open files ask ------------------------------------------------------------------

    @property
    def reader(self) -> ContentReader:
        """What reads the content core, which is known when a version is."""
        assert self._reader is not None, "the drive has no version yet"
        return self._reader

    @property
    def content_length(self) -> int | None:
        """See `FileOwner`."""
        if self.writable or self.view is None:
            return None
        return self.view.content_length

    def set_content(self, blocks: CoreBlocks) -> None:
        """The content core is known now."""
        self.content_blocks = blocks
        self._reader = ContentReader(blocks)

    def now_ns(self) -> int:
        """The wall clock, for times of files and commits."""
        return time.time_ns()

    def file_changed(self, file: OpenFile, dirty_bytes: int) -> None:
        """See `FileOwner`."""
        self.dirty_bytes += dirty_bytes
        self.dirty_files[file.id] = file
        if not self.staging.staged.touched:
            self.staging.touch()

    def file_moved(self, file: OpenFile, old: Location, new: Location) -> None:
        """See `FileOwner`."""
        if isinstance(old, tuple) and self._at.get(old) is file:
            del self._at[old]
        if isinstance(new, tuple):
            displaced = self._at.get(new)
            self._at[new] = file
            if displaced is not None and displaced is not file:
                displaced.location = None
        if file.dirty:
            self.staging.touch()

    def file_released(self, file: OpenFile) -> None:
        """See `FileOwner`."""
        self.drop_if_idle(file)

    def drop_if_idle(self, file: OpenFile) -> None:
        """Forget an open file that nobody holds and that has nothing to commit."""
        if file.held:
            return
        if file.location is None and file.frozen is None:
            # Nobody can ever read it again.
            self.dirty_bytes -= file.dirty_bytes
            file.delta = None
            file.record_dirty = False
        if not file.dirty and self.files.get(file.id) is file:
            del self.files[file.id]
            self.dirty_files.pop(file.id, None)
            if isinstance(file.location, tuple) and self._at.get(file.location) is file:
                del self._at[file.location]

    def drop_removed(self) -> None:
        """Forget what was closed, and then removed before it was committed. The removal does not
        do so: it may be half of a rename."""
        for file in [each for each in self.dirty_files.values() if each.location is None]:
            self.drop_if_idle(file)

    def wait_for_room(self, *, background: bool = False) -> Awaitable[None]:
        """See `FileOwner`."""
        return self.room(background)

    # -- looking ------------------------------------------------------------------------------

    def find(self, key: bytes) -> StagedRecord | None:
        """The record of a key as of now. Raises BlocksMissing, DecodeError."""
        found = self.staging.find(key, UNSAID)
        if found is UNSAID:
            return None if self.view is None else self.view.find(key)
        return found

    def lookup(self, directory: int, name: bytes) -> Entry | None:
        """The live entry of a name. Raises BlocksMissing, DecodeError."""
        return self._live(self.find(entry_key(directory, name)))

    def resolve(self, directory: int, name: bytes) -> tuple[Entry, Location] | None:
        """The same, and where the record lies. Raises BlocksMissing, DecodeError."""
        key = entry_key(directory, name)
        record = self.staging.find(key, UNSAID)
        if record is UNSAID:
            record = None if self.view is None else self.view.find(key)
        if record is None:
            return None
        if type(record) is Entry:
            file = self.files.get(record.id)
            return record if file is None else file.entry, (directory, name)
        entry = self._live(record)
        return None if entry is None else (entry, SHARED)

    def shared(self, id: int) -> Entry | None:
        """The live record of a file with several names. Raises BlocksMissing, DecodeError."""
        record = self.find(shared_key(id))
        return self._live(record) if isinstance(record, Entry) else None

    def page(
        self, directory: int, after: bytes, limit: int
    ) -> tuple[list[tuple[bytes, Entry]], bool]:
        """Up to *limit* live entries after *after*; fewer only at the end. And whether they stay as
        they are while the stamp does, and no file is opened: those of open files do not.

        Raises BlocksMissing, DecodeError (of index blocks; a damaged record is left out).
        """
        plain = True
        start, end = directory_range(directory, after)
        out: list[tuple[bytes, Entry]] = []
        files = self.files
        while True:
            wanted = limit - len(out)
            page = self.staging.scan_over(self._scan_view, start, end, wanted)
            closed = [
                (key[ID_BYTES:], record)
                for key, record in page
                if type(record) is Entry and (not files or record.id not in files)
            ]
            if len(closed) == len(page):
                out += closed
            else:
                plain = False
                out += self._open_too(page)
            if len(page) < wanted or len(out) == limit:
                return out, plain
            start = page[-1][0] + b"\0"

    def _open_too(
        self, page: Iterable[tuple[bytes, StagedRecord]]
    ) -> Iterator[tuple[bytes, Entry]]:
        for key, record in page:
            try:
                entry = self._live(record)
            except DecodeError:
                continue
            if entry is not None:
                yield key[ID_BYTES:], entry

    def _scan_view(
        self, start: bytes, end: bytes | None, limit: int
    ) -> list[tuple[bytes, StagedRecord]]:
        if self.view is None:
            return []
        hidden = self.staging.keys if len(self.staging) else ()
        return list(self.view.scan(start, end, limit, hidden))

    def _live(self, record: StagedRecord | None) -> Entry | None:
        if record is None:
            return None
        file = self.files.get(record.id)
        if type(record) is Entry:
            return record if file is None else file.entry
        if file is not None and file.location is SHARED:
            return file.entry
        return self.shared(record.id)

    # -- changing -----------------------------------------------------------------------------

    def new_id(self) -> int:
        """A file id never used in this drive. Raises NotWritable, StorageLocked."""
        self.check_writable()
        id = self.next_id
        if id > MAX_ID:
            raise NotWritable("the drive has used up its 2**48 file ids")
        self.next_id = id + 1
        return id

    def put(self, directory: int, name: bytes, entry: Entry) -> None:
        """Stage a name. If the file is open its size and content stay the open file's; the
        other attributes become *entry*'s, and its `location` this name.

        Raises NotWritable, StorageLocked, ValueError (a name or an entry no reader would take).
        """
        self.check_writable()
        check_name(name)
        check_attributes(entry)
        file = self.files.get(entry.id)
        self._displace((directory, name), file)
        if file is not None:
            file.adopt_attributes(entry)
            file.location = (directory, name)
        self.staging.put(entry_key(directory, name), entry)

    def add(self, directory: int, name: bytes, entry: Entry) -> None:
        """As `put`, of a file with a `new_id` under a name that `resolve` has just not found; the
        name and what the entry says are known to be good."""
        self.staging.put(entry_key(directory, name), entry)

    def put_attributes(self, location: tuple[int, bytes] | Shared, entry: Entry) -> None:
        """Stage *entry*, the record lying at *location*, with other attributes that are known to be
        good: quicker than `put`. Not for what may be open. Raises NotWritable, StorageLocked."""
        self.check_writable()
        key = shared_key(entry.id) if location is SHARED else entry_key(*location)
        self.staging.put(key, entry)

    def put_link(self, directory: int, name: bytes, id: int) -> None:
        """Stage a name of a file with several names (see `put_shared`)."""
        self.check_writable()
        check_name(name)
        at, file = (directory, name), self.files.get(id)
        self._displace(at, file)
        if file is not None and file.location == at:
            file.location = SHARED
        self.staging.put(entry_key(directory, name), Link(id))

    def delete(self, directory: int, name: bytes) -> None:
        """Stage the removal of a name. An open file whose record lay there has `location` None
        until a `put` gives it another name, which a rename does with no await between. *name* is
        known to be one.
        """
        self.check_writable()
        if self._at:
            self._displace((directory, name), None)
        self.staging.delete(entry_key(directory, name))

    def put_shared(self, entry: Entry) -> None:
        """Stage the record of a file with several names (or of the root directory), under its id.
        As `put` if it is open."""
        self.check_writable()
        check_attributes(entry)
        file = self.files.get(entry.id)
        if file is not None:
            file.adopt_attributes(entry)
            file.location = SHARED
        self.staging.put(shared_key(entry.id), entry)

    def delete_shared(self, id: int) -> None:
        """Stage the removal of a shared record: its last name goes, or becomes a plain `put`."""
        self.check_writable()
        file = self.files.get(id)
        if file is not None and file.location is SHARED:
            file.location = None
        self.staging.delete(shared_key(id))

    def forget_content(self, entry: Entry) -> None:
        """Say that *entry*'s last name is gone, so that group records of its extents are removed
        too. Harmless for open files: they keep reading what they had."""
        self.check_writable()
        # A commit in flight may make groups of what an open file has.
        if entry.grouped or entry.id in self.files:
            self.staging.forget_groups(entry.id)

    def absorb(self, layer: Layer) -> None:
        """Stage everything a batch has collected, in one step; open files move along."""
        self.check_writable()
        for at, file in list(self._at.items()):
            key = entry_key(*at)
            if key in layer.records:
                record = layer.records[key]
                if not isinstance(record, Entry) or record.id != file.id:
                    file.location = None
        if self.files:
            for key, record in layer.records.changes().items():
                opened = self.files.get(record.id) if isinstance(record, Entry) else None
                if opened is not None:
                    opened.location = _location(key)
                    opened.mark_record_dirty()
        self.staging.absorb(layer)

    def adopt_content(self, key: bytes, content: OpenFile) -> None:
        """The record staged under *key* gets the content of *content*, a detached file, and its own
        attributes even if the file is open."""
        entry = self.staging[key]
        assert isinstance(entry, Entry)
        file = self.open_file(entry, _location(key))
        if file is not content:
            self.dirty_bytes += file.replace_content(content)
            content.release()
        file.adopt_attributes(entry)
        file.release()
        if file is content:
            file.release()

    def _displace(self, location: tuple[int, bytes], by: OpenFile | None) -> None:
        file = self._at.get(location)
        if file is not None and file is not by:
            file.location = None

    def check_writable(self) -> None:
        """Raises NotWritable if this tree may not be changed, StorageLocked if another process
        changes it."""
        if not self.writable:
            raise NotWritable("this drive, or this version of it, can only be read here")
        if self.before_first_change is not None:
            self.before_first_change()
            self.before_first_change = None

    def schedule_commit(self) -> None:
        """See `Drive.schedule_commit`."""
        self.staging.soon = True

    def scan(self, start: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, StagedRecord]]:
        """Records as of now, without open files' state; see `Overlay.scan_over`."""
        return self.staging.scan_over(self._scan_view, start, end, limit)

    # -- open files ---------------------------------------------------------------------------

    def open_file(self, entry: Entry, location: Location, *, current: bool = False) -> OpenFile:
        """The open file of an entry: one object per file id while anybody holds it. Acquires it;
        the caller releases. *location* (from `resolve`) is used when it was not open yet: then the
        record lying there now is taken, should *entry* be older; *current* says that it is not.
        Reading needs no secret key.
        """
        file = self.files.get(entry.id)
        if file is not None:
            return file.acquire()
        assert self.view is not None
        if not current:
            entry = self._newest(entry, location)
        content = ContentMap.of_entry(entry, self.view)
        file = OpenFile(self, entry, content, location)
        self.files[entry.id] = file
        self.opened += 1
        if isinstance(location, tuple):
            self._at[location] = file
        return file

    def open_detached(self, entry: Entry) -> OpenFile:
        """A new file without a name, which a batch fills."""
        file = OpenFile(self, entry, ContentMap(entry.id), None)
        self.files[entry.id] = file
        return file

    def _newest(self, entry: Entry, location: Location) -> Entry:
        """*entry* as it is recorded now: what a caller kept may be older than the last commit."""
        if location is None:
            return entry
        key = shared_key(entry.id) if location is SHARED else entry_key(*location)
        try:
            found = self.find(key)
        except BlocksMissing:
            # Somebody else's drive: its records do not change under our own writes.
            return entry
        return found if isinstance(found, Entry) and found.id == entry.id else entry


async def _no_bound(background: bool) -> None:
    """What writers wait for where nothing is ever written."""


def _location(key: bytes) -> Location:
    name = key[ID_BYTES:]
    return SHARED if name == b"\0" else (key_id(key), name)
