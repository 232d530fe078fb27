"""pyfuse3's requests as calls of `FileSystem`, and its answers as pyfuse3's. Nothing else.

A handler is a plain function, which returns the answer or, where that has to wait, a coroutine that
does. `answered` makes one coroutine a request of it, the only one for most: each that awaits
another takes part of the 5 us which a request may take. An exception that is no `FUSEError` would
end the whole mount; it lets none out.
"""

from __future__ import annotations

import errno
import os
from functools import partial, wraps
from types import CoroutineType
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, StatvfsData

from hyperfs.fuse.errors import errno_of
from hyperfs.index.node import BlocksMissing
from hyperfs.records import MAX_ID, ROOT_ID, clamp_time
from hyperfs.vfs import rules
from hyperfs.vfs.attributes import LONG_TIMEOUT, SetAttributes
from hyperfs.vfs.names import CONTROL_NAME
from hyperfs.vfs.rules import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from pyfuse3 import (
        FileHandleT,
        FileNameT,
        FlagT,
        InodeT,
        ModeT,
        ReaddirToken,
        RequestContext,
        SetattrFields,
        XAttrNameT,
    )

    from hyperfs.vfs.filesystem import FileSystem
    from hyperfs.vfs.history import History
    from hyperfs.vfs.listings import Listed

P = ParamSpec("P")
R = TypeVar("R")


def answered(
    handler: Callable[Concatenate[Operations, P], R | Coroutine[None, None, R]],
) -> Callable[Concatenate[Operations, P], Coroutine[None, None, R]]:
    """What *handler* answers, once it can; whatever it raises becomes an errno."""
    name = handler.__name__

    @wraps(handler)
    async def request(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            try:
                answer = handler(self, *args, **kwargs)
            except BlocksMissing:
                answer = await self.complete(partial(handler, self, *args, **kwargs))
            if isinstance(answer, CoroutineType):
                waited: R = await answer
                return waited
            return answer  # type: ignore[return-value]  # a coroutine is no answer
        except FUSEError:
            raise
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None
        except Exception as error:  # the edge: a bug must not take the mount down
            raise FUSEError(errno_of(error, self.described(name, args))) from None

    return request


def shown(
    ino: int,
    mode: int,
    nlink: int,
    uid: int,
    gid: int,
    rdev: int,
    size: int,
    blocks: int,
    atime_ns: int,
    mtime_ns: int,
    ctime_ns: int,
    timeout: float,
) -> EntryAttributes:
    """A `Show`: the attributes of a file as the kernel is told them."""
    entry = EntryAttributes()
    entry.st_ino = ino
    entry.st_mode = mode
    entry.st_nlink = nlink
    entry.st_uid = uid
    entry.st_gid = gid
    entry.st_rdev = rdev
    entry.st_size = size
    entry.st_blocks = blocks
    entry.st_atime_ns = atime_ns
    entry.st_mtime_ns = mtime_ns
    entry.st_ctime_ns = ctime_ns
    entry.entry_timeout = entry.attr_timeout = timeout
    return entry


def _missing() -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = LONG_TIMEOUT
    return entry


_MISSING: Final = _missing()


# Requests that name what they are about by a handle.
_BY_HANDLE: Final = frozenset(
    ("read", "write", "flush", "release", "fsync", "readdir", "releasedir", "fsyncdir")
)
# Root's by group: for them nothing is looked up that could change.
_ROOT: Final[dict[int, Credentials]] = {}


def _who(context: RequestContext) -> Credentials:
    if not context.uid:
        who = _ROOT.get(context.gid)
        if who is None:
            who = _ROOT[context.gid] = Credentials(0, context.gid)
        return who
    return Credentials(context.uid, context.gid, partial(pyfuse3.get_sup_groups, context.pid))


def _told(
    token: ReaddirToken, listed: list[Listed[EntryAttributes]]
) -> list[Listed[EntryAttributes]]:
    """Pass on as many entries as there is room for: those that were. Between the listing and this
    nothing may be awaited, or it could be out of date."""
    reply = pyfuse3.readdir_reply
    for count, (name, attributes, position, _) in enumerate(listed):
        if not reply(token, name, attributes, position):
            return listed[:count]
    return listed


class Operations(pyfuse3.Operations):
    """The handlers of one mount: of the drive as it is, and of what *history* shows beside it."""

    supports_dot_lookup = False

    def __init__(
        self, fs: FileSystem[EntryAttributes], history: History[EntryAttributes], *, xattrs: bool
    ) -> None:
        super().__init__()
        self.fs = fs
        self.complete = fs.complete
        self._history = history
        self._xattrs = xattrs

    def _of(self, number: int) -> FileSystem[EntryAttributes] | History[EntryAttributes]:
        """Who answers for an inode or a handle."""
        return self.fs if number <= MAX_ID else self._history

    def _changeable(self, inode: int, other: int | None = None) -> FileSystem[EntryAttributes]:
        """The live tree, for what changes these."""
        if inode <= MAX_ID and (other is None or other <= MAX_ID):
            return self.fs
        across = other is not None and min(inode, other) <= MAX_ID
        raise FUSEError(errno.EXDEV if across else errno.EROFS)

    def described(self, request: str, args: tuple[object, ...]) -> str:
        """A request for the log, with the path it is about."""
        number, name = (*args, None, None)[:2]
        if not isinstance(number, int) or number > MAX_ID:
            return request
        try:
            if request in _BY_HANDLE:
                directory = request.endswith("dir")
                return f"{request} {self.fs.path_of_handle(number, directory=directory)}"
        except OSError:
            return f"{request} of what is not open"
        path = self.fs.path_of(number)
        if isinstance(name, bytes) and not request.endswith("xattr"):
            path = f"{path.rstrip('/')}/{os.fsdecode(name)}"
        return f"{request} {path}"

    # -- names -----------------------------------------------------------------------------------

    @answered
    def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes | Coroutine[None, None, EntryAttributes]:
        if parent_inode > MAX_ID:
            return self._past_lookup(parent_inode, name, ctx)
        found = self.fs.lookup(parent_inode, name, _who(ctx))
        if found is None and parent_inode == ROOT_ID and name == CONTROL_NAME:
            return self._history.top()
        return found or _MISSING

    async def _past_lookup(
        self, parent: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return await self._history.lookup(parent, name, _who(ctx)) or _MISSING

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            (self.fs if inode <= MAX_ID else self._history).forget(inode, count)

    @answered
    def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._changeable(parent_inode).mknod(parent_inode, name, mode, rdev, _who(ctx))

    @answered
    def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._changeable(parent_inode).mkdir(parent_inode, name, mode, _who(ctx))

    @answered
    def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self._changeable(parent_inode).unlink(parent_inode, name, _who(ctx))

    @answered
    def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self._changeable(parent_inode).rmdir(parent_inode, name, _who(ctx))

    @answered
    def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._changeable(parent_inode).symlink(parent_inode, name, target, _who(ctx))

    @answered
    def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        self._changeable(parent_inode_old, parent_inode_new).rename(
            parent_inode_old, name_old, parent_inode_new, name_new, flags, _who(ctx)
        )

    @answered
    def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._changeable(inode, new_parent_inode).link(
            inode, new_parent_inode, new_name, _who(ctx)
        )

    # -- attributes --------------------------------------------------------------------------------

    @answered
    def getattr(
        self, inode: InodeT, ctx: RequestContext
    ) -> EntryAttributes | Coroutine[None, None, EntryAttributes]:
        return self._of(inode).getattr(inode)

    @answered
    def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        changes = SetAttributes(
            attr.st_mode & 0o7777 if fields.update_mode else None,
            attr.st_uid if fields.update_uid else None,
            attr.st_gid if fields.update_gid else None,
            attr.st_size if fields.update_size else None,
            clamp_time(attr.st_atime_ns) if fields.update_atime else None,
            clamp_time(attr.st_mtime_ns) if fields.update_mtime else None,
        )
        return self._changeable(inode).setattr(inode, changes, _who(ctx), fh)

    @answered
    def access(
        self, inode: InodeT, mode: ModeT, ctx: RequestContext
    ) -> bool | Coroutine[None, None, bool]:
        return self._of(inode).access(inode, mode, _who(ctx))

    @answered
    def readlink(
        self, inode: InodeT, ctx: RequestContext
    ) -> FileNameT | Coroutine[None, None, FileNameT]:
        return self._of(inode).readlink(inode)

    @answered
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        found = self.fs.statfs()
        shown = StatvfsData()
        shown.f_bsize = shown.f_frsize = found.block_size
        shown.f_blocks = found.blocks
        shown.f_bfree = found.free_blocks
        shown.f_bavail = found.available_blocks
        shown.f_files = found.files
        shown.f_ffree = shown.f_favail = found.free_files
        shown.f_namemax = found.name_max
        return shown

    # -- files -------------------------------------------------------------------------------------

    @answered
    def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        handle, attributes = self._changeable(parent_inode).create(
            parent_inode, name, mode, flags, _who(ctx)
        )
        return FileInfo(fh=handle), attributes

    @answered
    def open(
        self, inode: InodeT, flags: FlagT, ctx: RequestContext
    ) -> FileInfo | Coroutine[None, None, FileInfo]:
        if inode > MAX_ID:
            return self._past_open(inode, flags, ctx)
        return FileInfo(fh=self.fs.open(inode, flags, _who(ctx)))

    async def _past_open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        number = pyfuse3.FileHandleT(await self._history.open(inode, flags, _who(ctx)))
        if self._history.is_computed(number):
            return FileInfo(fh=number, direct_io=True, keep_cache=False)
        return FileInfo(fh=number)

    @answered
    def read(self, fh: FileHandleT, off: int, size: int) -> bytes | Coroutine[None, None, bytes]:
        return self._of(fh).read(fh, off, size)

    @answered
    def write(self, fh: FileHandleT, off: int, buf: bytes) -> int | Coroutine[None, None, int]:
        return self.fs.write(fh, off, buf)

    @answered
    def flush(self, fh: FileHandleT) -> None:
        self._of(fh).flush(fh)

    @answered
    def release(self, fh: FileHandleT) -> None:
        self._of(fh).release(fh)

    @answered
    def fsync(self, fh: FileHandleT, datasync: bool) -> Coroutine[None, None, None] | None:
        return self._of(fh).fsync(fh, data_only=datasync)

    # -- directories -----------------------------------------------------------------------------

    @answered
    def opendir(
        self, inode: InodeT, ctx: RequestContext
    ) -> FileHandleT | Coroutine[None, None, FileHandleT]:
        return self._of(inode).opendir(inode, _who(ctx))

    @answered
    def readdir(
        self, fh: FileHandleT, start_id: int, token: ReaddirToken
    ) -> Coroutine[None, None, None] | None:
        if fh > MAX_ID:
            return self._past_readdir(fh, start_id, token)
        self.fs.remember(fh, _told(token, self.fs.readdir(fh, start_id)))
        return None

    async def _past_readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        self._history.remember(fh, _told(token, await self._history.readdir(fh, start_id)))

    @answered
    def releasedir(self, fh: FileHandleT) -> None:
        self._of(fh).releasedir(fh)

    @answered
    def fsyncdir(self, fh: FileHandleT, datasync: bool) -> Coroutine[None, None, None] | None:
        return self._of(fh).fsyncdir(fh, data_only=datasync)

    # -- extended attributes: what answers ENOSYS once is never asked again ------------------------

    def _check_xattrs(self) -> None:
        if not self._xattrs:
            raise FUSEError(errno.ENOSYS)

    @answered
    def getxattr(
        self, inode: InodeT, name: XAttrNameT, ctx: RequestContext
    ) -> bytes | Coroutine[None, None, bytes]:
        self._check_xattrs()
        refused = rules.xattr_refusal(name)
        if refused:
            raise FUSEError(refused)
        return self._of(inode).getxattr(inode, name, _who(ctx))

    @answered
    def listxattr(
        self, inode: InodeT, ctx: RequestContext
    ) -> Sequence[XAttrNameT] | Coroutine[None, None, Sequence[XAttrNameT]]:
        self._check_xattrs()
        return self._of(inode).listxattr(inode)

    @answered
    def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        self._check_xattrs()
        self._changeable(inode).setxattr(inode, name, value, _who(ctx))

    @answered
    def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        self._check_xattrs()
        self._changeable(inode).removexattr(inode, name, _who(ctx))
