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
from hyperfs.pace import Pace
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
        self._pace = Pace()

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
        await self._pace.keep()
        before = await _children(self._old, old_id, self._blocks)
        after = before
        if self._old.version != self._new.version:
            after = await _children(self._new, new_id, self._blocks)
        self._entered.add((old_id, new_id))
        # A directory has one place in a version, so neither is met a second time as itself.
        self._changed -= {old_id, new_id}
        return {name: (before.get(name), after.get(name)) for name in {**before, **after}}


class Below:
    """Finds out whether anything at or below a path changed from one version to the next.

    It remembers which directories lie there, so that it costs as the change does, wherever that is;
    the first time, as the number of directories.
    """

    def __init__(self, form: Format, blocks: CoreBlocks, names: Sequence[bytes]) -> None:
        self._form = form
        self._blocks = blocks
        self._names = names
        # The version that the ids are of.
        self._view: TreeView | None = None
        # The directory and all below it, and the files there that have several names.
        self._directories: set[int] = set()
        self._shared: set[int] = set()

    async def changed(self, old: TreeView, new: TreeView) -> bool:
        """Whether there is any change from *old* to *new*. Raises as reads do."""
        if not self._names:
            return await self._anything(old, new)
        was = await _at(old, self._blocks, self._names)
        now = await _at(new, self._blocks, self._names)
        if was is None or now is None or not (was.is_dir and now.is_dir) or was.id != now.id:
            return was != now
        if self._view is not old:
            self._directories, self._shared = await self._all(old, {was.id})
            self._view = old
        ids = await _changed(old, new, self._form, self._blocks)
        directories = ids & self._directories
        if directories:
            await self._follow(old, new, directories)
        self._view = new
        if was != now or directories:
            return True
        # Such a file may have lost its name here, and may have had several.
        return bool(ids & self._shared) and await self._differs(old, new)

    async def _anything(self, old: TreeView, new: TreeView) -> bool:
        # Any change is one below the root. (That the root directory is recorded again says
        # nothing.)
        steps = self._form.changes(old, new)
        while change := await self._blocks.complete(lambda: next(steps, None)):
            entry = change.new or change.old
            if change.directory is not None or entry is None or entry.id != ROOT_ID:
                return True
        return False

    async def _differs(self, old: TreeView, new: TreeView) -> bool:
        changes = Pages(Diff(old, new, self._form, self._blocks, self._names).page)
        return await anext(changes, None) is not None

    async def _follow(self, old: TreeView, new: TreeView, changed: set[int]) -> None:
        """What came and went in *changed* directories comes and goes with all below it."""
        gone: set[int] = set()
        come: set[int] = set()
        shared: set[int] = set()
        for directory in changed:
            before = await _children(old, directory, self._blocks)
            after = await _children(new, directory, self._blocks)
            gone.update(entry.id for entry in before.values() if entry.is_dir)
            come.update(entry.id for entry in after.values() if entry.is_dir)
            shared.update(entry.id for entry in after.values() if _is_shared(entry))
        left, _ = await self._all(old, gone - come)
        # What left a directory that went, for one that stays, is among `left`, and in `gone`.
        kept = self._directories - left
        entered, more = await self._all(new, come - kept)
        self._directories = kept | entered
        self._shared |= shared | more

    async def _all(self, view: TreeView, directories: set[int]) -> tuple[set[int], set[int]]:
        """These directories with all below them, and the files there with several names."""
        found, shared = set(directories), set[int]()
        waiting = list(directories)
        pace = Pace()
        while waiting:
            for entry in (await _children(view, waiting.pop(), self._blocks)).values():
                if entry.is_dir and entry.id not in found:
                    found.add(entry.id)
                    waiting.append(entry.id)
                elif _is_shared(entry):
                    shared.add(entry.id)
            await pace.keep()
        return found, shared


def _is_shared(entry: Entry) -> bool:
    return entry.is_file and entry.nlink > 1


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
