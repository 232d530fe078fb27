"""Changes by path, collected and then made as one: what changes in `Drive`, and `batch`.

A batch has a layer of its own over the live tree, and sees its own changes. Nothing of it is seen
by anybody else before it ends; then all of it is staged in one step and committed as one version.
What others changed meanwhile is overwritten name by name.

Paths are resolved name by name; symbolic links are not followed.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hyperfs import paths
from hyperfs.pace import Pace
from hyperfs.records import (
    ID_BYTES,
    ROOT_ID,
    Entry,
    Link,
    check_attributes,
    directory_range,
    entry_key,
    shared_key,
)
from hyperfs.staging import Layer

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Sequence

    from hyperfs.live import LiveTree
    from hyperfs.staging import StagedRecord
    from hyperfs.writer import OpenFile

# How much of a large value is laid down between two looks at how much is waiting.
_WRITE_BYTES: Final = 1024 * 1024


def path_error(number: int, names: Sequence[bytes]) -> OSError:
    """The OSError (of the built-in class that fits) of an errno and a path."""
    return OSError(number, os.strerror(number), "/" + paths.as_text(b"/".join(names)))


@dataclass(frozen=True, slots=True)
class Place:
    """An entry and where its record lies: `key` of its name, `record_key` of the record itself,
    which is another one if it has several names."""

    entry: Entry
    key: bytes
    record_key: bytes


class Batch:
    """Changes that become one version together. Made by `Drive.batch`.

    Every method raises NotWritable, the OSError of its path (FileNotFoundError, FileExistsError,
    NotADirectoryError, IsADirectoryError, ...) and what reading the index raises.
    """

    def __init__(self, tree: LiveTree) -> None:
        tree.check_writable()
        self._tree = tree
        self._layer = Layer(0)
        # New content by the id of the file that gets it: files without a name until the end.
        self._contents: dict[int, OpenFile] = {}
        self._ended = False
        tree.layers.add(self._layer)

    # -- changing ----------------------------------------------------------------------------

    async def write(
        self,
        path: str | bytes,
        data: bytes | bytearray | memoryview | AsyncIterable[bytes],
        *,
        mode: int | None = None,
        mtime_ns: int | None = None,
    ) -> None:
        """Make *data* the whole content of a file, which keeps its id if it exists.

        Missing directories on the way are made. *mode* are permission bits, 0o644 for a new file if
        None. Large data goes to the content core while it comes; memory stays bounded. What has the
        name when all of it is there is what gets it.
        """
        names = paths.split(path)
        if not names:
            raise path_error(errno.EISDIR, names)
        if not isinstance(data, bytes | bytearray | memoryview):
            await self._check_writable(names)
        content = self._detached(self._tree.now_ns())
        try:
            await _fill(content, data)
            # Looked at only now: *data* may have failed, and others change names while it comes.
            directory = await self._make_directories(names[:-1])
            found = await self._child(directory, names[-1])
            if found is not None and found.entry.is_dir:
                raise path_error(errno.EISDIR, names)
            if found is not None and not found.entry.is_file:
                # A link, say: replaced, never written through.
                await self._remove_name(found)
                found = None
        except BaseException:
            content.release()
            raise
        now = self._tree.now_ns()
        mtime = now if mtime_ns is None else mtime_ns
        if found is None:
            entry = content.entry._replace(
                mode=stat.S_IFREG | (0o644 if mode is None else mode),
                mtime_ns=mtime,
                ctime_ns=now,
            )
            self._put_new(directory, names[-1], entry, now)
        else:
            bits = stat.S_IMODE(found.entry.mode) if mode is None else mode
            entry = found.entry._replace(
                mode=stat.S_IFREG | bits,
                size=content.size,
                mtime_ns=mtime,
                ctime_ns=now,
            )
            self._stage(found.record_key, entry)
        earlier = self._contents.pop(entry.id, None)
        if earlier is not None:
            earlier.release()
        self._contents[entry.id] = content

    async def _check_writable(self, names: Sequence[bytes]) -> None:
        """Raise if a path, of which nothing has to be there, cannot name a file."""
        try:
            found = await self._child(await self._directory(names[:-1]), names[-1])
        except FileNotFoundError:
            return
        if found is not None and found.entry.is_dir:
            raise path_error(errno.EISDIR, names)

    async def mkdir(
        self,
        path: str | bytes,
        *,
        mode: int = 0o755,
        mtime_ns: int | None = None,
        exist_ok: bool = False,
        parents: bool = False,
    ) -> None:
        """Make a directory. *exist_ok*: one that is there gets *mode* and, if given, *mtime_ns*."""
        names = paths.split(path)
        if not names:
            found: Place | None = await self._directory(())
        else:
            directory = await (
                self._make_directories(names[:-1]) if parents else self._directory(names[:-1])
            )
            found = await self._child(directory, names[-1])
        now = self._tree.now_ns()
        mtime = now if mtime_ns is None else mtime_ns
        if found is None:
            self._put_new(directory, names[-1], self._new_directory(mode, mtime, now), now)
            return
        if not exist_ok:
            raise path_error(errno.EEXIST, names)
        if not found.entry.is_dir:
            raise path_error(errno.ENOTDIR, names)
        entry = found.entry
        changed = entry._replace(
            mode=stat.S_IFDIR | mode,
            mtime_ns=entry.mtime_ns if mtime_ns is None else mtime_ns,
        )
        if changed != entry:
            self._stage(found.record_key, changed._replace(ctime_ns=now))

    async def symlink(
        self,
        path: str | bytes,
        target: str | bytes,
        *,
        mtime_ns: int | None = None,
        replace: bool = False,
    ) -> None:
        """Make a symbolic link to *target*, which is not looked at. *replace*: whatever file or
        link has the name goes."""
        names = paths.split(path)
        if not names:
            raise path_error(errno.EEXIST, names)
        directory = await self._make_directories(names[:-1])
        found = await self._child(directory, names[-1])
        if found is not None:
            if not replace:
                raise path_error(errno.EEXIST, names)
            if found.entry.is_dir:
                raise path_error(errno.EISDIR, names)
            await self._remove_name(found)
        raw = paths.as_bytes(target)
        now = self._tree.now_ns()
        mtime = now if mtime_ns is None else mtime_ns
        entry = Entry(
            self._tree.new_id(),
            stat.S_IFLNK | 0o777,
            os.getuid(),
            os.getgid(),
            mtime,
            now,
            len(raw),
            target=raw,
        )
        self._put_new(directory, names[-1], entry, now)

    async def remove(self, path: str | bytes, *, recursive: bool = False) -> None:
        """Remove a file, a link or an empty directory; *recursive*: with everything in it."""
        names = paths.split(path)
        if not names:
            raise path_error(errno.EBUSY, names)
        directory = await self._directory(names[:-1])
        found = await self._child(directory, names[-1])
        if found is None:
            raise path_error(errno.ENOENT, names)
        if found.entry.is_dir:
            if not recursive and await self._page(found.entry, b"", 1):
                raise path_error(errno.ENOTEMPTY, names)
            await self._remove_below(found.entry)
        await self._remove_name(found)
        self._touch(directory, self._tree.now_ns())

    async def rename(self, old: str | bytes, new: str | bytes) -> None:
        """As rename(2): a file or link at *new* is replaced, and so is an empty directory by a
        directory."""
        old_names, new_names = paths.split(old), paths.split(new)
        if not old_names or not new_names:
            raise path_error(errno.EBUSY, ())
        if new_names[: len(old_names)] == old_names and new_names != old_names:
            raise path_error(errno.EINVAL, new_names)
        source = await self._directory(old_names[:-1])
        target = await self._directory(new_names[:-1])
        moved = await self._child(source, old_names[-1])
        if moved is None:
            raise path_error(errno.ENOENT, old_names)
        displaced = await self._child(target, new_names[-1])
        if displaced is not None:
            if displaced.entry.id == moved.entry.id:
                return
            if displaced.entry.is_dir != moved.entry.is_dir:
                raise path_error(
                    errno.EISDIR if displaced.entry.is_dir else errno.ENOTDIR, new_names
                )
            if displaced.entry.is_dir and await self._page(displaced.entry, b"", 1):
                raise path_error(errno.ENOTEMPTY, new_names)
            await self._remove_name(displaced)
        now = self._tree.now_ns()
        record = await self._find(moved.key)
        assert record is not None
        self._layer.records.delete(moved.key)
        self._layer.records.put(entry_key(target.entry.id, new_names[-1]), record)
        self._touch(source, now)
        if target.entry.id != source.entry.id:
            self._touch(target, now)

    # -- looking -----------------------------------------------------------------------------

    async def entry(self, path: str | bytes) -> Entry:
        """The entry of a path as the batch leaves it."""
        names = paths.split(path)
        if not names:
            return (await self._directory(())).entry
        found = await self._child(await self._directory(names[:-1]), names[-1])
        if found is None:
            raise path_error(errno.ENOENT, names)
        return found.entry

    async def _find(self, key: bytes) -> StagedRecord | None:
        if key in self._layer.records:
            return self._layer.records[key]
        return await self._tree.metadata_blocks.complete(lambda: self._tree.find(key))

    async def _place(self, key: bytes) -> Place | None:
        record_key = key
        record = await self._find(key)
        if isinstance(record, Link):
            record_key = shared_key(record.id)
            record = await self._find(record_key)
        if not isinstance(record, Entry):
            return None
        if record_key not in self._layer.records:
            file = self._tree.files.get(record.id)
            if file is not None:
                record = file.entry
        return Place(record, key, record_key)

    async def _child(self, directory: Place, name: bytes) -> Place | None:
        return await self._place(entry_key(directory.entry.id, name))

    async def _directory(self, names: Sequence[bytes]) -> Place:
        place = await self._place(shared_key(ROOT_ID))
        if place is None:
            raise path_error(errno.ENOENT, ())
        for depth, name in enumerate(names, 1):
            found = await self._child(place, name)
            if found is None:
                raise path_error(errno.ENOENT, names[:depth])
            if not found.entry.is_dir:
                raise path_error(errno.ENOTDIR, names[:depth])
            place = found
        return place

    async def _make_directories(self, names: Sequence[bytes]) -> Place:
        place = await self._directory(())
        for depth, name in enumerate(names, 1):
            found = await self._child(place, name)
            if found is None:
                now = self._tree.now_ns()
                self._put_new(place, name, self._new_directory(0o755, now, now), now)
                found = await self._child(place, name)
                assert found is not None
            elif not found.entry.is_dir:
                raise path_error(errno.ENOTDIR, names[:depth])
            place = found
        return place

    async def _page(
        self, directory: Entry, after: bytes, limit: int
    ) -> list[tuple[bytes, StagedRecord]]:
        start, end = directory_range(directory.id, after)
        return await self._tree.metadata_blocks.complete(
            lambda: self._layer.records.scan_over(self._tree.scan, start, end, limit)
        )

    # -- staging -----------------------------------------------------------------------------

    def _stage(self, key: bytes, entry: Entry) -> None:
        check_attributes(entry)
        self._layer.records.put(key, entry)

    def _put_new(self, directory: Place, name: bytes, entry: Entry, now: int) -> None:
        self._stage(entry_key(directory.entry.id, name), entry)
        self._touch(directory, now)

    def _touch(self, directory: Place, now: int) -> None:
        """Names in *directory* have changed."""
        key = directory.record_key
        entry = directory.entry
        if key in self._layer.records:
            record = self._layer.records[key]
            if not isinstance(record, Entry):
                return
            entry = record
        self._layer.records.put(key, entry._replace(mtime_ns=now, ctime_ns=now))

    def _new_directory(self, mode: int, mtime_ns: int, now: int) -> Entry:
        return Entry(
            self._tree.new_id(),
            stat.S_IFDIR | mode,
            os.getuid(),
            os.getgid(),
            mtime_ns,
            now,
            0,
        )

    def _detached(self, now: int) -> OpenFile:
        """A file without a name, to be filled."""
        entry = Entry(
            self._tree.new_id(), stat.S_IFREG | 0o644, os.getuid(), os.getgid(), now, now, 0
        )
        return self._tree.open_detached(entry)

    async def _remove_below(self, directory: Entry) -> None:
        """Remove everything in a directory, depth first, with a stack of our own: what is to be
        removed, and the last name in it that is gone, so that what was removed is not passed again.
        """
        stack: list[tuple[Place | None, Entry, bytes]] = [(None, directory, b"")]
        pace = Pace()
        while stack:
            place, entry, after = stack[-1]
            page = await self._page(entry, after, 256)
            below: Place | None = None
            for key, _ in page:
                await pace.keep()
                found = await self._place(key)
                after = key[ID_BYTES:]
                if found is None:
                    # A name whose record is not there, or cannot be read: the name goes.
                    self._layer.records.delete(key)
                elif found.entry.is_dir:
                    below = found
                    break
                else:
                    await self._remove_name(found)
            stack[-1] = place, entry, after
            if below is not None:
                stack.append((below, below.entry, b""))
            elif not page:
                stack.pop()
                if place is not None:
                    await self._remove_name(place)

    async def _remove_name(self, place: Place) -> None:
        entry = place.entry
        records = self._layer.records
        records.delete(place.key)
        if place.record_key != place.key:
            if entry.nlink > 1:
                now = self._tree.now_ns()
                records.put(place.record_key, entry._replace(nlink=entry.nlink - 1, ctime_ns=now))
                return
            records.delete(place.record_key)
        content = self._contents.pop(entry.id, None)
        if content is not None:
            content.release()
        # A commit before this one may make groups of what an open file has.
        if entry.grouped or entry.id in self._tree.files:
            self._layer.forgotten.add(entry.id)

    # -- ending ------------------------------------------------------------------------------

    def discard(self) -> None:
        """Forget everything. Idempotent."""
        self._ended = True
        for content in self._contents.values():
            content.release()
        self._contents.clear()

    def apply(self) -> None:
        """Stage everything, in one step."""
        assert not self._ended
        self._ended = True
        where = {
            record.id: key
            for key, record in self._layer.records.changes().items()
            if isinstance(record, Entry) and record.id in self._contents
        }
        self._tree.absorb(self._layer)
        for id, content in self._contents.items():
            self._tree.adopt_content(where[id], content)
        self._contents.clear()


async def _fill(
    file: OpenFile, data: bytes | bytearray | memoryview | AsyncIterable[bytes]
) -> None:
    offset = 0
    pace = Pace()
    if isinstance(data, bytes | bytearray | memoryview):
        view = memoryview(data).cast("B")
        for offset in range(0, len(view), _WRITE_BYTES):
            await file.write(offset, view[offset : offset + _WRITE_BYTES])
            await pace.keep()
        return
    async for chunk in data:
        await file.write(offset, chunk)
        offset += len(chunk)
        await pace.keep()
