"""The data files: one sparse file of block bytes per core, behind a bounded set of descriptors.

`FileIO` is the handful of system calls this takes, as an object, so that tests can make one fail.
`DataFiles` belongs to one thread, except `DataFiles.flush`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from corestore.errors import StorageCorrupt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from corestore.commit import StoredBlock
    from corestore.keys import DiscoveryKey
    from corestore.storage.health import Health

# Linux allows 1024 descriptors per process by default; half is left to sockets and the rest.
MAX_DESCRIPTORS: Final = 512
PAGE: Final = 4096
# One pwritev takes at most IOV_MAX (1024 on Linux) pieces; larger ones than 1 MiB gain nothing.
_MAX_PIECES: Final = 1024
_MAX_WRITE: Final = 1 << 20

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02


def _find_fallocate() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    found = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if found is None:
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    found.restype = ctypes.c_int
    return found  # type: ignore[no-any-return]  # ctypes has no types for it


class FileIO:
    """The system calls a store makes on files of its own (SQLite makes the others)."""

    _fallocate = _find_fallocate()

    def pwritev(self, fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
        """As os.pwritev."""
        return os.pwritev(fd, pieces, offset)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """As os.pread."""
        return os.pread(fd, length, offset)

    def fdatasync(self, fd: int) -> None:
        """Make the contents of a file durable, and what is needed to find them again."""
        if sys.platform == "darwin":
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(fd)

    def fsync_directory(self, path: str | Path) -> None:
        """Make the names in a directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def punch(self, fd: int, start: int, end: int) -> bool:
        """Give the bytes `start..end` back to the disk; they read as zeros afterwards.

        Returns whether the file system can do that; if not, nothing happened.
        """
        if self._fallocate is None:
            return False
        if self._fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, start, end - start) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise OSError(code, os.strerror(code))


class DataFile:
    """An open data file. `syncs` counts the flushes that hold on to the descriptor; the last of
    them closes a file that was `forgotten` meanwhile."""

    __slots__ = ("dirty", "fd", "forgotten", "syncs")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.dirty = False
        self.forgotten = False
        self.syncs = 0


class DataFiles:
    """The data files of a store, by core id, under *folder*.

    A file is created at its first block. Descriptors are kept in an LRU of *limit*; one with a
    flush under way is never closed, and one with unsynced bytes is fdatasynced before it is
    closed, because an error of writing back would be reported to no descriptor opened later.
    """

    def __init__(
        self, folder: Path, health: Health, io: FileIO, *, limit: int = MAX_DESCRIPTORS
    ) -> None:
        self._folder = folder
        self._health = health
        self._io = io
        self._limit = limit
        self._open: OrderedDict[int, DataFile] = OrderedDict()
        # Directories that got a new name since their last fsync, and the counts in DataFile.syncs.
        self._lock = threading.Lock()
        self._new_names: set[Path] = set()
        # Held during a flush: `close` waits for it.
        self._flushing = threading.Lock()

    def path(self, name: DiscoveryKey) -> Path:
        """Where the data file of a core lies, whether it exists or not."""
        text = name.hex()
        return self._folder / text[:2] / text

    def read(self, core: int, name: DiscoveryKey, offset: int, length: int) -> bytes:
        """Exactly *length* bytes.

        Raises:
          StorageCorrupt: the file is missing or too short.
          OSError: as pread.
        """
        if length == 0:
            return b""
        file = self._open.get(core)
        if file is None:
            file = self._open_file(core, name, create=False)
        else:
            self._open.move_to_end(core)
        data = self._io.pread(file.fd, length, offset)
        if len(data) != length:
            data = self._read_on(file, name, data, offset, length)
        return data

    def _read_on(
        self, file: DataFile, name: DiscoveryKey, data: bytes, offset: int, length: int
    ) -> bytes:
        while len(data) < length:
            more = self._io.pread(file.fd, length - len(data), offset + len(data))
            if not more:
                raise StorageCorrupt(f"data file {name.hex()} ends before byte {offset + length}")
            data += more
        return data

    def write(self, core: int, name: DiscoveryKey, blocks: Iterable[StoredBlock]) -> None:
        """Write *blocks*, adjacent ones together. Nothing is durable until `flush`.

        Raises:
          OSError: as pwritev; some of the bytes may have been written.
        """
        file = self._open.get(core)
        if file is None:
            file = self._open_file(core, name, create=True)
        file.dirty = True
        start = end = 0
        pieces: list[bytes | memoryview] = []
        for _, offset, data in blocks:
            if offset != end or len(pieces) == _MAX_PIECES or end - start >= _MAX_WRITE:
                self._write_all(file.fd, pieces, start, end - start)
                start = end = offset
                pieces = []
            pieces.append(data)
            end += len(data)
        self._write_all(file.fd, pieces, start, end - start)

    def _write_all(
        self, fd: int, pieces: Sequence[bytes | memoryview], offset: int, size: int
    ) -> None:
        done = self._io.pwritev(fd, pieces, offset) if size else 0
        if done < size:
            rest = memoryview(b"".join(pieces))
            while done < size:
                done += self._io.pwritev(fd, [rest[done:]], offset + done)

    def punch(self, core: int | None, name: DiscoveryKey, start: int, end: int) -> None:
        """Give back the whole pages within bytes `start..end`, if the file system can.

        *core* is None for one that is not open here.
        """
        start = -(-start // PAGE) * PAGE
        end = end // PAGE * PAGE
        path = self.path(name)
        if start >= end or not path.exists():
            return
        if core is not None:
            file = self._open.get(core) or self._open_file(core, name, create=False)
            self._io.punch(file.fd, start, end)
            return
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._io.punch(fd, start, end)
        finally:
            os.close(fd)

    def remove(self, name: DiscoveryKey) -> None:
        """Delete the data file of a core that no longer exists; a missing one is no error."""
        self.path(name).unlink(missing_ok=True)

    def forget(self, core: int) -> None:
        """Close the descriptor of a core that no longer exists."""
        file = self._open.pop(core, None)
        if file is None:
            return
        with self._lock:
            file.forgotten = True
            if not file.syncs:
                os.close(file.fd)

    def expect_unsynced(self, core: int, name: DiscoveryKey) -> None:
        """Another process wrote to this file, perhaps created it, and is gone: the next flush that
        names it shall include that. A missing file is no error: then there is nothing to sync."""
        path = self.path(name)
        if path.exists():
            file = self._open.get(core) or self._open_file(core, name, create=False)
            file.dirty = True
            with self._lock:
                self._new_names |= {path.parent, self._folder}

    def begin_flush(self, cores: Iterable[int]) -> list[DataFile]:
        """The open files of *cores*, held open until `flush` has been through them.

        A file that is not open was fdatasynced when its descriptor was closed.
        """
        files = [self._open[core] for core in cores if core in self._open]
        with self._lock:
            for file in files:
                file.syncs += 1
        return files

    def flush(self, files: Sequence[DataFile]) -> None:
        """fdatasync *files* and fsync the directories of new ones. May run in a thread."""
        try:
            with self._flushing:
                self._flush(files)
        finally:
            with self._lock:
                for file in files:
                    file.syncs -= 1
                    if file.forgotten and not file.syncs:
                        os.close(file.fd)

    def _flush(self, files: Sequence[DataFile]) -> None:
        for file in files:
            file.dirty = False
            self._io.fdatasync(file.fd)
        with self._lock:
            names = set(self._new_names)
        for directory in names:
            self._io.fsync_directory(directory)
        with self._lock:
            self._new_names -= names

    def close(self) -> None:
        """Close all descriptors, after a flush that is under way."""
        with self._flushing:
            while self._open:
                _core, file = self._open.popitem()
                os.close(file.fd)

    def _open_file(self, core: int, name: DiscoveryKey, *, create: bool) -> DataFile:
        self._make_room()
        path = self.path(name)
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            fd = os.open(path, flags)
        except FileNotFoundError:
            if not create:
                raise StorageCorrupt(f"data file {name.hex()} is missing") from None
            fd = self._create(path, flags)
        file = self._open[core] = DataFile(fd)
        return file

    def _create(self, path: Path, flags: int) -> int:
        folder = path.parent
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            with self._lock:
                self._new_names.add(folder.parent)
        fd = os.open(path, flags | os.O_CREAT, 0o600)
        with self._lock:
            self._new_names.add(folder)
        return fd

    def _make_room(self) -> None:
        if len(self._open) < self._limit:
            return
        for core, file in self._open.items():
            with self._lock:
                busy = file.syncs > 0
            if not busy:
                if file.dirty:
                    with self._health.final("syncing a data file"):
                        self._io.fdatasync(file.fd)
                os.close(file.fd)
                del self._open[core]
                return
        # All of them are being synced: one more for a while.
