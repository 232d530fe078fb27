"""The steps of a sync, and what is still to be synced.

In this order, each begun after the one before has returned: fdatasync of the data files, a commit
that raises the watermarks, fdatasync of the log. Then the heads are published. What a sync covers
is taken down when it begins: a later commit of the same core is another sync's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from corestore.storage import rules, schema
from corestore.storage.base import SyncTicket, sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import apsw

    from corestore.storage.database import Database
    from corestore.storage.diskcore import DiskCore
    from corestore.storage.files import DataFile, DataFiles
    from corestore.storage.health import Health
    from corestore.tree.types import Head


@dataclass(frozen=True, slots=True)
class Mark:
    """One core's part of a sync, as it was when the sync began."""

    core: DiskCore
    head: Head
    epoch: int
    changes: int
    signs: bool  # we hold the lock: raise synced_length and published
    publish: Head | None  # what counts as published afterwards, if that is news
    rows: tuple[tuple[int, int, int], ...]  # of `unsynced`: id, start, end


@dataclass(frozen=True, slots=True)
class Token:
    """What a `SyncTicket` of a disk store carries."""

    marks: tuple[Mark, ...]
    files: list[DataFile]
    log_changes: int


class Syncer:
    """Knows what is committed and not yet durable, and makes it so.

    A core stays listed until a sync that began after its last change is through, so a sync that
    was given up half way loses nothing.
    """

    def __init__(
        self,
        database: Database,
        files: DataFiles,
        health: Health,
        make_room_for: Callable[[Callable[[], None]], None],
    ) -> None:
        self._database = database
        self._files = files
        self._health = health
        self._make_room_for = make_room_for
        self._cores: dict[DiskCore, None] = {}
        # Commits that belong to no core: a new core, the store's own values.
        self._log_changes = self._log_synced = 0

    def touch(self, core: DiskCore) -> None:
        """Something of *core* is committed, or seen published, that may not be durable."""
        core.changes += 1
        self._cores[core] = None

    def touch_log(self) -> None:
        """Something was committed outside any core."""
        self._log_changes += 1

    @property
    def waiting(self) -> Iterable[DiskCore]:
        """The cores of which something may not be durable yet."""
        return self._cores

    def waits(self, core: DiskCore) -> bool:
        """Whether something of *core* may not be durable yet."""
        return core in self._cores

    def forget(self, core: DiskCore) -> None:
        """*core* is gone."""
        self._cores.pop(core, None)

    def begin_sync(self) -> SyncTicket | None:
        """Take down what there is to sync; None if everything is durable."""
        self._health.check()
        if not self._cores and self._log_changes == self._log_synced:
            return None
        marks = tuple(_mark(core) for core in self._cores)
        files = self._files.begin_flush(mark.core.id for mark in marks)
        token = Token(marks, files, self._log_changes)
        return SyncTicket([(mark.core, mark.head) for mark in marks], token)

    def flush(self, ticket: SyncTicket) -> None:
        """Step 1: the data files. May run in a thread."""
        self._health.check()
        with self._health.final("syncing a data file"):
            self._files.flush(token_of(ticket).files)

    def mark_synced(self, ticket: SyncTicket) -> None:
        """Step 2: the watermarks. Without them nothing may be given back, so they take what is kept
        for that on a full disk."""
        self._health.check()
        marks = [mark for mark in token_of(ticket).marks if _stands(mark)]
        marks = [mark for mark in marks if mark.signs or mark.rows]
        if not marks:
            return
        self._make_room_for(partial(self._write_marks, marks))
        for mark in marks:
            if mark.signs:
                mark.core.synced_length = max(mark.core.synced_length, mark.head.length)
                mark.core.row_version += 1
            for row, start, end in mark.rows:
                if mark.core.unsynced.get(row) == (start, end):
                    del mark.core.unsynced[row]

    def _write_marks(self, marks: Sequence[Mark]) -> None:
        with self._database.transaction() as cursor:
            for mark in marks:
                if mark.signs:
                    _write_watermark(cursor, mark)
                cursor.executemany(
                    'DELETE FROM unsynced WHERE id = ? AND core = ? AND start = ? AND "end" = ?',
                    [(row, mark.core.id, start, end) for row, start, end in mark.rows],
                )

    def flush_log(self, ticket: SyncTicket) -> None:
        """Step 3: the log. May run in a thread."""
        self._database.log.flush()

    def finish_sync(self, ticket: SyncTicket) -> None:
        """Publish the heads of *ticket*."""
        token = token_of(ticket)
        self._log_synced = max(self._log_synced, token.log_changes)
        for mark in token.marks:
            core = mark.core
            if not _stands(mark):
                continue
            if mark.publish is not None and rules.may_publish(core.published, mark.publish):
                core.set_published(mark.publish)
                if mark.signs:
                    core.stored_published = mark.publish
            if core.changes == mark.changes:
                self._cores.pop(core, None)

    def run(self) -> None:
        """A whole sync, in this thread.

        On a full disk the note that blocks of other people's cores are synced is left for later: a
        store must open to have room made in it, and close.
        """
        try:
            sync(self)
        except OSError as error:
            if not rules.is_full(error) or any(_signs(core) for core in self._cores):
                raise
            self._database.log.flush()


def token_of(ticket: SyncTicket) -> Token:
    """What the disk store put into a ticket."""
    assert isinstance(ticket.token, Token)
    return ticket.token


def _mark(core: DiskCore) -> Mark:
    signs = _signs(core)
    publish: Head | None = core.head if signs else core.stored_published
    if publish is None or not rules.may_publish(core.published, publish):
        publish = None
    rows = tuple((row, start, end) for row, (start, end) in core.unsynced.items())
    core.open_row = None  # a run that goes on needs a row that this sync does not delete
    return Mark(core, core.head, core.epoch, core.changes, signs, publish, rows)


def _signs(core: DiskCore) -> bool:
    return core.record.signer is not None and core.lock is not None


def _write_watermark(cursor: apsw.Cursor, mark: Mark) -> None:
    published = mark.publish or mark.core.published
    cursor.execute(
        "UPDATE core SET synced_length = max(synced_length, ?), published = ?,"
        " version = version + 1 WHERE id = ?",
        (mark.head.length, schema.pack_head(published), mark.core.id),
    )
    # Not that of an unsigned head: a recovery finds it there.
    cursor.execute(
        "DELETE FROM tail WHERE core = ? AND length <= ?", (mark.core.id, published.length)
    )


def _stands(mark: Mark) -> bool:
    """Whether the core was neither truncated, cut nor removed since the sync began."""
    return not mark.core.removed and mark.core.epoch == mark.epoch
