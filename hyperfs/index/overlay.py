"""Changes laid over something sorted: the newest value of a key, or that it is deleted.

An `Overlay` answers for the keys it has and leaves the others to what lies below. The index lays
the changes of recent commits over its tree, the drive lays what is staged over the index; both
look up and list through the same few methods. Nothing is copied from below.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# How many keys a listing asks for at once beyond those it needs.
_MOST_AT_ONCE: Final = 256

V = TypeVar("V")
T = TypeVar("T")


class Overlay(Generic[V]):
    """A sorted map of keys to values, or to None where the key below is deleted."""

    __slots__ = ("_changes", "_sorted", "find")

    def __init__(self, changes: Mapping[bytes, V | None] | None = None) -> None:
        self._changes: dict[bytes, V | None] = dict(changes) if changes else {}
        self._sorted: list[bytes] | None = None
        # `find(key, absent)`: the value of a key, None when deleted, *absent* when it says nothing
        # of it. Every look-up begins here, so it is the dictionary's own method.
        self.find = self._changes.get

    def __len__(self) -> int:
        return len(self._changes)

    def __contains__(self, key: object) -> bool:
        """Whether it has something to say about *key*, if only that it is deleted."""
        return key in self._changes

    def __iter__(self) -> Iterator[bytes]:
        """Its keys, in order."""
        return iter(self._keys())

    def __getitem__(self, key: bytes) -> V | None:
        """The value of *key*, None when deleted. Raises KeyError when it says nothing of it."""
        return self._changes[key]

    def put(self, key: bytes, value: V | None) -> None:
        """Set *key*; None hides that of whatever lies below."""
        if self._sorted is not None and key not in self._changes:
            insort(self._sorted, key)  # moves pointers: 4 us among 10,000 keys
        self._changes[key] = value

    def delete(self, key: bytes) -> None:
        """Hide *key* of whatever lies below."""
        self.put(key, None)

    def discard(self, key: bytes) -> None:
        """Say nothing about *key* any more."""
        if key in self._changes:
            del self._changes[key]
            if self._sorted is not None:
                del self._sorted[bisect_left(self._sorted, key)]

    def changes(self) -> dict[bytes, V | None]:
        """A copy of all changes, in no order."""
        return dict(self._changes)

    def absorb(self, newer: Overlay[V]) -> None:
        """Take all changes of *newer*, which win."""
        self._changes.update(newer._changes)
        self._sorted = None

    def range(self, start: bytes, end: bytes | None) -> list[tuple[bytes, V | None]]:
        """The changes of the keys from *start* to *end* (None: to the last), in order."""
        keys = self._keys()
        low = bisect_left(keys, start)
        high = len(keys) if end is None else bisect_left(keys, end)
        return [(key, self._changes[key]) for key in keys[low:high]]

    def scan_over(
        self,
        below: Callable[[bytes, bytes | None, int], list[tuple[bytes, V]]],
        start: bytes,
        end: bytes | None,
        limit: int,
    ) -> list[tuple[bytes, V]]:
        """The first *limit* keys and values from *start* to *end* of *below* under this overlay.

        *below* is called as `below(start, end, limit)`, answers the same question for what lies
        below, and returns fewer than its limit only when there is no more. What it raises
        passes through, with nothing changed.
        """
        keys = self._keys()
        at = bisect_left(keys, start)
        stop = len(keys) if end is None else bisect_left(keys, end)
        if at >= stop:
            return below(start, end, limit)
        out: list[tuple[bytes, V]] = []
        wanted = limit
        while len(out) < limit:
            page = below(start, end, wanted)
            more = len(page) >= wanted
            cut = bisect_right(keys, page[-1][0], at, stop) if more else stop
            if cut > at:
                merged = dict(page)
                for key in keys[at:cut]:
                    value = self._changes[key]
                    if value is None:
                        merged.pop(key, None)
                    else:
                        merged[key] = value
                out += [(key, merged[key]) for key in sorted(merged)]
            else:
                out += page
            if not more:
                break
            at = cut
            start = page[-1][0] + b"\0"
            # Where all is deleted, as in a directory that is about to be, few steps are taken.
            wanted = max(limit - len(out), min(2 * wanted, _MOST_AT_ONCE))
        return out[:limit]

    def _keys(self) -> list[bytes]:
        if self._sorted is None:
            self._sorted = sorted(self._changes)
        return self._sorted
