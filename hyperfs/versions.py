"""What differs between two versions of a drive, by path.

The index tells which names changed in which directories, at a cost that follows the change. A
directory's id does not say where it lies, so the directories are walked until all changed ones have
been met.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final

from corestore import DecodeError
from hyperfs.changes import PathChange
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
    from collections.abc import AsyncGenerator, Sequence

    from hyperfs.blocks import CoreBlocks
    from hyperfs.view import Format, TreeView

_PAGE: Final = 256


async def diff(
    old: TreeView, new: TreeView, form: Format, blocks: CoreBlocks, names: Sequence[bytes]
) -> AsyncGenerator[PathChange, None]:
    """The changes from *old* to *new* below the path of *names*, that path included."""
    changed = await _changed(old, new, form, blocks)
    prefix = b"/" + b"/".join(names)
    before = await _at(old, blocks, names)
    after = await _at(new, blocks, names)
    stack = [(prefix if names else b"", before, after)]
    entered: set[tuple[int, int]] = set()
    while stack:
        path, was, now = stack.pop()
        # What kind of thing it is may have changed; then all below the one goes, and comes.
        if was != now and (path or was is None or now is None):
            kind = "added" if was is None else "removed" if now is None else "changed"
            yield PathChange(path or b"/", kind, was, now)
        old_id = was.id if was is not None and was.is_dir else 0
        new_id = now.id if now is not None and now.is_dir else 0
        if (old_id, new_id) == (0, 0) or (old_id, new_id) in entered:
            continue
        entered.add((old_id, new_id))
        if old_id == new_id and not changed:
            continue
        changed.discard(old_id)
        pairs = await _pairs(old, old_id, new, new_id, blocks)
        stack += [(path + b"/" + name, *pairs[name]) for name in sorted(pairs, reverse=True)]


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
    async with aclosing(diff(old, new, form, blocks, names)) as changes:
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


async def _pairs(
    old: TreeView, old_id: int, new: TreeView, new_id: int, blocks: CoreBlocks
) -> dict[bytes, tuple[Entry | None, Entry | None]]:
    """The names of a directory in both versions (id 0: not there)."""
    was = await _children(old, old_id, blocks)
    now = was if old.version == new.version else await _children(new, new_id, blocks)
    return {name: (was.get(name), now.get(name)) for name in {**was, **now}}


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
