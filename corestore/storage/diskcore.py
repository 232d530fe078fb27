"""One core of a store on disk: what is read of it.

Heads and pages of bits are kept in memory as of the last look at the database; `DiskCore.refresh`
looks again when another process has committed. A block is read and then checked once more: had
another process cleared or truncated it meanwhile, its commit came before its hole. Of a core whose
signing lock is ours nobody else clears, truncates or removes anything: there it is just read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, cast

from corestore.bitfield import PAGE_BLOCKS
from corestore.keys import DiscoveryKey, Key
from corestore.storage import bits, schema
from corestore.storage.base import CoreRecord
from corestore.tree.types import EMPTY_HEAD, Head, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from corestore.storage.database import Database
    from corestore.storage.files import DataFiles
    from corestore.storage.locks import SigningLock

# A row of the table `node`: id, size, hash, byte offset.
NodeRow = tuple[int, int, bytes, int | None]

# About 300 bytes each: 10 MB at most. The inner nodes of the paths in use stay here.
MAX_CACHED_NODES: Final = 32768


class RowCache:
    """Rows of the table `node` that were read lately, of all cores of a store, by their ids.

    Two generations: what is read is young; when half of the cache is young, it is the old half,
    and what had not been read since the last time is forgotten. Compared with a list in order of
    use nothing is moved at a hit. Rows that are written do not go in: to keep them costs a fifth
    of an append, and a machine that is about to need them again has a cache of its own.
    """

    def __init__(self, limit: int = MAX_CACHED_NODES) -> None:
        self._half = limit // 2
        self._young: dict[int, NodeRow] = {}
        self._old: dict[int, NodeRow] = {}

    def get(self, row: int) -> NodeRow | None:
        """The cached row, young again, or None."""
        found = self._young.get(row)
        if found is None and (found := self._old.get(row)) is not None:
            self.put(found)
        return found

    def put(self, row: NodeRow) -> None:
        """Keep a row."""
        self._young[row[0]] = row
        if len(self._young) > self._half:
            self._old, self._young = self._young, {}

    def drop(self, row: int) -> None:
        """Forget one row, if it is here."""
        self._young.pop(row, None)
        self._old.pop(row, None)

    def clear(self) -> None:
        """Forget everything: some nodes are gone."""
        self._young.clear()
        self._old.clear()


class Shelf(Protocol):
    """What a core needs of the store it lies in."""

    database: Database
    nodes: RowCache
    files: DataFiles

    def look(self) -> int:
        """A number that grows whenever another process has committed."""
        ...

    def sign(self, core: DiskCore) -> SigningLock:
        """Take the signing lock of *core*."""
        ...

    def signs(self, core: DiskCore) -> None:
        """The lock of *core* was taken, and the core read again."""
        ...

    def saw_published(self, core: DiskCore) -> None:
        """*core* was published further by another process: the next sync makes that durable."""
        ...


class DiskCore:
    """A `CoreStorage` on disk. Attributes without underscore are the store's, not the caller's."""

    def __init__(self, shelf: Shelf, row: schema.CoreRow, looked: int) -> None:
        """*looked* is what `Shelf.look` said before *row* was read."""
        self.shelf = shelf
        self.lock: SigningLock | None = None
        # Pages as of `version`; an absent one was not read yet.
        self.pages: dict[int, bytes] = {}
        self.row_version = -1
        self.epoch = -1
        self.removed = False
        # Rows of `unsynced` this process wrote and has not deleted: id to (start, end).
        self.unsynced: dict[int, tuple[int, int]] = {}
        self.open_row: int | None = None  # the one that a following run may extend
        # One past the last block that was laid ahead of the head (`Writing._lay`); 0: none is, -1:
        # some are, by a process that gave up.
        self.laid = 0
        self.changes = 0  # counts this process's commits, for begin_sync and finish_sync
        # Other processes changed the core and `changed` has not said so yet. Until it has, what
        # the caller builds rests on these two.
        self._news = False
        self.looked = looked
        self._published = EMPTY_HEAD
        # As of the last `changed`, commit or `lock_signing`. Properties would be calls.
        self.head: Head
        self.record: CoreRecord
        self.load(row)
        self.seen_epoch = self.epoch
        self.seen_head = self.head

    def load(self, row: schema.CoreRow) -> None:
        """Take over a row of the table `core`."""
        self.id = row.id
        self.name = DiscoveryKey(row.discovery_key)
        self.synced_length = row.synced_length
        self.stored_published = schema.unpack_head(row.published)
        self._first = schema.first_row(row.id)
        self.record = CoreRecord(Key(row.key), row.manifest, row.signer)
        roots = schema.unpack_roots(row.roots)
        self.head = Head(row.fork, row.length, row.byte_length, roots, row.signature)
        if self.epoch not in (-1, row.epoch):
            self.shelf.nodes.clear()
        self.epoch = row.epoch
        self.row_version = row.version
        self.pages.clear()

    # -- what a reader sees ----------------------------------------------------------------------

    @property
    def published(self) -> Head:
        """The head that is known to be durable; of somebody else's core, the head."""
        return self.head if self.record.signer is None else self._published

    @property
    def signing_locked(self) -> bool:
        """Whether this process holds the signing lock."""
        return self.lock is not None

    def node(self, index: int) -> Node | None:
        """The tree node at a flat index, or None."""
        found = self._node_row(index)
        return None if found is None else Node(index, found[1], found[2])

    def _node_row(self, index: int) -> NodeRow | None:
        row_id = self._first + index
        found = self.shelf.nodes.get(row_id)
        if found is not None:
            return found
        row = cast(
            "NodeRow | None",
            self.shelf.database.one("SELECT * FROM node WHERE id = ?", (row_id,)),
        )
        if row is not None:
            self.shelf.nodes.put(row)
        return row

    def block(self, index: int) -> bytes | None:
        """The bytes of a block, or None if it is not held: one row and one pread.

        Raises:
          StorageCorrupt: the data file is missing or too short.
          OSError: it cannot be read.
        """
        while True:
            found = self._place(index)
            if found is None:
                if self.refresh():
                    continue
                return None
            offset, size = found
            data = self.shelf.files.read(self.id, self.name, offset, size)
            if self.lock is not None or not self.refresh():
                return data

    def _place(self, index: int) -> tuple[int, int] | None:
        """Byte offset and size of a block that is held."""
        if not self.holds(index):
            return None
        found = self._node_row(2 * index)
        if found is None or found[3] is None:
            # Cached as a bare node, before its block was stored; or gone since.
            self.shelf.nodes.drop(self._first + 2 * index)
            found = self._node_row(2 * index)
            if found is None or found[3] is None:
                return None
        return found[3], found[1]

    def blocks(self, start: int, end: int) -> list[bytes] | None:
        """Blocks `start..end`, None unless all are held. Contiguous bytes are one read."""
        while True:
            found = self._read_blocks(start, end)
            if (self.lock is not None and found is not None) or not self.refresh():
                return found

    def _read_blocks(self, start: int, end: int) -> list[bytes] | None:
        for number, first, stop in bits.parts(start, end):
            if not bits.all_set(self.page(number), first, stop):
                return None
        rows = cast(
            "list[tuple[int, int]]",
            self.shelf.database.all(
                "SELECT byte_offset, size FROM node"
                " WHERE id >= ? AND id < ? AND id & 1 = 0 AND byte_offset IS NOT NULL",
                (self._first + 2 * start, self._first + 2 * end),
            ),
        )
        if len(rows) != end - start:
            return None
        result: list[bytes] = []
        at = 0
        while at < len(rows):
            offset = next_offset = rows[at][0]
            stop = at
            while stop < len(rows) and rows[stop][0] == next_offset:
                next_offset += rows[stop][1]
                stop += 1
            data = self.shelf.files.read(self.id, self.name, offset, next_offset - offset)
            for begin, size in rows[at:stop]:
                result.append(data[begin - offset : begin - offset + size])
            at = stop
        return result

    def bitfield_pages(self) -> Iterator[tuple[int, bytes]]:
        """(page number, 512 bytes) of every page with a bit set, ascending."""
        rows = cast(
            "list[tuple[int, bytes]]",
            self.shelf.database.all(
                "SELECT id, bits FROM bits WHERE id >= ? AND id < ?",
                (self._first, schema.end_row(self.id)),
            ),
        )
        return ((row_id - self._first, page) for row_id, page in rows)

    def user_data(self, key: str) -> bytes | None:
        """A value kept with this core, or None."""
        value = self.shelf.database.one(
            "SELECT value FROM core_data WHERE core = ? AND key = ?", (self.id, key)
        )
        assert value is None or isinstance(value, bytes)
        return value

    # -- other processes -------------------------------------------------------------------------

    def changed(self) -> bool:
        """Whether another process committed to this core since the last call."""
        self.refresh()
        news, self._news = self._news, False
        self._see()
        return news

    def _see(self) -> None:
        self.seen_epoch = self.epoch
        self.seen_head = self.head

    def lock_signing(self) -> None:
        """Take the signing lock, and look at the core again under it.

        Raises:
          StorageLocked: another process holds it.
        """
        if self.lock is None:
            self.lock = self.shelf.sign(self)
            self.refresh()
            self._see()
            self.shelf.signs(self)

    def unlock_signing(self) -> None:
        """Give the signing lock back, if we hold it."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def refresh(self) -> bool:
        """Look whether another process changed this core, and read it again if so.

        Returns whether it did. Costs 1 us when nobody committed anything.
        """
        now = self.shelf.look()
        if now == self.looked:
            return False
        self.looked = now
        version = self.shelf.database.one("SELECT version FROM core WHERE id = ?", (self.id,))
        if version == self.row_version:
            return False
        self.reload()
        return True

    def reload(self) -> None:
        """Read the row again, whatever it says."""
        row = cast(
            "tuple[object, ...] | None",
            self.shelf.database.one(
                f"SELECT {schema.CORE_COLUMNS} FROM core WHERE id = ?", (self.id,)
            ),
        )
        self._news = True
        if row is None:
            self.removed = True
            self.head = self._published = EMPTY_HEAD
            self.pages.clear()
            self.shelf.nodes.clear()
            return
        self.load(schema.CoreRow._make(row))
        if self.stored_published != self._published:
            self.shelf.saw_published(self)

    # -- for the store ---------------------------------------------------------------------------

    def page(self, number: int) -> bytes:
        """A page of bits; an empty one if there is none. Absent pages are not remembered: there
        may be any number of them."""
        page = self.pages.get(number)
        if page is None:
            page = cast(
                "bytes | None",
                self.shelf.database.one(
                    "SELECT bits FROM bits WHERE id = ?", (self._first + number,)
                ),
            )
            if page is None:
                return bits.EMPTY_PAGE
            self.pages[number] = page
        return page

    def holds(self, index: int) -> bool:
        """Whether the bit of block *index* is set."""
        return bits.is_set(self.page(index // PAGE_BLOCKS), index)

    def committed(self, head: Head, record: CoreRecord) -> None:
        """A transaction of ours, which raised the row's version by one, is written."""
        self.head = self.seen_head = head
        self.record = record
        self.row_version += 1

    def set_published(self, head: Head) -> None:
        """The head that is durable now."""
        self._published = head
