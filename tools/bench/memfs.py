"""A file system in memory: what the mount is measured against.

Plain handlers over dictionaries, with the same wait for requests, the same mount options and the
same timeouts as a mount of a drive: the difference is what a drive costs. No permissions are
checked, nothing is kept.

    python -m tools.bench.memfs DIR [--stock]

mounts on DIR until SIGTERM, and prints a line when it answers; with --stock it waits for requests
as pyfuse3 does by itself.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, StatvfsData

from hyperfs.fuse import loop
from hyperfs.fuse.session import MAX_TASKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyfuse3 import ReaddirToken, RequestContext, SetattrFields

TIMEOUT = 3600.0


class Node:
    """A file, directory or link; `shown` is what the kernel is told of it."""

    __slots__ = ("data", "names", "shown", "target", "xattrs")

    def __init__(self, ino: int, mode: int, context: RequestContext | None) -> None:
        shown = EntryAttributes()
        shown.st_ino, shown.st_mode, shown.st_nlink = ino, mode, 1
        shown.st_uid, shown.st_gid = (context.uid, context.gid) if context else (0, 0)
        shown.st_atime_ns = shown.st_mtime_ns = shown.st_ctime_ns = time.time_ns()
        shown.entry_timeout = shown.attr_timeout = TIMEOUT
        self.shown = shown
        self.data = bytearray()
        self.names: dict[bytes, Node] = {}
        self.target = b""
        self.xattrs: dict[bytes, bytes] = {}

    def resize(self, size: int) -> None:
        """Cut or extend the bytes."""
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))
        self.shown.st_size = size
        self.shown.st_blocks = -(-size // 512)


class MemoryFs(pyfuse3.Operations):
    """The handlers."""

    supports_dot_lookup = False

    def __init__(self) -> None:
        super().__init__()
        self._last = 1
        self._nodes = {1: Node(1, stat.S_IFDIR | 0o755, None)}
        self._missing = EntryAttributes()
        self._missing.st_ino = 0
        self._missing.entry_timeout = TIMEOUT
        self._listings: dict[int, list[tuple[bytes, Node]]] = {}

    def _make(self, parent: int, name: bytes, mode: int, context: RequestContext) -> Node:
        names = self._nodes[parent].names
        if name in names:
            raise FUSEError(errno.EEXIST)
        self._last += 1
        node = names[name] = self._nodes[self._last] = Node(self._last, mode, context)
        self._touch(parent)
        return node

    def _touch(self, ino: int) -> None:
        shown = self._nodes[ino].shown
        shown.st_mtime_ns = shown.st_ctime_ns = time.time_ns()

    def _remove(self, parent: int, name: bytes) -> None:
        if self._nodes[parent].names.pop(name, None) is None:
            raise FUSEError(errno.ENOENT)
        self._touch(parent)

    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        node = self._nodes[parent].names.get(name)
        return self._missing if node is None else node.shown

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        pass

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._nodes[inode].shown

    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self._nodes[inode]
        shown = node.shown
        shown.st_ctime_ns = time.time_ns()
        if fields.update_mode:
            shown.st_mode = attr.st_mode
        if fields.update_uid:
            shown.st_uid = attr.st_uid
        if fields.update_gid:
            shown.st_gid = attr.st_gid
        if fields.update_size:
            node.resize(attr.st_size)
        if fields.update_atime:
            shown.st_atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            shown.st_mtime_ns = attr.st_mtime_ns
        return shown

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._make(parent_inode, name, mode, ctx).shown

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._make(parent_inode, name, mode, ctx).shown

    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._make(parent_inode, name, stat.S_IFLNK | 0o777, ctx)
        node.target, node.shown.st_size = target, len(target)
        return node.shown

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self._nodes[inode].target

    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._nodes[new_parent_inode].names[new_name] = self._nodes[inode]
        node.shown.st_nlink += 1
        return node.shown

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._remove(parent_inode, name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        if self._nodes[parent_inode].names[name].names:
            raise FUSEError(errno.ENOTEMPTY)
        self._remove(parent_inode, name)

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        node = self._nodes[parent_inode_old].names.pop(name_old)
        self._nodes[parent_inode_new].names[name_new] = node
        self._touch(parent_inode_old)
        self._touch(parent_inode_new)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._make(parent_inode, name, mode, ctx)
        return FileInfo(fh=node.shown.st_ino), node.shown

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        if flags & os.O_TRUNC:
            self._nodes[inode].resize(0)
        return FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return bytes(memoryview(self._nodes[fh].data)[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        node = self._nodes[fh]
        data, shown = node.data, node.shown
        if off > len(data):
            data.extend(bytes(off - len(data)))
        data[off : off + len(buf)] = buf
        shown.st_size = len(data)
        shown.st_blocks = -(-len(data) // 512)
        shown.st_mtime_ns = shown.st_ctime_ns = time.time_ns()
        return len(buf)

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        pass

    async def fsync(self, fh: int, datasync: bool) -> None:
        pass

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        self._last += 1
        self._listings[self._last] = list(self._nodes[inode].names.items())
        return self._last

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        listing = self._listings[fh]
        for position in range(start_id, len(listing)):
            name, node = listing[position]
            if not pyfuse3.readdir_reply(token, name, node.shown, position + 1):
                break

    async def releasedir(self, fh: int) -> None:
        del self._listings[fh]

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        pass

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        shown = StatvfsData()
        shown.f_bsize = shown.f_frsize = 4096
        shown.f_blocks = shown.f_bfree = shown.f_bavail = 1 << 24
        shown.f_files = shown.f_ffree = shown.f_favail = 1 << 24
        shown.f_namemax = 255
        return shown

    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        return True

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        value = self._nodes[inode].xattrs.get(name)
        if value is None:
            raise FUSEError(errno.ENODATA)
        return value

    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        return list(self._nodes[inode].xattrs)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._nodes[inode].xattrs[name] = value


async def serve(point: str, *, fast: bool = True) -> None:
    """Mount on *point* until SIGTERM. *fast*: with the mount's own wait for requests."""
    loop.install(fast=fast)
    pyfuse3.init(MemoryFs(), point, {"fsname=memory", "subtype=memory", "nodev", "nosuid"})
    try:
        async with trio.open_nursery() as nursery:

            async def until_signal() -> None:
                with trio.open_signal_receiver(signal.SIGTERM) as signals:
                    print("ready", flush=True)
                    async for _ in signals:
                        pyfuse3.terminate()
                        return

            nursery.start_soon(until_signal)
            await pyfuse3.main(min_tasks=1, max_tasks=MAX_TASKS)
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    trio.run(partial(serve, sys.argv[1], fast="--stock" not in sys.argv[2:]))
