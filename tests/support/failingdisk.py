"""A disk under whole stores on which any call can fail, or be the last one before a crash.

    with FailingDisk(folder) as disk:
        storage = DiskStorage(folder / "store", io=disk.io)

Every write, sync, truncation and hole is counted, ours and SQLite's (which makes its own, through a
VFS that is the default one inside the `with`, for databases below *folder*).
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import apsw

from tests.support.faults import UnstableIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_BASE = apsw.vfs_names()[0]
_NAME = "failing"


class FailingDisk:
    """Counts calls in `calls`, and lets those fail that `fail` asks for.

    *before* is called before each call with its number, in the thread that makes it.
    """

    def __init__(self, store: Path, before: Callable[[int], None] = lambda number: None) -> None:
        self._store = store
        self._before = before
        self._lock = threading.Lock()
        self._first = self._last = -1
        self._code = 0
        self.calls: list[str] = []
        self.failed: list[str] = []
        self.io: UnstableIO = _IO(self, store)

    def __enter__(self) -> FailingDisk:
        self._vfs = _VFS(self, self._store)
        return self

    def __exit__(self, *_: object) -> None:
        self._vfs.unregister()

    def fail(self, number: int, code: int = errno.EIO, *, more: bool = False) -> None:
        """Let call *number* fail with *code*; with *more*, every later one too, until `mend`."""
        self._first = number
        self._last = 1 << 60 if more else number
        self._code = code

    def mend(self) -> None:
        """Let nothing fail any more."""
        self._first = self._last = -1

    def count(self, call: str) -> None:
        """A call is made.

        Raises:
          OSError: it is one that fails.
        """
        with self._lock:
            number = len(self.calls)
            self.calls.append(call)
            if self._first <= number <= self._last and _can(call, self._code):
                self.failed.append(call)
                raise OSError(self._code, os.strerror(self._code))
        self._before(number)


def _can(call: str, code: int) -> bool:
    """Whether a full disk fails a call: giving space back and fdatasync of what has its blocks
    never do."""
    return code == errno.EIO or call in ("pwritev", "write log", "write database")


class _IO(UnstableIO):
    """What corestore writes itself."""

    def __init__(self, disk: FailingDisk, store: Path) -> None:
        super().__init__(store)
        self._disk = disk

    def pwritev(self, fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
        self._disk.count("pwritev")
        return super().pwritev(fd, pieces, offset)

    def fdatasync(self, fd: int) -> None:
        self._disk.count("fdatasync")
        super().fdatasync(fd)

    def fsync_directory(self, path: str | Path) -> None:
        self._disk.count("fsync_directory")
        super().fsync_directory(path)

    def punch(self, fd: int, start: int, end: int) -> bool:
        self._disk.count("punch")
        return super().punch(fd, start, end)


class _VFS(apsw.VFS):
    """What SQLite writes."""

    def __init__(self, disk: FailingDisk, store: Path) -> None:
        super().__init__(_NAME, _BASE, makedefault=True)
        self._disk = disk
        self._store = str(store)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or not path.startswith(self._store):
            return apsw.VFSFile(_BASE, name, flags)
        kind = "log" if path.endswith("-wal") else "database"
        return _File(self._disk, kind, name, flags)


class _File(apsw.VFSFile):
    def __init__(
        self,
        disk: FailingDisk,
        kind: str,
        name: str | apsw.URIFilename | None,
        flags: list[int],
    ) -> None:
        super().__init__(_BASE, name, flags)
        self._disk = disk
        self._kind = kind

    def _count(self, what: str) -> None:
        try:
            self._disk.count(f"{what} {self._kind}")
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise apsw.FullError(str(error)) from error
            raise apsw.IOError(str(error)) from error

    def xWrite(self, data: bytes, offset: int) -> None:
        self._count("write")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._count("sync")
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:
        self._count("truncate")
        super().xTruncate(size)
