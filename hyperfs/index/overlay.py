"""Changes laid over something sorted: the newest value of a key, or that it is deleted.

An `Overlay` answers for the keys it has and leaves the others to what lies below. The index lays
the changes of recent commits over its tree, the drive lays what is staged over the index; both
look up and list through the same few methods. Nothing is copied from below.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import islice
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# How many keys a listing asks for at once beyond those it needs.
_MOST_AT_ONCE: Final = 256
# If fewer than one key in so many is new, they are put among the others; else all are sorted.
_FEW: Final = 8
# They go into so many gaps, each for moving all that is behind it; for more of them each key is
# looked at once, which takes as long as that.
_MOST_GAPS: Final = 32

V = TypeVar("V")
T = TypeVar("T")


class Overlay(Generic[V]):
    """A sorted map of keys to values, or to None where the key below is deleted.

    `find(key, absent)` is the value of a key, None when deleted, *absent* when it says nothing of
    it; `put(key, value)` sets one, None to hide that of whatever lies below; `keys` can be asked
    whether it says anything of a key. Every look-up and every change begins here, so they are the
    dictionary's own. Keys are put in order when somebody lists them.
    """

    __slots__ = ("_changes", "_sorted", "find", "keys", "put")

    def __init__(self, changes: Mapping[bytes, V | None] | None = None) -> None:
        self._changes: dict[bytes, V | None] = dict(changes) if changes else {}
        self._sorted: list[bytes] = []
        self.find = self._changes.get
        self.put: Callable[[bytes, V | None], None] = self._changes.__setitem__
        self.keys = self._changes.keys()

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

    def delete(self, key: bytes) -> None:
        """Hide *key* of whatever lies below."""
        self.put(key, None)

    def discard(self, key: bytes) -> None:
        """Say nothing about *key* any more."""
        if key in self._changes:
            keys = self._keys()
            del keys[bisect_left(keys, key)]
            del self._changes[key]

    def changes(self) -> dict[bytes, V | None]:
        """A copy of all changes, in no order."""
        return dict(self._changes)

    def absorb(self, newer: Overlay[V]) -> None:
        """Take all changes of *newer*, which win."""
        self._changes.update(newer._changes)

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
        new = len(self._changes) - len(self._sorted)
        if new * _FEW > len(self._sorted):
            self._sorted = sorted(self._changes)
        elif new:
            # A dictionary has its newest keys at its end.
            _merge(self._sorted, sorted(islice(reversed(self._changes), new)))
        return self._sorted


def _merge(keys: list[bytes], new: list[bytes]) -> None:
    """Put keys into their places among others: all at once that come into one gap, as those of one
    directory do."""
    at = 0
    for _ in range(_MOST_GAPS):
        if at == len(new):
            return
        place = bisect_left(keys, new[at])
        end = len(new) if place == len(keys) else bisect_left(new, keys[place], at)
        keys[place:place] = new[at:end]
        at = end
    # What is sorted in two runs is merged in one go.
    keys += new[at:]
    keys.sort()
