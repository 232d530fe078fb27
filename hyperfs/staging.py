"""Changes that are made but not yet committed: layers of records above the committed index.

There are two layers. *staged* collects; when a commit begins it becomes *committing*, a new one
collects, and what is looked up is staged over committing over the index. When the commit is done
its layer is dropped (the index shows it now); when it failed the layer goes back underneath what
was staged meanwhile, so nothing is lost.

Keys are the index's: `entry_key(directory, name)` and `shared_key(id)`. Everything here is plain
data: no method waits, each is atomic.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from hyperfs.index.overlay import Overlay
from hyperfs.records import Entry, Link

if TYPE_CHECKING:
    from collections.abc import Callable, Container

StagedRecord = Entry | Link


class Unsaid(enum.Enum):
    """The answer of layers that say nothing of a key."""

    UNSAID = "unsaid"


UNSAID: Final = Unsaid.UNSAID


class Layer:
    """One layer: the newest record of each changed key, None for a removed one.

    `forgotten` are files whose group records go; `touched` says that something which is not in
    here (an open file) asks for a commit. `number` orders layers: a commit waits for its number.
    """

    __slots__ = ("__weakref__", "forgotten", "number", "records", "touched")

    def __init__(self, number: int) -> None:
        self.number = number
        self.records: Overlay[StagedRecord] = Overlay()
        self.forgotten: set[int] = set()
        self.touched = False

    def __bool__(self) -> bool:
        return bool(self.touched or self.forgotten or len(self.records))


def _nobody_asks() -> None:
    """What a tree that is not written calls after changes, of which there are none."""


class Staging:
    """The layers, and what they together say.

    `on_change` is called after the first change of a layer. `soon` says that somebody asked for a
    commit of what is staged; whoever commits takes it back. `find(key, UNSAID)` is what the layers
    say of a key: None when removed, `UNSAID` if they say nothing. As long as `stamp` is the same,
    nothing that is found or listed in the tree has changed.
    """

    def __init__(self, on_change: Callable[[], None] = _nobody_asks) -> None:
        self.on_change = on_change
        self.soon = False
        self.stamp = 0
        self._told = False
        self.staged = Layer(1)
        self.committing: Layer | None = None
        self.find: Callable[[bytes, Unsaid], StagedRecord | Unsaid | None]
        self._layered()

    def _layered(self) -> None:
        self.find = self.staged.records.find if self.committing is None else self._find

    def __len__(self) -> int:
        committing = self.committing
        return len(self.staged.records) + (len(committing.records) if committing else 0)

    # -- looking -----------------------------------------------------------------------------

    def __contains__(self, key: object) -> bool:
        """Whether a layer says anything of *key*, if only that it is removed."""
        return key in self.staged.records or (
            self.committing is not None and key in self.committing.records
        )

    def _find(self, key: bytes, unsaid: Unsaid) -> StagedRecord | Unsaid | None:
        found = self.staged.records.find(key, unsaid)
        if found is unsaid and self.committing is not None:
            return self.committing.records.find(key, unsaid)
        return found

    @property
    def keys(self) -> Container[bytes]:
        """What can be asked whether a layer says anything of a key, until one changes."""
        return self.staged.records.keys if self.committing is None else self

    def __getitem__(self, key: bytes) -> StagedRecord | None:
        """What the layers say of *key*; None when removed. Raises KeyError if they say nothing."""
        if key in self.staged.records:
            return self.staged.records[key]
        if self.committing is None:
            raise KeyError(key)
        return self.committing.records[key]

    def scan_over(
        self,
        below: Callable[[bytes, bytes | None, int], list[tuple[bytes, StagedRecord]]],
        start: bytes,
        end: bytes | None,
        limit: int,
    ) -> list[tuple[bytes, StagedRecord]]:
        """The first *limit* records from *start* to *end*, the layers over *below*.

        *below* is as for `Overlay.scan_over`; what it raises passes through.
        """
        committing = self.committing
        if committing is None or not committing.records:
            return self.staged.records.scan_over(below, start, end, limit)
        records = committing.records

        def lower(start: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, StagedRecord]]:
            return records.scan_over(below, start, end, limit)

        return self.staged.records.scan_over(lower, start, end, limit)

    # -- changing ----------------------------------------------------------------------------

    def put(self, key: bytes, record: StagedRecord) -> None:
        """Stage a record."""
        self.stamp += 1
        self.staged.records.put(key, record)
        if not self._told:
            self._tell()

    def delete(self, key: bytes) -> None:
        """Stage a removal."""
        self.stamp += 1
        self.staged.records.put(key, None)
        if not self._told:
            self._tell()

    def forget_groups(self, id: int) -> None:
        """Stage the removal of a file's group records."""
        self.staged.forgotten.add(id)
        if not self._told:
            self._tell()

    def touch(self) -> None:
        """Ask for a commit although no key changed: an open file did."""
        self.staged.touched = True
        if not self._told:
            self._tell()

    def _tell(self) -> None:
        self._told = True
        self.on_change()

    def absorb(self, newer: Layer) -> None:
        """Take over all of *newer*, which was collected elsewhere (a batch), at once."""
        self.stamp += 1
        self.staged.records.absorb(newer.records)
        self.staged.forgotten |= newer.forgotten
        self.touch()

    # -- committing --------------------------------------------------------------------------

    def freeze(self) -> Layer:
        """Begin a commit: what was staged is now committing, and returned."""
        assert self.committing is None
        self.committing = self.staged
        self.staged = Layer(self.committing.number + 1)
        self._told = self.soon = False
        self._layered()
        return self.committing

    def committed(self) -> None:
        """The commit is in the index."""
        self.committing = None
        self._layered()

    def failed(self) -> None:
        """The commit did not happen: its changes are staged again, under what came meanwhile."""
        assert self.committing is not None
        newer, older = self.staged, self.committing
        older.records.absorb(newer.records)
        older.forgotten |= newer.forgotten
        older.touched = True
        older.number = newer.number
        self.staged, self.committing = older, None
        self._told = True
        self._layered()
