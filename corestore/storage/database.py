"""The database of a store, and its write-ahead log: connections, transactions, checkpoints.

SQLite in WAL mode with `synchronous=NORMAL`: a commit writes to the log without syncing it, and
after a crash some prefix of the commits is there. What must be durable is made so by an fdatasync
of the log through a descriptor of our own (`Log`). No automatic checkpoints: they would run inside
commits.

The main connection belongs to one thread; `Log.flush` and `Database.checkpoint` may run in others.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import apsw

from corestore.errors import StorageCorrupt, StorageError
from corestore.storage import schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

    from corestore.storage.files import FileIO
    from corestore.storage.health import Health

# A checkpoint beside commits corrupts the database in older ones (the WAL-reset bug); the fix
# was carried back to these two branches.
MIN_SQLITE: Final = (3, 51, 3)
_BACKPORTS: Final = {(3, 50): 7, (3, 44): 6}

# One attempt of SQLite's to get the lock, and how long we keep trying.
_BUSY_MS: Final = 100
_BUSY_SECONDS: Final = 30.0

T = TypeVar("T")

_PAGE: Final = 4096
# A checkpoint in the background from here on, and again after as much more.
CHECKPOINT_PAGES: Final = (4 << 20) // _PAGE
# From here on commits are held for a second pass (7.7 ms at the median), because a checkpoint
# beside commits hardly ever finds a moment at which the log could start over.
HOLD_PAGES: Final = (16 << 20) // _PAGE


def check_sqlite_version(text: str | None = None) -> None:
    """Refuse a SQLite that can corrupt a database whose checkpoints run beside commits.

    Raises:
      StorageError: it is older than 3.51.3 and not a fixed 3.50.7+ or 3.44.6+.
    """
    text = text or apsw.sqlite_lib_version()
    version = tuple(int(part) for part in text.split("."))
    backport = _BACKPORTS.get((version[0], version[1]))
    if version < MIN_SQLITE and (backport is None or version[2] < backport):
        raise StorageError(f"SQLite {text} can damage a store; 3.51.3 or newer is needed")


def _run(cursor: apsw.Cursor, sql: str) -> None:
    cursor.execute(sql).fetchall()


class Log:
    """Our own descriptor of the write-ahead log, through which it is made durable.

    Opened after the first statement (that creates the file) and held until the last connection is
    closed (that deletes it). Opening and closing this file disturbs no lock of SQLite's; doing
    so with the database or the shared memory file would drop its POSIX locks.
    """

    def __init__(self, path: Path, health: Health, io: FileIO) -> None:
        self._path = path
        self._health = health
        self._io = io
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        # Held while the descriptor is in use: it is never closed under an fdatasync.
        self._lock = threading.Lock()
        self._name_durable = False

    @property
    def empty(self) -> bool:
        """Whether everything committed is in the database itself, and durable: whoever closed its
        last connection synced it there before deleting the log, and nothing was committed since."""
        return os.fstat(self._fd).st_size == 0

    def flush(self) -> None:
        """Make every commit that has returned durable. May run in a thread.

        Raises:
          StorageError: it failed, or the log is not the file it was; the store stops.
        """
        with self._lock:
            self._health.check()
            with self._health.final("syncing the log"):
                self._io.fdatasync(self._fd)
                ours, there = os.fstat(self._fd), os.stat(self._path)
                if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
                    raise OSError(errno.ESTALE, "the log was replaced", str(self._path))
                if not self._name_durable:
                    # The log was made when the database was opened, and the database perhaps too.
                    self._io.fsync_directory(self._path.parent)
                    self._name_durable = True

    def close(self) -> None:
        """Close the descriptor; after the last connection only."""
        with self._lock:
            os.close(self._fd)


class _Transaction:
    """What `Database.transaction` returns, always the same: a generator costs 1 us each time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> apsw.Cursor:
        return self._database.begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._database.end(error)


class Database:
    """The main connection, its transactions, and checkpoints through a second one."""

    def __init__(self, path: Path, health: Health, io: FileIO) -> None:
        """Open, or create, the database at *path*.

        Raises:
          StorageError: too old a SQLite, a newer format, another program's database.
          StorageCorrupt: not a database.
          OSError: as SQLite reports it.
        """
        check_sqlite_version()
        self._path = path
        self._health = health
        # Held by a commit, and by the second pass of a checkpoint.
        self._commits = threading.Lock()
        self._checkpointing = threading.Lock()
        self._checkpointer: apsw.Connection | None = None
        self._log_pages = 0
        self._checkpointed_pages = 0
        self._transaction = _Transaction(self)
        self._connection = self._connect()
        try:
            self._connection.set_wal_hook(self._committed)
            self.cursor = self._connection.cursor()
            found = self.one("PRAGMA application_id"), self.one("PRAGMA user_version")
            if found != (schema.APPLICATION_ID, schema.VERSION):
                with self.transaction() as cursor:
                    schema.prepare(cursor)
            self.log = Log(path.with_name(path.name + "-wal"), health, io)
        except BaseException:
            self._connection.close()
            raise

    def _connect(self) -> apsw.Connection:
        try:
            connection = apsw.Connection(str(self._path))
            connection.set_busy_timeout(_BUSY_MS)
            for pragma in (
                "journal_mode = WAL",
                "synchronous = NORMAL",
                "wal_autocheckpoint = 0",
                "foreign_keys = OFF",
            ):
                self._patiently(partial(_run, connection.cursor(), f"PRAGMA {pragma}"))
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise StorageCorrupt(f"{self._path.name}: {error}") from error
        except apsw.FullError as e:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path)) from e
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError, apsw.PermissionsError) as e:
            if getattr(e, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path)) from e
            raise OSError(errno.EACCES, f"cannot open the database ({e})", str(self._path)) from e
        return connection

    # -- transactions --------------------------------------------------------------------------

    def transaction(self) -> AbstractContextManager[apsw.Cursor]:
        """One write transaction, of all processes at most one at a time.

        Raises:
          OSError(ENOSPC): the disk is full; nothing was written, the store works on.
          StorageError: another process kept writing for 30 s.
          StorageError, StorageCorrupt: anything else; the store stops.
        """
        return self._transaction

    def begin(self) -> apsw.Cursor:
        """Begin the transaction; see `transaction`, the only caller."""
        self._health.check()
        self._commits.acquire()
        try:
            self._statement("BEGIN IMMEDIATE")
        except BaseException:
            self._commits.release()
            raise
        return self.cursor

    def end(self, error: BaseException | None) -> None:
        """Commit, or roll back because of *error*; see `transaction`, the only caller."""
        try:
            if error is None:
                self._statement("COMMIT")
                return
            self._roll_back()
            if isinstance(error, apsw.Error):
                self._translate(error)
        finally:
            self._commits.release()

    def _statement(self, sql: str) -> None:
        try:
            try:
                self.cursor.execute(sql)
            except apsw.BusyError:
                self._patiently(partial(_run, self.cursor, sql))
        except apsw.BusyError as error:
            self._roll_back()
            seconds = int(_BUSY_SECONDS)
            raise StorageError(
                f"another process has been writing to this store for {seconds} s"
            ) from error
        except apsw.Error as error:
            self._roll_back()
            self._translate(error)

    def _patiently(self, run: Callable[[], T]) -> T:
        """Run something, and again while SQLite is busy: beside a checkpoint that is normal."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return run()
            except apsw.BusyError:
                if time.monotonic() > deadline:
                    raise

    def _roll_back(self) -> None:
        if not self._connection.getautocommit():
            with self._health.final("rolling back"):
                self._connection.execute("ROLLBACK")

    def _translate(self, error: apsw.Error) -> None:
        if isinstance(error, apsw.FullError):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path)) from error
        with self._health.final("writing to the database"):
            raise error

    # -- reading ---------------------------------------------------------------------------------

    def one(self, sql: str, values: tuple[object, ...] = ()) -> object:
        """The only row, as a tuple, or its value if it has one column; None if there is no row.

        Reads to the end, so that no snapshot stays open (it would stop checkpoints).
        """
        try:
            return self.cursor.execute(sql, values).get
        except apsw.BusyError:
            return self._while_busy(lambda: self.cursor.execute(sql, values).get)
        except apsw.Error as error:
            raise self._unreadable(error) from error

    def all(self, sql: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """All rows."""
        try:
            return list(self.cursor.execute(sql, values).fetchall())
        except apsw.BusyError:
            return self._while_busy(lambda: list(self.cursor.execute(sql, values).fetchall()))
        except apsw.Error as error:
            raise self._unreadable(error) from error

    def _while_busy(self, read: Callable[[], T]) -> T:
        """Read while another process opens the store or recovers its log: that is soon over."""
        try:
            return self._patiently(read)
        except apsw.Error as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: apsw.Error) -> Exception:
        if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
            self._health.error = error
            return StorageCorrupt(str(error))
        if isinstance(error, (apsw.ConnectionClosedError, apsw.CursorClosedError)):
            return StorageError("the store is closed")
        return StorageError(f"the database cannot be read ({error})")

    # -- checkpoints ---------------------------------------------------------------------------

    def _committed(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        if pages < self._checkpointed_pages:  # the log started over
            self._checkpointed_pages = 0
        self._log_pages = pages
        return apsw.SQLITE_OK

    def checkpoint_due(self) -> bool:
        """Whether the log has grown by 4 MiB since the last checkpoint, or passed 16 MiB."""
        return self._log_pages - self._checkpointed_pages >= CHECKPOINT_PAGES

    def checkpoint(self) -> None:
        """Move the log's pages into the database. May run in a thread; one at a time.

        Past 16 MiB of log, commits wait for a second pass, after which the log starts over.
        """
        with self._checkpointing:
            self._health.check()
            if self._checkpointer is None:
                self._checkpointer = self._connect()
            pages = self._log_pages
            self._pass()
            if pages >= HOLD_PAGES:
                with self._commits:
                    pages = self._log_pages
                    self._pass()
            self._checkpointed_pages = pages

    def _pass(self) -> None:
        assert self._checkpointer is not None
        with self._health.final("a checkpoint"):
            try:
                self._checkpointer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.BusyError:
                return  # another process is at it
            except apsw.FullError:
                return  # no room in the database: what is not there stays in the log

    # -- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections, then the log. After an error no checkpoint is attempted."""
        with self._checkpointing, self._commits:
            connections = [self._checkpointer, self._connection]
            for connection in connections:
                if connection is None:
                    continue
                if self._health.error is not None:
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                # What a last checkpoint could not move stays in the log, for the next open.
                with suppress(apsw.IOError, apsw.FullError):
                    connection.close()
        self.log.close()
