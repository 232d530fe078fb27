"""Reading a tree by path: entries, contents, listings, walks, differences. Nothing is changed here.

Paths are resolved name by name; symbolic links are not followed.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from hyperfs import paths
from hyperfs.batch import path_error
from hyperfs.content import ContentMap
from hyperfs.extents import Extent
from hyperfs.pace import Pace
from hyperfs.paging import Pages
from hyperfs.records import ROOT_ID
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hyperfs.blocks import CoreBlocks
    from hyperfs.live import LiveTree
    from hyperfs.records import Entry
    from hyperfs.writer import Location, OpenFile

# Decoding this many takes some 0.7 ms.
_PAGE: Final = 64
# How many bytes of one file are asked for and joined at a time.
_READ_BYTES: Final = 4 * 1024 * 1024
# How many content blocks one step of a download asks for: 16 MiB on average.
_DOWNLOAD_BLOCKS: Final = 256
_DOWNLOAD_BYTES: Final = 16 * 1024 * 1024
# How many blocks one step of an eviction forgets, in one commit.
_EVICT_BLOCKS: Final = 1024


@dataclass(frozen=True, slots=True)
class PathEntry:
    """A path (bytes, normal form) and its entry."""

    path: bytes
    entry: Entry

    @property
    def name(self) -> bytes:
        """The last name of the path."""
        return paths.basename(self.path)


async def resolve(tree: LiveTree, names: Sequence[bytes]) -> tuple[Entry, Location]:
    """The entry a path leads to, and where its record lies.

    Raises:
      FileNotFoundError, NotADirectoryError: with the path.
    """
    if not names:
        root = await tree.metadata_blocks.complete(lambda: tree.shared(ROOT_ID))
        if root is None:
            raise path_error(errno.ENOENT, ())
        return root, SHARED
    # The root's own record says nothing that its names need, and may lie in a block of its own.
    directory = ROOT_ID
    for depth, name in enumerate(names, 1):
        found = await tree.metadata_blocks.complete(partial(tree.resolve, directory, name))
        if found is None:
            raise path_error(errno.ENOENT, names[:depth])
        entry, location = found
        if depth < len(names) and not entry.is_dir:
            raise path_error(errno.ENOTDIR, names[:depth])
        directory = entry.id
    return entry, location


async def open_path(tree: LiveTree, names: Sequence[bytes]) -> OpenFile:
    """The open file of a path; the caller releases it.

    Raises:
      FileNotFoundError, NotADirectoryError, IsADirectoryError, OSError (EINVAL: no regular file).
    """
    entry, location = await resolve(tree, names)
    if not entry.is_file:
        raise path_error(errno.EISDIR if entry.is_dir else errno.EINVAL, names)
    return tree.open_file(entry, location)


async def read(tree: LiveTree, names: Sequence[bytes], offset: int, length: int | None) -> bytes:
    """A range of a file; to its end if *length* is None."""
    file = await open_path(tree, names)
    try:
        end = file.size if length is None else min(file.size, offset + length)
        if end - offset <= _READ_BYTES:
            return await file.read(offset, max(0, end - offset))
        parts: list[bytes] = []
        pace = Pace()
        while offset < end:
            part = await file.read(offset, min(_READ_BYTES, end - offset))
            if not part:
                break
            parts.append(part)
            offset += len(part)
            await pace.keep()
        return b"".join(parts)
    finally:
        file.release()


class Scan:
    """The entries of a directory, in name order."""

    def __init__(self, tree: LiveTree, names: Sequence[bytes]) -> None:
        self._tree = tree
        self._names = names
        self._prefix = _prefix(names)
        self._pace = Pace()
        self._directory: int | None = None
        # The last name told; None after the last one there is.
        self._after: bytes | None = b""

    async def page(self) -> list[PathEntry] | None:
        """For `Pages`."""
        if self._after is None:
            return None
        if self._directory is None:
            self._directory = await _directory(self._tree, self._names)
        page = await _page(self._tree, self._directory, self._after, self._pace)
        self._after = page[-1][0] if len(page) == _PAGE else None
        return [PathEntry(self._prefix + name, entry) for name, entry in page]


class Walk:
    """Everything below a directory, each directory before what is in it, in order of names.

    A directory that is reached a second time (which no writer of ours makes) is shown, not entered.
    """

    def __init__(self, tree: LiveTree, names: Sequence[bytes]) -> None:
        self._tree = tree
        self._names = names
        self._pace = Pace()
        self._entered: set[int] = set()
        # Directories to list, the next one at the end: (prefix, id, last name told).
        self._stack: list[tuple[bytes, int, bytes]] | None = None
        # Those that were found in that one.
        self._below: list[tuple[bytes, int, bytes]] = []

    async def page(self) -> list[PathEntry] | None:
        """For `Pages`."""
        if self._stack is None:
            directory = await _directory(self._tree, self._names)
            self._entered.add(directory)
            self._stack = [(_prefix(self._names), directory, b"")]
        if not self._stack:
            return None
        prefix, directory, after = self._stack[-1]
        page = await _page(self._tree, directory, after, self._pace)
        for name, entry in page:
            if entry.is_dir and entry.id not in self._entered:
                self._entered.add(entry.id)
                self._below.append((prefix + name + b"/", entry.id, b""))
        if len(page) == _PAGE:
            self._stack[-1] = prefix, directory, page[-1][0]
        else:
            self._stack[-1:] = reversed(self._below)
            self._below.clear()
        return [PathEntry(prefix + name, entry) for name, entry in page]


async def download(tree: LiveTree, names: Sequence[bytes], content: CoreBlocks) -> None:
    """Fetch all content below a path; listing it fetches the index nodes."""
    core = content.core
    entry, _ = await resolve(tree, names)
    if not entry.is_dir:
        if entry.is_file:
            for start in _parts(entry):
                await core.download(blocks=await _blocks(tree, entry, start))
        return
    # The blocks of many small files are asked for together.
    waiting: set[int] = set()
    async for found in Pages(Walk(tree, names).page):
        for start in _parts(found.entry) if found.entry.is_file else ():
            blocks = await _blocks(tree, found.entry, start)
            waiting.update(block for block in blocks if not core.has(block))
            if len(waiting) >= _DOWNLOAD_BLOCKS:
                await core.download(blocks=waiting)
                waiting.clear()
    if waiting:
        await core.download(blocks=waiting)


def _parts(entry: Entry) -> range:
    """Where the parts of a file begin that `_blocks` looks at."""
    return range(0, entry.size if entry.inline is None else 0, _DOWNLOAD_BYTES)


async def _blocks(tree: LiveTree, entry: Entry, start: int) -> Iterable[int]:
    """The content blocks of a part of a file."""
    end = min(entry.size, start + _DOWNLOAD_BYTES)
    if entry.blob is not None:
        return await tree.reader.blob_blocks(entry.blob, start, end)
    if tree.view is None:
        return ()
    content = ContentMap.of_entry(entry, tree.view)
    pieces = await tree.metadata_blocks.complete(partial(content.pieces, start, end))
    return {piece.block for piece in pieces if isinstance(piece, Extent)}


async def evict(tree: LiveTree, names: Sequence[bytes], content: CoreBlocks) -> int:
    """Forget the content below a path; how many bytes that was. What other files share goes too."""
    core = content.core
    if not names:
        return await content.clear(list(core.held(0, core.length)))
    entry, _ = await resolve(tree, names)
    found: list[Entry] = [entry] if entry.is_file else []
    if entry.is_dir:
        found = [each.entry async for each in Pages(Walk(tree, names).page) if each.entry.is_file]
    freed = 0
    waiting: set[int] = set()
    for each in found:
        for start in _parts(each):
            waiting.update(filter(core.has, await _blocks(tree, each, start)))
            if len(waiting) >= _EVICT_BLOCKS:
                freed += await content.clear(_joined(waiting))
                waiting.clear()
    return freed + await content.clear(_joined(waiting))


def _joined(blocks: set[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if runs and runs[-1][1] == block:
            runs[-1] = runs[-1][0], block + 1
        else:
            runs.append((block, block + 1))
    return runs


async def _directory(tree: LiveTree, names: Sequence[bytes]) -> int:
    entry, _ = await resolve(tree, names)
    if not entry.is_dir:
        raise path_error(errno.ENOTDIR, names)
    return entry.id


def _prefix(names: Sequence[bytes]) -> bytes:
    return b"/" + b"/".join(names) + (b"/" if names else b"")


async def _page(
    tree: LiveTree, directory: int, after: bytes, pace: Pace
) -> list[tuple[bytes, Entry]]:
    await pace.keep()
    found = await tree.metadata_blocks.complete(partial(tree.page, directory, after, _PAGE))
    return found[0]
