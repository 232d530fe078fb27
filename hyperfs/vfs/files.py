"""Operations on open files: create, open, read, write, flush, fsync, release."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, TypeVar

from hyperfs.committer import FLUSH_DIRTY_BYTES
from hyperfs.vfs import rules
from hyperfs.vfs.handles import FileHandle
from hyperfs.vfs.names import NameOperations
from hyperfs.vfs.rules import READ, SET_ID_BITS, WRITE

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from hyperfs.records import Entry
    from hyperfs.vfs.inodes import Inode
    from hyperfs.vfs.rules import Credentials


S = TypeVar("S")


class FileOperations(NameOperations[S]):
    """See the module. Handles are numbers, valid until `release`."""

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, who: Credentials
    ) -> tuple[int, S]:
        """Make a regular file and open it: its handle and its attributes, counted as known.

        One that exists by now is opened, unless the flags say O_EXCL. Raises as `open` and `mknod`.
        """
        try:
            inode, entry = self._make(parent, name, stat.S_IFREG | mode & 0o7777, who)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            entry, location = self._existing(parent, name)
            inode = self.inodes.known(entry.id, location)
            handle = self._open_existing(entry, flags, who)
            inode.lookups += 1
            return handle, self.attributes(self.entry_of(entry.id))
        # Whoever makes a file may open it in any way, whatever the mode says.
        return self._open(inode, entry, flags, who, made=True), self.attributes(entry)

    def open(self, ino: int, flags: int, who: Credentials) -> int:
        """Open a regular file: its handle. O_TRUNC is done here.

        Raises EACCES, EROFS, EISDIR, ENXIO for what is no regular file, ESTALE.
        """
        return self._open_existing(self.entry_of(ino), flags, who)

    def _open_existing(self, entry: Entry, flags: int, who: Credentials) -> int:
        if not entry.is_file:
            raise OSError(errno.EISDIR if entry.is_dir else errno.ENXIO, "no regular file")
        how = flags & os.O_ACCMODE
        truncate = bool(flags & os.O_TRUNC) and how != os.O_RDONLY
        if how != os.O_RDONLY:
            self.check_writable()
        self.check(entry, who, _ACCESS[how] | (WRITE if truncate else 0))
        number = self._open(self.inode(entry.id), entry, flags, who)
        if truncate:
            handle = self.handles.files[number]
            handle.written = True
            try:
                handle.file.truncate(0)
            except BaseException:
                self._release(number)
                raise
            self._clear_set_id(handle)
        return number

    def _open(
        self, inode: Inode, entry: Entry, flags: int, who: Credentials, *, made: bool = False
    ) -> int:
        file = self.live.open_file(entry, inode.location, current=True)
        inode.opens += 1
        inode.set_id = bool(entry.mode & SET_ID_BITS)
        writable, privileged = flags & os.O_ACCMODE != os.O_RDONLY, who.uid == 0
        handle = FileHandle(inode, file, writable=writable, privileged=privileged, written=made)
        return self.handles.files.add(handle)

    async def read(self, number: int, offset: int, size: int) -> bytes:
        """Up to *size* bytes of one instant of the file; fewer only at its end.

        Waits for blocks that are not here as long as the drive's read timeout says, then raises
        `trio.TooSlowError`.
        """
        return await self.handles.files[number].file.read(offset, size)

    def write(self, number: int, offset: int, data: bytes) -> int | Coroutine[None, None, int]:
        """Write all of *data*; how many bytes that is: to be awaited when much is unflushed, for
        then it waits until less is.

        Raises EFBIG, ENOSPC, and what kept earlier writes from being flushed.
        """
        handle = self.handles.files[number]
        handle.written = True
        if handle.inode.set_id:
            self._clear_set_id(handle)
        handle.file.lay(offset, data)
        if self.live.dirty_bytes < FLUSH_DIRTY_BYTES:
            return len(data)
        return self._written(len(data))

    async def _written(self, length: int) -> int:
        await self.live.wait_for_room()
        return length

    def _clear_set_id(self, handle: FileHandle) -> None:
        """Content changed: whoever is not root loses the set-ID bits of what can be executed."""
        if handle.privileged:
            return
        mode = handle.file.entry.mode
        cleared = rules.mode_after_change(mode)
        if cleared != mode:
            handle.file.update(mode=cleared)
        handle.inode.set_id = bool(cleared & SET_ID_BITS)

    def flush(self, number: int) -> None:
        """close(2) of one descriptor of the handle. Says what kept writes from being flushed."""
        handle = self.handles.files[number]
        if handle.written:
            self.drive.check_flushed()

    async def fsync(self, number: int, *, data_only: bool) -> None:
        """Return when everything written is durable and published; others share the wait."""
        del data_only
        self.handles.files[number]
        if not self.read_only:
            await self.drive.sync()

    def release(self, number: int) -> None:
        """Close a handle. What was made, written or changed through it is committed soon."""
        self._release(number)

    def _release(self, number: int) -> None:
        handle = self.handles.files.pop(number)
        inode = handle.inode
        inode.opens -= 1
        changed = handle.written
        if not inode.opens:
            # Attributes that were set while it was open have waited for this.
            changed = changed or handle.file.dirty
            if inode.location is None:
                inode.orphan = handle.file.entry
            self.inodes.drop_unused(inode)
        handle.file.release()
        if changed:
            self.live.schedule_commit()


_ACCESS = {os.O_RDONLY: READ, os.O_WRONLY: WRITE, os.O_RDWR: READ | WRITE, os.O_ACCMODE: READ}
