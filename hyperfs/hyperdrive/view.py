"""One version of a Hyperdrive as a tree of (directory id, name).

Whatever has a key below a path makes that path a directory. Where a path is both a file and a
directory, the directory is shown: it hides one file, the other way round a file would hide a tree.

Names that no directory can hold (empty, `.`, `..`, too long) are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from corestore import DecodeError
from hyperfs.blobs import decode_map
from hyperfs.extents import MAX_FILE_BYTES
from hyperfs.hyperdrive.records import decode_entry, directory_entry
from hyperfs.index.node import BlockReader, BlocksMissing, BlockSource
from hyperfs.records import ID_BYTES, ROOT_ID, Entry, entry_key, is_name, key_id

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from hyperfs.blobs import Blob
    from hyperfs.extents import Extent
    from hyperfs.hyperbee.tree import Bee, Item
    from hyperfs.hyperdrive.directories import Directories
    from hyperfs.hyperdrive.records import Owner

_SHARED: Final = b"\0"
# How many keys a listing takes at first, and after it has passed over a directory.
_FEW: Final = 8
_SLASH: Final = ord("/")
# How many sizes of mapped blobs are kept.
_MAX_SIZES: Final = 65536
# How many nodes of the tree are fetched ahead: some 900 blocks, in 250 KB.
_NODES_AHEAD: Final = 128


class ContentBlocks(BlockReader, BlockSource, Protocol):
    """The content core, as far as it is here, and where the rest comes from."""


class Context(Protocol):
    """What all versions of a drive share."""

    directories: Directories
    owner: Owner
    content: ContentBlocks
    sizes: dict[Blob, int]


class HyperdriveView:
    """The drive as of one version. Immutable; every method may raise BlocksMissing and DecodeError
    (of nodes, not of single records)."""

    __slots__ = ("_context", "bee")

    def __init__(self, bee: Bee, context: Context) -> None:
        self.bee = bee
        self._context = context

    @property
    def version(self) -> int:
        """The length of the metadata core."""
        return self.bee.version

    @property
    def previous(self) -> int:
        """The version before, which may lie inside a batch; 0 for none."""
        return max(0, self.bee.version - 1)

    # Not told by the format.
    time_ns = 0
    files = 0
    byte_length = 0
    content_length = None
    next_id = ROOT_ID + 1

    def find(self, key: bytes) -> Entry | None:
        """The entry under an entry's key, or under the root directory's own.

        Raises DecodeError of a damaged record, too.
        """
        directory, name = key_id(key), key[ID_BYTES:]
        if name == _SHARED:
            return directory_entry(ROOT_ID, self._context.owner) if directory == ROOT_ID else None
        prefix = self._context.directories.prefix(directory)
        if prefix is None or not is_name(name):
            return None
        path = prefix + name
        missing: list[int] = []
        item: Item | None = None
        try:
            item = self.bee.get(path)
        except BlocksMissing as error:
            missing += error.indices
        try:
            if self._has_directory(path):
                return self._directory(directory, name)
        except BlocksMissing as error:
            missing += error.indices
        if missing:
            raise BlocksMissing(dict.fromkeys(missing))
        return None if item is None else self._entry(item)

    def scan(
        self, start: bytes, end: bytes | None, limit: int, hidden: Container[bytes] = ()
    ) -> list[tuple[bytes, Entry]]:
        """The first *limit* entries from *start* on of the directory whose id *start* begins with,
        in name order; fewer only at the end. *end* is the end of that directory.

        Records that cannot be decoded are left out.
        """
        directory, first = key_id(start), start[ID_BYTES:]
        prefix = self._context.directories.prefix(directory)
        if prefix is None:
            return []
        out: list[tuple[bytes, Entry]] = []
        missing: list[int] = []
        after = first[:-1] if first.endswith(b"\0") else b""
        for name, item in self._names(prefix, after, limit):
            try:
                entry = self._directory(directory, name) if item is None else self._entry(item)
            except BlocksMissing as error:
                # Maps of blobs.
                missing += error.indices
                continue
            except DecodeError:
                continue
            out.append((entry_key(directory, name), entry))
            if len(out) == limit:
                break
        if missing:
            raise BlocksMissing(dict.fromkeys(missing), self._context.content)
        return out

    def group(self, id: int, window: int) -> tuple[Extent, ...]:
        """There are no groups."""
        return ()

    def group_windows(self, id: int, first: int, limit: int) -> list[int]:
        """There are no groups."""
        return []

    def blocks_ahead(self, limit: int) -> list[int]:
        """Blocks near the root that are not local. Fetch them and call again, until it is empty."""
        return self.bee.upper_blocks(_NODES_AHEAD)[:limit]

    # -- names in order -----------------------------------------------------------------------

    def _names(self, prefix: bytes, after: bytes, page: int) -> Iterator[tuple[bytes, Item | None]]:
        """The names of a directory that follow *after*, in order; without an item: a directory.

        Keys are nearly in that order, but what is in the directory `a` follows `a-b` and `a.c`, as
        a slash sorts after `-` and `.`. So in front of each name it is asked whether a beginning of
        it is a directory. The key that follows says mostly that none is.
        """
        last = after
        position = prefix + after + b"\0" if after else prefix
        end = prefix[:-1] + b"0"
        size = min(page, _FEW)
        while True:
            items = self.bee.scan(position, end, size + 1)
            for at, item in enumerate(items[:size]):
                if item.key < position:
                    continue
                name, slash, _ = item.key[len(prefix) :].partition(b"/")
                position = prefix + name + b"0" if slash else item.key + b"\0"
                if name <= last or not is_name(name):
                    continue
                following = items[at + 1].key if at + 1 < len(items) else b""
                hidden = False
                for candidate in _beginnings(last, name, whole=not slash):
                    path = prefix + candidate
                    if following.startswith(path) and self._has_directory(path):
                        yield candidate, None
                        hidden = candidate == name
                last = name
                if not hidden:
                    yield name, None if slash else item
            if len(items) <= size:
                return
            size = _FEW if items[size - 1].key < position else min(2 * size, page)

    def _has_directory(self, path: bytes) -> bool:
        return self.bee.first(path + b"/", path + b"0") is not None

    # -- entries ------------------------------------------------------------------------------

    def _directory(self, parent: int, name: bytes) -> Entry:
        return directory_entry(self._context.directories.child(parent, name), self._context.owner)

    def _entry(self, item: Item) -> Entry:
        entry = decode_entry(item.value, item.seq, self._context.owner)
        blob = entry.blob
        if blob is not None and blob.mapped:
            return entry._replace(size=self._mapped_size(blob))
        return entry

    def _mapped_size(self, blob: Blob) -> int:
        """The size of a file whose blob is a map, which lies in the content core."""
        sizes = self._context.sizes
        size = sizes.get(blob)
        if size is None:
            size = sum(size for _, size in decode_map(read_blocks(blob, self._context.content)))
            if size > MAX_FILE_BYTES:
                raise DecodeError("size of a file")
            if len(sizes) >= _MAX_SIZES:
                sizes.clear()
            sizes[blob] = size
        return size


def read_blocks(blob: Blob, content: ContentBlocks) -> list[bytes]:
    """All blocks of a blob; those that are missing are told together."""
    out: list[bytes] = []
    missing: list[int] = []
    for index in range(blob.block, blob.block + blob.blocks):
        try:
            out.append(content.block(index))
        except BlocksMissing as error:
            missing += error.indices
    if missing:
        raise BlocksMissing(missing, content)
    return out


def _beginnings(last: bytes, name: bytes, *, whole: bool) -> Iterator[bytes]:
    """The beginnings of *name* that may be directories whose keys follow it, the shortest first;
    with *whole*, *name* too. Those that *last* begins with were asked of before.
    """
    same = 0
    for one, other in zip(last, name, strict=False):
        if one != other:
            break
        same += 1
    for length in range(same + 1, len(name)):
        if name[length] < _SLASH and is_name(name[:length]):
            yield name[:length]
    if whole:
        yield name
