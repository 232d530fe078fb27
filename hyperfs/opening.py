"""Making, opening and removing drives: two cores of a store, and what runs while one is open."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import trio

from corestore import (
    Corestore,
    CorestoreError,
    ForkConflict,
    MustRecover,
    Reason,
    StorageLocked,
    WrongEncryptionKey,
    derive_manifest,
)
from hyperfs import registry
from hyperfs.blocks import CoreBlocks, Patience
from hyperfs.collect import oldest_version
from hyperfs.committer import Committer
from hyperfs.dedup import StoredChunkTable
from hyperfs.drive import Drive
from hyperfs.errors import DriveEncrypted, NotADrive
from hyperfs.follow import Follower
from hyperfs.hyperdrive import (
    Directories,
    HyperdriveFormat,
    Owner,
    content_key,
    is_hyperdrive,
)
from hyperfs.index.build import build_commit
from hyperfs.index.node import NodeCache
from hyperfs.index.root import check_header, header_block
from hyperfs.links import DriveLink
from hyperfs.live import LiveTree
from hyperfs.records import ROOT_ID, Entry, pack_entry, shared_key
from hyperfs.view import IndexFormat, View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from corestore import Hypercore, Key, KeyPair

logger: Final = logging.getLogger("hyperfs")

# The drives written through an open `Drive` of this process. The kernel's lock is the process's, so
# it does not tell two of them apart.
_writing: Final[WeakKeyDictionary[Corestore, set[Key]]] = WeakKeyDictionary()

METADATA_NAME: Final = "db"
# Tells the content core's namespace from the metadata core's: constant 0 of the name "hyperdrive".
# Format: hyperdrive 13; hyperfs/FORMAT.md, "The two logs".
BLOBS: Final = hashlib.blake2b(
    hashlib.blake2b(b"hyperdrive", digest_size=32).digest() + b"\0", digest_size=32
).digest()


async def create(store: Corestore, name: str, *, encrypted: bool = False) -> Key:
    """Make an empty drive called *name* and return its key; durable when this returns.

    The key is new even if a drive of this name was removed before.

    Args:
      encrypted: encrypt both cores, with a new random encryption key. It stays with the cores in
        the store; `DriveInfo.link` and `Drive.link` have it for the readers.

    Raises:
      DriveExists: the name is taken (it has the key of the drive).
      ValueError: it is no name.
    """
    registry.check_free(store, name)
    namespace = os.urandom(registry.NAMESPACE_BYTES)
    space = store.raw_namespace(namespace)
    key_pair = space.key_pair(METADATA_NAME)
    encryption_key = os.urandom(32) if encrypted else None
    async with await space.get(name=METADATA_NAME, encryption_key=encryption_key) as metadata:
        async with await open_content(store, metadata, key_pair) as content:
            now = time.time_ns()
            root = Entry(ROOT_ID, stat.S_IFDIR | 0o755, os.getuid(), os.getgid(), now, now, 0)
            blocks = build_commit(
                None,
                {shared_key(ROOT_ID): pack_entry(root)},
                first_block=1,
                time_ns=now,
                content_length=0,
                next_id=ROOT_ID + 1,
                files=1,
                bytes=0,
            )
            # Header and first version in one: there is no such thing as half a drive.
            async with store.transaction(metadata, content) as transaction:
                await transaction.append(metadata, header_block(), *blocks)
        registry.add(store, name, metadata.key, namespace)
        await store.sync()
        return metadata.key


async def rename_drive(store: Corestore, old: str, new: str) -> None:
    """Call the drive *old* by the name *new*; its key stays.

    Raises:
      NoSuchDrive, DriveExists, ValueError.
    """
    registry.rename(store, old, new)
    await store.sync()


async def remove_drive(store: Corestore, name: str) -> None:
    """Delete a drive and everything in it from the store. A drive made here can never be written
    again by anybody.

    Raises:
      NoSuchDrive: there is none of this name.
      ValueError: it is open in this process.
      StorageLocked: another process is writing it.
    """
    info = registry.find_name(store, name)
    cores = [info.key.discovery_key]
    async with await store.get(key=info.key) as metadata:
        if metadata.manifest is not None:
            async with await open_content(store, metadata, None) as content:
                cores.append(content.discovery_key)
    # The name first: a crash then leaves cores nobody asks for, not a name that leads nowhere.
    registry.remove(store, name)
    for number, discovery_key in enumerate(cores):
        try:
            await store.remove(discovery_key)
        except BaseException:
            if not number:
                # Nothing is removed: it is open, say.
                registry.add(store, name, info.key, info.namespace)
            raise
    await store.sync()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open(
    store: Corestore,
    *,
    key: DriveLink | Key | bytes | str | None = None,
    name: str | None = None,
    encryption_key: bytes | None = None,
    create: bool = False,
    read_timeout: float | None = None,
    verify_reads: bool = False,
) -> AsyncIterator[Drive]:
    """Open a drive by its key, or one of this store's by its name, for as long as the block runs.

    A drive of this store can be changed. Leaving the block commits what is staged (and does not
    wait until that is durable: the store does when it closes). A drive of somebody else is shown at
    the newest version the store has, and follows what its peers tell; see `Drive.ready`.

    Args:
      key: may also be the drive's link, as `Drive.link` has it or as text.
      encryption_key: of an encrypted drive, if the link does not have it. Once a drive was read
        with it, the store knows it.
      create: make a drive called *name* if there is none.
      read_timeout: how many seconds a read waits for missing blocks before TooSlowError; further
        ones then fail at once until a peer sends something. So does the first one if no peer has
        been there for so long. None: for ever.
      verify_reads: compare content with its hash at each read from the disk, too, not only when it
        is received or written. What the disk has damaged is then an error of the read, and of a
        drive of somebody else fetched anew.

    Raises:
      NoSuchDrive: there is no drive of that name.
      NotADrive, UnsupportedFormat: what the store has under *key* is no drive this program reads.
      DriveEncrypted: *encryption_key* is not this drive's. (If one is needed and not given,
        `Drive.ready` says so.)
      ValueError: both or neither of *key* and *name*, or a malformed one.
      TypeError: *key* is nothing of that kind.
    """
    if (key is None) == (name is None):
        raise ValueError("a drive is opened by its key or by its name")
    if name is not None:
        if create and all(info.name != name for info in registry.drives(store)):
            await _create(store, name)
        info = registry.find_name(store, name)
        wanted = info.key
    else:
        assert key is not None
        link = DriveLink.parse(key)
        wanted, encryption_key = link.key, encryption_key or link.encryption_key
        found = registry.find_key(store, wanted)
        name = None if found is None else found.name
    try:
        metadata = await store.get(key=wanted, encryption_key=encryption_key)
    except WrongEncryptionKey:
        raise DriveEncrypted(wrong_key=True) from None
    opening = _Opening(store, metadata, name, Patience(read_timeout), verify_reads)
    failure: BaseException | None = None
    try:
        drive = await opening.prepare()
        async with trio.open_nursery() as nursery:
            opening.start(nursery)
            try:
                yield drive
            except BaseException as error:
                # Raised again outside of the nursery, so that callers see their own exception
                # and not a group around it.
                failure = error
            try:
                await opening.finish(failed=failure is not None)
            except Exception as error:  # told like one of the caller's
                if failure is not None:
                    raise
                failure = error
            finally:
                opening.stop()
            nursery.cancel_scope.cancel()
    finally:
        await opening.close()
    if failure is not None:
        raise failure


# `open` has a parameter of that name.
_create = create


class _Opening:
    """What belongs to one open drive."""

    def __init__(
        self,
        store: Corestore,
        metadata: Hypercore,
        name: str | None,
        patience: Patience,
        verify_reads: bool,
    ) -> None:
        self._store = store
        self._metadata = metadata
        self._content: Hypercore | None = None
        self._name = name
        self._patience = patience
        self._verify_reads = verify_reads
        self._cache = NodeCache()
        self._directories = Directories()
        # Those of the Node stack are read, whoever has their secret key; those whose key was moved
        # are followed like anybody else's.
        moved = metadata.held_for is Reason.MOVED
        writable = metadata.writable and not moved and not _is_hyperdrive(metadata)
        blocks = CoreBlocks(metadata, self._patience, check=True, ours=writable)
        self._tree = LiveTree(blocks, writable=writable)
        self._follower = Follower(metadata, self._tree, self._open_format)
        self._committer: Committer | None = None
        self._table: StoredChunkTable | None = None
        self._writes = False
        # A cancelled block may still have something to commit as it ends.
        self._background = trio.CancelScope(shield=True)

    async def prepare(self) -> Drive:
        """What needs no peer: cores, the newest version there is, repair."""
        if self._tree.writable:
            await self._ensure_content(None)
            assert self._content is not None
            self._table = StoredChunkTable(self._store, self._content)
            self._committer = Committer(
                self._store,
                self._metadata,
                self._content,
                self._tree,
                self._cache,
                self._table,
                oldest=oldest_version(self._metadata),
            )
            self._tree.before_first_change = self._begin_writing
        await self._follower.show_cached()
        await self._repair()
        await self._name_history()
        return Drive(
            self._metadata,
            self._tree,
            name=self._name,
            store_path=None if self._store.path is None else Path(self._store.path),
            committer=self._committer,
            follower=self._follower,
        )

    def start(self, nursery: trio.Nursery) -> None:
        """Run what runs while the drive is open."""
        nursery.start_soon(self._follower.run)
        nursery.start_soon(self._follower.prefetch)
        if self._patience.seconds is not None and not self._tree.writable:
            nursery.start_soon(self._patience.notice_absence, self._metadata)
        if self._committer is not None:
            nursery.start_soon(self._run_committer, self._committer)
        if self._table is not None:
            nursery.start_soon(self._table.run)

    @trio.lowlevel.enable_ki_protection
    async def _run_committer(self, committer: Committer) -> None:
        with self._background:
            await committer.run()

    async def finish(self, *, failed: bool) -> None:
        """Commit what is staged, even when cancelled. Raises what that raises, unless something
        has failed already."""
        if self._committer is None or self._table is None:
            return
        with trio.CancelScope(shield=True):
            try:
                await self._committer.commit()
            except (OSError, CorestoreError) as error:
                if not failed:
                    raise
                logger.error("what was written last is lost: %s", error)
            else:
                await self._table.finish()

    def stop(self) -> None:
        """End what `start` started, together with its nursery."""
        self._background.cancel()

    async def close(self) -> None:
        """Close the handles."""
        if self._writes:
            _writing[self._store].discard(self._metadata.key)
        with trio.CancelScope(shield=True):
            await self._metadata.aclose()
            if self._content is not None:
                await self._content.aclose()

    async def _open_format(self, header: bytes | None) -> None:
        """See `Follower`."""
        tree = self._tree
        if header is None or (header and not is_hyperdrive(header)):
            if header is not None:
                check_header(header)
            await self._ensure_content(None)
            if tree.format is not None:
                # The log was truncated: other nodes have the places of those that were kept.
                self._cache = NodeCache()
            tree.format = IndexFormat(tree.metadata_blocks, self._cache)
            return
        await self._ensure_content(content_key(header) if header else None)
        assert tree.content_blocks is not None
        owner = Owner(os.getuid(), os.getgid())
        tree.format = HyperdriveFormat(
            tree.metadata_blocks, tree.content_blocks, owner, self._directories
        )

    async def _ensure_content(self, key: bytes | None) -> None:
        """Open the content core, which the header names or the manifest leads to."""
        opened = self._content
        if opened is not None and key not in (None, opened.key):
            # Opened before the header was known, by what the manifest says.
            self._content = None
            await opened.aclose()
        if self._content is None:
            metadata = self._metadata
            if key is None:
                self._content = await open_content(self._store, metadata, None)
            else:
                self._content = await self._store.get(
                    key=key, encryption_key=metadata.encryption_key
                )
            self._tree.set_content(
                CoreBlocks(
                    self._content,
                    self._patience,
                    check=self._verify_reads,
                    ours=self._tree.writable,
                )
            )

    async def _repair(self) -> None:
        """Cut what a power cut left of a commit, before peers are shown half a version.

        Nothing of it was published: corestore keeps at least what was.
        """
        metadata, view = self._metadata, self._tree.view
        if not self._tree.writable or view is None or view.version == metadata.length:
            return
        try:
            await metadata.cut_unpublished(view.version)
        except (StorageLocked, MustRecover, ForkConflict):
            # Another process writes the drive, or another store does; its log is none of our
            # business.
            return
        except ValueError:
            # Recovering it from peers was not finished: the follower goes on with it.
            logger.warning(
                "drive %s: version %d is not here, %d is shown",
                metadata.key,
                metadata.length,
                view.version,
            )
            return
        # Roots of the cut tail were looked at; other blocks will take their places.
        self._cache.forget_from(view.version)
        logger.warning("drive %s goes on from version %d", metadata.key, view.version)

    async def _name_history(self) -> None:
        """Have a version say on which history of the content it relies, if the newest says another:
        whoever settled two histories died before that. It comes before anybody is shown the other.
        """
        view, content = self._tree.view, self._content
        if not self._tree.writable or not isinstance(view, View) or content is None:
            return
        if view.index.root.content_fork >= content.fork:
            return
        assert self._committer is not None
        try:
            self._tree.check_writable()
            await self._committer.tell_content_fork()
        except (CorestoreError, OSError) as error:
            logger.warning(
                "drive %s: its newest version is of an old history: %s", self._metadata.key, error
            )

    def _begin_writing(self) -> None:
        """Take the right to write; from now on nobody else appends."""
        key = self._metadata.key
        writing = _writing.setdefault(self._store, set())
        if key in writing:
            raise StorageLocked(
                f"drive {key} is open twice in this process, and written through the other one",
                pid=os.getpid(),
            )
        self._metadata.lock()
        assert self._content is not None
        self._content.lock()
        self._follower.show_newest()
        self._check_newest()
        if self._table is not None:
            self._table.want()
        writing.add(key)
        self._writes = True
        self._follower.stop()

    def _check_newest(self) -> None:
        """Raises MustRecover if what peers have seen of the drive is not here: it would be lost."""
        metadata, view = self._metadata, self._tree.view
        # A drive begins with its header.
        shown = 1 if view is None else view.version
        if shown < metadata.published_length:
            raise MustRecover(
                f"version {metadata.published_length} of drive {metadata.key} is not here, only"
                f" {shown}: recover it from a peer before writing",
                reason="behind",
            )


def _is_hyperdrive(metadata: Hypercore) -> bool:
    return metadata.has(0) and is_hyperdrive(metadata.get_nowait(0))


async def open_content(
    store: Corestore, metadata: Hypercore, key_pair: KeyPair | None
) -> Hypercore:
    """The content core that belongs to a metadata core.

    Raises:
      NotADrive: a core without a manifest has none.
    """
    if metadata.manifest is None:
        raise NotADrive("a drive's metadata core has a manifest, this core has none")
    manifest = derive_manifest(metadata.manifest, BLOBS, metadata.key)
    return await store.get(
        manifest=manifest, key_pair=key_pair, encryption_key=metadata.encryption_key
    )
