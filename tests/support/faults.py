"""Disks that fail: at the n-th call, or by losing what was not synced when the power goes."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from corestore.storage.files import PAGE, FileIO

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from corestore.commit import Commit
    from corestore.storage import CoreStorage, Storage, SyncTicket


class FaultyIO(FileIO):
    """Fails the calls that `fail` asks for; counts all of them in `calls`."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._failures: dict[str, tuple[int, int]] = {}

    def fail(self, call: str, *, after: int = 0, code: int = errno.EIO) -> None:
        """Let *call* ("pwritev", "fdatasync", ...) fail once, after *after* more of them."""
        self._failures[call] = (self.calls[call] + after, code)

    def _count(self, call: str) -> None:
        at, code = self._failures.get(call, (-1, 0))
        if self.calls[call] == at:
            del self._failures[call]
            raise OSError(code, os.strerror(code))
        self.calls[call] += 1

    def pwritev(self, fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
        self._count("pwritev")
        return super().pwritev(fd, pieces, offset)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self._count("pread")
        return super().pread(fd, length, offset)

    def fdatasync(self, fd: int) -> None:
        self._count("fdatasync")
        super().fdatasync(fd)

    def fsync_directory(self, path: str | Path) -> None:
        self._count("fsync_directory")
        super().fsync_directory(path)

    def punch(self, fd: int, start: int, end: int) -> bool:
        self._count("punch")
        return super().punch(fd, start, end)


class FaultyStorage:
    """A `Storage` whose calls of one name fail from some point on; everything else is passed on."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._failures: dict[str, tuple[int, Exception]] = {}
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    def fail(self, call: str, error: Exception, *, after: int = 0) -> None:
        """Let *call* ("commit", "flush", "mark_synced", "flush_log") raise *error* once, after
        *after* more of them; nothing of that call is done."""
        self._failures[call] = (self.calls[call] + after, error)

    def _count(self, call: str) -> None:
        if call in self._failures:
            at, error = self._failures[call]
            if self.calls[call] == at:
                del self._failures[call]
                raise error
        self.calls[call] += 1

    def commit(self, commits: Sequence[tuple[CoreStorage, Commit]]) -> None:
        self._count("commit")
        self._storage.commit(commits)

    def flush(self, ticket: SyncTicket) -> None:
        self._count("flush")
        self._storage.flush(ticket)

    def mark_synced(self, ticket: SyncTicket) -> None:
        self._count("mark_synced")
        self._storage.mark_synced(ticket)

    def flush_log(self, ticket: SyncTicket) -> None:
        self._count("flush_log")
        self._storage.flush_log(ticket)


class UnstableIO(FileIO):
    """A disk that may lose, in a power cut, every page not synced since it was written.

    Keeps what is certain to be on the disk: the pages of data files as of their last fdatasync,
    and the log as of its own. What SQLite writes without us is the log, which is compared with its
    last synced copy when the power goes; so no checkpoint may run before. *lie* makes fdatasync
    succeed without doing anything, as a control of the tests.
    """

    def __init__(self, path: Path, *, lie: bool = False) -> None:
        """*path* is the store's folder; what lies in it now is on the disk."""
        self._lie = lie
        # By inode: number of a page to its content on the disk, where that differs.
        self._lost: dict[int, dict[int, bytes]] = {}
        self._log: dict[int, bytes] = {}
        # By directory: the names in it that are certain to be there.
        self._names: dict[Path, set[str]] = {}
        for folder in [path / "data", *(path / "data").glob("*")]:
            if folder.exists():
                self._names[folder] = set(os.listdir(folder))

    def fsync_directory(self, path: str | Path) -> None:
        if not self._lie:
            self._names[Path(path)] = set(os.listdir(path))

    def pwritev(self, fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
        lost = self._lost.setdefault(os.fstat(fd).st_ino, {})
        size = sum(len(piece) for piece in pieces)
        for number in range(offset // PAGE, -(-(offset + size) // PAGE)):
            if number not in lost:
                lost[number] = os.pread(fd, PAGE, number * PAGE).ljust(PAGE, b"\0")
        return super().pwritev(fd, pieces, offset)

    def fdatasync(self, fd: int) -> None:
        if self._lie:
            return
        status = os.fstat(fd)
        if os.readlink(f"/proc/self/fd/{fd}").endswith("-wal"):
            self._log[status.st_ino] = os.pread(fd, status.st_size, 0)
        else:
            self._lost.pop(status.st_ino, None)

    def cut_power(self, path: Path, target: Path, source: random.Random) -> None:
        """Copy the store at *path* to *target* as the disk might have it: each page that was not
        synced is there or not, by *source*."""
        keep = source.choice([0.0, 0.5, 0.9, 1.0])
        shutil.copytree(path, target, ignore=shutil.ignore_patterns("store.db-shm"))
        for file in (path / "data").glob("*/*"):
            copy = target / file.relative_to(path)
            if not self._named(file) and source.random() >= keep:
                copy.unlink()
                continue
            data = bytearray(file.read_bytes())
            for number, content in self._lost.get(file.stat().st_ino, {}).items():
                if source.random() >= keep:
                    data[number * PAGE : (number + 1) * PAGE] = content
            copy.write_bytes(data)
        self._cut_log(path / "store.db-wal", target / "store.db-wal", source, keep)

    def _named(self, file: Path) -> bool:
        folder = file.parent
        in_folder = file.name in self._names.get(folder, ())
        return in_folder and folder.name in self._names.get(folder.parent, ())

    def _cut_log(self, log: Path, copy: Path, source: random.Random, keep: float) -> None:
        now = log.read_bytes()
        synced = self._log.get(log.stat().st_ino, b"")
        result = bytearray(now)
        for at in range(0, len(now), PAGE):
            old = synced[at : at + PAGE].ljust(min(PAGE, len(now) - at), b"\0")
            if source.random() >= keep:
                result[at : at + PAGE] = old
        copy.write_bytes(result)
