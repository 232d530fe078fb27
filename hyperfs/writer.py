"""`OpenFile`: the live state of a file that somebody holds open, and its unflushed writes.

A file's bytes lie in up to three layers: the content that is appended (a `ContentMap`), a frozen
delta that a commit is just appending, and the delta that collects writes. A read takes one instant
of all three before it waits for anything, so it never mixes two states of the file.
"""

from __future__ import annotations

import enum
import errno
import os
from typing import TYPE_CHECKING, Final, Protocol, TypedDict, Unpack

from corestore import DecodeError
from hyperfs.content import ContentMap
from hyperfs.delta import UNCUT, Delta
from hyperfs.extents import Extent
from hyperfs.index.node import BlocksMissing
from hyperfs.reader import READ_AHEAD_MOST, ReadAhead
from hyperfs.records import Entry, check_attributes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from hyperfs.blobs import Piece
    from hyperfs.blocks import CoreBlocks
    from hyperfs.reader import ContentReader


# No file becomes larger: 1 PiB (ext4 stops at 16 TiB). The format has room for more, but a program
# that reads such a hole to its end would not come back.
MAX_SIZE: Final = 1 << 50


class Shared(enum.Enum):
    """The location of a file with several names: its record lies under its own id."""

    SHARED = "shared"


SHARED: Final = Shared.SHARED
# (directory id, name) | the shared record | None: no name left (unlinked, or never linked).
Location = tuple[int, bytes] | Shared | None


class Attributes(TypedDict, total=False):
    """What `OpenFile.update` may set."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    nlink: int
    rdev: int
    xattrs: Mapping[bytes, bytes]


class FileOwner(Protocol):
    """What an open file needs of its drive."""

    writable: bool

    @property
    def metadata_blocks(self) -> CoreBlocks: ...
    @property
    def reader(self) -> ContentReader: ...
    @property
    def content_length(self) -> int | None:
        """How many content blocks the version shown relies on; None where that is no bound."""
        ...

    def check_writable(self) -> None:
        """Raises NotWritable, StorageLocked."""
        ...

    def now_ns(self) -> int:
        """The wall clock."""
        ...

    def file_changed(self, file: OpenFile, dirty_bytes: int) -> None:
        """*file* has something to commit; its unflushed content grew by *dirty_bytes*."""
        ...

    def file_moved(self, file: OpenFile, old: Location, new: Location) -> None: ...
    def file_released(self, file: OpenFile) -> None: ...
    def wait_for_room(self, *, background: bool = False) -> Awaitable[None]:
        """Return when the drive holds no more unflushed content than it should; who works in the
        *background* waits from half of that on."""
        ...


class OpenFile:
    """One per file id, counted. Writes are visible at once to reads, look-ups and listings."""

    __slots__ = (
        "_attributes",
        "_holders",
        "_live",
        "_location",
        "_owner",
        "_read_ahead",
        "_written_ns",
        "committing",
        "content",
        "delta",
        "frozen",
        "id",
        "record_dirty",
    )

    def __init__(
        self, owner: FileOwner, entry: Entry, content: ContentMap, location: Location
    ) -> None:
        self._owner = owner
        self.id = entry.id
        # Of size and content in it only `_live` knows whether they are right.
        self._attributes = entry
        # When it was written to last, if `_attributes` does not say so yet.
        self._written_ns: int | None = None
        self._location: Location = location
        self._holders = 1
        # Of a file whose content is not all here.
        self._read_ahead: ReadAhead | None = None
        self._live: Entry | None = entry
        # The three layers; `hyperfs.committer` moves what is in them downwards.
        self.content = content
        self.frozen: Delta | None = None
        self.delta: Delta | None = None
        # Attributes, or the place of appended content, differ from the record.
        self.record_dirty = False
        # A commit is writing the record: until it is there only this object knows what it says.
        self.committing = False

    # -- what it is --------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes in the file, unflushed writes included."""
        top = self.delta or self.frozen
        return self.content.size if top is None else top.size

    @property
    def used_bytes(self) -> int:
        """How many bytes of it are no hole, unflushed ones included. Never too few: what lies over
        appended content or over a frozen delta is counted twice where there is a hole elsewhere."""
        cut, used = UNCUT, 0
        delta, frozen = self.delta, self.frozen
        if delta is not None:
            cut, used = delta.cut, delta.ranges.byte_length
            if used >= delta.size:
                # A new file, mostly.
                return delta.size
        if frozen is not None:
            used += min(frozen.ranges.byte_length, cut)
            cut = min(cut, frozen.cut)
        return min(self.size, used + self.content.used_before(cut))

    @property
    def entry(self) -> Entry:
        """The live record: size, times, attributes. Its content is what was appended last."""
        live = self._live
        if live is None:
            old, now, content = self._attributes, self._written_ns, self.content
            # In one step: after each write the kernel asks what has become of the file.
            live = Entry(
                old.id,
                old.mode,
                old.uid,
                old.gid,
                old.mtime_ns if now is None else now,
                old.ctime_ns if now is None else now,
                self.size,
                old.nlink,
                old.rdev,
                old.xattrs,
                old.target,
                content.inline,
                content.extents,
                content.grouped,
                old.blob,
            )
            self._written_ns = None
            self._live = self._attributes = live
        return live

    @property
    def attributes(self) -> Entry:
        """The live attributes; size and content in it mean nothing."""
        if self._written_ns is not None:
            now, self._written_ns = self._written_ns, None
            id, mode, uid, gid = self._attributes[:4]
            self._attributes = Entry(id, mode, uid, gid, now, now, *self._attributes[6:])
        return self._attributes

    @property
    def dirty(self) -> bool:
        """Whether content or attributes wait for a commit, or are in one."""
        return (
            self.delta is not None
            or self.frozen is not None
            or self.record_dirty
            or self.committing
        )

    @property
    def dirty_bytes(self) -> int:
        """Unflushed content, in bytes."""
        total = self.delta.ranges.size_bytes if self.delta is not None else 0
        return total + (self.frozen.ranges.size_bytes if self.frozen is not None else 0)

    @property
    def held(self) -> bool:
        """Whether anybody holds it."""
        return self._holders > 0

    @property
    def location(self) -> Location:
        """Where the file's record lies. `LiveTree.put` and `delete` keep it right; setting it
        is for what they cannot know (`SHARED`)."""
        return self._location

    @location.setter
    def location(self, new: Location) -> None:
        old, self._location = self._location, new
        if old != new:
            self._owner.file_moved(self, old, new)

    # -- holding -----------------------------------------------------------------------------

    def acquire(self) -> OpenFile:
        """One more holder."""
        self._holders += 1
        return self

    def release(self) -> None:
        """One holder less. After the last one, what is dirty is still committed, or dropped if the
        file has no name."""
        assert self._holders > 0, "released more often than acquired"
        self._holders -= 1
        if not self._holders:
            self._owner.file_released(self)

    # -- reading -----------------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes; fewer only at the end of the file. One instant of the file.

        Does not suspend when everything is local.

        Raises:
          trio.TooSlowError: no peer sent what is missing within the drive's patience.
          DecodeError, VerificationError, StorageError: what is there is damaged.
        """
        if offset < 0 or length < 0:
            raise ValueError("offset and length are not negative")
        while True:
            end = min(offset + length, self.size)
            if end <= offset:
                return b""
            laid = self._laid_over(offset, end)
            if len(laid) == 1 and laid[0][0] == offset and len(laid[0][1]) == end - offset:
                return laid[0][1]
            content = self.content
            try:
                base = self._base_pieces(offset, end)
                break
            except BlocksMissing as missing:
                indices = missing.indices
            await self._owner.metadata_blocks.fetch(indices)
        self._fetch_ahead(offset, end)
        if content.inline is not None:
            stored = bytes(content.inline[offset:end])
        else:
            stored = await self._owner.reader.read(base)
        if not laid and len(stored) == end - offset:
            return stored
        data = bytearray(stored.ljust(end - offset, b"\0"))
        for at, piece in laid:
            data[at - offset : at - offset + len(piece)] = piece
        return bytes(data)

    def _base_pieces(self, offset: int, end: int) -> Sequence[Piece]:
        """The appended content of a range, up to where it is cut off."""
        stop = min(end, self.content.size)
        for delta in (self.frozen, self.delta):
            if delta is not None:
                stop = min(stop, delta.cut)
        if stop <= offset or self.content.inline is not None:
            return []
        pieces = self.content.pieces(offset, stop)
        limit = self._owner.content_length
        if limit is not None:
            for piece in pieces:
                # Such a block may never come: better to fail than to wait for it.
                if isinstance(piece, Extent) and piece.block >= limit:
                    raise DecodeError("extent of content the version relies on")
        return pieces

    def _laid_over(self, offset: int, end: int) -> list[tuple[int, bytes]]:
        """Copies of what the deltas lay over the appended content, in the order of laying."""
        laid: list[tuple[int, bytes]] = []
        frozen, delta = self.frozen, self.delta
        if frozen is not None:
            stop = end if delta is None else min(end, delta.cut)
            laid += frozen.ranges.overlapping(offset, stop)
        if delta is not None:
            laid += delta.ranges.overlapping(offset, end)
        return laid

    def _fetch_ahead(self, offset: int, end: int) -> None:
        if self._owner.writable:
            return
        if self._read_ahead is None:
            self._read_ahead = ReadAhead()
        ahead = self._read_ahead.advance(offset, end - offset)
        if ahead is None:
            return
        start, stop = ahead[0], min(ahead[1], self.content.size)
        if start >= stop or self.content.inline is not None:
            return
        try:
            pieces = self.content.pieces(start, stop)
        except BlocksMissing as missing:
            self._owner.metadata_blocks.core.hint(missing.indices)
            self._read_ahead.withdraw(start)
            return
        self._owner.reader.hint(pieces)
        later = stop + READ_AHEAD_MOST
        if later < self.content.size:
            # Where the content lies that will be asked for next has to be known by then.
            try:
                self.content.pieces(later, later + 1)
            except BlocksMissing as missing:
                self._owner.metadata_blocks.core.hint(missing.indices)

    # -- writing -----------------------------------------------------------------------------

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Lay bytes over the file; sets mtime and ctime.

        Applied before the first await: a cancelled write has written. Waits only while the drive
        holds too much unflushed content.

        Raises:
          NotWritable, StorageLocked: this process may not write the drive.
          OSError: EFBIG; ENOSPC and others, when what was written before cannot be flushed.
        """
        self.lay(offset, data)
        await self._owner.wait_for_room()

    def lay(self, offset: int, data: bytes | memoryview) -> None:
        """The same without the wait."""
        if offset < 0:
            raise ValueError("an offset is not negative")
        if offset + len(data) > MAX_SIZE:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if not len(data):
            return
        delta = self._writable_delta()
        before = delta.ranges.size_bytes
        delta.write(offset, data)
        self._changed(delta.ranges.size_bytes - before)

    async def store_again(self, offset: int, data: bytes) -> None:
        """Lay bytes that the file has at *offset* over themselves, so that the next commit stores
        them in new blocks. No times change. Waits as `write`, and sooner; raises as that."""
        delta = self._writable_delta()
        before = delta.ranges.size_bytes
        delta.write(offset, data)
        self._live = None
        self._owner.file_changed(self, delta.ranges.size_bytes - before)
        await self._owner.wait_for_room(background=True)

    def truncate(self, size: int) -> None:
        """Cut, or extend with a hole, to *size*; sets mtime and ctime.

        Raises NotWritable, OSError (EFBIG).
        """
        if size < 0:
            raise ValueError("a size is not negative")
        if size > MAX_SIZE:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        delta = self._writable_delta()
        before = delta.ranges.size_bytes
        delta.truncate(size)
        self._changed(delta.ranges.size_bytes - before)

    def update(self, **changes: Unpack[Attributes]) -> None:
        """Change attributes; staged as by `LiveTree.put`. Times are as given. Raises NotWritable,
        ValueError for what no reader would take."""
        entry = self.entry._replace(**changes)
        check_attributes(entry)
        self.change(entry)

    def change(self, entry: Entry) -> None:
        """As `update`; *entry* is the one that `entry` is now, with other attributes, which are
        known to be good."""
        self._owner.check_writable()
        self.record_dirty = True
        self._owner.file_changed(self, 0)
        self._attributes = self._live = entry

    def adopt_attributes(self, entry: Entry) -> None:
        """Take *entry*'s attributes, but not its size and content."""
        self._attributes = entry
        self._written_ns = None
        self.mark_record_dirty()

    def mark_record_dirty(self) -> None:
        """Have the record written with the next commit."""
        self._live = None
        self.record_dirty = True
        self._owner.file_changed(self, 0)

    def refresh(self, entry: Entry, content: ContentMap) -> None:
        """Show another version of the file: what the owner of a drive of somebody else does."""
        self._attributes = self._live = entry
        self._written_ns = None
        self.content = content

    # -- committing: what `hyperfs.committer` does with the layers -----------------------------

    def freeze(self) -> Delta | None:
        """The delta is being appended from now on; writes go to a new one."""
        assert self.frozen is None
        self.committing = True
        self.frozen, self.delta = self.delta, None
        return self.frozen

    def install(self, base: ContentMap, delta: Delta | None, content: ContentMap) -> int:
        """*delta* over *base* is appended, and is *content*. Returns by how much unflushed
        content grew beyond losing *delta*."""
        self._live = None
        self.committing = False
        if delta is not None and self.frozen is delta:
            self.frozen = None
        if self.content is not base:
            # Replaced meanwhile: what was appended belongs to a version that is already past.
            return 0
        if content.inline is None or self.delta is None:
            self.content = content
            return 0
        newer, before = self.delta, self.delta.ranges.size_bytes
        self.delta = Delta(content.size)
        self.delta.write(0, content.inline)
        self.delta.stack(newer)
        self.content = ContentMap(self.id, content.size)
        return self.delta.ranges.size_bytes - before

    def thaw(self, delta: Delta | None) -> int:
        """*delta* was not appended: it is unflushed again, under what was written since. Returns by
        how much unflushed content grew."""
        self.committing = False
        if delta is None:
            return 0
        if self.frozen is not delta:
            return -delta.ranges.size_bytes
        self.frozen = None
        if self.delta is None:
            self.delta = delta
            return 0
        before = delta.ranges.size_bytes + self.delta.ranges.size_bytes
        self.delta = delta.stack(self.delta)
        return self.delta.ranges.size_bytes - before

    def replace_content(self, other: OpenFile) -> int:
        """Take over the content of *other*, a file nobody else knows. Returns by how much
        unflushed content grew."""
        before = sum(each.ranges.size_bytes for each in (self.delta, other.delta) if each)
        delta = other.delta
        if other.frozen is not None:
            # It is just being appended for *other*: for nothing, but that equal chunks are found.
            delta = other.frozen.copy()
            if other.delta is not None:
                delta.stack(other.delta)
        content = self.content
        # A commit in flight may make groups of what is replaced here.
        stale = content.stale or content.grouped or self.frozen is not None
        self.content = other.content._replace(id=self.id, stale=stale)
        self.frozen, self.delta = None, delta
        other.delta = None
        self._live = None
        return (delta.ranges.size_bytes if delta is not None else 0) - before

    def _writable_delta(self) -> Delta:
        self._owner.check_writable()
        delta = self.delta
        if delta is None:
            delta = self.delta = Delta(self.size)
            inline = self.content.inline
            if inline is not None and self.frozen is None:
                # Inline content has no extents to lay something over: it is written again.
                delta.write(0, inline)
                self.content = ContentMap(self.id, self.content.size)
                self._owner.file_changed(self, delta.ranges.size_bytes)
        return delta

    def _changed(self, dirty_bytes: int) -> None:
        self._written_ns = self._owner.now_ns()
        self._live = None
        self._owner.file_changed(self, dirty_bytes)
