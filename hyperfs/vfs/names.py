"""Operations on names: look up, make, link, remove, rename."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, TypeVar

from hyperfs.records import NO_XATTRS, ROOT_ID, Entry
from hyperfs.vfs import rules
from hyperfs.vfs.rules import EXECUTE, WRITE
from hyperfs.vfs.tree import InvalidateEntry, Tree
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from hyperfs.vfs.inodes import Inode
    from hyperfs.vfs.rules import Credentials
    from hyperfs.writer import Location

# In the root directory: what is below it is not the drive's (`hyperfs.vfs.history`).
CONTROL_NAME: Final = b".hyperfs"
# How many names that do not exist the kernel may remember of a drive that others change.
MISSING_NAMES: Final = 16_384


S = TypeVar("S")


class NameOperations(Tree[S]):
    """See the module. Directories are named by inode number, entries in them by bytes."""

    def lookup(self, parent: int, name: bytes, who: Credentials) -> S | None:
        """The attributes of a name, counted as known; None if there is none.

        Raises ENAMETOOLONG, ENOTDIR, EACCES, ESTALE.
        """
        rules.check_name(name)
        if self._checks and who.uid != 0:
            self.check(self.directory_of(parent), who, EXECUTE)
        found = self.live.resolve(parent, name)
        if found is None:
            if self.read_only:
                self._told_missing(parent, name)
            return None
        entry, location = found
        self.inodes.known(entry.id, location).lookups += 1
        return self.attributes(entry)

    def _told_missing(self, parent: int, name: bytes) -> None:
        """Note a name that the kernel remembers as missing, in a drive that others may change.

        They are bounded: of too many the oldest is taken back from the kernel.
        """
        missing = self.missing
        missing.pop((parent, name), None)
        missing[parent, name] = None
        if len(missing) > MISSING_NAMES:
            oldest = next(iter(missing))
            del missing[oldest]
            self.invalidations.put(InvalidateEntry(*oldest))

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, who: Credentials) -> S:
        """Make a file, pipe, socket or, for root where the mount allows it, a device node.

        Raises EEXIST, EPERM and as `changeable_directory`; so do all that make names.
        """
        rules.check_node(mode, who, devices=self._devices)
        device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        _, entry = self._make(parent, name, mode, who, rdev=rdev if device else 0)
        self.live.schedule_commit()
        return self.attributes(entry)

    def mkdir(self, parent: int, name: bytes, mode: int, who: Credentials) -> S:
        """Make a directory."""
        mode = stat.S_IFDIR | mode & 0o7777
        _, entry = self._make(parent, name, mode, who)
        self.live.schedule_commit()
        return self.attributes(entry)

    def symlink(self, parent: int, name: bytes, target: bytes, who: Credentials) -> S:
        """Make a symbolic link. Raises ENAMETOOLONG beyond 4095 bytes."""
        rules.check_target(target)
        _, entry = self._make(parent, name, stat.S_IFLNK | 0o777, who, target=target)
        self.live.schedule_commit()
        return self.attributes(entry)

    def _make(
        self,
        parent: int,
        name: bytes,
        mode: int,
        who: Credentials,
        *,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> tuple[Inode, Entry]:
        """Stage a new file under a new name, counted as known."""
        rules.check_new_name(name)
        above, directory = self.changeable_directory(parent, who)
        if self.live.resolve(parent, name) is not None:
            raise OSError(errno.EEXIST, "file exists")
        gid, mode = rules.new_owner(mode, directory.mode, directory.gid, who)
        now = self.now_ns()
        size = 0 if target is None else len(target)
        id = self.live.new_id()
        entry = Entry(id, mode, who.uid, gid, now, now, size, 1, rdev, NO_XATTRS, target)
        self.live.add(parent, name, entry)
        self.touch(above, directory, now, 1)
        return self.inodes.add(id, (parent, name)), entry

    def link(self, ino: int, parent: int, name: bytes, who: Credentials) -> S:
        """Give a file one more name; counted as known once more.

        Raises EPERM for directories, EMLINK, ENOENT for a file without any name left, EEXIST, ...
        """
        rules.check_new_name(name)
        above, directory = self.changeable_directory(parent, who)
        entry = self.entry_of(ino)
        if self.live.resolve(parent, name) is not None:
            raise OSError(errno.EEXIST, "file exists")
        if entry.is_dir:
            raise OSError(errno.EPERM, "directories have one name")
        if entry.nlink >= rules.LINK_MAX:
            raise OSError(errno.EMLINK, "too many links")
        inode = self.inode(ino)
        location = inode.location
        if location is None:
            raise OSError(errno.ENOENT, "the file was removed")
        now = self.now_ns()
        entry = entry._replace(nlink=entry.nlink + 1, ctime_ns=now)
        self.live.put_shared(entry)
        if location is not SHARED:
            self.live.put_link(*location, ino)
            inode.location = SHARED
        self.live.put_link(parent, name, ino)
        self.touch(above, directory, now)
        inode.lookups += 1
        self.live.schedule_commit()
        return self.attributes(self.entry_of(ino))

    # -- removing --------------------------------------------------------------------------------

    def unlink(self, parent: int, name: bytes, who: Credentials) -> None:
        """Remove a name; with the last one goes the file, once nobody has it open.

        Raises ENOENT, EISDIR, EPERM (sticky), and as `changeable_directory`.
        """
        rules.check_name(name)
        above, directory = self.changeable_directory(parent, who)
        entry, location = self._existing(parent, name)
        if stat.S_ISDIR(entry.mode):
            raise OSError(errno.EISDIR, "is a directory")
        if who.uid:
            self._check_sticky(directory, entry, who)
        self._take_out(above, directory, name, entry, location)

    def rmdir(self, parent: int, name: bytes, who: Credentials) -> None:
        """Remove an empty directory. Raises ENOTDIR, ENOTEMPTY, and as `unlink`."""
        rules.check_name(name)
        above, directory = self.changeable_directory(parent, who)
        entry, location = self._existing(parent, name)
        if not entry.is_dir:
            raise OSError(errno.ENOTDIR, "not a directory")
        self._check_sticky(directory, entry, who)
        self._check_empty(entry)
        self._take_out(above, directory, name, entry, location)

    def _take_out(
        self, above: Inode, directory: Entry, name: bytes, entry: Entry, location: Location
    ) -> None:
        """Remove a name, which may be removed, of what `changeable_directory` returned."""
        now = self.now_ns()
        self._remove(above.ino, name, entry, location, now)
        self.touch(above, directory, now, -1)
        self.live.schedule_commit()

    def _existing(self, parent: int, name: bytes) -> tuple[Entry, Location]:
        found = self.live.resolve(parent, name)
        if found is None:
            raise OSError(errno.ENOENT, "no such file")
        return found

    def _check_empty(self, entry: Entry) -> None:
        inode = self.inodes.hot.get(entry.id)
        names = -1
        if inode is not None and inode.known_at == self.live.staging.stamp:
            # Somebody listed it, and has removed what was there.
            names = inode.names
        if names > 0 or (names < 0 and self.live.page(entry.id, b"", 1)[0]):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    def _check_sticky(self, directory: Entry, entry: Entry, who: Credentials) -> None:
        if self._checks and who.uid != 0 and directory.mode & stat.S_ISVTX:
            mode, uid, _ = self.presentation.rights(directory)
            rules.check_sticky(mode, uid, self.presentation.rights(entry)[1], who)

    def _remove(self, parent: int, name: bytes, entry: Entry, location: Location, now: int) -> None:
        """Take a name off a file whose record was just read. Does not wait."""
        ino = entry.id
        inode = self.inodes.hot.get(ino) or self.inodes.find(ino)
        self.live.delete(parent, name)
        if location is SHARED:
            if entry.nlink > 1:
                self.live.put_shared(entry._replace(nlink=entry.nlink - 1, ctime_ns=now))
                if inode is not None:
                    inode.location = SHARED
                return
            self.live.delete_shared(ino)
        file = self.live.files.get(ino)
        if file is not None:
            file.update(nlink=0, ctime_ns=now)
            file.location = None
        if file is not None or entry.grouped:
            self.live.forget_content(entry)
        if inode is not None:
            inode.remove(entry, file, now)

    # -- renaming --------------------------------------------------------------------------------

    def rename(
        self,
        old_parent: int,
        old_name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        who: Credentials,
    ) -> None:
        """rename(2) and renameat2(2): atomic for everybody, remote readers too.

        Raises ENOENT, EEXIST, EISDIR, ENOTDIR, ENOTEMPTY, EINVAL (flags; a directory below
        itself), EPERM (sticky), EACCES, and as `changeable_directory`.
        """
        rules.check_rename_flags(flags)
        rules.check_name(old_name)
        rules.check_name(new_name)
        if new_parent == ROOT_ID and new_name == CONTROL_NAME:
            raise OSError(errno.EBUSY, "the name is the file system's own")
        old_above, old_directory = self.changeable_directory(old_parent, who)
        new_above, new_directory = self.changeable_directory(new_parent, who)
        entry, location = self._existing(old_parent, old_name)
        target = self.live.resolve(new_parent, new_name)
        self._check_sticky(old_directory, entry, who)
        rules.check_rename(
            source_is_dir=entry.is_dir,
            target_is_dir=None if target is None else target[0].is_dir,
            flags=flags,
        )
        moved = old_parent != new_parent
        if entry.is_dir and moved:
            self.check(entry, who, WRITE)
            self._check_not_below(entry.id, new_parent)
        if target is not None:
            if target[0].id == entry.id:
                # Two names of one file, or twice the same: nothing happens.
                return
            self._check_sticky(new_directory, target[0], who)
            if flags & rules.RENAME_EXCHANGE:
                if target[0].is_dir and moved:
                    self.check(target[0], who, WRITE)
                    self._check_not_below(target[0].id, old_parent)
            elif target[0].is_dir:
                self._check_empty(target[0])
        now = self.now_ns()
        self.live.delete(old_parent, old_name)
        if target is not None:
            if flags & rules.RENAME_EXCHANGE:
                self.live.delete(new_parent, new_name)
                self._move(target[0], target[1], old_parent, old_name, now)
            else:
                self._remove(new_parent, new_name, target[0], target[1], now)
        self._move(entry, location, new_parent, new_name, now)
        self.touch(old_above, old_directory, now)
        if moved:
            self.touch(new_above, new_directory, now)
        self.live.schedule_commit()

    def _move(self, entry: Entry, location: Location, parent: int, name: bytes, now: int) -> None:
        """Give a file, whose name was just deleted, this one. Does not wait."""
        entry = entry._replace(ctime_ns=now)
        inode = self.inodes.find(entry.id)
        if location is SHARED:
            self.live.put_link(parent, name, entry.id)
            self.live.put_shared(entry)
        else:
            self.live.put(parent, name, entry)
        if inode is not None:
            inode.location = SHARED if location is SHARED else (parent, name)

    def _check_not_below(self, ino: int, directory: int) -> None:
        """Raise EINVAL if *directory* is *ino* or lies below it.

        The kernel knows every directory above one that it names, so the table does too.
        """
        while directory != ROOT_ID:
            if directory == ino:
                raise OSError(errno.EINVAL, "a directory cannot move below itself")
            location = self.inodes.peek(directory)
            if not isinstance(location, tuple):
                return
            directory = location[0]
