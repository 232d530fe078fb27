"""Writes commits into the database and the data file, inside a transaction of the caller's.

The transaction is held from before the first byte of a block is written. So nobody else clears,
truncates or removes the core meanwhile; the bytes are in the file before the rows that name them
are committed; and holes are only ever punched inside a transaction too.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, cast

from corestore.bitfield import PAGE_BLOCKS
from corestore.commit import Run
from corestore.storage import bits, rules, schema
from corestore.storage.base import CoreRecord
from corestore.storage.files import PAGE
from corestore.tree.types import MAX_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import apsw

    from corestore.commit import Commit, StoredBlock
    from corestore.storage.diskcore import DiskCore
    from corestore.tree.types import Head

_PUT_NODES: Final = (
    "INSERT INTO node VALUES {} ON CONFLICT (id) DO UPDATE SET size = excluded.size,"
    " hash = excluded.hash, byte_offset = coalesce(excluded.byte_offset, node.byte_offset)"
)
# Many nodes go in by so many a statement: 200 take 45 us, and 125 us one by one.
_PUT: Final = [(many, _PUT_NODES.format(", ".join(["(?, ?, ?, ?)"] * many))) for many in (64, 8, 1)]


class Writing:
    """One core's part of a transaction. `write` writes rows; after COMMIT, `apply` tells the core.

    *new_row* makes ids for the table `unsynced`; *tx* is the transaction's own.
    """

    def __init__(
        self, cursor: apsw.Cursor, core: DiskCore, tx: int, new_row: Callable[[], int]
    ) -> None:
        self._cursor = cursor
        self.core = core
        self._tx = tx
        self._new_row = new_row
        self._first = schema.first_row(core.id)
        self._head = core.head
        self._record = core.record
        self._pages: dict[int, bytes] = {}
        self._unsaved: set[int] = set()
        self._cut = False
        self._rows: dict[int, tuple[int, int]] = {}
        self._open_row = core.open_row
        self._laid = core.laid
        self._set: dict[str, int | bytes] = {}
        self.holes = False

    # -- during the transaction ------------------------------------------------------------------

    def write(self, commit: Commit) -> None:
        """Write everything in *commit*.

        Raises:
          ValueError: a block without its leaf node, or of another size than it says.
          StorageConflict: see `rules.check_fork`.
          OSError: the data file cannot be written.
        """
        ours = self._record.signer is not None
        if not ours:
            rules.check_fork(self._head, commit)
        old_end = self._head.byte_length
        if commit.truncate is not None:
            self._drop_tail(commit.truncate)
        lays = rules.lays(commit)
        if ours and (self._laid or lays):
            self._lay(commit, lays=lays)
        appended = ours and self._is_append(commit)
        if commit.blocks or commit.nodes:
            self._write_blocks(commit)
        for start, end, held in commit.runs:
            self._set_bits(start, end, held=held)
            if held and not appended:
                self._note_unsynced(start, end)
        if self._unsaved:
            self._save_pages()
        if rules.replaces(self._record, self._head, commit):
            assert commit.head is not None
            if self._laid and commit.head.length > self._head.length:
                self._forget_laid()
            self._set_head(commit.head)
            if ours:
                self._note_tail(commit.head)
        if commit.manifest is not None:
            self._record = CoreRecord(self._record.key, commit.manifest, self._record.signer)
            self._set["manifest"] = commit.manifest
        for run in commit.runs:
            if not run.held:
                self._note_hole(run)
        if commit.truncate is not None:
            self._note_tail_hole(old_end)
        if commit.user_data:
            self._write_user_data(commit)

    def _lay(self, commit: Commit, *, lays: bool) -> None:
        """Blocks and nodes that come without bits and head are laid ahead: those of an append too
        large for one transaction, whose last part brings the head and the bits of all of it.

        Until then they count for nothing. A row of `unsynced` that is empty and begins at the head
        says that they are there. If that append was given up, the next one forgets them.
        """
        head, length = commit.head, self._head.length
        grows = head is not None and head.length > length
        goes_on = bool(commit.blocks) and commit.blocks[0].index == self._laid
        if self._laid and not goes_on and (lays or grows):
            self.drop_laid()
        if lays:
            if not self._laid:
                note = self._new_row(), self.core.id, length, length
                self._cursor.execute("INSERT INTO unsynced VALUES (?, ?, ?, ?)", note)
            self._laid = commit.blocks[-1].index + 1

    def drop_laid(self) -> None:
        """Delete the nodes of blocks that were laid ahead; count the epoch, for others may have
        read them."""
        beyond = self._first + 2 * self._head.length, schema.end_row(self.core.id)
        self._cursor.execute("DELETE FROM node WHERE id >= ? AND id < ?", beyond)
        self._forget_laid()
        self._cut = True
        self._set["epoch"] = self.core.epoch + 1

    def _forget_laid(self) -> None:
        self._laid = 0
        self._cursor.execute(
            "DELETE FROM unsynced WHERE core = ? AND start >= ?", (self.core.id, self._head.length)
        )

    def _note_tail(self, head: Head) -> None:
        # A head that is only signed now stays the work of the transaction that wrote it.
        self._cursor.execute(
            "INSERT INTO tail VALUES (?, ?, ?, ?)"
            " ON CONFLICT (core, length) DO UPDATE SET signature = excluded.signature",
            (self.core.id, head.length, self._tx, head.signature),
        )

    def _set_head(self, head: Head) -> None:
        self._head = head
        self._set |= {
            "fork": head.fork,
            "length": head.length,
            "byte_length": head.byte_length,
            "roots": schema.pack_roots(head.roots),
            "signature": head.signature,
        }

    def finish(self) -> None:
        """Write the core's row; the last step before COMMIT."""
        values = self._set
        self._cursor.execute(_update_core(tuple(values)), (*values.values(), self.core.id))

    def _drop_tail(self, length: int) -> None:
        """Delete the nodes and bits beyond *length* blocks; count the epoch."""
        first = self._first
        if self._laid:
            self._forget_laid()
        self._cursor.execute(
            "DELETE FROM node WHERE id >= ? AND id < ?",
            (first + 2 * length, schema.end_row(self.core.id)),
        )
        self._cursor.executemany(
            "DELETE FROM node WHERE id = ?",
            [(first + index,) for index in rules.boundary_nodes(length)],
        )
        self._cursor.execute(
            "DELETE FROM tail WHERE core = ? AND length > ?", (self.core.id, length)
        )
        self.clear_bits_from(length)
        self._cut = True
        self._set["epoch"] = self.core.epoch + 1

    def cut(self, head: Head) -> None:
        """Drop everything beyond *head*, which is shorter and of the same fork."""
        old_end = self._head.byte_length
        self._drop_tail(head.length)
        self._set_head(head)
        if head.length > self.core.published.length:
            self._note_tail(head)
        self._note_tail_hole(old_end)

    def publish_all(self) -> None:
        """Everything up to the new head is durable once this transaction is."""
        self._cursor.execute("DELETE FROM tail WHERE core = ?", (self.core.id,))
        self._set["synced_length"] = self._head.length
        self._set["published"] = schema.pack_head(self._head)

    def clear_bits_from(self, length: int) -> None:
        """Clear the bits of all blocks from *length* on: their bytes may be overwritten."""
        self._set_bits(length, MAX_LENGTH, held=False)
        self._save_pages()
        self._set["synced_length"] = min(self.core.synced_length, length)

    def clear_bits(self, indices: Sequence[int]) -> None:
        """Clear the bits of single blocks whose bytes turned out bad."""
        for index in indices:
            self._set_bits(index, index + 1, held=False)
        self._save_pages()

    # -- parts -----------------------------------------------------------------------------------

    def _is_append(self, commit: Commit) -> bool:
        """Whether the blocks are exactly those by which a core of ours grows."""
        head, blocks = commit.head, commit.blocks
        if head is None or not blocks:
            return False
        start = self._head.length if commit.truncate is None else commit.truncate
        grown = Run(start, head.length, True)
        runs = commit.runs
        missing = head.length - (self._laid or start)
        return len(runs) == 1 and runs[0] == grown and len(blocks) == missing

    def _write_blocks(self, commit: Commit) -> None:
        """The bytes of the blocks, then the nodes, leaves with the place of their block."""
        blocks = {2 * block.index: block for block in commit.blocks}
        if blocks:
            self.core.shelf.files.write(self.core.id, self.core.name, commit.blocks)
        first = self._first
        values: list[int | bytes | None] = []  # of the rows, one after the other
        for index, size, digest in commit.nodes:
            block = blocks.pop(index, None)
            if block is None:
                values += (first + index, size, digest, None)
            else:
                _check_size(block, size)
                values += (first + index, size, digest, block.byte_offset)
        at = 0
        for many, statement in _PUT:
            width = 4 * many
            while len(values) - at >= width:
                self._cursor.execute(statement, values[at : at + width])
                at += width
        for block in blocks.values():
            self._place_block(block)

    def _place_block(self, block: StoredBlock) -> None:
        """A block whose leaf is here already is stored at last."""
        row = self._first + 2 * block.index
        size = cast(
            "int | None",
            self._cursor.execute("SELECT size FROM node WHERE id = ?", (row,)).get,
        )
        if size is None:
            raise ValueError(f"block {block.index} comes without its leaf node")
        _check_size(block, size)
        self._cursor.execute(
            "UPDATE node SET byte_offset = ? WHERE id = ?", (block.byte_offset, row)
        )
        self.core.shelf.nodes.drop(row)

    def _page(self, number: int) -> bytes:
        page = self._pages.get(number)
        return self.core.page(number) if page is None else page

    def _set_bits(self, start: int, end: int, *, held: bool) -> None:
        pages, page_of = self._pages, self.core.page
        for number, first, stop in (bits.parts if held else self._existing_parts)(start, end):
            old = pages.get(number) or page_of(number)
            new = bits.with_bits(old, first, stop, held)
            if new != old:
                pages[number] = new
                self._unsaved.add(number)

    def _existing_parts(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """As `bits.parts`, of pages with bits only: the range may be all there could ever be."""
        self._save_pages()
        rows = cast(
            "list[tuple[int]]",
            self._cursor.execute(
                "SELECT id FROM bits WHERE id >= ? AND id < ?",
                (
                    self._first + start // PAGE_BLOCKS,
                    self._first + -(-end // PAGE_BLOCKS),
                ),
            ).fetchall(),
        )
        for (row,) in rows:
            number = row - self._first
            base = number * PAGE_BLOCKS
            yield number, max(start - base, 0), min(end - base, PAGE_BLOCKS)

    def _save_pages(self) -> None:
        for number in self._unsaved:
            page = self._pages[number]
            if page == bits.EMPTY_PAGE:
                self._cursor.execute("DELETE FROM bits WHERE id = ?", (self._first + number,))
            else:
                self._cursor.execute(
                    "INSERT OR REPLACE INTO bits VALUES (?, ?)", (self._first + number, page)
                )
        self._unsaved.clear()

    def _note_unsynced(self, start: int, end: int) -> None:
        """Remember that blocks may not be on the disk; a run that goes on extends its row."""
        core, row = self.core, self._open_row
        if row is not None:
            old_start, old_end = self._rows.get(row) or core.unsynced[row]
            if old_end == start:
                done = self._cursor.execute(
                    'UPDATE unsynced SET "end" = ? WHERE id = ? AND core = ? RETURNING id',
                    (end, row, core.id),
                ).get
                if done is not None:
                    self._rows[row] = (old_start, end)
                    return
        row = self._new_row()
        self._cursor.execute("INSERT INTO unsynced VALUES (?, ?, ?, ?)", (row, core.id, start, end))
        self._rows[row] = (start, end)
        self._open_row = row

    def _write_user_data(self, commit: Commit) -> None:
        for key, value in commit.user_data.items():
            if value is None:
                self._cursor.execute(
                    "DELETE FROM core_data WHERE core = ? AND key = ?", (self.core.id, key)
                )
            else:
                self._cursor.execute(
                    "INSERT OR REPLACE INTO core_data VALUES (?, ?, ?)",
                    (self.core.id, key, value),
                )

    # -- holes -----------------------------------------------------------------------------------

    def _note_hole(self, run: Run) -> None:
        """Mark the bytes between the held blocks on both sides of *run* to be given back.

        More than the run: neighbours cleared earlier may have shared a page with it.
        """
        before = self._held_before(run.start)
        after = self._held_after(run.end)
        start = 0 if before is None else self._end_of(before)
        end = self._head.byte_length if after is None else self._offset_of(after)
        self._add_hole(start, -(-end // PAGE) * PAGE if after is None else end)

    def _note_tail_hole(self, old_end: int) -> None:
        """Mark what lies beyond the last held block, up to byte *old_end*, to be given back."""
        last = self._held_before(MAX_LENGTH)
        start = 0 if last is None else self._end_of(last)
        self._add_hole(start, -(-old_end // PAGE) * PAGE)

    def _add_hole(self, start: int, end: int) -> None:
        if start < end:
            self._cursor.execute(
                "INSERT INTO pending_clear VALUES (?, ?, ?, ?)",
                (self._new_row(), self.core.name, start, end),
            )
            self.holes = True

    def _held_before(self, index: int) -> int | None:
        number = index // PAGE_BLOCKS
        found = bits.last_set(self._page(number), index % PAGE_BLOCKS)
        if found is None:
            row = cast(
                "tuple[int, bytes] | None",
                self._cursor.execute(
                    "SELECT id, bits FROM bits WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT 1",
                    (self._first, self._first + number),
                ).get,
            )
            if row is None:
                return None
            number = row[0] - self._first
            found = bits.last_set(row[1], PAGE_BLOCKS)
            assert found is not None
        return number * PAGE_BLOCKS + found

    def _held_after(self, index: int) -> int | None:
        number = index // PAGE_BLOCKS
        found = bits.first_set(self._page(number), index % PAGE_BLOCKS)
        if found is None:
            row = cast(
                "tuple[int, bytes] | None",
                self._cursor.execute(
                    "SELECT id, bits FROM bits WHERE id > ? AND id < ? ORDER BY id LIMIT 1",
                    (self._first + number, schema.end_row(self.core.id)),
                ).get,
            )
            if row is None:
                return None
            number = row[0] - self._first
            found = bits.first_set(row[1], 0)
            assert found is not None
        return number * PAGE_BLOCKS + found

    def _offset_of(self, index: int) -> int:
        return self._leaf(index)[1]

    def _end_of(self, index: int) -> int:
        size, offset = self._leaf(index)
        return offset + size

    def _leaf(self, index: int) -> tuple[int, int]:
        row = self._cursor.execute(
            "SELECT size, byte_offset FROM node WHERE id = ?", (self._first + 2 * index,)
        ).get
        return cast("tuple[int, int]", row)

    # -- after the transaction -------------------------------------------------------------------

    def apply(self) -> None:
        """Change what is in memory: the transaction is written."""
        core = self.core
        if self._cut:
            core.shelf.nodes.clear()
            core.epoch += 1
            core.seen_epoch = core.epoch
        synced = self._set.get("synced_length")
        if isinstance(synced, int):
            core.synced_length = synced
        core.pages.update(self._pages)
        core.unsynced.update(self._rows)
        core.open_row = self._open_row
        core.laid = self._laid
        core.committed(self._head, self._record)


@cache
def _update_core(columns: tuple[str, ...]) -> str:
    changes = "".join(f"{name} = ?, " for name in columns)
    return f"UPDATE core SET {changes}version = version + 1 WHERE id = ?"


def _check_size(block: StoredBlock, size: int) -> None:
    if len(block.data) != size:
        raise ValueError(f"block {block.index} has {len(block.data)} bytes, its leaf says {size}")
