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
from hyperfs.records import ROOT_ID
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

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


async def scan(tree: LiveTree, names: Sequence[bytes]) -> AsyncIterator[PathEntry]:
    """The entries of a directory, in name order."""
    directory = await _directory(tree, names)
    prefix = _prefix(names)
    async for name, entry in _children(tree, directory):
        yield PathEntry(prefix + name, entry)


async def walk(tree: LiveTree, names: Sequence[bytes]) -> AsyncIterator[PathEntry]:
    """Everything below a directory, each directory before what is in it, in order of names.

    A directory that is reached a second time (which no writer of ours makes) is shown, not entered.
    """
    entered: set[int] = set()
    stack = [(_prefix(names), await _directory(tree, names))]
    while stack:
        prefix, directory = stack.pop()
        below: list[tuple[bytes, int]] = []
        async for name, entry in _children(tree, directory):
            yield PathEntry(prefix + name, entry)
            if entry.is_dir and entry.id not in entered:
                entered.add(entry.id)
                below.append((prefix + name + b"/", entry.id))
        stack += reversed(below)


async def download(tree: LiveTree, names: Sequence[bytes], content: CoreBlocks) -> None:
    """Fetch all content below a path; listing it fetches the index nodes."""
    entry, _ = await resolve(tree, names)
    if entry.is_file:
        await _download_file(tree, entry, content)
    if not entry.is_dir:
        return
    # The blocks of many small files are asked for together.
    waiting: set[int] = set()
    async for found in walk(tree, names):
        if found.entry.is_file:
            async for blocks in _missing_blocks(tree, found.entry, content):
                waiting |= blocks
                if len(waiting) >= _DOWNLOAD_BLOCKS:
                    await content.core.download(blocks=waiting)
                    waiting.clear()
    if waiting:
        await content.core.download(blocks=waiting)


async def _download_file(tree: LiveTree, entry: Entry, content: CoreBlocks) -> None:
    async for blocks in _missing_blocks(tree, entry, content):
        await content.core.download(blocks=blocks)


async def _missing_blocks(
    tree: LiveTree, entry: Entry, content: CoreBlocks
) -> AsyncIterator[set[int]]:
    """The content blocks of a file that are not here, some at a time."""
    async for blocks in _blocks(tree, entry):
        missing = {block for block in blocks if not content.core.has(block)}
        if missing:
            yield missing


async def _blocks(tree: LiveTree, entry: Entry) -> AsyncIterator[set[int]]:
    """The content blocks of a file, some at a time."""
    if entry.inline is not None or tree.view is None:
        return
    found = ContentMap.of_entry(entry, tree.view)
    blob = entry.blob
    for start in range(0, entry.size, _DOWNLOAD_BYTES):
        end = min(entry.size, start + _DOWNLOAD_BYTES)
        if blob is not None:
            blocks = set(await tree.reader.blob_blocks(blob, start, end))
        else:
            pieces = await tree.metadata_blocks.complete(partial(found.pieces, start, end))
            blocks = {piece.block for piece in pieces if isinstance(piece, Extent)}
        yield blocks


async def evict(tree: LiveTree, names: Sequence[bytes], content: CoreBlocks) -> int:
    """Forget the content below a path; how many bytes that was. What other files share goes too."""
    core = content.core
    if not names:
        return await content.clear(list(core.held(0, core.length)))
    entry, _ = await resolve(tree, names)
    found: list[Entry] = [entry] if entry.is_file else []
    if entry.is_dir:
        found = [each.entry async for each in walk(tree, names) if each.entry.is_file]
    freed = 0
    waiting: set[int] = set()
    for each in found:
        async for blocks in _blocks(tree, each):
            waiting.update(block for block in blocks if core.has(block))
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


async def _children(tree: LiveTree, directory: int) -> AsyncIterator[tuple[bytes, Entry]]:
    after = b""
    pace = Pace()
    while True:
        await pace.keep()
        page = await tree.metadata_blocks.complete(partial(tree.page, directory, after, _PAGE))
        for found in page:
            yield found
        if len(page) < _PAGE:
            return
        after = page[-1][0]
