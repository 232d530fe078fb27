"""A drive of dictionaries: the id-level interface of `hyperfs.drive.Drive` without cores.

It is what the mount is measured against: with it, only the inode layer and FUSE are at work.
"""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager
from types import SimpleNamespace

import trio

from corestore import NotWritable
from hyperfs.records import Entry, Link
from hyperfs.writer import SHARED


class FakeOpenFile:
    dirty = False

    def __init__(self, drive, entry, location) -> None:
        self._drive = drive
        self._attributes = entry
        self.location = location
        self.data = drive.contents.setdefault(entry.id, bytearray())
        self.holders = 0
        self.blocked = None

    @property
    def entry(self):
        return self._attributes._replace(size=len(self.data))

    @property
    def used_bytes(self):
        return len(self.data)

    def acquire(self):
        self.holders += 1
        return self

    def release(self):
        self.holders -= 1
        if not self.holders:
            self._drive.close_file(self)

    async def read(self, offset, length):
        if self._drive.read_gate is not None:
            await self._drive.read_gate()
        return bytes(memoryview(self.data)[offset : offset + length])

    def lay(self, offset, data):
        self._drive.check_writable()
        if offset > len(self.data):
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self._touch()

    def truncate(self, size):
        self._drive.check_writable()
        if size > 1 << 40:
            raise OSError(errno.EFBIG, "too large")
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))
        self._touch()

    def _touch(self):
        now = time.time_ns()
        self._attributes = self._attributes._replace(mtime_ns=now, ctime_ns=now)

    def update(self, **changes):
        self._drive.check_writable()
        self._attributes = self._attributes._replace(**changes)

    def change(self, entry):
        self._drive.check_writable()
        self._attributes = entry


class FakeStaging:
    """Always says that something has changed: tests change the dictionaries themselves."""

    def __init__(self) -> None:
        self.staged = SimpleNamespace(number=1)
        self._changes = 0

    @property
    def stamp(self):
        self._changes += 1
        return self._changes


class FakeTree:
    """What of the drive waits for nothing. All of it is local; the rest is the drive's own."""

    def __init__(self, drive) -> None:
        self._drive = drive
        self.files = drive.open_files
        self.dirty_bytes = 0
        self.staging = FakeStaging()
        self.before_first_change = None
        self.opened = 0

    def __getattr__(self, name) -> object:
        return getattr(self._drive, name)

    def resolve(self, directory, name):
        record = self.directories.get(directory, {}).get(name)
        if record is None:
            return None
        location = (directory, name)
        if isinstance(record, Link):
            record, location = self.shared_entries[record.id], SHARED
        return self._live(record), location

    def lookup(self, directory, name):
        found = self.resolve(directory, name)
        return None if found is None else found[0]

    def page(self, directory, after, limit):
        names = sorted(n for n in self.directories.get(directory, {}) if n > after)[:limit]
        # It counts no stamp: nothing of it lasts.
        return [(name, self.lookup(directory, name)) for name in names], False

    def shared(self, id):
        entry = self.shared_entries.get(id)
        return None if entry is None else self._live(entry)

    def _live(self, entry):
        file = self.files.get(entry.id)
        if file is not None:
            return file.entry
        data = self.contents.get(entry.id)
        return entry if data is None else entry._replace(size=len(data))


class FakeDrive:
    """One directory is one dictionary. Nothing is ever committed; `commits` counts the wishes."""

    def __init__(self, *, writable=True) -> None:
        self.writable = writable
        self.store_path = None
        self.directories = {1: {}}
        self.shared_entries = {}
        self.contents = {}
        self.open_files = {}
        self.last_id = 1
        self.syncs = 0
        self.commits = 0
        self.read_gate = None
        self.forgotten = []
        self._changes, self._receive = trio.open_memory_channel(100)
        self.tree = FakeTree(self)

    def check_writable(self):
        if not self.writable:
            raise NotWritable("read-only")

    # -- look-ups

    async def resolve(self, directory, name):
        return self.tree.resolve(directory, name)

    async def lookup(self, directory, name):
        found = self.tree.resolve(directory, name)
        return None if found is None else found[0]

    async def list(self, directory, after=b"", limit=256):
        return self.tree.page(directory, after, limit)[0]

    async def shared(self, id):
        return self.tree.shared(id)

    # -- changes

    def new_id(self):
        self.check_writable()
        self.last_id += 1
        return self.last_id

    def put(self, directory, name, entry):
        self.check_writable()
        self._adopt(entry, (directory, name))
        self.directories.setdefault(directory, {})[name] = entry

    def add(self, directory, name, entry):
        self.put(directory, name, entry)

    def put_attributes(self, location, entry):
        if location is SHARED:
            self.put_shared(entry)
        else:
            self.put(*location, entry)

    def put_link(self, directory, name, id):
        self.check_writable()
        self.directories.setdefault(directory, {})[name] = Link(id)

    def put_shared(self, entry):
        self.check_writable()
        self._adopt(entry, SHARED)
        self.shared_entries[entry.id] = entry

    def _adopt(self, entry, location):
        file = self.open_files.get(entry.id)
        if file is not None:
            file._attributes = entry
            file.location = location

    def delete(self, directory, name):
        self.check_writable()
        record = self.directories[directory].pop(name)
        file = self.open_files.get(record.id)
        if file is not None and file.location == (directory, name):
            file.location = None

    def delete_shared(self, id):
        self.check_writable()
        del self.shared_entries[id]

    def forget_content(self, entry):
        self.forgotten.append(entry.id)
        if entry.id not in self.open_files:
            self.contents.pop(entry.id, None)

    def open_file(self, entry, location, *, current=False):
        file = self.open_files.get(entry.id)
        if file is None:
            file = self.open_files[entry.id] = FakeOpenFile(self, entry, location)
        file.holders += 1
        return file

    def close_file(self, file):
        entry = file.entry
        del self.open_files[entry.id]
        if isinstance(file.location, tuple):
            directory, name = file.location
            self.directories[directory][name] = entry
        elif file.location is SHARED:
            self.shared_entries[entry.id] = entry
        else:
            self.contents.pop(entry.id, None)

    def opened(self, id):
        return self.open_files.get(id)

    def check_flushed(self):
        pass

    async def commit(self):
        self.commits += 1
        return self.commits

    async def sync(self):
        self.syncs += 1

    def schedule_commit(self):
        self.commits += 1

    # -- changes from elsewhere

    @contextmanager
    def watch_changes(self):
        yield self._receive

    def remote(self, changed):
        """Tell of a change, as of another machine's."""
        self._changes.send_nowait(changed)


def directory_entry(id, mode=0o755, **fields):
    """A directory's record."""
    return Entry(id, 0o040000 | mode, 0, 0, 0, 0, 0, **fields)


def file_entry(id, mode=0o644, **fields):
    """An empty file's record."""
    return Entry(id, 0o100000 | mode, 0, 0, 0, 0, 0, **fields)
