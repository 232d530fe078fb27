"""How file commands reach a drive, whether this process has it open or another one has.

`Access` is all that `ls`, `cat`, `put` and the others know. `DriveAccess` is the drive in this
process; `hyperfs.cli.remote` has the same over another process's control socket.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

import corestore
import hyperfs
from hyperfs.cli.failures import Exit, Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator

    from hyperfs import Batch, Drive, Entry, OpenFile
    from hyperfs.cli.output import Meter


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What commands show of an entry. `mode` is the full st_mode, `target` a link's."""

    id: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    nlink: int = 1
    target: bytes | None = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)


def file_info(entry: Entry) -> FileInfo:
    """The information that commands show, from a drive's entry."""
    return FileInfo(
        id=entry.id,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=len(entry.target) if entry.target is not None else entry.size,
        mtime_ns=entry.mtime_ns,
        nlink=entry.nlink,
        target=entry.target,
    )


class Access(Protocol):
    """A drive's files by path. Paths are absolute byte strings inside the drive.

    Failures are `OSError` with errno and path; a remote drive's also `trio.TooSlowError`.
    """

    async def fixed(self) -> Access:
        """The same files as they are now, or when they are first asked for, whatever is changed
        afterwards: for what is read in several steps. As long as this one is there."""
        ...

    def end(self) -> None:
        """Let go of what a fixed one holds. Call nothing afterwards."""
        ...

    async def stat(self, path: bytes) -> FileInfo:
        """The entry itself: symbolic links are not followed."""
        ...

    async def list(self, path: bytes, after: bytes = b"") -> list[tuple[bytes, FileInfo]]:
        """Some names of a folder after *after*, sorted; empty at the end."""
        ...

    async def read(self, path: bytes, offset: int, length: int) -> bytes:
        """Up to *length* bytes of a file; fewer only at its end."""
        ...

    async def put(
        self, path: bytes, chunks: AsyncIterable[bytes], *, mode: int, mtime_ns: int
    ) -> None:
        """Make or replace a file, all at once when the last chunk is there."""
        ...

    async def mkdir(self, path: bytes, mode: int, mtime_ns: int | None = None) -> None:
        """Make a folder, or set mode and time of the one that is there."""
        ...

    async def symlink(self, path: bytes, target: bytes, mtime_ns: int | None = None) -> None:
        """Make or replace a symbolic link."""
        ...

    async def remove(self, path: bytes, *, recursive: bool = False) -> None:
        """Remove a file, a link or an empty folder; *recursive*: with everything in it."""
        ...

    async def sync(self) -> None:
        """Return when everything put so far is durable and published."""
        ...

    async def collect(self, keep_last: int | None, keep_within: float | None) -> tuple[int, int]:
        """Give back what no kept version needs: how many bytes, and the oldest version kept."""
        ...

    async def compact(self, keep_last: int | None, keep_within: float | None) -> tuple[int, int]:
        """Write what is scattered anew, then `collect`."""
        ...

    async def evict(self, path: bytes) -> int:
        """Forget fetched content below a path; how many bytes. Failure: the drive is ours."""
        ...

    async def verify(self, meter: Meter | None = None) -> tuple[int, int, int, int]:
        """Compare what is stored with its hashes: blocks, their bytes, how many were damaged and
        how many cannot be read. *meter* is told how far that is, unless another process does it."""
        ...


class DriveAccess:
    """`Access` to a drive that this process has open.

    *changed* is told the path of everything that was put or removed, so that a mount in this
    process can tell the kernel.
    """

    LIST_LIMIT = 500
    READY_SECONDS = 10.0

    def __init__(self, drive: Drive, changed: Callable[[bytes], None] | None = None) -> None:
        self._drive = drive
        self._changed = changed or (lambda path: None)

    async def fixed(self) -> DriveAccess:
        await self._ready()
        try:
            return _FixedAccess(await self._drive.checkout())
        except (OSError, corestore.CorestoreError):
            # What cannot be stored can still be read, as it is at the time.
            return self

    def end(self) -> None:
        pass

    async def stat(self, path: bytes) -> FileInfo:
        await self._ready()
        with self._given_back_told():
            return file_info(await self._drive.entry(path))

    async def list(self, path: bytes, after: bytes = b"") -> list[tuple[bytes, FileInfo]]:
        with self._given_back_told():
            folder = await self._drive.entry(path)
            if not stat.S_ISDIR(folder.mode):
                raise NotADirectoryError(
                    errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path)
                )
            found = await self._drive.list(folder.id, after, self.LIST_LIMIT)
        return [(name, file_info(entry)) for name, entry in found]

    async def read(self, path: bytes, offset: int, length: int) -> bytes:
        with self._given_back_told():
            return await self._drive.read(path, offset=offset, length=length)

    async def _ready(self) -> None:
        if not self._drive.version:
            # A seed takes questions before it knows the drive, and may never be able to read it.
            with trio.fail_after(self.READY_SECONDS):
                await self._drive.ready()

    @contextmanager
    def _given_back_told(self) -> Iterator[None]:
        """Say so when what is missing is of a version that its writer does not keep any more."""
        try:
            yield
        except (trio.TooSlowError, corestore.BlockNotAvailable):
            drive = self._drive
            if drive.version < drive.oldest:
                raise Failure(
                    f"version {drive.version} was given back by its writer while it was read; the"
                    " same command again reads the newest",
                    Exit.NOT_FOUND,
                ) from None
            raise

    async def put(
        self, path: bytes, chunks: AsyncIterable[bytes], *, mode: int, mtime_ns: int
    ) -> None:
        # What keeps those before from being stored. (What is removed makes room.)
        self._drive.check_flushed()
        async with self._change(path) as batch:
            await batch.write(path, chunks, mode=mode, mtime_ns=mtime_ns)

    async def mkdir(self, path: bytes, mode: int, mtime_ns: int | None = None) -> None:
        async with self._change(path) as batch:
            await batch.mkdir(path, mode=mode, mtime_ns=mtime_ns, exist_ok=True)

    async def symlink(self, path: bytes, target: bytes, mtime_ns: int | None = None) -> None:
        async with self._change(path) as batch:
            await batch.symlink(path, target, mtime_ns=mtime_ns, replace=True)

    async def remove(self, path: bytes, *, recursive: bool = False) -> None:
        async with self._change(path) as batch:
            await batch.remove(path, recursive=recursive)

    @asynccontextmanager
    async def _change(self, path: bytes) -> AsyncIterator[Batch]:
        """What is changed is staged: a copy of ten thousand files is to make few versions."""
        async with self._drive.batch(commit=False) as batch:
            yield batch
        self._changed(path)

    async def sync(self) -> None:
        await self._drive.sync()

    async def collect(self, keep_last: int | None, keep_within: float | None) -> tuple[int, int]:
        found = await self._drive.collect(keep_last=keep_last, keep_within=keep_within)
        return found.byte_length, found.version

    async def compact(self, keep_last: int | None, keep_within: float | None) -> tuple[int, int]:
        found = await self._drive.compact(keep_last=keep_last, keep_within=keep_within)
        return found.byte_length, found.version

    async def evict(self, path: bytes) -> int:
        try:
            return await self._drive.evict(path)
        except ValueError as error:
            raise Failure(f"{error}; `hyperfs gc` gives old versions back", Exit.USAGE) from None

    async def verify(self, meter: Meter | None = None) -> tuple[int, int, int, int]:
        told = 0

        def tell(size: int, total: int) -> None:
            nonlocal told
            if meter is not None:
                meter.set_total(total)
                meter.add(size - told)
            told = size

        found = await hyperfs.check_drive(self._drive, progress=tell)
        return found.blocks, found.byte_length, found.damaged, found.unreadable


class _FixedAccess(DriveAccess):
    """Of one version. The file that is read stays open, so that what follows is fetched ahead."""

    def __init__(self, drive: Drive) -> None:
        super().__init__(drive)
        self._reading: tuple[bytes, OpenFile] | None = None

    async def read(self, path: bytes, offset: int, length: int) -> bytes:
        with self._given_back_told():
            if self._reading is None or self._reading[0] != path:
                entry = await self._drive.entry(path)
                if not entry.is_file:
                    return await super().read(path, offset, length)
                file = self._drive.open_file(entry, None, current=True)
                self.end()
                self._reading = path, file
            return await self._reading[1].read(offset, length)

    def end(self) -> None:
        # An open file and its tree refer to each other, and while a tree is there it is kept.
        if self._reading is not None:
            self._reading[1].release()
            self._reading = None
