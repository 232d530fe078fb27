"""Mounts on which changes are durable when the call that made them returns: `-o sync`, `dirsync`.

What write(2) has written to a mount with `sync` the kernel syncs by itself: it sends an fsync
before the call returns, as for files that are opened with O_SYNC on any mount. All else it leaves
to the file system. A change that could not be made durable is an error, though it is made.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from hyperfs.fuse.operations import Operations, answered

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pyfuse3 import EntryAttributes, FileInfo, FlagT, InodeT, RequestContext

P = ParamSpec("P")
R = TypeVar("R")


@answered
def sync(operations: Operations, /) -> Coroutine[None, None, None] | None:
    """Return when all changes until now are durable."""
    return operations.fs.drive.sync()


def _ignore(operations: Operations, answer: object) -> None:
    """For an answer that counts as nothing."""


def _forget(operations: Operations, made: EntryAttributes) -> None:
    operations.fs.forget(made.st_ino, 1)


def _close(operations: Operations, made: tuple[FileInfo, EntryAttributes]) -> None:
    operations.fs.release(made[0].fh)
    operations.fs.forget(made[1].st_ino, 1)


def _durable(
    change: Callable[Concatenate[Operations, P], Coroutine[None, None, R]],
    take_back: Callable[[Operations, R], None] = _ignore,
) -> Callable[Concatenate[Operations, P], Coroutine[None, None, R]]:
    """*change*, answered when it is durable. If it cannot be made so, the kernel never learns what
    was answered: *take_back* uncounts that."""

    async def durable(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        answer = await change(self, *args, **kwargs)
        try:
            await sync(self)
        # Cancelled or failed, the kernel is told nothing of the answer, and will not forget it.
        except BaseException:
            take_back(self, answer)
            raise
        return answer

    return durable


class DurableNames(Operations):
    """The handlers of a mount with `dirsync`."""

    create = _durable(Operations.create, _close)
    mknod = _durable(Operations.mknod, _forget)
    mkdir = _durable(Operations.mkdir, _forget)
    symlink = _durable(Operations.symlink, _forget)
    link = _durable(Operations.link, _forget)
    unlink = _durable(Operations.unlink)
    rmdir = _durable(Operations.rmdir)
    rename = _durable(Operations.rename)


class DurableChanges(DurableNames):
    """The handlers of a mount with `sync`."""

    setattr = _durable(Operations.setattr)
    setxattr = _durable(Operations.setxattr)
    removexattr = _durable(Operations.removexattr)
    _truncate = _durable(Operations.open, lambda self, made: self.fs.release(made.fh))

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """One that truncates changes the file."""
        if flags & os.O_TRUNC and flags & os.O_ACCMODE != os.O_RDONLY:
            return await self._truncate(inode, flags, ctx)
        return await super().open(inode, flags, ctx)
