"""Telling the kernel what became out of date: one thread with a queue.

An invalidation waits in the kernel for requests under way on the same inode or directory, and those
wait for us. So it never runs inside a request, nor on the loop's thread at all, or both wait for
ever and not even a kill helps. The thread holds no lock, and nobody waits for what it does; state
is changed first and told after, so that what is asked because of it is answered with the new.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
from typing import Final

import pyfuse3
import trio

from hyperfs.vfs.tree import InvalidateEntry, InvalidateInode, Invalidation

logger: Final = logging.getLogger("hyperfs")

# How long `stop` waits for an invalidation that is under way.
STOP_SECONDS: Final = 5.0
# The kernel knows no such name or inode; the mount is gone.
_NOTHING_TO_DO: Final = (errno.ENOENT, errno.ESTALE)
_GONE: Final = (errno.ENODEV, errno.ENOTCONN, errno.EBADF, errno.ECONNABORTED)


class Notifier:
    """Runs invalidations one after another; `hyperfs.vfs.tree.Invalidations` for the kernel.

    `start` before use, `stop` before the file system is unmounted. `done` counts what was told.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Invalidation | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self.done = 0

    def put(self, item: Invalidation) -> None:
        """Queue an invalidation. Never waits; after `stop` it is dropped."""
        if not self._stopping:
            self._queue.put(item)

    def start(self) -> None:
        """Begin with what is queued."""
        self._thread = threading.Thread(target=self._run, name="fuse-notifier", daemon=True)
        self._thread.start()

    async def stop(self) -> bool:
        """Drop what is queued and wait for the one under way; False if that does not end.

        Requests must be served meanwhile.
        """
        self._stopping = True
        self._queue.put(None)
        thread = self._thread
        if thread is None:
            return True
        with trio.move_on_after(STOP_SECONDS):
            await trio.to_thread.run_sync(thread.join, STOP_SECONDS, abandon_on_cancel=True)
        return not thread.is_alive()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None and not self._stopping:
            try:
                _tell(item)
            except OSError as error:
                if error.errno in _GONE:
                    logger.debug("the mount is gone: %s", error)
                    return
                if error.errno not in _NOTHING_TO_DO:
                    logger.warning("cannot invalidate %s: %s", item, error)
            self.done += 1


def _tell(item: Invalidation) -> None:
    match item:
        case InvalidateInode(ino, attr_only):
            pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only)
        case InvalidateEntry(parent, name):
            pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name))
