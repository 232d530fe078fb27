"""The folder of a store: what lies where in it, and its primary key."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from corestore import crypto
from corestore.errors import StorageCorrupt, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from corestore.storage.files import FileIO

DATABASE: Final = "store.db"
DATA: Final = "data"
LOCKS: Final = "locks"
PRIMARY_KEY: Final = "primary-key"
RESERVE: Final = "reserve"
PRIMARY_KEY_BYTES: Final = 32


def prepare(path: Path, io: FileIO) -> None:
    """Create the folder (0700) and its subfolders where they are missing.

    Raises:
      OSError: with the errno and the path; NotADirectoryError if a file is in the way.
      StorageError: its database is gone, and its data is not.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "the store's folder is a file", str(path))
    if not path.is_dir():
        os.makedirs(path, mode=0o700, exist_ok=True)
        io.fsync_directory(path.parent)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "the store's folder is not ours to write", str(path))
    # Asked again after the data was seen: another process that makes the store has a database
    # before it has a data file.
    if not has_database(path) and any((path / DATA).glob("*/*")) and not has_database(path):
        raise StorageError(
            f"the store {path} has lost its database {DATABASE}: put it back from a backup, or"
            f" remove the folder {DATA} to begin with nothing but the primary key"
        )
    for name in (DATA, LOCKS):
        (path / name).mkdir(mode=0o700, exist_ok=True)
    _make_private(path / DATABASE)


def has_database(path: Path) -> bool:
    """Whether the database has begun, with a size above 0."""
    return any(_size(path / f"{DATABASE}{suffix}") for suffix in ("", "-wal"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _make_private(database: Path) -> None:
    """The database may hold secret keys. SQLite gives its other files the same mode.

    A database that is there is not opened: closing it would drop SQLite's locks (STORAGE.md).
    """
    try:
        os.close(os.open(database, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if database.stat().st_mode & 0o077:
            database.chmod(0o600)


def primary_key(path: Path, io: FileIO) -> bytes:
    """Read the primary key, or make one: whole and durable before it has its name.

    Two processes may do this at once: a hard link is made for one of them only. A store that has
    a database had a key: another one would open it, and sign none of its cores.

    Raises:
      StorageError: the key is gone, and the database is not.
      StorageCorrupt: the file has not 32 bytes.
      OSError: it cannot be read or written.
    """
    file = path / PRIMARY_KEY
    begun = has_database(path)
    if not file.exists():
        if begun:
            raise StorageError(
                f"the store {path} has lost its file {PRIMARY_KEY}, without which its cores cannot"
                " be signed: put it back from a backup"
            )
        new = path / f"{PRIMARY_KEY}.{os.getpid()}.{crypto.random_bytes(4).hex()}"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, crypto.random_bytes(PRIMARY_KEY_BYTES))
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(new, file)
        except FileExistsError:
            pass  # another process was first: its key is the one
        finally:
            new.unlink()
        io.fsync_directory(path)
    key = file.read_bytes()
    if len(key) != PRIMARY_KEY_BYTES:
        raise StorageCorrupt(f"{file} has {len(key)} bytes instead of {PRIMARY_KEY_BYTES}")
    return key
