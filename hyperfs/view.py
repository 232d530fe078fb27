"""One version of a drive's tree, and the format it is written in.

`TreeView` is what a drive needs of a version, `Format` what it needs of a format: the narrow place
between the two. `View` and `IndexFormat` are our own format's: records of the index looked up and
listed, decoded, errors kept to their path. The other one is `hyperfs.hyperdrive`.

Nothing here waits: what is not local raises `BlocksMissing` (see `hyperfs.blocks`).
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from corestore import DecodeError
from hyperfs.changes import EntryChange
from hyperfs.index.diff import Diff
from hyperfs.index.node import BlocksMissing, NodeCache
from hyperfs.index.root import decode_root, find_root, find_root_at
from hyperfs.index.tree import Index
from hyperfs.records import (
    ID_BYTES,
    Entry,
    Link,
    group_key,
    group_range,
    group_window,
    is_name,
    key_id,
    shared_key,
    unpack_entry,
    unpack_group,
    unpack_record,
)
from hyperfs.staging import UNSAID

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from hyperfs.extents import Extent
    from hyperfs.index.diff import Change
    from hyperfs.index.node import BlockReader


class TreeView(Protocol):
    """One version of a tree. Immutable. Every method may raise BlocksMissing and DecodeError.

    `previous` is the version before, 0 for none. `time_ns` is when it was made; `files` and
    `byte_length` are for statfs; where the format does not tell they are 0. `content_length` is how
    many content blocks it relies on, None if that is not told. `next_id` is the first file id not
    yet used.
    """

    @property
    def version(self) -> int: ...
    @property
    def previous(self) -> int: ...
    @property
    def time_ns(self) -> int: ...
    @property
    def files(self) -> int: ...
    @property
    def byte_length(self) -> int: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def next_id(self) -> int: ...

    def find(self, key: bytes) -> Entry | Link | None:
        """The record under an entry's or a shared key."""
        ...

    def scan(
        self, start: bytes, end: bytes | None, limit: int, hidden: Container[bytes] = ()
    ) -> Sequence[tuple[bytes, Entry | Link]]:
        """The first *limit* entries from *start* to *end*, in order; fewer only at the end. Those
        of *hidden* keys, for which something newer is known, may be left out."""
        ...

    def group(self, id: int, window: int) -> tuple[Extent, ...]:
        """The extents of one window of a grouped file."""
        ...

    def group_windows(self, id: int, first: int, limit: int) -> list[int]:
        """Which windows of a grouped file have extents, from *first* on, at most *limit*."""
        ...

    def blocks_ahead(self, limit: int) -> list[int]:
        """Blocks that many look-ups need and that are not local, at most about *limit*. Fetch them
        and call again, until there are none."""
        ...


class Format(Protocol):
    """How the metadata log of one drive is read. Methods raise BlocksMissing and DecodeError."""

    def view(self, length: int) -> TreeView:
        """The version of a log of that length, with what is needed to show it."""
        ...

    def find_local(
        self, length: int, oldest: int, content_length: int | None = None
    ) -> TreeView | None:
        """The newest version that is local, not beyond *length* and not before *oldest*, and relies
        on no more content than *content_length* (None: any)."""
        ...

    def checkout(self, version: int, length: int) -> TreeView | None:
        """The newest version not above *version* of a log of *length*; None before the first."""
        ...

    def version_at(self, time_ns: int, length: int) -> int:
        """The newest version of a log of *length* not later than a time; 0 before the first, and
        where the format has no times."""
        ...

    def changes(self, old: TreeView, new: TreeView) -> Iterator[EntryChange]:
        """What changed from one version to another. `next` may be called again after
        BlocksMissing."""
        ...


# A name that is looked up or listed mostly is again soon: to be opened, changed or removed. Some
# 400 bytes each.
KNOWN_RECORDS: Final = 32_768
# How many entries a listing reads at once beyond those it needs, when some are left out.
_LEAST_AT_ONCE: Final = 64
_MOST_AT_ONCE: Final = 256


class View:
    """An `Index`, in terms of records. Immutable, except for what it remembers of them."""

    __slots__ = ("_known", "index")

    def __init__(self, index: Index) -> None:
        self.index = index
        # Records as they were decoded, None where there is none.
        self._known: dict[bytes, Entry | Link | None] = {}

    def follow(self, before: View, changes: Mapping[bytes, Entry | Link | None]) -> View:
        """Take over what *before* remembers, of which this version changes just *changes* (and
        groups); returns this."""
        known, before._known = before._known, {}
        known.update(changes)
        _forget_oldest(known)
        self._known = known
        return self

    @property
    def version(self) -> int:
        """The length of the metadata log that ends in this version's root."""
        return self.index.root.version

    @property
    def previous(self) -> int:
        """See `TreeView`."""
        index = self.index.root.previous
        return 0 if index is None else index + 1

    @property
    def time_ns(self) -> int:
        """See `TreeView`."""
        return self.index.root.time_ns

    @property
    def files(self) -> int:
        """See `TreeView`."""
        return self.index.root.files

    @property
    def byte_length(self) -> int:
        """See `TreeView`."""
        return self.index.root.bytes

    @property
    def content_length(self) -> int:
        """See `TreeView`."""
        return self.index.root.content_length

    @property
    def next_id(self) -> int:
        """See `TreeView`."""
        return self.index.root.next_id

    def find(self, key: bytes) -> Entry | Link | None:
        """The record under an entry's or a shared key.

        Raises:
          BlocksMissing: index blocks on the way are not local.
          DecodeError: a block on the way, or the record, is damaged.
        """
        record = self._known.get(key, UNSAID)
        if record is not UNSAID:
            return record
        value = self.index.get(key)
        return self._remember(key, None if value is None else unpack_entry(value))

    def _remember(self, key: bytes, record: Entry | Link | None) -> Entry | Link | None:
        known = self._known
        known[key] = record
        if len(known) > KNOWN_RECORDS:
            _forget_oldest(known)
        return record

    def scan(
        self, start: bytes, end: bytes | None, limit: int, hidden: Container[bytes] = ()
    ) -> list[tuple[bytes, Entry | Link]]:
        """The first *limit* entries from *start* to *end* without those of *hidden* keys, in order;
        fewer only at the end.

        Keys that hold no valid name, and records that cannot be decoded, are left out: one bad
        record must not hide its neighbours.

        Raises:
          BlocksMissing, DecodeError: of index blocks.
        """
        out: list[tuple[bytes, Entry | Link]] = []
        wanted = limit if not hidden else max(limit, _LEAST_AT_ONCE)
        while True:
            page = self.index.scan(start, end, wanted)
            shown = [item for item in page if item[0] not in hidden] if hidden else page
            # Those under shared keys are known by the same means.
            known = [
                (key, record)
                for key, _ in shown
                if (record := self._known.get(key)) is not None and key[ID_BYTES]
            ]
            out += known if len(known) == len(shown) else self._decoded(shown)
            if len(page) < wanted or len(out) >= limit:
                return out[:limit]
            start = page[-1][0] + b"\0"
            wanted = max(limit - len(out), min(2 * wanted, _MOST_AT_ONCE))

    def _decoded(self, page: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, Entry | Link]]:
        """Keys and records, without those that hold no name, or no record."""
        for key, value in page:
            if not is_name(key[ID_BYTES:]):
                continue
            record = self._known.get(key)
            if record is None:
                try:
                    record = unpack_entry(value)
                except DecodeError:
                    continue
                self._remember(key, record)
            yield key, record

    def group(self, id: int, window: int) -> tuple[Extent, ...]:
        """The extents of one window of a grouped file; empty for one that is a hole.

        Raises:
          BlocksMissing, DecodeError.
        """
        value = self.index.get(group_key(id, window))
        return () if value is None else unpack_group(value, window)

    def group_windows(self, id: int, first: int, limit: int) -> list[int]:
        """Which windows from *first* on have a record, at most *limit*.

        Raises:
          BlocksMissing, DecodeError: of index blocks.
        """
        start, end = group_range(id, first)
        return [group_window(key) for key, _ in self.index.scan(start, end, limit)]

    def blocks_ahead(self, limit: int) -> list[int]:
        """The nodes above the leaves: with them a look-up takes one block."""
        return self.index.inner_blocks(limit)


def _forget_oldest(known: dict[bytes, Entry | Link | None]) -> None:
    """Of too many records, all but half of what is allowed, so that this is seldom done."""
    excess = len(known) - KNOWN_RECORDS
    if excess > 0:
        for key in list(islice(known, excess + KNOWN_RECORDS // 2)):
            del known[key]


class IndexFormat:
    """The format of hyperfs/FORMAT.md; a `Format`. *cache* is shared by all its views."""

    def __init__(self, reader: BlockReader, cache: NodeCache) -> None:
        self._reader = reader
        self._cache = cache

    def view(self, length: int) -> View:
        """See `Format`."""
        index = Index(length - 1, self._reader, self._cache)
        index.older()
        return View(index)

    def find_local(
        self, length: int, oldest: int, content_length: int | None = None
    ) -> View | None:
        """See `Format`. Does not raise."""
        for version in range(length, max(oldest, 2) - 1, -1):
            view = self._local(version)
            if view is not None and (
                content_length is None or view.content_length <= content_length
            ):
                return view
        return None

    def _local(self, version: int) -> View | None:
        try:
            if decode_root(self._reader.block(version - 1), version - 1) is None:
                return None
            return self.view(version)
        except (BlocksMissing, DecodeError):
            return None

    def checkout(self, version: int, length: int) -> View | None:
        """See `Format`."""
        root = find_root(version, self._reader, self._cache, length=length)
        return None if root is None else View(Index(root, self._reader, self._cache))

    def version_at(self, time_ns: int, length: int) -> int:
        """See `Format`."""
        root = find_root_at(time_ns, self._reader, self._cache, length=length)
        return 0 if root is None else root + 1

    def changes(self, old: TreeView, new: TreeView) -> Iterator[EntryChange]:
        """See `Format`; both are views of this format."""
        assert isinstance(old, View)
        assert isinstance(new, View)
        return _Changes(old, new)


class _Changes:
    """Changed keys of an index, as names."""

    def __init__(self, old: View, new: View) -> None:
        self._old = old
        self._new = new
        self._diff = Diff(old.index, new.index)
        self._current: Change | None = None

    def __iter__(self) -> _Changes:
        return self

    def __next__(self) -> EntryChange:
        while True:
            if self._current is None:
                self._current = next(self._diff)
            change = self._name(*self._current)
            self._current = None
            if change is not None:
                return change

    def _name(self, key: bytes, before: bytes | None, after: bytes | None) -> EntryChange | None:
        """What a changed key means; None for what another change tells (groups of extents)."""
        name = key[ID_BYTES:]
        if key == shared_key(key_id(key)):
            directory = named = None
        elif is_name(name):
            directory, named = key_id(key), name
        else:
            return None
        was, now = _entry(self._old, before), _entry(self._new, after)
        if was is None and now is None:
            return None
        return EntryChange(directory, named, was, now)


def _entry(view: View, value: bytes | None) -> Entry | None:
    """The entry that a record leads to; None for none, for groups, and for what is damaged."""
    if value is None:
        return None
    try:
        record = unpack_record(value)
        if isinstance(record, Link):
            record = view.find(shared_key(record.id)) or ()
    except DecodeError:
        return None
    return record if isinstance(record, Entry) else None
