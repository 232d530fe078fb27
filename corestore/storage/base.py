"""What a store must be able to do: the `Storage` and `CoreStorage` protocols.

Storage is synchronous and belongs to one thread, except where a method says otherwise. It knows
nothing of signatures or proofs: it keeps heads, nodes, bits, blocks and a little user data, and
writes commits atomically.

A core we sign has two heads (corestore/STORAGE.md): `head`, which is committed, and `published`,
which is durable and may be shown to peers. For any other core `published` is the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from corestore.commit import Commit
    from corestore.keys import DiscoveryKey, Key
    from corestore.tree.types import Head, Node


@dataclass(frozen=True, slots=True)
class CoreRecord:
    """What is kept of a core besides its log.

    `signer` is an opaque note of `corestore.store` on how to find the key pair again; None for a
    core of somebody else.
    """

    key: Key
    manifest: bytes | None = None
    signer: bytes | None = None


class CoreStorage(Protocol):
    """One core's part of a store. Reads show the last commit (of any process)."""

    @property
    def record(self) -> CoreRecord:
        """Its key, its manifest once that is known, and the note of who signs it."""
        ...

    @property
    def head(self) -> Head:
        """The committed head."""
        ...

    @property
    def published(self) -> Head:
        """The head that is durable and may be announced. Equal to `head` if we do not sign."""
        ...

    def node(self, index: int) -> Node | None:
        """The tree node at a flat index, or None."""
        ...

    def block(self, index: int) -> bytes | None:
        """The stored bytes of a block, or None if it is not held."""
        ...

    def blocks(self, start: int, end: int) -> list[bytes] | None:
        """Blocks `start..end`, None unless all are held. Contiguous bytes are one read."""
        ...

    def bitfield_pages(self) -> Iterator[tuple[int, bytes]]:
        """(page number, 512 bytes) of every page with a bit set; a page is 4096 blocks, bit
        `index & 7` of byte `index >> 3` first (least significant bit first)."""
        ...

    def user_data(self, key: str) -> bytes | None:
        """A value kept with this core, or None."""
        ...

    @property
    def signing_locked(self) -> bool:
        """Whether this process holds the signing lock. Without it only `published` is served."""
        ...

    def lock_signing(self) -> None:
        """Take the kernel lock that signing, truncating and clearing need; idempotent.

        `head` and everything else is read again under it: look at them only afterwards. The lock
        is held until the store is closed.

        Raises:
          StorageLocked: another process holds it (with its pid when known).
        """
        ...

    def unlock_signing(self) -> None:
        """Give the signing lock back, early. Only while all of the core is synced, and nobody
        holds on to what was read under the lock."""
        ...

    def changed(self) -> bool:
        """Whether another process committed to this core since the last call.

        Cheap (about 1 us). True means that `head`, `bitfield_pages` and `user_data` show
        something new: read them again. A newer `published` of a core that another process signs
        shows only after a sync of ours (`begin_sync` ... `finish_sync`), which makes sure that
        what we read is durable.
        """
        ...


@dataclass(frozen=True, slots=True)
class SyncTicket:
    """One sync under way: which cores, and which head of each it makes durable."""

    cores: Sequence[tuple[CoreStorage, Head]]
    token: object = None


class Syncs(Protocol):
    """The steps of a sync, of which the two slow ones can run in a worker thread.

    `begin_sync` (loop), `flush` (thread), `mark_synced` (loop), `flush_log` (thread); when the
    last has returned the heads of the ticket are durable and count as published:
    `finish_sync` (loop). Memory storage does nothing in any of them but publish.
    """

    def begin_sync(self) -> SyncTicket | None:
        """Collect what is committed and not yet durable; None if there is nothing."""
        ...

    def flush(self, ticket: SyncTicket) -> None:
        """fdatasync the data files (may run in a thread)."""
        ...

    def mark_synced(self, ticket: SyncTicket) -> None:
        """Commit the watermarks (on the loop)."""
        ...

    def flush_log(self, ticket: SyncTicket) -> None:
        """fdatasync the write-ahead log (may run in a thread)."""
        ...

    def finish_sync(self, ticket: SyncTicket) -> None:
        """The heads of *ticket* are published from now on (on the loop)."""
        ...


def sync(storage: Syncs) -> None:
    """A whole sync, in this thread."""
    ticket = storage.begin_sync()
    if ticket is not None:
        storage.flush(ticket)
        storage.mark_synced(ticket)
        storage.flush_log(ticket)
        storage.finish_sync(ticket)


class Storage(Syncs, Protocol):
    """A store of many cores."""

    @property
    def primary_key(self) -> bytes:
        """The 32 secret bytes from which all local key pairs derive."""
        ...

    def cores(self) -> Iterator[DiscoveryKey]:
        """The discovery keys of all known cores, in the order they became known."""
        ...

    def records(self) -> Iterator[CoreRecord]:
        """What is kept of every core, in the order they became known; opens none."""
        ...

    def open_core(self, discovery_key: DiscoveryKey) -> CoreStorage | None:
        """The core if it is known here, else None. Handles are shared: same key, same object."""
        ...

    def release_core(self, core: CoreStorage) -> None:
        """Nobody uses *core* any more: it may leave memory. Opening it again is always possible."""
        ...

    def create_core(self, record: CoreRecord) -> CoreStorage:
        """Make a core known, of length 0. Returns the existing one if it is known already;
        fills in `manifest` and `signer` where they were None."""
        ...

    def remove_core(self, discovery_key: DiscoveryKey) -> None:
        """Forget a core and free its space; unknown ones are ignored."""
        ...

    def commit(self, commits: Sequence[tuple[CoreStorage, Commit]]) -> None:
        """Write all commits in one transaction: after a crash all of them are there or none.

        A commit of a core we do not sign is checked against what other processes wrote
        meanwhile and is idempotent: a head that is not longer than the stored one of the same
        fork is passed over, nodes and blocks that are there already are written again. Then
        `changed()` of that core answers True.

        The head of a core that we sign may come unsigned, to be committed again, signed and
        otherwise the same, before the next sync: see `unsigned`.

        A commit with `truncate`, or with a run that clears bits, flushes the log in place before
        it gives bytes back to the disk; it must stand alone in its transaction.

        Raises:
          ValueError: a block without its leaf node, an index beyond 2**41, a truncation or
            clearing beside other commits; nothing was committed.
          StorageConflict: another process moved a core to another fork, or removed it; nothing
            was committed, and `head` shows what there is now.
          StorageLocked: another process holds the signing lock of a core this signs or clears.
          OSError: the disk is full (ENOSPC) or refuses; nothing was committed, the store works on.
          StorageCorrupt, StorageError: the store cannot be used any more.
        """
        ...

    def cut(self, core: CoreStorage, length: int) -> Head:
        """Drop the blocks of *core* from *length* on, without a new fork.

        Only for the tail of a core of ours that nobody has seen: *length* is at least that of
        `published`, and not above that of `head`. Storage cannot sign, so unless *length* is
        the published one the head comes back with signature `b""`; commit it signed (nothing
        else changes) before it is published or appended to. The cut is durable on return.

        Raises:
          ValueError: the core is not ours, or *length* is outside `published..head`.
          StorageLocked: another process writes this core.
        """
        ...

    def unsigned(self) -> Sequence[CoreStorage]:
        """Cores of ours that wait for a sync, are locked here, and whose heads are not signed: a
        sync makes them durable, but they are not published. Sign them before it begins."""
        ...

    def checkpoint_due(self) -> bool:
        """Whether the write-ahead log is so long that `checkpoint` should run."""
        ...

    def checkpoint(self) -> None:
        """Move the log's pages into the database (may run in a thread)."""
        ...

    def recovered(self) -> Sequence[tuple[CoreStorage, int]]:
        """Cores of ours that the last open had to cut back, with the length before.

        Whole transactions are taken back, in all the cores they wrote, so the heads have the
        signatures they had then, if any. Cores whose heads have none (`b""`) are listed too, at
        every open until that has been made good: a process died before it signed them.
        """
        ...

    def user_data(self, key: str) -> bytes | None:
        """A store-wide value (hyperfs keeps its drives' names here)."""
        ...

    def user_data_items(self, prefix: str) -> list[tuple[str, bytes]]:
        """All store-wide values whose key starts with *prefix*, sorted by key."""
        ...

    def core_values(self, key: str) -> Iterator[bytes]:
        """The values kept with cores under *key*, of all cores that have one; opens none."""
        ...

    def set_user_data(self, key: str, value: bytes | None) -> None:
        """Set or delete (None) a store-wide value, in a transaction of its own."""
        ...

    def close(self) -> None:
        """Sync what is committed and close; idempotent."""
        ...
