"""Mount a drive, serve it, take it off again."""

from __future__ import annotations

import errno
import logging
import math
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from corestore import CorestoreError
from hyperfs.fuse import mountpoint
from hyperfs.records import ROOT_ID
from hyperfs.vfs.attributes import Presentation
from hyperfs.vfs.filesystem import FileSystem
from hyperfs.vfs.history import History
from hyperfs.vfs.options import MountOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyfuse3 import EntryAttributes

    from hyperfs.drive import Drive
    from hyperfs.fuse.invalidate import Notifier
    from hyperfs.fuse.session import Session
    from hyperfs.vfs.tree import Invalidations

logger: Final = logging.getLogger("hyperfs")

# How long the first answer of a new mount may take.
_READY_SECONDS: Final = 30.0
# How long a drive in which something has failed may take to store what is left.
_LAST_SYNC_SECONDS: Final = 5.0
# How long a mount that nobody uses may take to write back mapped pages and go.
_UNMOUNT_SECONDS: Final = 30.0

_serving: str | None = None


class Mounted:
    """A mount that answers, on `directory`, showing `file_system` and beside it `history`.

    `connection` is its number under `mountpoint.CONNECTIONS`.
    """

    def __init__(
        self,
        directory: str,
        file_system: FileSystem[EntryAttributes],
        history: History[EntryAttributes],
        connection: int | None,
        session: Session,
    ) -> None:
        self.directory = directory
        self.file_system = file_system
        self.history = history
        self.connection = connection
        self._session = session
        self._send, self._receive = trio.open_memory_channel[bytes](math.inf)

    async def wait_unmounted(self) -> None:
        """Return when it is no longer served, whoever unmounted it."""
        await self._session.wait_ended()

    def changed_outside(self, path: bytes) -> None:
        """This process changed *path* in the drive beside the mount: the kernel is told soon.

        Never waits.
        """
        self._send.send_nowait(path)

    async def _tell_kernel(self) -> None:
        async for path in self._receive:
            try:
                await self._tell_kernel_of(path)
            except (CorestoreError, trio.TooSlowError, OSError) as error:
                logger.warning("%r may be shown as it was before: %s", path, error)

    async def _tell_kernel_of(self, path: bytes) -> None:
        fs, directory = self.file_system, ROOT_ID
        for name in filter(None, path.split(b"/")):
            await fs.changed_outside(directory, name)
            entry = await fs.drive.lookup(directory, name)
            if entry is None:
                return
            directory = entry.id


async def mount(
    drive: Drive,
    directory: str | os.PathLike[str],
    *,
    options: MountOptions | None = None,
    stopped: Callable[[], bool] | None = None,
    task_status: trio.TaskStatus[Mounted] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount *drive* on an empty directory and serve it until it is unmounted, or cancelled.

    Reports a `Mounted` once the mount answers. Cancelling takes the mount off, after everything
    written to it is durable; programs that still use it get errors from then on.

    A failure in the mount, or one beside it (it is cancelled while *stopped* says no), leaves the
    mount point an error: an empty folder would be taken for the drive, and written to.

    Raises:
      FuseUnavailable: this machine cannot mount; the message says what to install.
      FileNotFoundError, NotADirectoryError: *directory*.
      OSError: ENOTEMPTY; EBUSY, mounted already, or this process serves a mount; EINVAL, it has
        to do with the drive's own store; ENOTCONN, a dead mount cannot be taken off; EPERM.
    """
    global _serving
    options = _allowed(options or MountOptions(), drive)
    await trio.to_thread.run_sync(mountpoint.check_available)
    if _serving is not None:
        raise OSError(errno.EBUSY, f"this process serves the mount on {_serving} already")
    _serving = os.fspath(directory)
    try:
        store = None if drive.store_path is None else os.fspath(drive.store_path)
        prepare = partial(mountpoint.prepare, os.fspath(directory), store=store)
        point = await trio.to_thread.run_sync(prepare)
        await _serve(drive, point, options, stopped or (lambda: True), task_status)
    finally:
        _serving = None


def _allowed(options: MountOptions, drive: Drive) -> MountOptions:
    """What a drive of somebody else may be: nothing in it can harm who reads it."""
    if drive.writable or drive.metadata.writable:
        return options
    return replace(
        options,
        read_only=True,
        dev=False,
        suid=False,
        uid=os.getuid() if options.uid is None else options.uid,
        gid=os.getgid() if options.gid is None else options.gid,
    )


async def _serve(
    drive: Drive,
    point: str,
    options: MountOptions,
    stopped: Callable[[], bool],
    task_status: trio.TaskStatus[Mounted],
) -> None:
    # Only now: drives work, and say what to install, where pyfuse3 is not.
    from hyperfs.fuse.invalidate import Notifier
    from hyperfs.fuse.session import Session

    notifier = Notifier()
    fs = _file_system(drive, options, notifier)
    history = History(fs, lambda past, first: _file_system(past, options, first=first))
    session = Session(fs, history, point, options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        try:
            connection = await _first_answer(point)
            notifier.start()
            mounted = Mounted(point, fs, history, connection, session)
            nursery.start_soon(mounted._tell_kernel)
            if fs.read_only:
                # What is mounted for writing, nobody else changes.
                nursery.start_soon(fs.follow_changes)
            task_status.started(mounted)
            await session.wait_ended()
        finally:
            failed = session.failed or (not session.ended and not stopped())
            with trio.CancelScope(shield=True):
                if failed:
                    await _leave(fs, session, notifier, point)
                else:
                    await _take_off(fs, session, notifier, point)
        nursery.cancel_scope.cancel()


def _file_system(
    drive: Drive,
    options: MountOptions,
    invalidations: Invalidations | None = None,
    *,
    first: int = 0,
) -> FileSystem[EntryAttributes]:
    from hyperfs.fuse.operations import shown

    return FileSystem(
        drive,
        shown,
        presentation=Presentation(options.uid, options.gid, options.umask, first=first),
        read_only=options.read_only,
        check_permissions=not options.kernel_checks,
        devices=options.dev,
        disk=drive.store_path,
        invalidations=invalidations,
    )


async def _first_answer(point: str) -> int | None:
    """Return when the mount answers; the number of its connection."""

    def ask() -> int | None:
        os.statvfs(point)
        return mountpoint.connection_of(point)

    with trio.fail_after(_READY_SECONDS):
        return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)


async def _take_off(
    fs: FileSystem[EntryAttributes], session: Session, notifier: Notifier, point: str
) -> None:
    """End the session so that nothing written is lost.

    A mount that nobody uses is unmounted while it is still served: so the kernel writes back what
    programs changed through mappings. For one in use it is asked to, then the mount is detached.
    """
    quiet = await notifier.stop()
    with trio.move_on_after(_UNMOUNT_SECONDS):
        if not await _unmounted(point, session):
            await _detach(point)
    await _sync(fs)
    connection = await trio.to_thread.run_sync(mountpoint.connection_of, point)
    session.end()
    with trio.move_on_after(_UNMOUNT_SECONDS):
        await session.wait_ended()
    # Requests answered between the last sync and the end.
    await _sync(fs)
    if not quiet:
        if connection is not None:
            mountpoint.abort(connection)
        if not await notifier.stop():
            logger.error("%s: an invalidation does not end; the mount goes with the process", point)
            return
    session.close(unmount=connection is not None)


async def _leave(
    fs: FileSystem[EntryAttributes], session: Session, notifier: Notifier, point: str
) -> None:
    """End the session after a failure: the mount stays, and whoever uses it gets errors.

    What was written is made durable if that is still possible.
    """
    logger.error(
        "the mount on %s has failed; hyperfs umount, or another mount, takes it off", point
    )
    await notifier.stop()
    with trio.move_on_after(_LAST_SYNC_SECONDS):
        await _sync(fs)
    session.end()
    with trio.move_on_after(_UNMOUNT_SECONDS):
        await session.wait_ended()
    session.close(unmount=False)


async def _unmounted(point: str, session: Session) -> bool:
    """Unmount; False if it is in use."""
    if session.ended:
        return True
    unmount = partial(mountpoint.unmount, point, lazy=False)
    reason = await trio.to_thread.run_sync(unmount, abandon_on_cancel=True)
    if reason is not None:
        logger.info("%s is in use: %s", point, reason)
        return False
    # The kernel's goodbye ends the session.
    await session.wait_ended()
    return True


async def _detach(point: str) -> None:
    """Take the mount out of the tree of files; who has it open, has it still."""
    try:
        await trio.to_thread.run_sync(mountpoint.write_back, point, abandon_on_cancel=True)
    except OSError as error:
        logger.warning("%s: mapped files could not be written back: %s", point, error)
    unmount = partial(mountpoint.unmount, point, lazy=True)
    reason = await trio.to_thread.run_sync(unmount, abandon_on_cancel=True)
    if reason is not None:
        logger.warning("%s cannot be detached: %s", point, reason)


async def _sync(fs: FileSystem[EntryAttributes]) -> None:
    if fs.read_only:
        return
    try:
        await fs.drive.sync()
    except Exception:  # whatever it is, the mount must still be taken off
        logger.exception("what was written last could not be made durable")
