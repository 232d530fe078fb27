"""The chunk table of a drive, kept beside its content core from one opening to the next.

What is added goes into *segments* of the core's user data, 24 bytes a chunk, in a ring: the oldest
segment is overwritten. They are read when writing begins and written in bulk outside of commits: a
row for each chunk would cost more than the chunk. A crash loses the last chunks' entries, an entry
may be of a block that a power cut took; either costs deduplication only, as every hit is compared.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from typing import TYPE_CHECKING, Final

import trio

from corestore import CorestoreError
from hyperfs.chunks import FINGERPRINT_BYTES, TABLE_CHUNKS, MemoryChunkTable
from hyperfs.pace import Pace

if TYPE_CHECKING:
    from corestore import Corestore, Hypercore

logger: Final = logging.getLogger("hyperfs")

# fingerprint, block, offset in it, length
_ENTRY: Final = struct.Struct("<8sQII")
# The segment's number: it says how old the segment is, and where in the ring.
_HEADER: Final = struct.Struct("<Q")
SEGMENT_CHUNKS: Final = 2048
SEGMENTS: Final = TABLE_CHUNKS // SEGMENT_CHUNKS


class StoredChunkTable:
    """A `ChunkTable` over the user data of *content*. `run` loads and saves while it is open."""

    def __init__(self, store: Corestore, content: Hypercore) -> None:
        self._store = store
        self._content = content
        secret = hashlib.blake2b(
            b"hyperfs/chunks" + content.key, key=store.primary_key[:64], digest_size=32
        ).digest()
        self._memory = MemoryChunkTable(secret)
        self._number = 0
        # The newest segment, and how many of its bytes are stored.
        self._segment = bytearray()
        self._stored = 0
        self._full = trio.Event()
        self._kept: list[tuple[int, bytes]] | None = None
        self._wanted = trio.Event()
        # What was added before all that was kept is loaded: it is newer.
        self._fresh: set[bytes] | None = set()

    # -- the table ---------------------------------------------------------------------------

    def fingerprint(self, data: bytes | memoryview) -> bytes:
        """See `ChunkTable`."""
        return self._memory.fingerprint(data)

    def find(self, fingerprint: bytes) -> tuple[int, int, int] | None:
        """See `ChunkTable`."""
        return self._memory.find(fingerprint)

    def add(self, fingerprint: bytes, block: int, offset: int, length: int) -> None:
        """See `ChunkTable`."""
        self._memory.add(fingerprint, block, offset, length)
        if self._fresh is not None:
            self._fresh.add(fingerprint)
        self._segment += _ENTRY.pack(fingerprint, block, offset, length)
        if len(self._segment) >= SEGMENT_CHUNKS * _ENTRY.size:
            self._full.set()

    # -- keeping it --------------------------------------------------------------------------

    def want(self) -> None:
        """Writing has begun: read what was kept. It is found little by little, while `run` runs."""
        values = [self._content.user_data(_key(number)) for number in range(SEGMENTS)]
        self._kept = sorted(
            (_HEADER.unpack_from(value)[0], value[_HEADER.size :])
            for value in values
            if value is not None and len(value) >= _HEADER.size
        )
        if self._kept:
            # What this opening adds goes to segments of its own.
            self._number = self._kept[-1][0] + 1
        self._wanted.set()

    async def run(self) -> None:
        """Load when wanted, save whenever a segment is full, until cancelled."""
        await self._wanted.wait()
        await self._load()
        while True:
            await self._full.wait()
            await self.finish()

    async def finish(self) -> None:
        """`save`, if it can be: what is not kept is not found again, that is all."""
        try:
            await self.save()
        except (OSError, CorestoreError) as error:
            # A full disk, say. Commits report it.
            logger.debug("the chunk table was not saved: %s", error)
            self._full = trio.Event()

    async def save(self) -> None:
        """Write what was added since the last time. Raises as `Corestore.transaction` does."""
        if not self._wanted.is_set():
            return
        segment = bytes(self._segment)
        if len(segment) == self._stored:
            return
        at = 0
        size = SEGMENT_CHUNKS * _ENTRY.size
        async with self._store.transaction(self._content) as transaction:
            number = self._number
            while True:
                value = _HEADER.pack(number) + segment[at : at + size]
                transaction.set_user_data(self._content, _key(number), value)
                if at + size > len(segment):
                    break
                at += size
                number += 1
        # What was added meanwhile lies behind what was written.
        self._number = number
        del self._segment[:at]
        self._stored = len(segment) - at
        self._full = trio.Event()

    async def _load(self) -> None:
        pace = Pace()
        fresh, kept = self._fresh or set(), self._kept or []
        for _, value in kept:
            whole = len(value) - len(value) % _ENTRY.size
            for fingerprint, block, offset, length in _ENTRY.iter_unpack(value[:whole]):
                if fingerprint not in fresh and length:
                    self._memory.add(fingerprint, block, offset, length)
                await pace.keep()
        self._fresh = self._kept = None


def _key(number: int) -> str:
    return f"chunks/{number % SEGMENTS:03}"


assert _ENTRY.size == FINGERPRINT_BYTES + 16
