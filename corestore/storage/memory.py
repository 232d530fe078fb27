"""A store in dictionaries: for tests and for stores that are thrown away.

The same promises as the store on disk, except that nothing survives the process: a sync only
moves `published`, and there is no second process, so locks are always granted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corestore import crypto
from corestore.bitfield import PAGE_BLOCKS
from corestore.errors import StorageConflict, StorageError
from corestore.storage import bits, rules
from corestore.storage.base import CoreRecord, SyncTicket
from corestore.tree.types import EMPTY_HEAD, MAX_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from corestore.commit import Commit
    from corestore.keys import DiscoveryKey
    from corestore.storage.base import CoreStorage
    from corestore.tree.types import Head, Node


class MemoryCore:
    """One core of a `MemoryStorage`."""

    def __init__(self, storage: MemoryStorage, record: CoreRecord) -> None:
        self._storage = storage
        self._record = record
        self._head = EMPTY_HEAD
        self._published = EMPTY_HEAD
        self._nodes: dict[int, Node] = {}
        self._blocks: dict[int, bytes] = {}
        self._pages: dict[int, bytes] = {}
        self._user_data: dict[str, bytes] = {}
        # Heads since the last sync, by length: where a cut may lead without losing the signature.
        self._tail: dict[int, Head] = {}
        self._epoch = 0
        self._laid = 0  # one past the last block that was laid ahead of a head
        self._changes = 0
        self._locked = False
        self._removed = False

    @property
    def record(self) -> CoreRecord:
        """The key, the manifest once known, and the signer's note."""
        return self._record

    @property
    def head(self) -> Head:
        """The committed head."""
        return self._head

    @property
    def published(self) -> Head:
        """The head that may be announced."""
        return self._head if self._record.signer is None else self._published

    @property
    def signing_locked(self) -> bool:
        """Whether `lock_signing` was called."""
        return self._locked

    def node(self, index: int) -> Node | None:
        """The tree node at a flat index, or None."""
        return self._nodes.get(index)

    def block(self, index: int) -> bytes | None:
        """The bytes of a block, or None if it is not held."""
        return self._blocks.get(index) if self._holds(index) else None

    def blocks(self, start: int, end: int) -> list[bytes] | None:
        """Blocks `start..end`, None unless all are held."""
        found = [self.block(index) for index in range(start, end)]
        held = [block for block in found if block is not None]
        return held if len(held) == len(found) else None

    def bitfield_pages(self) -> Iterator[tuple[int, bytes]]:
        """(page number, 512 bytes) of every page with a bit set."""
        return iter(sorted(self._pages.items()))

    def user_data(self, key: str) -> bytes | None:
        """A value kept with this core, or None."""
        return self._user_data.get(key)

    def lock_signing(self) -> None:
        """Always granted: no other process can see this store."""
        self._storage.check_open()
        self._locked = True

    def unlock_signing(self) -> None:
        """Forget that `lock_signing` was called."""
        self._locked = False

    def changed(self) -> bool:
        """Never: there is no other process."""
        return False

    def _holds(self, index: int) -> bool:
        page = self._pages.get(index // PAGE_BLOCKS)
        return page is not None and bits.is_set(page, index)

    def _check(self, commit: Commit) -> None:
        """Everything that can fail, before anything changes."""
        rules.check_commit(commit)
        added = {node.index for node in commit.nodes}
        for block in commit.blocks:
            if 2 * block.index not in added and 2 * block.index not in self._nodes:
                raise ValueError(f"block {block.index} comes without its leaf node")
        if self._record.signer is None and commit.head is not None:
            rules.check_fork(self._head, commit)

    def _apply(self, commit: Commit) -> None:
        if commit.truncate is not None:
            self._drop_tail(commit.truncate)
        if self._record.signer is not None and commit.blocks:
            self._lay(commit)
        for node in commit.nodes:
            self._nodes[node.index] = node
        for block in commit.blocks:
            self._blocks[block.index] = bytes(block.data)
        for run in commit.runs:
            self._set_bits(run.start, run.end, run.held)
        head = commit.head
        if head is not None and rules.replaces(self._record, self._head, commit):
            self._head = head
            if self._record.signer is not None:
                self._tail[head.length] = head
            if commit.truncate is not None:
                self._published = head
        if commit.manifest is not None:
            self._record = CoreRecord(self._record.key, commit.manifest, self._record.signer)
        for key, value in commit.user_data.items():
            if value is None:
                self._user_data.pop(key, None)
            else:
                self._user_data[key] = value

    def _lay(self, commit: Commit) -> None:
        """Blocks without bits and head are laid ahead; see `storage.writer.Writing`."""
        length = self._head.length
        if self._laid > length and commit.blocks[0].index == length:
            # Another append than that for which they were laid.
            for index in [index for index in self._nodes if index >= 2 * length]:
                del self._nodes[index]
        if rules.lays(commit):
            self._laid = commit.blocks[-1].index + 1

    def _drop_tail(self, length: int) -> None:
        ancestors = set(rules.boundary_nodes(length))
        beyond = [i for i in self._nodes if i >= 2 * length or i in ancestors]
        for index in beyond:
            del self._nodes[index]
        self._set_bits(length, MAX_LENGTH, held=False)
        self._tail = {at: head for at, head in self._tail.items() if at <= length}
        self._epoch += 1

    def _set_bits(self, start: int, end: int, held: bool) -> None:
        if not held:
            end = min(end, (max(self._pages, default=-1) + 1) * PAGE_BLOCKS)
        for number, first, stop in bits.parts(start, end):
            page = self._pages.get(number)
            if page is None and not held:
                continue
            page = bits.with_bits(page or bits.EMPTY_PAGE, first, stop, held)
            if page == bits.EMPTY_PAGE:
                del self._pages[number]
            else:
                self._pages[number] = page
        if not held:
            for index in range(start, end):
                self._blocks.pop(index, None)


class MemoryStorage:
    """A `Storage` in memory. *primary_key* is random unless given."""

    def __init__(self, primary_key: bytes | None = None) -> None:
        self._primary_key = crypto.random_bytes(32) if primary_key is None else primary_key
        self._cores: dict[DiscoveryKey, MemoryCore] = {}
        self._user_data: dict[str, bytes] = {}
        self._dirty: dict[MemoryCore, None] = {}
        self._closed = False

    @property
    def primary_key(self) -> bytes:
        """The 32 bytes all local key pairs are derived from."""
        return self._primary_key

    def check_open(self) -> None:
        """Raises StorageError after `close`."""
        if self._closed:
            raise StorageError("the store is closed")

    def cores(self) -> Iterator[DiscoveryKey]:
        """The discovery keys of all known cores."""
        return iter(list(self._cores))

    def records(self) -> Iterator[CoreRecord]:
        """What is kept of every core."""
        return iter([core.record for core in self._cores.values()])

    def release_core(self, core: CoreStorage) -> None:
        """Nothing: it lives here only."""

    def open_core(self, discovery_key: DiscoveryKey) -> MemoryCore | None:
        """The core if it is known here, else None."""
        self.check_open()
        return self._cores.get(discovery_key)

    def create_core(self, record: CoreRecord) -> MemoryCore:
        """Make a core known, or fill in what was unknown of it."""
        self.check_open()
        name = record.key.discovery_key
        core = self._cores.get(name)
        if core is None:
            core = self._cores[name] = MemoryCore(self, record)
        else:
            was_ours = core._record.signer is not None
            core._record = rules.merge_records(core._record, record)
            if not was_ours and core._record.signer is not None:
                core._published = core._head
        return core

    def remove_core(self, discovery_key: DiscoveryKey) -> None:
        """Forget a core; unknown ones are ignored."""
        self.check_open()
        core = self._cores.pop(discovery_key, None)
        if core is not None:
            core._removed = True
            self._dirty.pop(core, None)

    def commit(self, commits: Sequence[tuple[CoreStorage, Commit]]) -> None:
        """Apply all commits, or none if one of them is refused."""
        self.check_open()
        rules.check_together([commit for _, commit in commits])
        own = [(self._own(core), commit) for core, commit in commits]
        for core, commit in own:
            core._check(commit)
        for core, commit in own:
            core._apply(commit)
            self._touch(core)

    def cut(self, core: CoreStorage, length: int) -> Head:
        """Drop an unpublished tail; the head comes back unsigned."""
        self.check_open()
        own = self._own(core)
        head = rules.cut_head(own, length)
        head = own._tail.get(length, head)
        if head.length < own._head.length:
            own._drop_tail(length)
            own._head = head
            self._touch(own)
        return own._head

    def unsigned(self) -> Sequence[MemoryCore]:
        """Locked cores of ours that no sync was finished for, and that wait for a signature."""
        return [core for core in self._dirty if core._locked and rules.is_unsigned(core._head)]

    def begin_sync(self) -> SyncTicket | None:
        """What no sync was finished for yet; None if there is nothing."""
        self.check_open()
        if not self._dirty:
            return None
        cores = tuple((core, core._head) for core in self._dirty)
        return SyncTicket(cores, tuple((core._epoch, core._changes) for core in self._dirty))

    def flush(self, ticket: SyncTicket) -> None:
        """Nothing to flush."""

    def mark_synced(self, ticket: SyncTicket) -> None:
        """Nothing to mark."""

    def flush_log(self, ticket: SyncTicket) -> None:
        """No log to flush."""

    def finish_sync(self, ticket: SyncTicket) -> None:
        """Publish the heads of *ticket*."""
        assert isinstance(ticket.token, tuple)
        for (core, head), (epoch, changes) in zip(ticket.cores, ticket.token, strict=True):
            assert isinstance(core, MemoryCore)
            if core._removed or core._epoch != epoch:
                continue
            if rules.may_publish(core._published, head):
                core._published = head
                core._tail = {at: kept for at, kept in core._tail.items() if at > head.length}
            if core._changes == changes:
                self._dirty.pop(core, None)

    def _touch(self, core: MemoryCore) -> None:
        core._changes += 1
        self._dirty[core] = None

    def checkpoint_due(self) -> bool:
        """Never: there is no log."""
        return False

    def checkpoint(self) -> None:
        """Nothing to move."""

    def recovered(self) -> Sequence[tuple[CoreStorage, int]]:
        """Never anything: nothing survives."""
        return ()

    def user_data(self, key: str) -> bytes | None:
        """A store-wide value, or None."""
        return self._user_data.get(key)

    def user_data_items(self, prefix: str) -> list[tuple[str, bytes]]:
        """All store-wide values whose key starts with *prefix*, sorted by key."""
        return sorted(item for item in self._user_data.items() if item[0].startswith(prefix))

    def core_values(self, key: str) -> Iterator[bytes]:
        """What the cores that have one keep under *key*."""
        found = [core.user_data(key) for core in self._cores.values()]
        return (value for value in found if value is not None)

    def set_user_data(self, key: str, value: bytes | None) -> None:
        """Set or delete (None) a store-wide value."""
        self.check_open()
        if value is None:
            self._user_data.pop(key, None)
        else:
            self._user_data[key] = value

    def close(self) -> None:
        """Everything is forgotten with the object."""
        self._closed = True

    def _own(self, core: CoreStorage) -> MemoryCore:
        if not isinstance(core, MemoryCore) or core._storage is not self:
            raise ValueError("this core belongs to another store")
        if core._removed:
            raise StorageConflict("this core was removed from the store")
        return core
