"""The signing lock: at most one process appends to, truncates or cuts a core of ours.

A kernel lock (`flock`) on `locks/<discovery key>`, held by an open descriptor: it ends with the
process however that ends. The process id inside the file is for messages only; whether the lock is
held is asked of the kernel, never of the file. Lock files are never deleted, because another
process may be about to lock the one we see.

A recovery takes the locks of the cores it looks at, for a moment, under the recovery lock. Whoever
finds a core locked waits for a recovery to end before believing it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from corestore.errors import StorageLocked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from corestore.keys import DiscoveryKey

_RECOVERY: Final = "recovery"


@contextmanager
def recovery_lock(folder: Path) -> Iterator[None]:
    """Hold the recovery lock; waits while another process recovers the store."""
    with _locked(folder / _RECOVERY, fcntl.LOCK_EX):
        yield


def wait_for_recovery(folder: Path) -> None:
    """Return when no process recovers the store."""
    with _locked(folder / _RECOVERY, fcntl.LOCK_SH):
        pass


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


class SigningLock:
    """A lock that is held, until `release`."""

    def __init__(self, folder: Path, name: DiscoveryKey) -> None:
        """Take the lock.

        Raises:
          StorageLocked: another process, or another open store of this process, holds it.
          OSError: the lock file cannot be created.
        """
        path = folder / name.hex()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            pid = self._holder()
            os.close(self._fd)
            by = "another process" if pid is None else f"process {pid}"
            raise StorageLocked(f"this core is being written by {by}", pid=pid) from None
        except BaseException:
            os.close(self._fd)
            raise

    def _holder(self) -> int | None:
        text = os.pread(self._fd, 32, 0).strip()
        return int(text) if text.isdigit() else None

    def release(self) -> None:
        """Let others have it."""
        os.close(self._fd)
