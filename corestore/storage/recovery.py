"""Puts a store right that was not closed: after kill -9, and after a power cut.

The database is some prefix of the commits, and durable up to the last sync. The data files may
lack any bytes written since. Which blocks these can be is on record: of a core of ours the
appended ones from `synced_length` on, of any core the ranges in the table `unsynced`. Each of
them is hashed. A bad one loses its bit and will be fetched again; where it is an appended block of
ours that nobody has seen, the transaction that appended it is taken back, and with it all later
ones of the same core and what they wrote to other cores: the table `tail` has the heads in
between, with their signatures. What is good is synced.

Another process may have the store open meanwhile. Whatever it appends it holds the signing lock
for, and such a tail is left alone; everything else is checked once more inside the transaction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from corestore import crypto
from corestore.bitfield import PAGE_BLOCKS
from corestore.errors import StorageCorrupt, StorageLocked
from corestore.keys import DiscoveryKey
from corestore.storage import bits, rules
from corestore.storage.locks import recovery_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    import apsw

    from corestore.storage.disk import DiskStorage
    from corestore.storage.diskcore import DiskCore
    from corestore.storage.writer import Writing
    from corestore.tree.types import Head


class Doubt:
    """What has to be checked of one core."""

    def __init__(self, core: DiskCore) -> None:
        self.core = core
        self.runs: dict[int, tuple[int, int]] = {}
        self.signing = False  # we hold the lock, so the tail is nobody's work in progress
        self.bad: list[int] = []

    def take_lock(self) -> None:
        """Take the signing lock of a core of ours, unless another process works under it."""
        if self.core.record.signer is not None:
            try:
                self.core.lock_signing()
            except StorageLocked:
                return
            self.signing = True

    def check(self) -> None:
        """Hash every block in doubt. A bad one may turn out cleared, or stored again, later."""
        self.bad = [index for index in self._doubtful() if not self.is_good(index)]

    def _doubtful(self) -> Iterator[int]:
        ranges = list(self.runs.values())
        if self.signing:
            ranges.append((self.core.synced_length, self.core.head.length))
        seen: set[int] = set()
        for start, end in ranges:
            for number, first, stop in bits.parts(start, end):
                for bit in bits.set_bits(self.core.page(number)):
                    index = number * PAGE_BLOCKS + bit
                    if first <= bit < stop and index not in seen:
                        seen.add(index)
                        yield index

    def is_good(self, index: int) -> bool:
        """Whether the bytes of a held block have the hash in its leaf."""
        leaf = self.core.node(2 * index)
        try:
            block = self.core.block(index)
        except StorageCorrupt:
            return False
        return leaf is not None and block is not None and crypto.leaf_hash(block) == leaf.hash

    def good_length(self) -> int:
        """The blocks before the first bad one that was appended here and never seen."""
        core = self.core
        least = max(core.published.length, core.synced_length)
        for index in sorted(self.bad):
            downloaded = any(start <= index < end for start, end in self.runs.values())
            if index >= least and self.signing and not downloaded:
                return index
        return core.head.length


def recover(storage: DiskStorage) -> list[tuple[DiskCore, int]]:
    """Recover *storage*, which was just opened and whose log was flushed.

    Returns the cores of ours that are shorter than they were, with the length before. Costs a
    query when everything was closed.
    """
    if not _collect(storage):
        return []
    with recovery_lock(storage.locks):
        # Another process may just have done it.
        doubts = _collect(storage)
        return _recover(storage, doubts) if doubts else []


def _recover(storage: DiskStorage, doubts: list[Doubt]) -> list[tuple[DiskCore, int]]:
    for doubt in doubts:
        doubt.take_lock()
        doubt.check()
    with storage.database.transaction() as cursor:
        cut = _repair(storage, cursor, doubts)
    storage.database.log.flush()
    for doubt in doubts:
        core = doubt.core
        # Written by a process that is gone: our descriptor has not seen the bytes, but fdatasync
        # is by file.
        storage.files.expect_unsynced(core.id, core.name)
        # The note of an append that is under way in another process is that one's.
        core.unsynced |= {
            row: run for row, run in doubt.runs.items() if doubt.signing or run[0] < run[1]
        }
        storage.syncer.touch(core)
    storage.punch_pending()
    storage.syncer.run()
    for doubt in doubts:
        if doubt.signing:
            doubt.core.unlock_signing()
    return cut


def head_at(storage: DiskStorage, core: DiskCore, length: int) -> Head:
    """The head of *core* at an earlier length, with the signature it had then, if it had one.

    Raises as `rules.cut_head`.
    """
    head = rules.cut_head(core, length)
    if head.signature:
        return head
    signature = storage.database.one(
        "SELECT signature FROM tail WHERE core = ? AND length = ?", (core.id, length)
    )
    return head if signature is None else replace(head, signature=cast("bytes", signature))


def _collect(storage: DiskStorage) -> list[Doubt]:
    doubts: dict[int, Doubt] = {}
    # Whatever of ours is not synced, or not signed, has a tail: no need to look at every core.
    names = storage.database.all(
        "SELECT discovery_key FROM core"
        " WHERE id IN (SELECT core FROM tail UNION SELECT core FROM unsynced)"
    )
    for (name,) in names:
        core = storage.open_core(DiscoveryKey(cast("bytes", name)))
        if core is not None:
            doubts[core.id] = Doubt(core)
    rows = storage.database.all('SELECT id, core, start, "end" FROM unsynced')
    for row, id_, start, end in cast("list[tuple[int, int, int, int]]", rows):
        if id_ in doubts:
            doubts[id_].runs[row] = (start, end)
    return list(doubts.values())


def _repair(
    storage: DiskStorage, cursor: apsw.Cursor, doubts: list[Doubt]
) -> list[tuple[DiskCore, int]]:
    """Clear the bits of bad blocks and cut, inside the transaction."""
    for doubt in doubts:
        core = doubt.core
        core.refresh()
        held = [] if core.removed else [index for index in doubt.bad if core.holds(index)]
        doubt.bad = [index for index in held if not doubt.is_good(index)]
    lengths = _lengths(storage, [doubt for doubt in doubts if doubt.signing])
    written: list[Writing] = []
    cut: list[tuple[DiskCore, int]] = []
    for doubt in doubts:
        core = doubt.core
        length = lengths.get(core, core.head.length)
        if length == core.head.length:
            # Left behind by a process that died before it signed it.
            if doubt.signing and rules.is_unsigned(core.head):
                cut.append((core, length))
            if not (doubt.bad or core.laid):
                continue
        writing = storage.writing(cursor, core)
        if core.laid:
            writing.drop_laid()
        if length < core.head.length:
            cut.append((core, core.head.length))
            writing.cut(head_at(storage, core, length))
        writing.clear_bits([index for index in doubt.bad if index < length])
        writing.finish()
        written.append(writing)
    for writing in written:
        writing.apply()
    return cut


def _lengths(storage: DiskStorage, doubts: list[Doubt]) -> dict[DiskCore, int]:
    """How far the tail of each core can be kept: whole transactions only, and of those that wrote
    several cores, none where one core cannot keep it."""
    cores = {doubt.core.id: doubt.core for doubt in doubts}
    wanted = {doubt.core.id: doubt.good_length() for doubt in doubts}
    rows = cast(
        "list[tuple[int, int, int]]", storage.database.all("SELECT core, length, tx FROM tail")
    )
    rows = [row for row in rows if row[0] in cores]
    lost: set[int] = set()
    while True:
        found = {tx for id_, length, tx in rows if length > wanted[id_]}
        if found <= lost:
            break
        lost |= found
        for id_, length, tx in rows:
            if tx in lost:
                wanted[id_] = min(wanted[id_], length - 1)
    result: dict[DiskCore, int] = {}
    for id_, core in cores.items():
        if wanted[id_] < core.head.length:
            kept = [length for row_id, length, tx in rows if row_id == id_ and tx not in lost]
            result[core] = max(kept, default=core.published.length)
    return result
