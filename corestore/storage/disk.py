"""A store on disk: one SQLite database for what must be atomic, one sparse file per core for bytes.

The why and the layout are in corestore/STORAGE.md. In short: a commit writes block bytes to the
data file and then one transaction to the database, unsynced. A sync makes it durable in this
order: fdatasync of the data files, a commit that raises the watermarks, fdatasync of the
write-ahead log; only then is a head of ours published.

Everything here belongs to one thread, except `DiskStorage.flush`, `.flush_log` and `.checkpoint`.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from corestore.errors import StorageConflict
from corestore.keys import DiscoveryKey
from corestore.storage import folder, rules, schema
from corestore.storage.base import SyncTicket
from corestore.storage.database import Database
from corestore.storage.diskcore import DiskCore, NodeCache
from corestore.storage.files import DataFile, DataFiles, FileIO
from corestore.storage.health import Health
from corestore.storage.locks import SigningLock
from corestore.storage.writer import Writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import apsw

    from corestore.commit import Commit
    from corestore.storage.base import CoreRecord, CoreStorage
    from corestore.tree.types import Head


@dataclass(frozen=True, slots=True)
class _Mark:
    """One core's part of a sync, as it was when the sync began."""

    core: DiskCore
    head: Head
    epoch: int
    changes: int
    signs: bool  # we hold the lock: raise synced_length and published
    publish: Head | None  # what counts as published afterwards
    rows: tuple[tuple[int, int, int], ...]  # of `unsynced`: id, start, end


@dataclass(frozen=True, slots=True)
class _Token:
    marks: tuple[_Mark, ...]
    files: list[DataFile]
    log_changes: int


class DiskStorage:
    """A `Storage` in the folder *path*, which is created if it is missing.

    Raises:
      OSError: the folder cannot be created or written.
      StorageError: a newer format, another program's database, too old a SQLite.
      StorageCorrupt: the database is not one.
    """

    def __init__(self, path: str | os.PathLike[str], *, io: FileIO | None = None) -> None:
        self._path = Path(path)
        self._io = FileIO() if io is None else io
        self._health = Health()
        folder.prepare(self._path, self._io)
        self._primary_key = folder.primary_key(self._path, self._io)
        self.database = Database(self._path / folder.DATABASE, self._health, self._io)
        self.files = DataFiles(self._path / folder.DATA, self._health, self._io)
        self.nodes = NodeCache()
        self._cores: dict[DiscoveryKey, DiskCore] = {}
        self._dirty: dict[DiskCore, None] = {}
        self._log_changes = self._log_synced = 0
        # Ids of rows that several processes make: a random half each, so that none is met twice.
        self._row_ids = itertools.count(int.from_bytes(os.urandom(4)) >> 1 << 32)
        self._recovered: list[tuple[CoreStorage, int]] = []

    # -- cores -----------------------------------------------------------------------------------

    @property
    def primary_key(self) -> bytes:
        """The 32 bytes all local key pairs are derived from."""
        return self._primary_key

    def cores(self) -> Iterator[DiscoveryKey]:
        """The discovery keys of all known cores, in the order they became known."""
        rows = self.database.all("SELECT discovery_key FROM core ORDER BY id")
        return (DiscoveryKey(cast("bytes", name)) for (name,) in rows)

    def open_core(self, discovery_key: DiscoveryKey) -> DiskCore | None:
        """The core if it is known here, else None; always the same object."""
        self._health.check()
        core = self._cores.get(discovery_key)
        if core is not None:
            core.refresh()
            if not core.removed:
                return core
            self._forget(core)
        row = cast(
            "tuple[object, ...] | None",
            self.database.one(
                f"SELECT {schema.CORE_COLUMNS} FROM core WHERE discovery_key = ?",
                (discovery_key,),
            ),
        )
        if row is None:
            return None
        core = self._cores[discovery_key] = DiskCore(self, schema.CoreRow._make(row))
        self._after_open(core)
        return core

    def _after_open(self, core: DiskCore) -> None:
        """What the database says is published is durable: the log was flushed at open."""
        if core.record.signer is None:
            return
        core.set_published(core.stored_published)

    def create_core(self, record: CoreRecord) -> DiskCore:
        """Make a core known, of length 0, or fill in what was unknown of it."""
        name = record.key.discovery_key
        core = self.open_core(name)
        if core is not None and rules.merge_records(core.record, record) == core.record:
            return core
        with self.database.transaction() as cursor:
            # `published` stays empty and `synced_length` says that nothing here was appended by
            # us, when a core turns out to be ours only after parts of it were downloaded.
            cursor.execute(
                "INSERT INTO core (discovery_key, key, manifest, signer) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (discovery_key) DO UPDATE SET"
                " manifest = coalesce(core.manifest, excluded.manifest),"
                " synced_length = iif(core.signer IS NULL, length, synced_length),"
                " signer = coalesce(core.signer, excluded.signer), version = version + 1",
                (name, record.key, record.manifest, record.signer),
            )
        self._log_changes += 1
        if core is None:
            core = self.open_core(name)
            assert core is not None
            return core
        core.reload()
        self._touch(core)
        return core

    def remove_core(self, discovery_key: DiscoveryKey) -> None:
        """Forget a core and free its space; unknown ones are ignored.

        Raises:
          StorageLocked: another process writes it.
        """
        core = self.open_core(discovery_key)
        if core is None:
            return
        if core.record.signer is not None:
            core.lock_signing()
        with self.database.transaction() as cursor:
            first, end = schema.first_row(core.id), schema.end_row(core.id)
            for table in ("node", "bits"):
                cursor.execute(f"DELETE FROM {table} WHERE id >= ? AND id < ?", (first, end))
            for table in ("unsynced", "core_data"):
                cursor.execute(f"DELETE FROM {table} WHERE core = ?", (core.id,))
            cursor.execute("DELETE FROM core WHERE id = ?", (core.id,))
            cursor.execute(
                "INSERT INTO pending_clear VALUES (?, ?, 0, NULL)",
                (next(self._row_ids), discovery_key),
            )
        self._log_changes += 1
        core.reload()
        self._forget(core)
        self._give_back()

    def _forget(self, core: DiskCore) -> None:
        del self._cores[core.name]
        self._dirty.pop(core, None)
        self.files.forget(core.id)
        if core.lock is not None:
            core.lock.release()
            core.lock = None

    # -- for the cores ---------------------------------------------------------------------------

    def look(self) -> int:
        """A number that changes whenever another connection has committed."""
        return cast("int", self.database.one("PRAGMA data_version"))

    def sign(self, core: DiskCore) -> SigningLock:
        """Take the signing lock of *core*."""
        self._health.check()
        return SigningLock(self._path / folder.LOCKS, core.name)

    def saw_published(self, core: DiskCore) -> None:
        """Another process published *core* further; the next sync makes sure that it is durable."""
        core.changes += 1
        self._dirty[core] = None

    def _touch(self, core: DiskCore) -> None:
        core.changes += 1
        self._dirty[core] = None

    # -- commits ---------------------------------------------------------------------------------

    def commit(self, commits: Sequence[tuple[CoreStorage, Commit]]) -> None:
        """Write all commits in one transaction, or none. See `Storage.commit`."""
        self._health.check()
        rules.check_together([commit for _, commit in commits])
        own = [(self._own(core), commit) for core, commit in commits]
        for core, commit in own:
            rules.check_commit(commit)
            if core.record.signer is not None and (commit.head or rules.gives_back(commit)):
                self._lock_for(core)
        if len(own) == 1 and own[0][1].truncate is not None:
            self._truncate(*own[0])
            return
        with self.database.transaction() as cursor:
            written = self._write(cursor, own)
            for writing in written:
                writing.finish()
        for writing in written:
            writing.apply()
            self._dirty[writing.core] = None
        if any(writing.holes for writing in written):
            self._give_back()

    def _own(self, core: CoreStorage) -> DiskCore:
        if not isinstance(core, DiskCore) or core.shelf is not self:
            raise ValueError("this core belongs to another store")
        if core.removed:
            raise StorageConflict("this core was removed from the store")
        return core

    def _lock_for(self, core: DiskCore) -> None:
        """Signing without having asked for the lock first is fine if nobody else signed."""
        if core.lock is None:
            before = core.seen_head
            core.lock_signing()
            if core.head != before:
                raise StorageConflict("this core was written by another process meanwhile")

    def _write(
        self, cursor: apsw.Cursor, commits: Sequence[tuple[DiskCore, Commit]]
    ) -> list[Writing]:
        written: dict[DiskCore, Writing] = {}
        for core, commit in commits:
            writing = written.get(core)
            if writing is None:
                self._check_current(core, commit)
                writing = written[core] = Writing(cursor, core, self._row_ids.__next__)
            if commit.blocks:
                self._finish_holes(cursor, core.name)
            writing.write(commit)
        return list(written.values())

    def _check_current(self, core: DiskCore, commit: Commit) -> None:
        """Inside the transaction: does what *commit* was built on still stand?"""
        core.refresh()
        if core.removed:
            raise StorageConflict("this core was removed from the store")
        if core.epoch != core.seen_epoch:
            raise StorageConflict("this core was truncated by another process meanwhile")
        signs = core.record.signer is not None and commit.head is not None
        if signs and core.head != core.seen_head:
            raise StorageConflict("this core was written by another process meanwhile")

    def _truncate(self, core: DiskCore, commit: Commit) -> None:
        """A commit that truncates: durable, and of our own core published, when it returns.

        Bytes may only be overwritten once nothing durable names them any more. So when the commit
        brings blocks too, the bits of the old ones are cleared in a transaction before it, and
        the log is flushed; a crash in between leaves the old head without those blocks.
        """
        assert commit.truncate is not None
        if commit.blocks:
            with self.database.transaction() as cursor:
                self._check_current(core, commit)
                clearing = Writing(cursor, core, self._row_ids.__next__)
                clearing.clear_bits_from(commit.truncate)
                clearing.set_column("synced_length", min(core.synced_length, commit.truncate))
                clearing.finish()
            clearing.apply()
            self.database.log.flush()
        with self.database.transaction() as cursor:
            (writing,) = self._write(cursor, [(core, commit)])
            with self._health.final("syncing a data file"):
                self.files.flush(self.files.begin_flush([core.id]))
            if core.record.signer is not None and commit.head is not None:
                writing.set_column("synced_length", commit.head.length)
                writing.set_column("published", schema.pack_head(commit.head))
            writing.finish()
        writing.apply()
        self._dirty[core] = None
        self.database.log.flush()
        if commit.head is not None:
            core.set_published(core.head)
        self._give_back()

    def cut(self, core: CoreStorage, length: int) -> Head:
        """Drop an unpublished tail; durable on return. See `Storage.cut`."""
        self._health.check()
        own = self._own(core)
        self._lock_for(own)
        head = rules.cut_head(own, length)
        if head.length < own.head.length:
            with self.database.transaction() as cursor:
                own.refresh()
                writing = Writing(cursor, own, self._row_ids.__next__)
                self.write_cut(writing, head)
                writing.finish()
            writing.apply()
            self._dirty[own] = None
            self.database.log.flush()
            self._give_back()
        return own.head

    def write_cut(self, writing: Writing, head: Head) -> None:
        """Write what a cut to *head* changes."""
        old_end = writing.core.head.byte_length
        writing.drop_tail(head.length)
        writing.set_head(head)
        writing.note_tail_hole(old_end)

    # -- holes -----------------------------------------------------------------------------------

    def _give_back(self) -> None:
        """Free what committed clears left, now that the log is durable; then forget the rows."""
        self.database.log.flush()
        with self.database.transaction() as cursor:
            self.punch_holes(cursor)

    def _finish_holes(self, cursor: apsw.Cursor, name: DiscoveryKey) -> None:
        """Before bytes are written into a core: no hole of it may still be punched afterwards.

        There are rows only if another process is between a clear and its hole, or died there.
        """
        if cursor.execute("SELECT 1 FROM pending_clear WHERE discovery_key = ?", (name,)).get:
            self.database.log.flush()
            self.punch_holes(cursor)

    def punch_holes(self, cursor: apsw.Cursor) -> None:
        """Punch every pending hole, whoever left it. The log was flushed since they were noted."""
        rows = cast(
            "list[tuple[int, bytes, int, int | None]]",
            cursor.execute("SELECT * FROM pending_clear").fetchall(),
        )
        for row, name, start, end in rows:
            discovery_key = DiscoveryKey(name)
            core = self._cores.get(discovery_key)
            with self._health.final("freeing space"):
                if end is None:
                    self.files.remove(discovery_key)
                else:
                    id_ = None if core is None else core.id
                    self.files.punch(id_, discovery_key, start, end)
            cursor.execute("DELETE FROM pending_clear WHERE id = ?", (row,))

    # -- sync ------------------------------------------------------------------------------------

    def begin_sync(self) -> SyncTicket | None:
        """Collect what is committed and not yet durable; None if there is nothing."""
        self._health.check()
        if not self._dirty and self._log_changes == self._log_synced:
            return None
        marks = tuple(self._mark(core) for core in self._dirty)
        files = self.files.begin_flush(mark.core.id for mark in marks)
        token = _Token(marks, files, self._log_changes)
        return SyncTicket([(mark.core, mark.head) for mark in marks], token)

    def _mark(self, core: DiskCore) -> _Mark:
        signs = core.record.signer is not None and core.lock is not None
        publish: Head | None = core.head if signs else core.stored_published
        if publish is None or not rules.may_publish(core.published, publish):
            publish = None
        rows = tuple((row, start, end) for row, (start, end) in core.unsynced.items())
        core.open_row = None  # a run that goes on needs a row that this sync does not delete
        return _Mark(core, core.head, core.epoch, core.changes, signs, publish, rows)

    def flush(self, ticket: SyncTicket) -> None:
        """fdatasync the data files. May run in a thread."""
        token = _token(ticket)
        self._health.check()
        with self._health.final("syncing a data file"):
            self.files.flush(token.files)

    def mark_synced(self, ticket: SyncTicket) -> None:
        """Commit the watermarks."""
        token = _token(ticket)
        self._health.check()
        marks = [mark for mark in token.marks if self._stands(mark) and (mark.signs or mark.rows)]
        if not marks:
            return
        with self.database.transaction() as cursor:
            for mark in marks:
                if mark.signs:
                    self._write_watermark(cursor, mark)
                cursor.executemany(
                    'DELETE FROM unsynced WHERE id = ? AND core = ? AND start = ? AND "end" = ?',
                    [(row, mark.core.id, start, end) for row, start, end in mark.rows],
                )
        for mark in marks:
            if mark.signs:
                mark.core.synced_length = max(mark.core.synced_length, mark.head.length)
                mark.core.row_version += 1
            for row, start, end in mark.rows:
                if mark.core.unsynced.get(row) == (start, end):
                    del mark.core.unsynced[row]

    def _write_watermark(self, cursor: apsw.Cursor, mark: _Mark) -> None:
        published = mark.publish or mark.core.published
        cursor.execute(
            "UPDATE core SET synced_length = max(synced_length, ?), published = ?,"
            " version = version + 1 WHERE id = ?",
            (mark.head.length, schema.pack_head(published), mark.core.id),
        )

    def _stands(self, mark: _Mark) -> bool:
        """Whether the core was neither truncated, cut nor removed since the sync began."""
        return not mark.core.removed and mark.core.epoch == mark.epoch

    def flush_log(self, ticket: SyncTicket) -> None:
        """fdatasync the write-ahead log. May run in a thread."""
        self.database.log.flush()

    def finish_sync(self, ticket: SyncTicket) -> None:
        """The heads of *ticket* are published from now on."""
        token = _token(ticket)
        self._log_synced = max(self._log_synced, token.log_changes)
        for mark in token.marks:
            core = mark.core
            if not self._stands(mark):
                continue
            if mark.publish is not None and rules.may_publish(core.published, mark.publish):
                core.set_published(mark.publish)
                if mark.signs:
                    core.stored_published = mark.publish
            if core.changes == mark.changes:
                self._dirty.pop(core, None)

    def checkpoint_due(self) -> bool:
        """Whether the write-ahead log is so long that `checkpoint` should run."""
        return self.database.checkpoint_due()

    def checkpoint(self) -> None:
        """Move the log's pages into the database. May run in a thread."""
        self.database.checkpoint()

    def recovered(self) -> Sequence[tuple[CoreStorage, int]]:
        """Cores of ours that a recovery had to cut back, with the length before."""
        return tuple(self._recovered)

    # -- the store's own values ------------------------------------------------------------------

    def user_data(self, key: str) -> bytes | None:
        """A store-wide value, or None."""
        return cast(
            "bytes | None", self.database.one("SELECT value FROM store_data WHERE key = ?", (key,))
        )

    def user_data_items(self, prefix: str) -> list[tuple[str, bytes]]:
        """All store-wide values whose key starts with *prefix*, sorted by key."""
        rows = self.database.all(
            "SELECT key, value FROM store_data WHERE substr(key, 1, ?) = ? ORDER BY key",
            (len(prefix), prefix),
        )
        return cast("list[tuple[str, bytes]]", rows)

    def set_user_data(self, key: str, value: bytes | None) -> None:
        """Set or delete (None) a store-wide value; the next sync makes it durable."""
        with self.database.transaction() as cursor:
            if value is None:
                cursor.execute("DELETE FROM store_data WHERE key = ?", (key,))
            else:
                cursor.execute("INSERT OR REPLACE INTO store_data VALUES (?, ?)", (key, value))
        self._log_changes += 1

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Sync what is committed and close; idempotent. After an error nothing is synced."""
        if self._health.closed:
            return
        try:
            if self._health.error is None:
                ticket = self.begin_sync()
                if ticket is not None:
                    self.sync_now(ticket)
        finally:
            self._health.closed = True
            self.database.close()
            self.files.close()
            for core in self._cores.values():
                if core.lock is not None:
                    core.lock.release()
                    core.lock = None

    def sync_now(self, ticket: SyncTicket) -> None:
        """All steps of a sync at once, in this thread."""
        self.flush(ticket)
        self.mark_synced(ticket)
        self.flush_log(ticket)
        self.finish_sync(ticket)


def _token(ticket: SyncTicket) -> _Token:
    assert isinstance(ticket.token, _Token)
    return ticket.token
