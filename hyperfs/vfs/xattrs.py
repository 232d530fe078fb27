"""Operations on extended attributes. A drive keeps those of the namespace `user.`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TypeVar

from hyperfs.vfs import rules
from hyperfs.vfs.metadata import AttributeOperations
from hyperfs.vfs.rules import READ, WRITE

if TYPE_CHECKING:
    from hyperfs.records import Entry
    from hyperfs.vfs.rules import Credentials


S = TypeVar("S")


class XattrOperations(AttributeOperations[S]):
    """See the module. The flags for creation and replacement are the adapter's to keep.

    Those that say how a file and its drive are (`user.hyperfs.*`) are computed. They can be read
    and are not listed: what copies files with their attributes must not copy these.
    """

    async def getxattr(self, ino: int, name: bytes, who: Credentials) -> bytes:
        """The value of an attribute. Raises ENODATA, EOPNOTSUPP for other namespaces, EACCES."""
        self._check(name)
        entry = await self.complete(self._readable, ino, who)
        if name.startswith(rules.XATTR_COMPUTED):
            value = await self._computed(name[len(rules.XATTR_COMPUTED) :], entry)
        else:
            value = entry.xattrs.get(name)
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return value

    def _readable(self, ino: int, who: Credentials) -> Entry:
        entry = self.entry_of(ino)
        self.check(entry, who, READ)
        return entry

    async def _computed(self, name: bytes, entry: Entry) -> bytes | None:
        drive = self.drive
        match name:
            case b"key":
                return str(drive.key).encode()
            case b"version":
                return b"%d" % drive.version
            case b"peers":
                return b"%d" % len(drive.metadata.peers)
            case b"cached" if entry.is_file:
                return b"%d" % await drive.held_bytes(entry)
        return None

    def listxattr(self, ino: int) -> list[bytes]:
        """The names of the attributes that the drive holds."""
        return sorted(filter(rules.is_user_xattr, self.entry_of(ino).xattrs))

    def setxattr(self, ino: int, name: bytes, value: bytes, who: Credentials) -> None:
        """Set an attribute.

        Raises EOPNOTSUPP for other namespaces, EPERM for what is neither file nor directory,
        E2BIG, ENOSPC for more than a file can have, EROFS, EACCES.
        """
        self.check_writable()
        inode = self.inode(ino)
        entry = self.entry_at(inode)
        others = [item for item in entry.xattrs.items() if item[0] != name]
        rules.check_xattr(name, value, others)
        if not (entry.is_file or entry.is_dir):
            raise OSError(errno.EPERM, "only files and directories have attributes")
        self.check(entry, who, WRITE)
        xattrs = {**dict(others), name: value}
        self.stage(inode, entry._replace(xattrs=xattrs, ctime_ns=self.now_ns()))
        self.live.schedule_commit()

    def removexattr(self, ino: int, name: bytes, who: Credentials) -> None:
        """Remove an attribute. Raises ENODATA, and as `setxattr`."""
        self.check_writable()
        self._check(name)
        inode = self.inode(ino)
        entry = self.entry_at(inode)
        self.check(entry, who, WRITE)
        if name not in entry.xattrs:
            raise OSError(errno.ENODATA, "no such attribute")
        others = {n: v for n, v in entry.xattrs.items() if n != name}
        self.stage(inode, entry._replace(xattrs=others, ctime_ns=self.now_ns()))
        self.live.schedule_commit()

    @staticmethod
    def _check(name: bytes) -> None:
        refused = rules.xattr_refusal(name)
        if refused:
            raise OSError(refused, "only attributes user.* are kept")
