"""Keeps up with a drive that somebody else writes: new roots, what they changed, who is told.

A new length is followed in this order: its root block and overlay are fetched, what changed since
the version before is found (if anybody wants to know), then, in one step, look-ups show the new
version and open files their new content; then subscribers are told. Until then the old version is
shown.

Which version is shown is kept in the store: without peers it is the one to go on with. A later one
may be here in part, and what was read before could not be reached through that.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from corestore import (
    CorestoreError,
    DecodeError,
    ForkConflict,
    StorageError,
    WrongEncryptionKey,
)
from hyperfs.changes import Changed
from hyperfs.content import ContentMap
from hyperfs.errors import DriveEncrypted
from hyperfs.index.node import BlocksMissing
from hyperfs.index.root import content_fork
from hyperfs.records import Entry, entry_key, shared_key
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from corestore import Hypercore
    from hyperfs.changes import EntryChange
    from hyperfs.live import LiveTree
    from hyperfs.subscription import Changes
    from hyperfs.view import Format, TreeView
    from hyperfs.writer import OpenFile

logger: Final = logging.getLogger("hyperfs")

# More changed names in one step than this are not listed: everything is to be taken as changed.
MAX_LISTED: Final = 4096
# How far back a store without peers looks for a version it can show.
_SEARCH_BLOCKS: Final = 65536
_PREFETCH_BLOCKS: Final = 64
# A program that looks up one path and ends is not to fetch what many look-ups need.
_PREFETCH_AFTER_SECONDS: Final = 1.0
# User data of the metadata core: the version shown last, and its fork if that is not 0, in decimal
# digits with a space between.
_SHOWN: Final = "drive/shown"
# A root that does not come in this time may be one whose only holder went away: try the newest.
_RETARGET_SECONDS: Final = 2.0
# The two logs of a Hyperdrive are truncated one after the other, and travel as they like.
_CONTENT_SECONDS: Final = 0.5


class Follower:
    """Follows one metadata core and moves a tree along. `run` must be running.

    *open_format* is called when the metadata core's manifest is known, before the first version is
    shown, and again when a log was truncated: with block 0, or None for one that cannot be read
    without an encryption key; and with b"" for a log without blocks, which only a drive of the Node
    stack has that was not written yet (then again when it has one). It opens the content core and,
    unless it raises NotADrive, UnsupportedFormat or DriveEncrypted, gives the tree its format.
    """

    def __init__(
        self,
        metadata: Hypercore,
        tree: LiveTree,
        open_format: Callable[[bytes | None], Awaitable[None]],
    ) -> None:
        self._metadata = metadata
        self._tree = tree
        # Nothing waits for the follower but `wait_ready`.
        self._blocks = tree.metadata_blocks.patient()
        self._open_format = open_format
        self._moved = trio.lowlevel.ParkingLot()
        self._error: BaseException | None = None
        # The fork and length that were looked at last.
        self._seen = (0, -1)
        # The fork that the format reads, and what the version shown can be compared with.
        self._fork = metadata.fork
        self._comparable: tuple[Format | None, int] = (None, 0)
        self._ended = False
        self.subscribers: set[Changes] = set()

    @property
    def encrypted(self) -> bool:
        """Whether the drive turned out to be encrypted with a key that is not known here."""
        return isinstance(self._error, DriveEncrypted)

    # -- waiting -----------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Return once a version is shown. Raises NotADrive, UnsupportedFormat, DecodeError."""
        await trio.lowlevel.checkpoint()
        while self._tree.view is None:
            if self._error is not None:
                raise self._error
            await self._moved.park()

    async def wait_caught_up(self) -> None:
        """Return once everything known of the log has been looked at."""
        await trio.lowlevel.checkpoint()
        while not self._ended and self._has_news():
            await self._moved.park()

    @property
    def _known(self) -> tuple[int, int]:
        return self._metadata.fork, self._metadata.length

    # -- following ---------------------------------------------------------------------------

    async def show_cached(self) -> None:
        """Show the newest version that is in the store, if there is one. Needs no peer.

        Raises NotADrive, UnsupportedFormat.
        """
        metadata = self._metadata
        if not metadata.length or not metadata.has(0):
            return
        try:
            await self._begin()
        except DriveEncrypted as error:
            self._error = error
            return
        self.show_newest()

    async def _begin(self) -> None:
        """Check the header and open the content core.

        Raises NotADrive, UnsupportedFormat, DriveEncrypted; after the last the content core is open
        all the same: an encrypted drive can be held and served without its encryption key.
        """
        try:
            await self._blocks.fetch((0,))
            await self._open_format(self._metadata.get_nowait(0))
        except (DriveEncrypted, WrongEncryptionKey) as error:
            await self._open_format(None)
            raise DriveEncrypted(wrong_key=isinstance(error, WrongEncryptionKey)) from None

    def show_newest(self) -> None:
        """Show the newest version that is in the store. Others are told nothing.

        Of a drive of ours, one that relies on no more content than there is; of somebody else's,
        none newer than the one that was shown last.
        """
        metadata = self._metadata
        if self._content_is_behind():
            return
        tops = [metadata.length]
        if not metadata.writable and (shown := self._shown_before()[1]):
            tops.insert(0, min(shown, metadata.length))
        for top in tops:
            if self._show_at_most(top):
                return

    def _show_at_most(self, top: int) -> bool:
        """Whether a version up to *top* is shown now."""
        metadata, tree = self._metadata, self._tree
        assert tree.format is not None
        limit = None
        if metadata.writable and tree.content_blocks is not None:
            limit = tree.content_blocks.core.length
        oldest = top - _SEARCH_BLOCKS
        if tree.view is not None:
            if tree.view.version >= top:
                return True
            oldest = max(oldest, tree.view.version + 1)
        view = tree.format.find_local(top, oldest, limit)
        if view is None:
            return tree.view is not None
        tree.show(view)
        self._comparable = tree.format, self._fork
        if view.version == metadata.length:
            self._seen = self._known
        self._moved.unpark_all()
        return True

    def _content_is_behind(self) -> bool:
        """Whether nothing of this history of the metadata was ever shown, and the content that it
        relies on is perhaps not here: another history's may have its places."""
        metadata, content = self._metadata, self._tree.content_blocks
        if metadata.writable or content is None or metadata.fork <= self._shown_before()[0]:
            return False
        try:
            newest = self._tree.metadata_blocks.block(metadata.length - 1)
        except (BlocksMissing, CorestoreError, OSError):
            return True
        fork = content_fork(newest, metadata.length - 1)
        return content.core.fork < (metadata.fork if fork is None else fork)

    def _shown_before(self) -> tuple[int, int]:
        """The fork and the version that were shown last out of this store; 0 and 0 if not known."""
        version, _, fork = (self._metadata.user_data(_SHOWN) or b"").partition(b" ")
        if not version.isdigit():
            return 0, 0
        return int(fork) if fork.isdigit() else 0, int(version)

    async def _keep_shown(self, fork: int, version: int) -> None:
        # Several processes may follow the drive: the record only grows.
        if not self._metadata.writable and (fork, version) > self._shown_before():
            kept = b"%d %d" % (version, fork) if fork else b"%d" % version
            await self._metadata.set_user_data(_SHOWN, kept)

    async def prefetch(self) -> None:
        """Fetch what many look-ups need of the version shown, and of later ones, until cancelled;
        not in the first second."""
        if self._metadata.writable:
            return
        await trio.sleep(_PREFETCH_AFTER_SECONDS)
        tree, done = self._tree, None
        while True:
            view = tree.view
            if view is None or view is done:
                await self._moved.park()
                continue
            try:
                missing = view.blocks_ahead(_PREFETCH_BLOCKS)
            except (CorestoreError, OSError):
                missing = []
            if missing:
                try:
                    await self._blocks.fetch(missing)
                except (CorestoreError, OSError) as error:
                    # Whoever needs one of these blocks will hear of it.
                    logger.warning("drive %s: %s", self._metadata.key, error)
                    done = view
            else:
                done = view

    async def run(self) -> None:
        """Follow until cancelled, or `stop`ped."""
        try:
            while not self._ended:
                try:
                    await self._wait_for_news()
                except (ForkConflict, StorageError) as error:
                    # What is shown stays, and nothing will come.
                    logger.warning("drive %s is not followed: %s", self._metadata.key, error)
                    self._error = error
                    return
                if self._is_ended():
                    return
                known = self._known
                try:
                    with trio.move_on_after(_RETARGET_SECONDS):
                        await self._follow(*known)
                        self._seen = known
                        self._error = None
                except DriveEncrypted as error:
                    # No later version will be more readable.
                    self._error = error
                    return
                except (CorestoreError, OSError) as error:
                    # The version shown stays; a later one may be readable again.
                    logger.warning(
                        "version %d of drive %s: %s", known[1], self._metadata.key, error
                    )
                    self._error = error
                    self._seen = known
                self._moved.unpark_all()
        finally:
            self._ended = True
            self._moved.unpark_all()

    def _is_ended(self) -> bool:
        """Asked after an await: `stop` may have been called, which mypy cannot know of a field."""
        return self._ended

    def stop(self) -> None:
        """The drive is written here from now on."""
        self._ended = True
        self._moved.unpark_all()

    async def _wait_for_news(self) -> None:
        """Return when there is something to follow. Raises ForkConflict, StorageError."""
        failure: CorestoreError | None = None

        async def wait(core: Hypercore) -> None:
            nonlocal failure
            try:
                await core.wait_until(self._has_news)
            except (ForkConflict, StorageError) as error:
                if core is not self._metadata:
                    return
                failure = error
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, self._metadata)
            if self._tree.content_blocks is not None:
                nursery.start_soon(wait, self._tree.content_blocks.core)
        if failure is not None:
            raise failure

    def _has_news(self) -> bool:
        if self._ended or self._content_came_late():
            return True
        return self._seen != self._known and (self._known[1] > 0 or self._empty())

    def _content_came_late(self) -> bool:
        """Whether the content was truncated after the metadata that says so was shown.

        What is truncated before is no news: the metadata will tell, and until then what was cut off
        cannot be read.
        """
        content = self._tree.content_blocks
        return content is not None and content.cut and content.core.fork <= self._fork

    def _empty(self) -> bool:
        """Whether the log seems to have no block yet: somebody knows its manifest, and no more."""
        metadata = self._metadata
        unknown = self._tree.view is None and not self._shown_before()[1]
        return unknown and metadata.manifest is not None and bool(metadata.peers)

    async def _follow(self, fork: int, length: int) -> None:
        tree, old = self._tree, self._tree.view
        if not length:
            await self._show_empty()
            return
        if tree.format is None or (self._fork == fork and (old is None or not old.version)):
            # On its way while the header is: a round trip less.
            self._metadata.hint((length - 1,))
            await self._begin()
            self._fork = fork
        await self._wait_for_content(fork, length)
        content = tree.content_blocks
        if self._fork != fork or (content is not None and content.cut):
            await self._begin_again(fork)
        self._fork = fork
        form = tree.format
        assert form is not None
        view = await self._blocks.complete(lambda: form.view(length))
        changed: Changed | None = None
        # Without peers, one that is here in part must not take the place of one that is whole.
        alone = not self._metadata.peers
        if old is not None and (self.subscribers or tree.files or alone):
            if self._comparable != (form, fork):
                # What there was is gone, and so is what could be compared.
                changed = Changed(length, (), complete=False)
                await self._look_ahead(view)
            else:
                changed = await self._compare(form, old, view)
        if self._is_ended() or self._metadata.fork != fork:
            return
        self._comparable = form, fork
        # No await since it was decided whether to compare, or since the comparing: look-ups, open
        # files and subscribers change together.
        tree.show(view)
        self._moved.unpark_all()
        if changed is not None:
            _move_files(tree, changed, view)
            for subscriber in self.subscribers:
                subscriber.put(changed)
        await self._keep_shown(fork, length)

    async def _begin_again(self, fork: int) -> None:
        """A log was truncated. What was shown before cannot be read any more where it was cut."""
        tree, content = self._tree, self._tree.content_blocks
        if self._fork != fork:
            logger.warning("the log of drive %s was truncated by its writer", self._metadata.key)
        tree.metadata_blocks = tree.metadata_blocks.renewed()
        self._blocks = tree.metadata_blocks.patient()
        if content is not None:
            # Read when the new version is shown.
            tree.content_blocks = content.renewed()
        await self._begin()

    async def _wait_for_content(self, fork: int, length: int) -> None:
        """Return when the content is of the history that the newest version relies on.

        A version of a Hyperdrive does not say which that is, and its metadata can be truncated
        alone. So somebody who has the content is asked: what is here would be taken for it.
        """
        content = self._tree.content_blocks
        if content is None or self._metadata.writable:
            # In the store in which they are written both logs are of one history.
            return
        core, blocks = content.core, self._blocks.renewed()
        newest = await blocks.complete(lambda: blocks.block(length - 1))
        named = content_fork(newest, length - 1)
        if named is not None:
            await core.wait_until(lambda: core.fork >= named)
        elif core.length and self._shown_before()[0] < fork > core.fork:
            await core.wait_peers()
            with trio.move_on_after(_CONTENT_SECONDS), suppress(ForkConflict):
                await core.update()
                await core.wait_until(lambda: core.fork >= fork)

    async def _show_empty(self) -> None:
        """Show that there is nothing, if that is what all peers say."""
        await self._metadata.update()
        if self._metadata.length:
            return
        await self._open_format(b"")
        form = self._tree.format
        assert form is not None
        self._tree.show(form.view(0))
        self._moved.unpark_all()

    async def _look_ahead(self, view: TreeView) -> None:
        """Fetch what open files will show in a version."""
        for file in list(self._tree.files.values()):
            location = file.location
            if location is not None:
                key = shared_key(file.id) if location is SHARED else entry_key(*location)
                with suppress(DecodeError, trio.TooSlowError):
                    await self._blocks.complete(partial(view.find, key))

    async def _compare(self, form: Format, old: TreeView, new: TreeView) -> Changed:
        changes: list[EntryChange] = []
        steps = form.changes(old, new)
        try:
            while True:
                change = await self._blocks.complete(lambda: next(steps, None))
                if change is None:
                    return Changed(new.version, tuple(changes))
                changes.append(change)
                if len(changes) > MAX_LISTED:
                    break
        except (DecodeError, trio.TooSlowError) as error:
            logger.warning("changes up to version %d are not all readable: %s", new.version, error)
        return Changed(new.version, (), complete=False)


def _move_files(tree: LiveTree, changed: Changed, view: TreeView) -> None:
    """Let open files show the new version. One that was removed keeps its last content."""
    if not changed.complete:
        for file in list(tree.files.values()):
            _look_again(file, view)
        return
    for change in changed.changes:
        old, new = change.old, change.new
        if old is not None and old.id in tree.files and (new is None or new.id != old.id):
            tree.files[old.id].location = None
    moved = [change for change in changed.changes if change.new and change.new.id in tree.files]
    # Those of shared records last: a file that has one lies there, however few names it has left.
    for change in sorted(moved, key=lambda change: change.directory is None):
        new, directory, name = change.new, change.directory, change.name
        assert new is not None
        file = tree.files[new.id]
        if directory is None or name is None or new.nlink > 1:
            file.location = SHARED
        else:
            file.location = directory, name
        file.refresh(new, ContentMap.of_entry(new, view))


def _look_again(file: OpenFile, view: TreeView) -> None:
    location = file.location
    if location is None:
        return
    key = shared_key(file.id) if location is SHARED else entry_key(*location)
    try:
        entry = view.find(key)
    except (BlocksMissing, DecodeError):
        # It goes on showing the version it had, which is a version all the same.
        return
    if isinstance(entry, Entry) and entry.id == file.id:
        file.refresh(entry, ContentMap.of_entry(entry, view))
    else:
        file.location = None
