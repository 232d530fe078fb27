"""A store on disk: one SQLite database for what must be atomic, one sparse file per core for bytes.

The why and the layout are in corestore/STORAGE.md. In short: a commit writes block bytes to the
data file and then one transaction to the database, unsynced. A sync makes it durable in this
order: fdatasync of the data files, a commit that raises the watermarks, fdatasync of the
write-ahead log; only then is a head of ours published.

Everything here belongs to one thread, except `DiskStorage.flush`, `.flush_log` and `.checkpoint`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from corestore.errors import StorageConflict, StorageLocked
from corestore.keys import DiscoveryKey, Key
from corestore.storage import folder, recovery, rules, schema
from corestore.storage.base import CoreRecord
from corestore.storage.database import Database
from corestore.storage.diskcore import DiskCore, RowCache
from corestore.storage.files import DataFiles, FileIO
from corestore.storage.health import Health
from corestore.storage.locks import SigningLock, wait_for_recovery
from corestore.storage.reserve import LAST_BYTES, Reserve
from corestore.storage.sync import Syncer
from corestore.storage.writer import Writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import apsw

    from corestore.commit import Commit
    from corestore.storage.base import CoreStorage, SyncTicket
    from corestore.tree.types import Head

T = TypeVar("T")


class DiskStorage:
    """A `Storage` in the folder *path*, which is created if it is missing.

    Raises:
      OSError: the folder cannot be created or written.
      StorageError: a newer format, another program's database, too old a SQLite; a folder that has
        lost its primary key, or its database.
      StorageCorrupt: the database is not one.
    """

    def __init__(self, path: str | os.PathLike[str], *, io: FileIO | None = None) -> None:
        self._path = Path(path).absolute()  # a daemon changes its directory
        self._io = FileIO() if io is None else io
        self._health = Health()
        folder.prepare(self._path, self._io)
        self._primary_key = folder.primary_key(self._path, self._io)
        self._reserve = Reserve(self._path / folder.RESERVE)
        self.database = self._make_room_for(self._open_database, LAST_BYTES)
        self.files = DataFiles(self._path / folder.DATA, self._health, self._io)
        self.nodes = RowCache()
        self._cores: dict[DiscoveryKey, DiskCore] = {}
        make_room_for = partial(self._make_room_for, least=LAST_BYTES)
        self.syncer = Syncer(self.database, self.files, self._health, make_room_for)
        # Ids of rows that several processes make: a random half each, so that none is met twice.
        self._row_ids = itertools.count(int.from_bytes(os.urandom(4)) >> 1 << 32)
        self.locks = self._path / folder.LOCKS
        self._opening = True
        self._durable_version = -1
        self._no_holes_as_of = -1  # what `look` said when there was no row of `pending_clear`
        self._recovered: Sequence[tuple[CoreStorage, int]] = ()
        try:
            self._make_durable()
            self.punch_pending()
            self._recovered = recovery.recover(self)
            self._reserve.keep()
            self._opening = False
        except BaseException:
            self._abandon()
            raise

    def _open_database(self) -> Database:
        return Database(self._path / folder.DATABASE, self._health, self._io)

    def _make_durable(self) -> None:
        """What the database says now is durable from here on, whoever wrote it."""
        version = self.look()
        if not self.database.log.empty:
            self.database.log.flush()
        self._durable_version = version

    def _abandon(self) -> None:
        self._health.closed = True
        with contextlib.ExitStack() as stack:
            for core in self._cores.values():
                stack.callback(core.unlock_signing)
            stack.callback(self.files.close)
            stack.callback(self.database.close)

    # -- cores -----------------------------------------------------------------------------------

    @property
    def primary_key(self) -> bytes:
        """The 32 bytes all local key pairs are derived from."""
        return self._primary_key

    def cores(self) -> Iterator[DiscoveryKey]:
        """The discovery keys of all known cores, in the order they became known."""
        rows = self.database.all("SELECT discovery_key FROM core ORDER BY id")
        return (DiscoveryKey(cast("bytes", name)) for (name,) in rows)

    def records(self) -> Iterator[CoreRecord]:
        """What is kept of every core, in the same order."""
        rows = self.database.all("SELECT key, manifest, signer FROM core ORDER BY id")
        found = cast("list[tuple[bytes, bytes | None, bytes | None]]", rows)
        return (CoreRecord(Key(key), manifest, signer) for key, manifest, signer in found)

    def open_core(self, discovery_key: DiscoveryKey) -> DiskCore | None:
        """The core if it is known here, else None; always the same object."""
        self._health.check()
        core = self._cores.get(discovery_key)
        if core is not None:
            core.refresh()
            if not core.removed:
                return core
            self._forget(core)
        looked = self.look()
        row = cast(
            "tuple[object, ...] | None",
            self.database.one(
                f"SELECT {schema.CORE_COLUMNS} FROM core WHERE discovery_key = ?",
                (discovery_key,),
            ),
        )
        if row is None:
            return None
        core = self._cores[discovery_key] = DiskCore(self, schema.CoreRow._make(row), looked)
        self._after_open(core)
        return core

    def _after_open(self, core: DiskCore) -> None:
        """Show what is published, having made sure that it is durable: the row alone, just
        committed by another process, would prove nothing."""
        if core.record.signer is not None:
            if core.stored_published.length and self.look() != self._durable_version:
                self._make_durable()
            core.set_published(core.stored_published)

    def release_core(self, core: CoreStorage) -> None:
        """Drop the object unless it holds a lock or waits for a sync."""
        own = self._cores.get(core.record.key.discovery_key)
        if own is core and own.lock is None and not self.syncer.waits(own):
            del self._cores[own.name]

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
        self.syncer.touch_log()
        if core is None:
            core = self.open_core(name)
            assert core is not None
            return core
        core.reload()
        self.syncer.touch(core)
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
        self._make_room_for(partial(self._delete, core))
        self.syncer.touch_log()
        core.reload()
        self._forget(core)
        self._give_back()

    def _delete(self, core: DiskCore) -> None:
        """Delete what says that the core is there. Its tree is left to `_punch`, with its file: of
        a million blocks the log takes 100 MB, which a full disk has when the file is gone."""
        with self.database.transaction() as cursor:
            for table in ("tail", "unsynced", "core_data"):
                cursor.execute(f"DELETE FROM {table} WHERE core = ?", (core.id,))
            cursor.execute("DELETE FROM core WHERE id = ?", (core.id,))
            cursor.execute(
                "INSERT INTO pending_clear VALUES (?, ?, ?, NULL)",
                (next(self._row_ids), core.name, core.id),
            )

    def _forget(self, core: DiskCore) -> None:
        del self._cores[core.name]
        self.syncer.forget(core)
        self.files.forget(core.id)
        core.unlock_signing()

    # -- for the cores ---------------------------------------------------------------------------

    def look(self) -> int:
        """A number that changes whenever another connection has committed."""
        return cast("int", self.database.one("PRAGMA data_version"))

    def sign(self, core: DiskCore) -> SigningLock:
        """Take the signing lock of *core*."""
        self._health.check()
        try:
            return SigningLock(self.locks, core.name)
        except StorageLocked:
            if self._opening:
                raise
        wait_for_recovery(self.locks)
        return SigningLock(self.locks, core.name)

    def signs(self, core: DiskCore) -> None:
        """The lock was taken and the core read again.

        A signer that died may have left appended blocks unsynced. We have been running since, so
        they are in the page cache; our next sync is to include them.
        """
        if core.head.length > core.synced_length:
            self.files.expect_unsynced(core.id, core.name)
        core.laid = -1 if self.laid_ahead(core) else 0
        if core.head != core.published:
            self.syncer.touch(core)

    def laid_ahead(self, core: DiskCore) -> bool:
        """Whether an append to *core* laid blocks ahead and was not finished."""
        rows = "SELECT 1 FROM unsynced WHERE core = ? AND start >= ? LIMIT 1"
        return self.database.one(rows, (core.id, core.head.length)) is not None

    def saw_published(self, core: DiskCore) -> None:
        """Another process published *core* further; the next sync makes sure that it is durable."""
        self.syncer.touch(core)

    def writing(self, cursor: apsw.Cursor, core: DiskCore) -> Writing:
        """One core's part of a transaction of its own."""
        return Writing(cursor, core, next(self._row_ids), self._row_ids.__next__)

    # -- commits ---------------------------------------------------------------------------------

    def commit(self, commits: Sequence[tuple[CoreStorage, Commit]]) -> None:
        """Write all commits in one transaction, or none. See `Storage.commit`."""
        self._health.check()
        if len(commits) > 1:
            rules.check_together([commit for _, commit in commits])
        own = [(self._own(core), commit) for core, commit in commits]
        for core, commit in own:
            rules.check_commit(commit)
            ours = core.record.signer is not None
            if ours and core.lock is None and rules.takes_lock(commit):
                self._lock_for(core)
        if any(rules.gives_back(commit) for _, commit in own):
            self._make_room_for(partial(self._carry_out, own))
        elif all(rules.may_take_reserve(commit) for _, commit in own):
            self._make_room_for(partial(self._carry_out, own), LAST_BYTES)
        else:
            self._carry_out(own)

    def _make_room_for(self, work: Callable[[], T], least: int = 0) -> T:
        """Do what must not fail for want of room, since it makes room: at the worst in that of the
        reserve, but for *least* bytes of it."""
        try:
            return work()
        except OSError as error:
            if not (rules.is_full(error) and self._reserve.release(least)):
                raise
        try:
            return work()
        finally:
            self._reserve.keep()

    def _carry_out(self, own: Sequence[tuple[DiskCore, Commit]]) -> None:
        if len(own) == 1 and own[0][1].truncate is not None:
            self._truncate(*own[0])
        else:
            self._commit(own)

    def _commit(self, own: Sequence[tuple[DiskCore, Commit]]) -> None:
        with self.database.transaction() as cursor:
            written = self._write(cursor, own)
            for writing in written:
                writing.finish()
        for writing in written:
            writing.apply()
            self.syncer.touch(writing.core)
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
        tx = next(self._row_ids)
        for core, commit in commits:
            writing = written.get(core)
            if writing is None:
                self._check_current(core, commit)
                writing = written[core] = Writing(cursor, core, tx, self._row_ids.__next__)
            if commit.blocks:
                self._finish_holes(cursor, core)
            writing.write(commit)
        return list(written.values())

    def _check_current(self, core: DiskCore, commit: Commit) -> None:
        """Inside the transaction: does what *commit* was built on still stand?"""
        core.refresh()
        if core.removed:
            raise StorageConflict("this core was removed from the store")
        unlocked = core.lock is None and core.record.signer is not None
        if unlocked and rules.takes_lock(commit):
            raise StorageConflict("this core is ours by now, and is to be locked first")
        if core.epoch != core.seen_epoch:
            raise StorageConflict("this core was truncated by another process meanwhile")
        # Mostly they are one object; to compare values takes as long as the rest of this.
        overtaken = core.head is not core.seen_head and core.head != core.seen_head
        if overtaken and core.record.signer is not None and commit.head is not None:
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
                clearing = self.writing(cursor, core)
                clearing.clear_bits_from(commit.truncate)
                clearing.finish()
            clearing.apply()
            self.database.log.flush()
        with self.database.transaction() as cursor:
            (writing,) = self._write(cursor, [(core, commit)])
            with self._health.final("syncing a data file"):
                self.files.flush(self.files.begin_flush([core.id]))
            if core.record.signer is not None and commit.head is not None:
                writing.publish_all()
            writing.finish()
        writing.apply()
        self.syncer.touch(core)
        self.database.log.flush()
        if commit.head is not None:
            core.set_published(core.head)
        self._give_back()

    def cut(self, core: CoreStorage, length: int) -> Head:
        """Drop an unpublished tail; durable on return. See `Storage.cut`."""
        self._health.check()
        own = self._own(core)
        self._lock_for(own)
        head = recovery.head_at(self, own, length)
        if head.length < own.head.length:
            with self.database.transaction() as cursor:
                own.refresh()
                writing = self.writing(cursor, own)
                writing.cut(head)
                writing.finish()
            writing.apply()
            self.syncer.touch(own)
            self.database.log.flush()
            self._give_back()
        return own.head

    # -- holes -----------------------------------------------------------------------------------

    def _give_back(self) -> None:
        """Free what committed clears left, as soon as the log is durable."""
        self._no_holes_as_of = -1
        self.database.log.flush()
        self.punch_pending()
        self._reserve.keep()

    def punch_pending(self) -> None:
        """Punch every pending hole, whoever left it, then forget its row.

        The log was flushed since the rows were written: only then may the disk use the space. What
        is committed is no error of anybody's any more: a disk too full to note that a hole is made
        has it made again, by whoever gives back next or opens the store.
        """
        if self.database.one("SELECT 1 FROM pending_clear LIMIT 1"):
            with contextlib.suppress(OSError), self.database.transaction() as cursor:
                self._punch(cursor)

    def _finish_holes(self, cursor: apsw.Cursor, core: DiskCore) -> None:
        """Before bytes are written into a core: no hole of it may still be punched afterwards.

        There are rows only if another process is between a clear and its hole, or died there; or
        if a disk was too full to forget them. So nobody looks twice, unless one of them commits.
        """
        if core.looked == self._no_holes_as_of:
            return
        if not cursor.execute("SELECT 1 FROM pending_clear LIMIT 1").get:
            self._no_holes_as_of = core.looked
            return
        rows = "SELECT 1 FROM pending_clear WHERE discovery_key = ?"
        if cursor.execute(rows, (core.name,)).get:
            self.database.log.flush()
            self._punch(cursor)

    def _punch(self, cursor: apsw.Cursor) -> None:
        found = cursor.execute(
            'SELECT id, discovery_key, start, "end" FROM pending_clear'
        ).fetchall()
        rows = cast("list[tuple[int, bytes, int, int | None]]", found)
        for _, name, start, end in rows:
            discovery_key = DiscoveryKey(name)
            core = self._cores.get(discovery_key)
            with self._health.final("freeing space"):
                if end is None:
                    self.files.remove(discovery_key)
                else:
                    id_ = None if core is None else core.id
                    self.files.punch(id_, discovery_key, start, end)
        # The log may need the room that the files have given back.
        for row, _, start, end in rows:
            if end is None:
                gone = schema.first_row(start), schema.end_row(start)
                cursor.execute("DELETE FROM node WHERE id >= ? AND id < ?", gone)
                cursor.execute("DELETE FROM bits WHERE id >= ? AND id < ?", gone)
            cursor.execute("DELETE FROM pending_clear WHERE id = ?", (row,))

    # -- sync ------------------------------------------------------------------------------------

    def unsigned(self) -> Sequence[DiskCore]:
        """Locked cores of ours that wait for a sync and for a signature."""
        return [core for core in self.syncer.waiting if core.lock and rules.is_unsigned(core.head)]

    def begin_sync(self) -> SyncTicket | None:
        """Collect what is committed and not yet durable; None if there is nothing."""
        return self.syncer.begin_sync()

    def flush(self, ticket: SyncTicket) -> None:
        """fdatasync the data files. May run in a thread."""
        self.syncer.flush(ticket)

    def mark_synced(self, ticket: SyncTicket) -> None:
        """Commit the watermarks."""
        self.syncer.mark_synced(ticket)

    def flush_log(self, ticket: SyncTicket) -> None:
        """fdatasync the write-ahead log. May run in a thread."""
        self.syncer.flush_log(ticket)

    def finish_sync(self, ticket: SyncTicket) -> None:
        """The heads of *ticket* are published from now on."""
        self.syncer.finish_sync(ticket)

    def checkpoint_due(self) -> bool:
        """Whether the write-ahead log is so long that `checkpoint` should run."""
        return self.database.checkpoint_due()

    def checkpoint(self) -> None:
        """Move the log's pages into the database. May run in a thread."""
        self.database.checkpoint()

    def recovered(self) -> Sequence[tuple[CoreStorage, int]]:
        """Cores of ours that a recovery had to cut back, with the length before."""
        return self._recovered

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

    def core_values(self, key: str) -> Iterator[bytes]:
        """What the cores that have one keep under *key*."""
        rows = self.database.all("SELECT value FROM core_data WHERE key = ?", (key,))
        return (cast("bytes", value) for (value,) in rows)

    def set_user_data(self, key: str, value: bytes | None) -> None:
        """Set or delete (None) a store-wide value; the next sync makes it durable."""
        with self.database.transaction() as cursor:
            if value is None:
                cursor.execute("DELETE FROM store_data WHERE key = ?", (key,))
            else:
                cursor.execute("INSERT OR REPLACE INTO store_data VALUES (?, ?)", (key, value))
        self.syncer.touch_log()

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Sync what is committed and close; idempotent. After an error nothing is synced."""
        if self._health.closed:
            return
        try:
            if self._health.error is None:
                self.syncer.run()
        finally:
            self._abandon()
