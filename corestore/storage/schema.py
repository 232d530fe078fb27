"""The database of a store: its tables, and how values are packed into their columns.

The format version is SQLite's `user_version`; `application_id` tells our files from others. What
each column means is also told, with the reasons, in corestore/STORAGE.md.
"""

from __future__ import annotations

import struct
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from corestore.errors import StorageCorrupt, StorageError
from corestore.storage.rules import INDEX_BITS
from corestore.tree.types import Head, Node

if TYPE_CHECKING:
    import apsw

APPLICATION_ID: Final = 0x68797066  # "hypf"
VERSION: Final = 1

TABLES: Final = """
-- One row per known core. Ids are never used again, so a handle of a removed core finds nothing.
CREATE TABLE core (
    id INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id < 2097152),
    discovery_key BLOB NOT NULL UNIQUE,       -- 32 bytes; also names the data file and the lock
    key BLOB NOT NULL,                        -- 32 bytes
    manifest BLOB,                            -- encoded; NULL until known
    signer BLOB,                              -- note on our key pair; NULL: somebody else's core
    fork INTEGER NOT NULL DEFAULT 0,          -- the committed head, up to `signature`
    length INTEGER NOT NULL DEFAULT 0,
    byte_length INTEGER NOT NULL DEFAULT 0,
    roots BLOB NOT NULL DEFAULT x'',          -- 48 bytes each: index, size, hash
    signature BLOB NOT NULL DEFAULT x'',      -- empty with length > 0: not signed yet
    published BLOB NOT NULL DEFAULT x'',      -- a packed head; empty: the empty head
    synced_length INTEGER NOT NULL DEFAULT 0, -- appended blocks below this are on the disk
    epoch INTEGER NOT NULL DEFAULT 0,         -- counts truncations and cuts
    version INTEGER NOT NULL DEFAULT 0        -- counts commits; others see by it what is new
);

-- One row per tree node: id = core << 42 | flat index. Leaves are the even indices.
CREATE TABLE node (
    id INTEGER PRIMARY KEY,
    size INTEGER NOT NULL,                    -- bytes of the blocks below
    hash BLOB NOT NULL,                       -- 32 bytes
    byte_offset INTEGER                       -- leaves whose block was ever stored: where its
                                              -- bytes start in the data file; else NULL
);

-- One row per page with a bit set: id = core << 42 | page; 4096 blocks, least significant first.
CREATE TABLE bits (
    id INTEGER PRIMARY KEY,
    bits BLOB NOT NULL                        -- 512 bytes, never all zero
);

-- Heads of cores of ours since the last sync: where a recovery may cut to, and what goes together.
CREATE TABLE tail (
    core INTEGER NOT NULL,
    length INTEGER NOT NULL,
    tx INTEGER NOT NULL,                      -- equal for heads that one transaction wrote
    signature BLOB NOT NULL,
    PRIMARY KEY (core, length)
) WITHOUT ROWID;

-- Blocks that were stored, other than by appending, and may not be on the disk yet.
CREATE TABLE unsynced (
    id INTEGER PRIMARY KEY,                   -- random prefix of the process, and a counter
    core INTEGER NOT NULL,
    start INTEGER NOT NULL,                   -- blocks, half open
    "end" INTEGER NOT NULL
);

-- Bytes that no block uses any more but that the disk still holds.
CREATE TABLE pending_clear (
    id INTEGER PRIMARY KEY,
    discovery_key BLOB NOT NULL,              -- whose data file
    start INTEGER NOT NULL,                   -- bytes, half open
    "end" INTEGER                             -- NULL: the core whose id is `start` is gone, and its
                                              -- file, nodes and bits shall go
);

-- Small values kept with a core, and with the store.
CREATE TABLE core_data (
    core INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (core, key)
) WITHOUT ROWID;
CREATE TABLE store_data (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;
"""


class CoreRow(NamedTuple):
    """A row of the table `core`, in the order of its columns."""

    id: int
    discovery_key: bytes
    key: bytes
    manifest: bytes | None
    signer: bytes | None
    fork: int
    length: int
    byte_length: int
    roots: bytes
    signature: bytes
    published: bytes
    synced_length: int
    epoch: int
    version: int


CORE_COLUMNS: Final = ", ".join(CoreRow._fields)

_NODE: Final = struct.Struct("<QQ32s")
_several: Final = cache(lambda count: struct.Struct("<" + "QQ32s" * count))
_HEAD: Final = struct.Struct("<QQQH")


def prepare(cursor: apsw.Cursor) -> None:
    """Create the tables in an empty database, or check that it is one of ours.

    Called inside a transaction.

    Raises:
      StorageError: another program's database, or a format newer than this code.
    """
    version = cursor.execute("PRAGMA user_version").get
    if version == 0 and not cursor.execute("SELECT count(*) FROM sqlite_schema").get:
        cursor.execute(TABLES)
        cursor.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        cursor.execute(f"PRAGMA user_version = {VERSION}")
        return
    if cursor.execute("PRAGMA application_id").get != APPLICATION_ID:
        raise StorageError("the database in this folder belongs to another program")
    if not isinstance(version, int) or version > VERSION:
        raise StorageError(
            f"this store has format {version}, newer than the {VERSION} this program knows"
        )


def first_row(core: int) -> int:
    """The id of node 0, or of page 0, of a core."""
    return core << INDEX_BITS


def end_row(core: int) -> int:
    """One past the last node id of a core."""
    return (core + 1) << INDEX_BITS


def pack_roots(roots: tuple[Node, ...]) -> bytes:
    """48 bytes per root: index and size (u64, little endian), hash."""
    return _several(len(roots)).pack(*chain.from_iterable(roots))


def unpack_roots(data: bytes) -> tuple[Node, ...]:
    """Undo `pack_roots`. Raises StorageCorrupt."""
    if len(data) % _NODE.size:
        raise StorageCorrupt("the roots of a core")
    return tuple(Node(*fields) for fields in _NODE.iter_unpack(data))


def pack_head(head: Head) -> bytes:
    """fork, length, byte_length (u64), signature length (u16), signature, roots."""
    sizes = _HEAD.pack(head.fork, head.length, head.byte_length, len(head.signature))
    return sizes + head.signature + pack_roots(head.roots)


def unpack_head(data: bytes) -> Head:
    """Undo `pack_head`; no bytes are the empty head. Raises StorageCorrupt."""
    if not data:
        return Head()
    if len(data) < _HEAD.size:
        raise StorageCorrupt("the published head of a core")
    fork, length, byte_length, signed = _HEAD.unpack_from(data)
    at = _HEAD.size + signed
    return Head(fork, length, byte_length, unpack_roots(data[at:]), data[_HEAD.size : at])
