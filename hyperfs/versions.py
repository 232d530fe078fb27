"""What differs between two versions of a drive, by path.

The index tells which names changed in which directories, at a cost that follows the change. A
directory's id does not say where it lies, so the directories are walked until all changed ones have
been met.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from corestore import DecodeError
from hyperfs.changes import PathChange
from hyperfs.paging import Pages
from hyperfs.records import (
    ID_BYTES,
    ROOT_ID,
    Entry,
    Link,
    directory_range,
    entry_key,
    shared_key,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperfs.blocks import CoreBlocks
    from hyperfs.view import Format, TreeView

_PAGE: Final = 256


class Diff:
    """The changes from *old* to *new* below the path of *names*, that path included."""

    def __init__(
        self,
        old: TreeView,
        new: TreeView,
        form: Format,
        blocks: CoreBlocks,
        names: Sequence[bytes],
    ) -> None:
        self._old = old
        self._new = new
        self._form = form
        self._blocks = blocks
        self._names = names
        # Changed directories that were not met yet; None before the beginning.
        self._changed: set[int] | None = None
        self._entered: set[tuple[int, int]] = set()
        # (path, entry before, entry after) of what is to be looked at, the next one at the end.
        self._stack: list[tuple[bytes, Entry | None, Entry | None]] = []
        self._told = False

    async def page(self) -> list[PathChange] | None:
        """For `Pages`."""
        if self._changed is None:
            await self._begin()
        if not self._stack:
            return None
        path, was, now = self._stack[-1]
        if not self._told:
            self._told = True
            # What kind of thing it is may have changed; then all below the one goes, and comes.
            if was != now and (path or was is None or now is None):
                kind = "added" if was is None else "removed" if now is None else "changed"
                return [PathChange(path or b"/", kind, was, now)]
        pairs = await self._pairs(was, now)
        self._told = False
        self._stack[-1:] = [
            (path + b"/" + name, *pairs[name]) for name in sorted(pairs, reverse=True)
        ]
        return []

    async def _begin(self) -> None:
        changed = await _changed(self._old, self._new, self._form, self._blocks)
        before = await _at(self._old, self._blocks, self._names)
        after = await _at(self._new, self._blocks, self._names)
        path = b"".join(b"/" + name for name in self._names)
        self._changed, self._stack = changed, [(path, before, after)]

    async def _pairs(
        self, was: Entry | None, now: Entry | None
    ) -> dict[bytes, tuple[Entry | None, Entry | None]]:
        """The names below, each with its entry before and after; none where nothing can have
        changed."""
        assert self._changed is not None
        old_id = was.id if was is not None and was.is_dir else 0
        new_id = now.id if now is not None and now.is_dir else 0
        if (old_id, new_id) == (0, 0) or (old_id, new_id) in self._entered:
            return {}
        if old_id == new_id and not self._changed:
            return {}
        before = await _children(self._old, old_id, self._blocks)
        after = before
        if self._old.version != self._new.version:
            after = await _children(self._new, new_id, self._blocks)
        self._entered.add((old_id, new_id))
        self._changed.discard(old_id)
        return {name: (before.get(name), after.get(name)) for name in {**before, **after}}


async def differ(
    old: TreeView, new: TreeView, form: Format, blocks: CoreBlocks, names: Sequence[bytes]
) -> bool:
    """Whether there is any such change."""
    if not names:
        # Nothing has to be found: any change is one below the root. (That the root directory is
        # recorded again says nothing.)
        steps = form.changes(old, new)
        while change := await blocks.complete(lambda: next(steps, None)):
            entry = change.new or change.old
            if change.directory is not None or entry is None or entry.id != ROOT_ID:
                return True
        return False
    changes = Pages(Diff(old, new, form, blocks, names).page)
    return await anext(changes, None) is not None


async def _changed(old: TreeView, new: TreeView, form: Format, blocks: CoreBlocks) -> set[int]:
    """The directories with changed names, and the files with several names that changed."""
    steps = form.changes(old, new)
    ids: set[int] = set()
    while True:
        change = await blocks.complete(lambda: next(steps, None))
        if change is None:
            return ids
        if change.directory is not None:
            ids.add(change.directory)
        else:
            ids.update(entry.id for entry in (change.old, change.new) if entry is not None)


async def _at(view: TreeView, blocks: CoreBlocks, names: Sequence[bytes]) -> Entry | None:
    found = await blocks.complete(partial(_find, view, shared_key(ROOT_ID)))
    for name in names:
        if found is None or not found.is_dir:
            return None
        key = entry_key(found.id, name)
        found = await blocks.complete(partial(_find, view, key))
    return found


async def _children(view: TreeView, id: int, blocks: CoreBlocks) -> dict[bytes, Entry]:
    out: dict[bytes, Entry] = {}
    if not id:
        return out
    start, end = directory_range(id)
    while True:
        page = await blocks.complete(partial(view.scan, start, end, _PAGE))
        for key, record in page:
            entry = await blocks.complete(partial(_entry, view, record))
            if entry is not None:
                out[key[ID_BYTES:]] = entry
        if len(page) < _PAGE:
            return out
        start = page[-1][0] + b"\0"


def _find(view: TreeView, key: bytes) -> Entry | None:
    return _entry(view, view.find(key))


def _entry(view: TreeView, record: Entry | Link | None) -> Entry | None:
    if isinstance(record, Link):
        try:
            record = view.find(shared_key(record.id))
        except DecodeError:
            return None
    return record if isinstance(record, Entry) else None
