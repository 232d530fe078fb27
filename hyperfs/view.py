"""One version of a drive's tree: records looked up and listed, decoded, errors kept to their path.

Nothing here waits: what is not local raises `BlocksMissing` (see `hyperfs.blocks`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corestore import DecodeError
from hyperfs.records import ID_BYTES as _ID_BYTES
from hyperfs.records import (
    Entry,
    Link,
    group_key,
    group_range,
    group_window,
    is_name,
    unpack_entry,
    unpack_group,
)

if TYPE_CHECKING:
    from hyperfs.extents import Extent
    from hyperfs.index.tree import Index


class View:
    """An `Index`, in terms of records. Immutable."""

    __slots__ = ("index",)

    def __init__(self, index: Index) -> None:
        self.index = index

    @property
    def version(self) -> int:
        """The length of the metadata log that ends in this version's root."""
        return self.index.root.version

    def find(self, key: bytes) -> Entry | Link | None:
        """The record under an entry's or a shared key.

        Raises:
          BlocksMissing: index blocks on the way are not local.
          DecodeError: a block on the way, or the record, is damaged.
        """
        value = self.index.get(key)
        return None if value is None else unpack_entry(value)

    def scan(self, start: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, Entry | Link]]:
        """The first *limit* entries from *start* to *end*, in order; fewer only at the end.

        Keys that hold no valid name, and records that cannot be decoded, are left out: one bad
        record must not hide its neighbours.

        Raises:
          BlocksMissing, DecodeError: of index blocks.
        """
        out: list[tuple[bytes, Entry | Link]] = []
        while True:
            wanted = limit - len(out)
            page = self.index.scan(start, end, wanted)
            for key, value in page:
                if not is_name(key[_ID_BYTES:]):
                    continue
                try:
                    out.append((key, unpack_entry(value)))
                except DecodeError:
                    continue
            if len(page) < wanted or len(out) == limit:
                return out
            start = page[-1][0] + b"\0"

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
